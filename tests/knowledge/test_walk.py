"""Walking real folders: links, loops, pipes, odd names, files that cannot be read or change meanwhile."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from knowledge import walk as walk_module
from knowledge.readers import SkippedError
from knowledge.walk import read_bytes, walk


def test_files_with_sizes_and_times(tmp_path: Path) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "sub" / "deep" / "ü b.md").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x")
    found = walk(tmp_path)
    assert found.files == {
        "a.txt": (5, (tmp_path / "a.txt").stat().st_mtime_ns),
        "sub/deep/ü b.md": (1, (tmp_path / "sub" / "deep" / "ü b.md").stat().st_mtime_ns),
    }
    assert found.warnings == []


def test_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "sub", outside):
        folder.mkdir(parents=True)
    (outside / "secret.txt").write_text("secret")
    (root / "a.txt").write_text("a")
    (root / "loop").symlink_to(root)
    (root / "sub" / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "again.txt").symlink_to("a.txt")
    (root / "out-file").symlink_to(outside / "secret.txt")
    (root / "out-folder").symlink_to(outside)
    (root / "gone").symlink_to("nothing")
    found = walk(root)
    assert set(found.files) == {"a.txt"}
    assert dict(found.warnings) == {
        "out-file": "the link leads out of the folder",
        "out-folder": "the link leads out of the folder",
        "gone": "the link leads nowhere",
        "self": "the link leads nowhere",
    }


def test_a_folder_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    (tmp_path / "..2026_01").mkdir()
    (tmp_path / "..2026_01" / "notes.txt").write_text("notes")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "notes.txt").symlink_to("..data/notes.txt")
    assert set(walk(tmp_path).files) == {"notes.txt"}
    assert read_bytes(tmp_path, "notes.txt", 100)[0] == b"notes"


def test_what_is_no_file_or_has_no_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.txt", os.O_CREAT))
    found = walk(tmp_path)
    assert found.files == {}
    assert sorted(reason for _, reason in found.warnings) == ["it is not a regular file", "its name is not UTF-8"]
    with pytest.raises(SkippedError, match="not a regular file"):
        read_bytes(tmp_path, "pipe", 100)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        walk(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        walk(tmp_path / "file")


def test_reading_stays_inside_even_if_a_link_changes_after_the_walk(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(SkippedError, match="out of the folder"):
        read_bytes(tmp_path / "root", "a", 100)


def test_limits_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_bytes(tmp_path, "a", 100)[:2] == (b"x" * 100, 100)
    with pytest.raises(SkippedError, match="100 bytes, the limit is 99") as caught:
        read_bytes(tmp_path, "a", 99)
    assert caught.value.lasting
    with pytest.raises(SkippedError, match="cannot be read") as caught:
        read_bytes(tmp_path, "missing", 100)
    assert not caught.value.lasting


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """Its content may still be of two generations: nothing shows a writer that is stopped in the middle of a write."""
    path = tmp_path / "a"
    path.write_bytes(b"0" * 200_000)
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        with path.open("r+b", buffering=0) as file:
            generation = 0
            while not stop.is_set():
                generation += 1
                file.seek(0)
                file.write(b"%09d\n" % generation * 20_000)
                written.set()

    thread = threading.Thread(target=write)
    thread.start()
    written.wait()
    try:
        for _ in range(20):
            try:
                data, size, _ = read_bytes(tmp_path, "a", 1 << 20)
            except SkippedError as error:
                assert "keeps changing" in str(error)
                assert not error.lasting
            else:
                assert len(data) == size
    finally:
        stop.set()
        thread.join()
    data = read_bytes(tmp_path, "a", 1 << 20)[0]
    assert data == data[:10] * 20_000


def test_a_change_that_size_and_time_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, content = tmp_path / "a", walk_module._content
    path.write_bytes(b"first")

    def read_and_change(descriptor: int, limit: int) -> bytes:
        data = content(descriptor, limit)
        times = path.stat()
        path.write_bytes(b"other")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return data

    monkeypatch.setattr(walk_module, "_content", read_and_change)
    assert read_bytes(tmp_path, "a", 100)[0] == b"other"
