"""An amount of something that all requests share, and that nobody waits for. Knows numbers, not what they count."""

from __future__ import annotations

import threading


class Allowance:
    """So much may be taken at once. Safe from any thread."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        #: What can be taken now.
        self.left = most

    def take(self, count: int = 1) -> bool:
        """Take `count` if there is so much left; returns whether there was. Then `give_back` is due."""
        with self._lock:
            if count > self.left:
                return False
            self.left -= count
            return True

    def give_back(self, count: int = 1) -> None:
        """Give back what was taken."""
        with self._lock:
            self.left += count
