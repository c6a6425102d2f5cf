"""The phases of every request of a load add up to its whole time."""

import json
from collections.abc import Iterator
from typing import Any

import load
import pytest
from server_process import ServerProcess, eventually

from engine import PHASES

REQUESTS = 500


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """The log lines of a load of 500 requests from eight clients at once."""
    log = tmp_path_factory.mktemp("phases") / "log"
    with ServerProcess(log, LOG_FORMAT="json", MODEL_PARALLEL="4", MODEL_CONTEXT="512", QUEUE_LIMIT="16") as server:
        server.wait_ready()
        yield _lines(server)


def _lines(server: ServerProcess) -> list[dict[str, Any]]:
    shapes = load.shapes(REQUESTS)
    served = load.run(server, shapes, clients=8)
    assert {one.answer.status for one in served} == {200}
    answered = {
        one.answer.headers["X-Request-Id"]: {
            "client_seconds": one.seconds,
            "kind": f"{'stream' if shape['stream'] else 'whole'}, {shape['n']} choices",
        }
        for one, shape in zip(served, shapes, strict=True)
    }

    def logged() -> list[dict[str, Any]]:
        records = [json.loads(line) for line in server.output.splitlines()]
        return [record for record in records if record.get("request_id") in answered]

    eventually(lambda: len(logged()) == REQUESTS, "every request is logged")
    return [{**record, **answered[record["request_id"]]} for record in logged()]


def test_phases_sum_to_the_whole_time_within_three_percent(lines: list[dict[str, Any]]) -> None:
    shares = [sum(line["phases"].values()) / line["total_seconds"] for line in lines]
    assert len(shares) == REQUESTS
    assert min(shares) >= 0.97 and max(shares) <= 1.03, (min(shares), max(shares))


def test_phases_do_not_exceed_what_the_client_saw(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        assert set(line["phases"]) <= set(PHASES)
        answered = sum(seconds for phase, seconds in line["phases"].items() if phase != "write")
        assert answered <= line["client_seconds"], line  # its last write may end after the client has read all


def test_phases_cover_what_the_client_saw(lines: list[dict[str, Any]]) -> None:
    """Of nine in ten of each kind: the client's clock also has the connect, and waits of its own for a processor."""
    for kind in {line["kind"] for line in lines}:
        kept = (line for line in lines if line["kind"] == kind)
        shares = sorted(sum(line["phases"].values()) / line["client_seconds"] for line in kept)
        assert shares[len(shares) // 10] >= 0.9, (kind, shares[:5])


def test_no_phase_that_stands_for_moving_data_hides_the_work(lines: list[dict[str, Any]]) -> None:
    totals = {phase: sum(line["phases"].get(phase, 0.0) for line in lines) for phase in PHASES}
    whole = sum(totals.values())
    engine = sum(totals[phase] for phase in ("queue", "prefill", "decode", "sampling"))
    assert engine / whole > 0.8, totals
