"""The server under hostile requests: our own generator, and schemathesis over /openapi.json."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fuzz_http
import pytest
from server_process import ServerProcess

#: `FUZZ_REQUESTS=20000` makes it a long run.
REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "1000"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that nobody else uses, as what it logs and leaves running counts."""
    with fuzz_http.start(tmp_path_factory.mktemp("fuzz") / "log") as process:
        process.wait_ready()
        yield process


@pytest.mark.timeout(3600)
def test_hostile_requests_leave_the_server_as_it_was(server: ServerProcess) -> None:
    outcome = fuzz_http.fuzz(server, REQUESTS, seed=1)
    print(f"\n{outcome['statuses']}")
    assert outcome["wrong"] == []
    assert outcome["statuses"][200] > REQUESTS / 20  # the requests reach what they are to test
    assert outcome["statuses"][400] > REQUESTS / 5


def test_what_schemathesis_sends_is_answered_as_the_document_says(server: ServerProcess, tmp_path: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    options = ["--checks", checks, "--phases", "coverage,fuzzing", "--max-examples", "5", "--seed", "1", "--no-color"]
    ended = subprocess.run([*command, *options], capture_output=True, text=True, timeout=250, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    server.wait_idle()
