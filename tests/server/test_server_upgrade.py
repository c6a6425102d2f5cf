"""A rolling restart of two servers behind nginx with deploy/nginx.conf, under load: no stream fails."""

import http.client
import os
import re
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from server_process import PATIENCE, ROOT, ServerProcess, eventually
from streams import Streams

from bench.ports import free_port

CLIENTS = 4


def nginx_configuration(folder: Path, port: int, servers: list[int]) -> Path:
    """deploy/nginx.conf with other ports, without TLS, and with what belongs around it."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    text = re.sub(r"listen 443 ssl", f"listen 127.0.0.1:{port}", re.sub(r" +ssl_.*\n", "", text))
    for old, new in zip(("127.0.0.1:8080", "127.0.0.1:8082"), servers, strict=True):
        assert old in text
        text = text.replace(old, f"127.0.0.1:{new}")
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi"))
    path = folder / "nginx.conf"
    path.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''}\ndaemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{text}}}\n"
    )
    return path


def status(port: int, path: str) -> int:
    """What a GET of `path` is answered with."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_rolling_restart(tmp_path: Path) -> None:
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        reason = "nginx is not installed (Debian package nginx-light)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    ports = [int(address.rpartition(":")[2]) for address in addresses]
    with ExitStack() as stack:

        def start(index: int, name: str) -> ServerProcess:
            server = ServerProcess(tmp_path / name, HTTP_ADDRESS=addresses[index])
            server.port = ports[index]
            return stack.enter_context(server)

        old = [start(0, "old-0"), start(1, "old-1")]
        for server in old:
            server.wait_ready()
        port = free_port()
        command = [nginx, "-p", tmp_path, "-c", nginx_configuration(tmp_path, port, ports)]
        proxy = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        stack.callback(proxy.wait, PATIENCE)
        stack.callback(proxy.send_signal, signal.SIGQUIT)
        eventually((tmp_path / "pid").exists, "nginx runs")
        for path in ("/v1/engine", "/v1/engine/", "//v1/engine", "/v1/%65ngine", "/v1/knowledge"):
            assert status(port, path) == 403, path
        assert status(port, "/v1/knowledge/search") == 405  # a POST's
        assert status(port, "/v1/models") == 200
        with Streams(port, CLIENTS, max_tokens=4) as load:
            load.more(2 * CLIENTS)
            for index, server in enumerate(old):
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(PATIENCE) == 0
                load.more(CLIENTS)
                new = start(index, f"new-{index}")
                new.wait_ready()
                eventually(lambda new=new: "POST /v1/chat" in new.output, "the new one gets requests")  # type: ignore[misc]
        assert set(load.outcomes) == {"whole"}
