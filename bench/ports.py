"""TCP ports for servers of our own, which nobody else is handed between the choice and the use.

A port that the kernel chose for a moment (port 0) can be given to the next who asks, or to a client's connection. These
lie below the range that the kernel chooses from; each process of pytest-xdist has a part of them to itself. Knows ports
of 127.0.0.1.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import socket
from typing import Final

#: The first port; Linux hands out those from 32768 on by itself (net.ipv4.ip_local_port_range).
FIRST: Final = 12000

#: How many ports a process has, and how many processes there may be.
SHARE: Final = 640
PROCESSES: Final = 32

_part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
#: Which of its ports comes next. Another run beside this one has hardly begun at the same.
_next = itertools.count(random.randrange(SHARE))


def free_port() -> int:
    """A port that nobody uses now; not the same as one of the last `SHARE` calls in this process.

    Raises OSError if all of them are in use.
    """
    for _ in range(SHARE):
        port = FIRST + _part * SHARE + next(_next) % SHARE
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections do not matter
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"ports {FIRST + _part * SHARE} and the next {SHARE} are in use")
