"""The OTLP collector stops and goes away while a server sends it spans: requests and the server's end do not notice."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from books import Books
from server_process import PATIENCE, ServerProcess, eventually
from streams import Streams

from bench.ports import free_port

Launch = Callable[..., ServerProcess]
RECEIVER = Path(__file__).parents[1] / "server" / "otlp_receiver.py"
CLIENTS = 4


class Collector:
    """A real OTLP receiver on a port, which writes a line for each span."""

    def __init__(self, port: int, received: Path) -> None:
        self._received = received
        with received.open("wb") as output:
            self._process = subprocess.Popen([sys.executable, str(RECEIVER), str(port)], stdout=output)

    def wait_for_spans(self) -> None:
        """Wait until more come than have come."""
        before = self._received.stat().st_size
        eventually(lambda: self._received.stat().st_size > before, "spans arrive")

    def pause(self) -> None:
        """It answers no more, its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """It is gone, and its connections are broken off."""
        self._process.kill()
        self._process.wait(PATIENCE)


def test_the_collector_stops_and_goes_away_under_load(launch: Launch, tmp_path: Path) -> None:
    port = free_port()
    first = Collector(port, tmp_path / "first")
    second = None
    try:
        server = launch(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_BSP_SCHEDULE_DELAY="50",
            OTEL_BSP_MAX_QUEUE_SIZE="8",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8",
        )
        server.wait_ready()
        books = Books(server)
        with Streams(server.port, CLIENTS, max_tokens=4) as load:
            first.wait_for_spans()
            first.pause()
            load.more(2 * CLIENTS)
            first.kill()
            load.more(2 * CLIENTS)
            second = Collector(port, tmp_path / "second")
            second.wait_for_spans()  # it is found again
            second.pause()
            load.more(2 * CLIENTS)
        assert set(load.outcomes) == {"whole"}
        books.expect(("200", "length", len(load.outcomes)))
        books.check()
        assert server.stop() == 0  # while spans are left that nobody takes
        assert "SIGKILL" not in server.output
    finally:
        first.kill()
        if second is not None:
            second.kill()
