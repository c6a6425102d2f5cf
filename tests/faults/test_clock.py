"""The system's clock jumps under load: durations, deadlines and the grace period go on as if nothing had happened."""

import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from books import Books, now
from server_process import ServerProcess, eventually
from streams import Streams

DAY = 86_400


def test_the_clock_jumps(launch: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """A day forward, two back, one forward; then a day forward while the server finishes its last answers."""
    library, shift = tmp_path / "clock_shift.so", tmp_path / "shift"
    source = Path(__file__).with_name("clock_shift.cpp")
    subprocess.run([os.environ.get("CXX", "c++"), "-O1", "-shared", "-fPIC", "-o", library, source], check=True)

    def jump(seconds: int) -> None:
        with shift.open("r+b" if shift.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))

    jump(0)
    server = launch(LD_PRELOAD=str(library), CLOCK_SHIFT=str(shift), REQUEST_TIMEOUT="600")
    server.wait_ready()

    def shows(seconds: int) -> bool:
        created = server.chat("Hi", max_tokens=1).json["created"]
        return abs(created - time.time() - seconds) < DAY / 2

    assert shows(0)
    books = Books(server)
    with Streams(server.port, 6, 12) as streams:
        for seconds in (DAY, -DAY, 0):
            jump(seconds)
            assert shows(seconds)
            seen = len(streams.outcomes)
            eventually(lambda seen=seen: len(streams.outcomes) >= seen + 6, "answers come")  # type: ignore[misc]
    assert set(streams.outcomes) == {"whole"}
    books.expect(("200", "length", len(streams.outcomes) + 3))
    books.check()
    for name in ("lucid_request_seconds_sum", "lucid_phase_seconds_sum", "token_creation_duration_sum"):
        assert 0 < server.metric(name) < DAY / 2

    with Streams(server.port, 6, 60) as streams:
        eventually(lambda: now(server)["running"] == 4, "it is busy")
        server.process.send_signal(signal.SIGTERM)
        days = 0
        while server.process.poll() is None:  # whenever the master looks at the clock, a day has passed since
            days += 1
            jump(days * DAY)
            time.sleep(0.1)
        assert server.wait_exit() == 0
    assert set(streams.outcomes) <= {"whole", "refused", "unreachable"}
    assert "whole" in streams.outcomes
    assert "SIGKILL" not in server.output
