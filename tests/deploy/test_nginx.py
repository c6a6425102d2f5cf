"""deploy/nginx.conf: nginx takes it, and its limits fit the server's."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from server import config
from tests.deploy.files import DEPLOY

KEEPALIVE = 75  # seconds, server/gunicorn_settings.py


def test_nginx_takes_it(tmp_path: Path) -> None:
    missing = [name for name in ("nginx", "openssl") if shutil.which(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found; install nginx-light and openssl"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=llm.example -keyout {key} -out {certificate}".split(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    part = (DEPLOY / "nginx.conf").read_text().replace("/etc/ssl/lucid-llm", str(tmp_path)).replace("443", "8443")
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{part}}}\n")
    result = subprocess.run(
        ["nginx", "-t", "-p", tmp_path, "-c", whole], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_limits_fit_the_servers() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    found = dict(re.findall(r"^\s*(\w+) (\w+);", text, flags=re.MULTILINE))
    defaults = config.read({})
    assert found["proxy_buffering"] == "off"
    assert int(found["client_max_body_size"].removesuffix("m")) << 20 == defaults.max_body_bytes
    assert int(found["proxy_read_timeout"].removesuffix("s")) > defaults.queue_timeout
    assert int(found["keepalive_timeout"].removesuffix("s")) < KEEPALIVE
    assert re.search(rf"server {defaults.http_address} ", text)
