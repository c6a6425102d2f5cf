"""A real Prometheus and a real node_exporter (Debian's packages), started for tests and asked over HTTP."""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest
from server_process import PATIENCE, ROOT, eventually

from bench.ports import free_port

RULES = ROOT / "deploy" / "prometheus"


def program(name: str) -> str:
    """The path of a program that `.ci/run` installs; without it the test is skipped, in CI it fails."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed (Debian packages prometheus, prometheus-node-exporter)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


class Prometheus:
    """Prometheus and node_exporter; scrapes both, and a server, every second."""

    def __init__(self, folder: Path, metrics_port: int) -> None:
        self.port = free_port()
        node_port = free_port()
        config = folder / "prometheus.yml"
        config.write_text(
            json.dumps(  # JSON is YAML
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(RULES / "recording.yml"), str(RULES / "alerts.yml")],
                    "scrape_configs": [
                        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                        for job, port in (("lucid-llm", metrics_port), ("node", node_port))
                    ],
                }
            )
        )
        self._log = folder / "log"
        self._processes = []
        commands = (
            (program("prometheus-node-exporter"), f"--web.listen-address=127.0.0.1:{node_port}"),
            (
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ),
        )
        for command in commands:
            with self._log.open("ab") as output:
                self._processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))

    def __enter__(self) -> Self:
        try:
            eventually(self._ready, "Prometheus has scraped everything once")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(PATIENCE)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        assert answer["status"] == "success", answer
        return answer["data"]["result"]  # type: ignore[no-any-return]

    def values(self, expression: str) -> list[float]:
        """The values of an instant query that are numbers."""
        values = [float(series["value"][1]) for series in self.query(expression)]
        return [value for value in values if value == value]  # without NaN

    def _ready(self) -> bool:
        assert all(process.poll() is None for process in self._processes), self._log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=PATIENCE).close()
        except OSError:  # refused, or 503 while it starts
            return False
        return self.values("up") == [1, 1]
