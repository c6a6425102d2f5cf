"""The disk of the knowledge store is full: answers come from what is there, and go on when there is room again."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from books import Books
from server_process import ROOT, ServerProcess, eventually

#: Room for the store of a few documents, in KiB.
ROOM = 1024


#: The bit of a process's capabilities that allows it to mount (capabilities(7)).
CAP_SYS_ADMIN = 21


def require_mounts() -> None:
    """Skip the test where no file system can be mounted; under CI, fail if this process may mount and still cannot."""
    if shutil.which("unshare") is None:
        reason, possible = "unshare is missing (Debian package util-linux)", True
    else:
        command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return
        (effective,) = re.findall(r"CapEff:\s+(\w+)", Path("/proc/self/status").read_text())
        reason = f"no file system can be mounted: {tried.stderr.strip()}"
        possible = bool(int(effective, 16) >> CAP_SYS_ADMIN & 1)
    if possible and os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def knowledge(server: ServerProcess) -> dict[str, Any]:
    body: dict[str, Any] = server.get("/v1/knowledge").json
    return body


def cited(server: ServerProcess, question: str) -> list[str]:
    """The files that an answer cites."""
    answer = server.chat(question, max_tokens=2)
    assert answer.status == 200
    return [citation["file"] for citation in answer.json["citations"]]


def test_disk_full(launch: Callable[..., ServerProcess], tmp_path: Path) -> None:
    require_mounts()
    documents, disk = tmp_path / "documents", tmp_path / "disk"
    documents.mkdir()
    disk.mkdir()
    (documents / "gate.txt").write_text("The sign of the Pelham gate is a green lantern.")
    # the file system is the server's alone and goes with it
    mount = f"mount -t tmpfs -o size={ROOM}k none {shlex.quote(str(disk))}"
    server = launch(
        *("unshare", "--mount", "sh", "-c", f"{mount} && exec {sys.executable} -m server"),
        DATA_PATH=str(documents),
        EMBEDDING_MODEL=str(ROOT / "model" / "embed.gguf"),
        KNOWLEDGE_MODE="hybrid",
        KNOWLEDGE_URL=str(disk / "store.sqlite"),
    )
    server.wait_ready()
    eventually(lambda: knowledge(server)["indexing"]["state"] == "idle" and knowledge(server)["files"] == 1, "indexed")
    assert cited(server, "What is the sign of the Pelham gate?") == ["gate.txt"]
    books = Books(server, besides=disk)

    inside = Path(f"/proc/{books.worker}/root{disk}")
    filler = inside / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(512))
    assert os.statvfs(inside).f_bavail == 0
    (documents / "mill.txt").write_text("The miller of Ostrava keeps seven red hens. " * 400)
    eventually(lambda: knowledge(server)["indexing"]["state"] == "failed", "the store cannot be written")
    assert "full" in knowledge(server)["indexing"]["error"]
    assert cited(server, "What is the sign of the Pelham gate?") == ["gate.txt"]  # what is there is found
    assert knowledge(server)["files"] == 1

    filler.unlink()
    eventually(lambda: knowledge(server)["indexing"]["state"] == "idle" and knowledge(server)["files"] == 2, "indexed")
    assert cited(server, "How many red hens does the miller of Ostrava keep?")[0] == "mill.txt"
    assert json.loads(server.get("/ready").body) == {"status": "ok"}
    books.expect(("200", "length", 2))
    books.check()
