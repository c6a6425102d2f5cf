"""Several gunicorn workers: one scrape shows their sum, and a worker that is killed does not falsify it."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from server_process import ROOT, ServerProcess, eventually

from server.host_metrics import ProcessMetrics
from server.metrics_sum import Folder, SummedMetrics
from server.threads import Threads

COUNTED = ("lucid_requests_total", "lucid_generated_tokens_total", "token_creation_duration_count")


def workers(server: ServerProcess) -> list[int]:
    """The process ids of the master's children."""
    master = server.process.pid
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


def totals(server: ServerProcess) -> dict[str, float]:
    """What the requests moved, from one scrape each."""
    labels = {"route": "/v1/chat/completions"}
    return {name: server.metric(name, **(labels if name == COUNTED[0] else {})) for name in COUNTED}


def test_one_scrape_shows_the_sum_and_survives_a_kill(launch: Callable[..., ServerProcess]) -> None:
    command = (sys.executable, "-m", "gunicorn", "-c", "server/gunicorn_settings.py", "--workers", "2")
    server = launch(*command, MODEL_PARALLEL="2", MODEL_CONTEXT="256")

    def both_are_ready() -> bool:
        return server.metrics_up() and server.metric("lucid_sequences") == 4

    server.wait_ready()
    eventually(both_are_ready, "two engines are seen in one scrape")

    answered = 0
    for _ in range(12):
        answered += server.chat("Count.", max_tokens=4, ignore_eos=True).status == 200
    assert answered == 12
    expected = dict(zip(COUNTED, (12, 48, 48), strict=True))
    eventually(lambda: totals(server) == expected, "all requests are in the sum, whichever worker had them")

    pids = workers(server)
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)
    for _ in range(20):
        assert totals(server) == expected  # at no moment less or more
    eventually(lambda: len(set(workers(server)) - {pids[0]}) == 2, "another worker takes its place")
    eventually(both_are_ready, "its engine is there: the dead one's gauges are not counted beside it")
    assert totals(server) == expected

    os.kill(pids[1], signal.SIGKILL)  # its counts go into the file that holds the first one's
    eventually(lambda: not set(workers(server)) & set(pids), "the second is replaced")
    eventually(both_are_ready, "two engines again")
    for _ in range(4):
        server.chat("Count.", max_tokens=4, ignore_eos=True)
    expected = dict(zip(COUNTED, (16, 64, 64), strict=True))
    eventually(lambda: totals(server) == expected, "counting goes on from there")
    assert server.metric("lucid_engine_info") == 1


def test_joules_per_token_are_those_of_all_workers_by_all_their_tokens() -> None:
    """One had four tokens at one joule each, the other one token at six."""
    folder = Folder()
    try:
        workers = []
        for joules, tokens in ((4, 4), (6, 1)):
            registry = CollectorRegistry()
            Counter("lucid_energy_joules", "", ["domain"], registry=registry).labels("package-0").inc(joules)
            Counter("lucid_decoded_tokens", "", registry=registry).inc(tokens)
            Gauge("lucid_energy_joules_per_token", "", registry=registry).set(joules / tokens)
            workers.append(SummedMetrics(registry, folder))
            workers[-1].publish()
        values = {sample.name: sample.value for family in workers[0].collect() for sample in family.samples}
        assert values["lucid_energy_joules_total"] == 10
        assert values["lucid_energy_joules_per_token"] == 2
    finally:
        folder.remove()


def test_a_server_of_one_node_takes_the_cores_it_is_given(launch: Callable[..., ServerProcess]) -> None:
    """As in one server for each NUMA node; here a node has one core."""
    core = str(min(os.sched_getaffinity(0)))
    server = launch("taskset", "--cpu-list", core, sys.executable, "-m", "server", MODEL_THREADS="")
    server.wait_ready()
    assert server.get("/v1/engine").json["plan"]["threads"] == 1
    assert server.chat("Hi", max_tokens=4).status == 200


def test_what_a_killed_server_left_is_removed_and_nothing_else() -> None:
    program = "from server.metrics_sum import Folder; print(Folder().path, flush=True); input()"
    command = (sys.executable, "-c", program)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with start() as killed, start() as living:
        assert killed.stdout is not None
        assert living.stdout is not None
        left, held = (Path(process.stdout.readline().decode().strip()) for process in (killed, living))
        assert left.is_dir()
        killed.kill()
        killed.wait()
        Folder().remove()
        assert not left.exists()
        assert held.is_dir()
        living.kill()
    Folder().remove()
    assert not held.exists()


def test_servers_that_start_at_the_same_moment_leave_each_other_alone() -> None:
    def make_many() -> None:
        for _ in range(100):
            folder = Folder()
            assert folder.path.is_dir()
            folder.remove()

    with ThreadPoolExecutor(4) as pool:
        for made in [pool.submit(make_many) for _ in range(4)]:
            made.result()


def test_a_worker_without_file_descriptors_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    registry.register(ProcessMetrics("here"))
    folder = Folder()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        summed = SummedMetrics(registry, folder)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            summed.publish()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert "Too many open files" in caplog.text
        assert folder.names() == []
        summed.publish()
        assert len(folder.names()) == 1
    finally:
        folder.remove()


def test_work_waits_where_no_thread_can_be_had(caplog: pytest.LogCaptureFixture) -> None:
    with Threads(2) as pool:
        begun, go = threading.Event(), threading.Event()

        def hold() -> bool:
            begun.set()
            return go.wait(60)

        first = pool.submit(hold)
        assert begun.wait(60)
        usual = threading.stack_size(1 << 46)  # more than there are addresses: the system refuses to make the thread
        try:
            second = pool.submit(threading.get_ident)
        finally:
            threading.stack_size(usual)
        assert "no more than 1 threads" in caplog.text
        go.set()
        assert first.result(60)
        assert second.result(60) != threading.get_ident()
