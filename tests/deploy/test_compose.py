"""deploy/compose.yaml: what it mounts exists, what it sets is a valid configuration, Prometheus takes its files."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server import config
from tests.deploy.files import DEPLOY, documents

GUNICORN_ADDS = 5  # seconds, server/gunicorn_settings.py


def services() -> dict[str, Any]:
    (content,) = documents((DEPLOY / "compose.yaml").read_text())
    found: dict[str, Any] = content["services"]
    return found


def filled(text: str) -> str:
    """`text` with the variables that compose would fill in: defaults, or a password."""
    return re.sub(r"\$\{\w+(?::-(?P<default>[^}]*)|:\?[^}]*)\}", lambda m: m["default"] or "", text)


def test_images_are_pinned() -> None:
    images = [service["image"] for name, service in services().items() if name != "lucid"]
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images)


def test_mounted_files_exist() -> None:
    volumes = documents((DEPLOY / "compose.yaml").read_text())[0]["volumes"]
    for service in services().values():
        for mount in service["volumes"]:
            source = filled(mount).split(":")[0]
            assert source in volumes or (DEPLOY / source).exists(), mount


def test_environment_is_a_valid_configuration() -> None:
    lucid = services()["lucid"]
    variables = {name: filled(value) for name, value in lucid["environment"].items()}
    settings = config.read(variables)
    assert settings.knowledge_url == "postgresql://lucid@postgres/lucid"
    assert int(lucid["stop_grace_period"].removesuffix("s")) > settings.graceful_timeout + GUNICORN_ADDS


def test_nothing_listens_on_other_hosts() -> None:
    assert all(port.startswith("127.0.0.1:") for service in services().values() for port in service.get("ports", []))


def test_secrets_have_no_defaults() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for line in re.findall(r"^.*_?PASSWORD: .*$", text, flags=re.MULTILINE):
        assert ":?" in line


def test_server_is_confined() -> None:
    lucid = services()["lucid"]
    assert lucid["read_only"] is True
    assert lucid["cap_drop"] == ["ALL"]
    assert lucid["tmpfs"] == ["/tmp"]


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        reason = "promtool is not installed (Debian package prometheus)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    for mount in services()["prometheus"]["volumes"]:
        source, target = mount.split(":")[:2]
        if target.startswith("/etc/prometheus/"):
            shutil.copy(DEPLOY / source, tmp_path / Path(target).name)
    result = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    content = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    (job,) = content["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["lucid:8081"]}]


def test_grafana_reads_that_prometheus() -> None:
    original = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    ours = yaml.safe_load((DEPLOY / "compose/datasource.yml").read_text())
    assert ours["datasources"][0].pop("url") == "http://prometheus:9090"
    original["datasources"][0].pop("url")
    assert ours == original
