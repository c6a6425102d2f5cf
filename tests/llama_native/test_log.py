"""llama.cpp's log in Python's logging, filtered and joined in C."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llama_native as ln
from llama_native import log


@pytest.fixture(autouse=True)
def restore_level() -> Iterator[None]:
    yield
    log.logger.setLevel(logging.NOTSET)
    log.sync_level()


def test_lines_arrive_whole_with_their_level(tiny_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llama_native"):
        ln.Model(tiny_path).close()
    lines = [record.getMessage() for record in caplog.records]
    assert any("general.architecture" in line and "llama" in line for line in lines)
    assert all("\n" not in line for line in lines)
    assert {record.name for record in caplog.records} == {"llama_native"}
    assert logging.DEBUG not in {record.levelno for record in caplog.records}


def test_the_dots_of_loading_are_one_line(chat_model_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llama_native"):
        ln.Model(chat_model_path).close()
    dots = [record.getMessage() for record in caplog.records if set(record.getMessage()) == {"."}]
    assert len(dots) == 1
    assert len(dots[0]) > 50


def test_the_level_filters_in_c(tiny_path: Path) -> None:
    log.logger.setLevel(logging.ERROR)
    seen: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    handler = Keep()
    log.logger.addHandler(handler)
    try:
        model = ln.Model(tiny_path)  # reads the level
        log.logger.setLevel(logging.DEBUG)  # C does not know of it yet
        assert seen == []
        ln.Context(model, ln.ContextParams(n_ctx=256, n_threads=1)).close()
        assert {record.levelno for record in seen} >= {logging.DEBUG, logging.INFO}
        model.close()
    finally:
        log.logger.removeHandler(handler)


def test_a_handler_that_fails_does_not_matter(tiny_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(record.name)

    handler = Broken()
    log.logger.addHandler(handler)
    log.logger.setLevel(logging.DEBUG)
    try:
        ln.Model(tiny_path).close()
    finally:
        log.logger.removeHandler(handler)
    assert "RuntimeError" not in capfd.readouterr().err


def test_nothing_on_stderr_by_itself_and_at_exit(tiny_path: Path, tmp_path: Path) -> None:
    code = f"""
import llama_native as ln
model = ln.Model({str(tiny_path)!r})
context = ln.Context(model, ln.ContextParams(n_ctx=256, n_threads=1))
try:
    ln.Model({str(tmp_path / "missing")!r})
except ln.ModelNotFound:
    pass
batch = ln.Batch(1)
batch.add(7, 0, 0)
context.decode(batch)
batch.pos[0] = 7
try:
    context.decode(batch)  # llama.cpp logs an error about positions
except ln.InvalidBatch as error:
    assert "consecutive" in str(error), error
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_error_of_this_thread_is_in_the_exception(tmp_path: Path, tiny_path: Path) -> None:
    data = tiny_path.read_bytes().replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight")
    path = tmp_path / "renamed.gguf"
    path.write_bytes(data)
    with pytest.raises(ln.ModelLoadError, match=r"tensor 'blk\.0\.attn_q\.weight' not found"):
        ln.Model(path)
