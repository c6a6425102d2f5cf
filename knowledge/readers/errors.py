"""Why a file is not read."""

from __future__ import annotations


class SkippedError(Exception):
    """The file gives no text; the message says why, without the file's name.

    :ivar lasting: the same content will be skipped again, whichever process tries it.
    """

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting
