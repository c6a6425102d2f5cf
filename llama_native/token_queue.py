"""Tokens on their way from the thread that makes them to threads that want them.

Waiting and waking up happen in C, so that neither side needs Python's lock for it. What is not a token waits beside the
queue, in order with the tokens. Knows token ids and times; whose they are is a number to it.
"""

from __future__ import annotations

import itertools
from queue import Empty
from typing import Any, Final, Generic, TypeVar

from llama_native.ffi import C, ffi
from llama_native.handle import Handle

T = TypeVar("T")

#: A thread that waits comes back to Python this often, in seconds, so that signals reach it.
SLICE: Final = 1.0

#: Most items that an outbox sends at once.
CAPACITY: Final = 64


class TokenQueue(Generic[T]):
    """A queue of tokens, and of objects of type T, each with a place: the number of whoever it is for.

    Any threads put, one at a time takes. Raises MemoryError on creation.
    """

    def __init__(self) -> None:
        #: The C object.
        self.pointer = C.lucid_token_queue_new()
        if self.pointer == ffi.NULL:
            raise MemoryError("no memory for a queue of tokens")
        self._handle = Handle(self.pointer, C.lucid_token_queue_free)
        #: What waits beside the queue, by the negative number that stands for it there.
        self._objects: dict[int, T] = {}
        self._numbers = itertools.count(-1, -1)
        self._taken = ffi.new("lucid_token *")

    def put(self, place: int, item: int | T) -> None:
        """Appends a token or an object. Raises MemoryError."""
        outbox = Outbox()
        outbox.add(self, place, item)
        outbox.send()

    def keep(self, item: T) -> int:
        """Keeps an object for `get`; returns the negative number that stands for it in the queue."""
        number = next(self._numbers)
        self._objects[number] = item
        return number

    def get(self, timeout: float | None = None) -> tuple[int, int | T]:
        """Waits for the next item, at most `timeout` seconds (None: for ever); returns its place and the item.

        Raises `queue.Empty` if none came in time.
        """
        left = SLICE if timeout is None else timeout
        while not C.lucid_token_queue_get(self.pointer, min(left, SLICE), self._taken):
            if timeout is not None:
                left -= SLICE
                if left <= 0:
                    raise Empty
        place, token = self._taken.place, self._taken.token
        return place, token if token >= 0 else self._objects.pop(token)


class Outbox:
    """Items of one thread for several queues, which go to all of them in one call.

    A call for each would hand Python's lock to the first thread that wakes up, and wait for it before the next.
    """

    def __init__(self) -> None:
        self._parcels = ffi.new("lucid_parcel[]", CAPACITY)
        self._queues: list[TokenQueue[Any]] = []

    def add(self, queue: TokenQueue[T], place: int, item: int | T) -> None:
        """Notes an item, which `send` will put into `queue`; sends first where there is no room. Raises MemoryError."""
        if len(self._queues) == CAPACITY:
            self.send()
        parcel = self._parcels[len(self._queues)]
        self._queues.append(queue)  # keeps it until `send`
        parcel.queue, parcel.place = queue.pointer, place
        parcel.token = item if isinstance(item, int) else queue.keep(item)

    def send(self) -> None:
        """Puts all items into their queues, in order. Raises MemoryError."""
        if self._queues:
            put = C.lucid_token_queue_put(self._parcels, len(self._queues))
            self._queues.clear()
            if not put:
                raise MemoryError("no memory for another token")
