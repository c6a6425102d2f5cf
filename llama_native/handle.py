"""Who owns a C object, and when it is freed.

A `Handle` owns one C pointer. Python's own reference counts do the rest: an object that was made from another one
keeps that one's handle, so a model outlives its contexts however they are closed, and a call that is running in
another thread keeps the object it runs on. Nothing is freed at interpreter exit: the system takes it all back, and a
thread may still be computing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from llama_native.errors import ClosedError


class Handle:
    """Owns `pointer`; calls `free(pointer)` once nobody refers to the handle, before it lets go of `keep`."""

    __slots__ = ("__weakref__", "pointer")

    def __init__(self, pointer: Any, free: Callable[[Any], object], *keep: object) -> None:
        self.pointer = pointer
        weakref.finalize(self, _free, free, pointer, keep).atexit = False


def _free(free: Callable[[Any], object], pointer: Any, _keep: tuple[object, ...]) -> None:
    free(pointer)


class Resource:
    """Base of the objects that own a C object: `close()`, `closed`, and use as a context manager."""

    _handle: Handle | None = None

    def _live(self) -> Handle:
        """Returns the handle. Hold it in a local variable during the C call. Raises `ClosedError`."""
        handle = self._handle
        if handle is None:
            raise ClosedError(f"this {type(self).__name__} is closed")
        return handle

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._handle is None

    def close(self) -> None:
        """Gives the C object up. It is freed as soon as no other object needs it. Closing twice is fine."""
        self._handle = None

    def __enter__(self) -> Self:
        self._live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
