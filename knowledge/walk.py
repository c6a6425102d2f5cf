"""Which files there are under a folder, and reading one of them whole.

Links are followed only to targets inside the folder that are not reached otherwise, so that loops end and nothing
outside is read. Names that begin with a dot are left out. Knows the file system; what is in a file is the readers'
business.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from knowledge.readers.errors import SkippedError

_ATTEMPTS = 3
#: The longest that a file's time may stand still while the file changes: FAT counts two seconds.
_TICK_NS = 2_000_000_000
#: What the system says of a name behind which there is nothing. Any other error leaves open what is there.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass
class Walk:
    """What was found under `root`.

    :ivar files: size and modification time (ns) of each file, by its path relative to the root, with slashes.
    :ivar warnings: (path, reason) of what was left out.
    :ivar unreadable: paths (relative; "" is the root) of files, folders and links that could not be looked at: whether
        they are there, and what they hold, is not known.
    """

    root: Path
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def hides(self, file: str) -> bool:
        """Returns whether the file may be there although it was not found."""
        return any(not path or file == path or file.startswith(f"{path}/") for path in self.unreadable)


def walk(root: Path) -> Walk:
    """Returns all files under the folder `root`.

    :raises OSError: the folder itself does not exist or cannot be listed.
    """
    real = root.resolve(strict=True)
    found = Walk(real)
    seen: set[tuple[int, int]] = set()
    links: list[tuple[str, str]] = []
    with os.scandir(real):
        pass  # what is wrong with the root itself is an error, not a warning
    _visit(found, str(real), "", seen, links)
    while links:  # after everything that is there under its own name
        _follow(found, *links.pop(0), seen, links)
    return found


def _visit(found: Walk, folder: str, prefix: str, seen: set[tuple[int, int]], links: list[tuple[str, str]]) -> None:
    pending = [(folder, prefix)]
    while pending:
        folder, prefix = pending.pop()
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            found.warnings.append((prefix, f"the folder cannot be listed: {error.strerror}"))
            found.unreadable.append(prefix.removesuffix("/"))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = prefix + entry.name
            try:
                if not _is_utf8(name):
                    found.warnings.append((ascii(name), "its name is not UTF-8"))
                elif entry.is_symlink():
                    links.append((entry.path, name))
                elif entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, f"{name}/"))
                else:
                    _take(found, entry.path, name, seen)
            except OSError as error:
                _miss(found, name, error)


def _take(found: Walk, path: str, name: str, seen: set[tuple[int, int]]) -> None:
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        found.warnings.append((name, "it is not a regular file"))
        return
    seen.add((status.st_dev, status.st_ino))
    found.files[name] = (status.st_size, status.st_mtime_ns)


def _follow(found: Walk, path: str, name: str, seen: set[tuple[int, int]], links: list[tuple[str, str]]) -> None:
    try:
        target = Path(path).resolve(strict=True)
        status = target.stat()
        if not target.is_relative_to(found.root):
            found.warnings.append((name, "the link leads out of the folder"))
        elif (status.st_dev, status.st_ino) not in seen:
            if stat.S_ISDIR(status.st_mode):
                _visit(found, str(target), f"{name}/", seen, links)
            else:
                _take(found, str(target), name, seen)
    except OSError as error:
        _miss(found, name, error, "the link leads nowhere")
    except RuntimeError:  # a loop
        found.warnings.append((name, "the link leads nowhere"))


def _miss(found: Walk, name: str, error: OSError, gone: str = "it is gone") -> None:
    """Notes a name that could not be looked at."""
    if error.errno in _GONE:
        found.warnings.append((name, gone))
    else:
        found.warnings.append((name, f"it cannot be looked at: {error.strerror}"))
        found.unreadable.append(name)


@contextmanager
def _opened(root: Path, file: str) -> Iterator[int]:
    path = (root / file).resolve(strict=True)
    if not path.is_relative_to(root):  # a link that was changed after the walk
        raise SkippedError("the link leads out of the folder", lasting=False)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # a pipe must not hang us
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int, limit: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        return stream.read(limit)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_bytes(root: Path, file: str, limit: int) -> tuple[bytes, int, int]:
    """Returns the content of a file that did not change meanwhile, its size and its modification time (ns).

    A change may go on afterwards without another time: content that was written moments ago is to be compared again.

    :param root: the folder, resolved.
    :param limit: bytes; larger files are not read.
    :raises SkippedError: the file is too large, cannot be read, is gone, or changes faster than it can be read.
    """
    try:
        for _ in range(_ATTEMPTS):
            with _opened(root, file) as descriptor:
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    raise SkippedError("it is not a regular file", lasting=False)
                if before.st_size > limit:
                    raise SkippedError(f"it has {before.st_size} bytes, the limit is {limit} (KNOWLEDGE_FILE_BYTES)")
                data = _content(descriptor, before.st_size + 1)
                # The times of files tick, often in milliseconds: a change within a tick shows in the content alone.
                young = time.time_ns() - before.st_mtime_ns < _TICK_NS
                again = _content(descriptor, before.st_size + 1) if young else data
                after = os.fstat(descriptor)
            seen, now = (before.st_size, before.st_mtime_ns), (after.st_size, after.st_mtime_ns)
            if len(data) == before.st_size and seen == now and data == again:
                return data, before.st_size, before.st_mtime_ns
    except OSError as error:
        raise SkippedError(f"it cannot be read: {error.strerror}", lasting=False) from error
    raise SkippedError("it keeps changing while it is read", lasting=False)
