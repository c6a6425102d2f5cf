"""The benchmark commands end to end, in tiny runs: exit codes, tables, JSON. No figure is judged."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bench import calibration, rates, servers
from bench.llama_tools import NativeSettings, ToolMissingError
from bench.processes import ServerFailedError, ServerProcess
from bench.rates import Point
from bench.servers import Common, Peer
from engine import EngineSettings, Plan, make_plan
from engine.plan import make_context
from llama_native import Context, Model, build_info

COMMANDS = (
    "fuzz_raw",
    "http",
    "http_feed",
    "peers",
    "native",
    "stream",
    "memory",
    "calibration",
    "rates",
    "structured",
)


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=root, capture_output=True, text=True, timeout=250, check=False
    )


def results(path: Path, name: str) -> Any:
    document = json.loads(path.read_text())
    assert document["command"] == name
    return document["results"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help(root: Path, name: str) -> None:
    done = command(root, f"bench.{name}", "--help")
    assert done.returncode == 0
    assert "usage: python -m bench." in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench.http", "--url", "http://127.0.0.1:1", "--concurrency", "0"),
        ("bench.http", "--url", "http://127.0.0.1:1", "--workload", "nonsense"),
        ("bench.http_feed", "--streams", "0"),
        ("bench.http_feed", "--tokens", "100000"),
        ("bench.native", "--depth", "-1"),
        ("bench.peers", "--repeats", "0"),
        ("bench.peers", "--step-targets", "0"),
        ("bench.stream", "--generate", "1"),
        ("bench.first_request", "--repeats", "0"),
        ("bench.memory", "--model", "no-such-file.gguf"),
        ("bench.calibration", "--rounds", "0"),
        ("bench.structured", "--streams", "0"),
        ("bench.structured", "--model", "no-such-file.gguf"),
        ("bench.calibration", "--model", "no-such-file.gguf"),
    ],
)
def test_wrong_usage_is_code_2_and_a_clear_line(root: Path, arguments: tuple[str, ...]) -> None:
    done = command(root, *arguments)
    assert done.returncode == 2
    assert "error" in done.stderr
    assert "Traceback" not in done.stderr


def test_http(root: Path, server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "http.json"
    done = command(
        root, "bench.http", "--url", server.url, "--workload", "chat", "rag", "--concurrency", "2", "--requests", "4",
        "--max-tokens", "8", "--json", str(path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = results(path, "bench.http")
    assert (first["workload"], second["workload"]) == ("chat", "rag")
    assert all(result["output_tokens"] == 32 and result["errors"] == 0 for result in (first, second))
    assert "tok/s" in done.stdout


def test_http_feed(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "feed.json"
    small = ("--streams", "1", "3", "--tokens", "20", "--rounds", "1")
    done = command(root, "bench.http_feed", *small, "--json", str(path))
    assert done.returncode == 0, done.stderr
    found = results(path, "bench.http_feed")
    assert [row[0] for row in found["service"]] == ["1", "3"]
    assert all(figure > 0 for row in found["service"] for figure in row[1:])
    assert [row[0] for row in found["dirty"]] == ["here", "dirty"]
    assert found["dirty"][0][-2] > found["dirty"][1][-2]  # streams at once: why the service does not use them
    assert found["kill"]["told"] is not None
    assert found["kill"]["complete"] is False
    assert found["kill"]["again"] is not None


def test_a_server_that_does_not_start(common: Common) -> None:
    peer = servers.ours(common, {"MODEL_PATH": "no-such-file.gguf"})
    with peer.start() as process, pytest.raises(ServerFailedError, match="ended with code"):
        process.wait_ready(60)


def test_a_server_without_our_kernels_is_known(common: Common, monkeypatch: pytest.MonkeyPatch) -> None:
    assert servers.ours(common).kernels
    assert not servers.ours(common, {"MODEL_KERNELS": "off"}).kernels
    monkeypatch.setattr(servers, "ENVIRONMENT", {"MODEL_KERNELS": "Off"})
    assert not servers.ours(common).kernels


@pytest.mark.skipif(not build_info()["kernels"], reason="this processor lacks AVX2, FMA or F16C")
def test_native_rates_are_those_of_the_kernels_asked_for(
    chat_model_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp's log names the buffers that weights are in."""
    packed = []
    for kernels in (True, False):
        settings = NativeSettings(str(chat_model_path), threads=1, kernels=kernels)
        request = {"settings": asdict(settings), "point": asdict(Point(1, 8, 1))}
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "llama_native"):
            assert rates.main([json.dumps(request)]) == 0
        assert json.loads(capsys.readouterr().out)["decode_rate"] > 0
        packed.append("LUCID_PACKED model buffer" in caplog.text)
    assert packed == [True, False]


def test_memory_of_a_server(server: ServerProcess) -> None:
    memory = server.memory()
    assert memory.processes >= 1
    assert memory.largest_rss > 0
    assert memory.total_pss > 0


def test_stop_leaves_no_process(our_server: Peer) -> None:
    with our_server.start() as process:
        process.wait_ready()
        assert process.memory().processes >= 1
    assert process.memory().processes == 0


def test_rates(root: Path, chat_model_path: Path) -> None:
    request = {
        "settings": {"model": str(chat_model_path), "threads": 2, "flash_attention": "off"},
        "point": {"sequences": 2, "depth": 20, "generate": 4, "prefill": [8, 16], "prefill_depth": 10, "shared": True},
    }
    done = command(root, "bench.rates", json.dumps(request))
    assert done.returncode == 0, done.stderr
    rates = json.loads(done.stdout)
    assert rates["decode_rate"] > 0
    assert set(rates["prefill_seconds"]) == {"8", "16"}


def test_stream(root: Path, chat_model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "stream.json"
    done = command(
        root, "bench.stream", "--model", str(chat_model_path), "--repeats", "1", "--generate", "8", "--slots", "2",
        "--slot-context", "512", "--json", str(path),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert results(path, "bench.stream")["ratio"] > 0


def test_memory(root: Path, chat_model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    done = command(
        root, "bench.memory", "--model", str(chat_model_path), "--requests", "2", "--slots", "2",
        "--slot-context", "512", "--json", str(path),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    memory = results(path, "bench.memory")
    assert memory["file_bytes"] == chat_model_path.stat().st_size
    assert memory["kv_bytes"] > 0 < memory["loaded"]["rss"]
    assert memory["errors"] == 0


def test_calibration(root: Path, chat_model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    done = command(root, "bench.calibration", "--model", str(chat_model_path), "--rounds", "1", "--json", str(path))
    assert done.returncode in (0, 1), done.stderr
    judged = results(path, "bench.calibration")
    assert judged["ratio"] >= 1
    assert [row[-1] for row in judged["rows"]].count("chosen") == 1
    assert {row[0] for row in judged["rows"]} == {
        f"flash attention {flash}, {layout}" for flash in ("off", "on") for layout in ("streams", "unified")
    }


def test_calibration_leaves_out_what_llama_cpp_refuses(
    chat_model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No demo model is refused anything, so one combination gets parameters that llama.cpp does refuse."""

    def make_some(model: Model, plan: Plan) -> Context:
        both = plan.flash_attention and plan.unified
        return make_context(model, replace(plan, parallel=10**6) if both else plan)

    monkeypatch.setattr(calibration, "make_context", make_some)
    with Model(chat_model_path) as model:
        plan = replace(make_plan(model, EngineSettings(parallel=2)), threads=1, threads_batch=1)
        found = calibration.brute_force(model, plan, rounds=1)
    assert {(item.flash_attention, item.unified) for item in found} == {(False, False), (False, True), (True, False)}
    assert "left out: flash attention on, unified: " in capsys.readouterr().err


def test_native(root: Path, chat_model_path: Path, llama_server: Path, tmp_path: Path) -> None:
    path = tmp_path / "native.json"
    done = command(
        root, "bench.native", "--model", str(chat_model_path), "--prompt", "16", "--generate", "4", "--depth", "0",
        "32", "--sequences", "2", "--sequences-prompt", "8", "24", "--repeats", "1", "--json", str(path),
        "--tools", str(llama_server.parent),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    cases = results(path, "bench.native")
    assert len(cases) == 8
    assert [case["name"] for case in cases if "sequences" in case["name"]] == [
        f"decode 4, 2 sequences of {depth}, {layout}" for depth in (8, 24) for layout in ("streams", "unified")
    ]
    assert all(case["ratio"] > 0 for case in cases)


def test_peers(root: Path, chat_model_path: Path, llama_server: Path, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    done = command(
        root, "bench.peers", "--model", str(chat_model_path), "--workloads", "chat", "--clients", "8", "--requests",
        "8", "--max-tokens", "6", "--repeats", "1", "--slots", "4", "--slot-context", "512", "--json", str(path),
        "--tools", str(llama_server.parent), "--tuned", "-fa off", "--step-targets", "200", "--llama-cpp-python", "no",
        "--set", "MODEL_CALIBRATE=off",
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert done.returncode == ("FAIL" in done.stdout)
    found = results(path, "bench.peers")
    ours = ["lucid", "lucid MODEL_STEP_MS=200"]
    assert {each["server"] for each in found["rounds"]} == {*ours, "llama-server", "llama-server -fa off"}
    assert all(each["errors"] == 0 and each["output_tokens"] == 48 for each in found["rounds"])
    assert len({each["prompt_tokens"] for each in found["rounds"]}) == 1
    assert found["remarks"] == []
    assert [bar["against"] for bar in found["bars"]] == ["llama-server", "llama-server -fa off"]
    assert [bar["hand_tuned"] for bar in found["bars"]] == [False, True]
    (bounds,) = found["ceilings"]
    (bound,) = (each for each in bounds["own"] if each["setting"] == bounds["counted"])
    assert all(each["output_rate"] > 0 for each in (*bounds["own"], *bounds["llama_cpp"]))
    assert [step["server"] for step in found["steps"]] == ours
    assert found["steps"][1]["bound"] == pytest.approx(0.3 + 4 / bound["decode_rate"])
    assert {crowd["server"] for crowd in found["crowds"]} == {each["server"] for each in found["rounds"]}
    assert all(crowd["errors"] == 0 and crowd["before"] > 0 < crowd["after"] for crowd in found["crowds"])


def test_llama_cpp_python_is_left_out_where_it_is_missing_but_not_if_named(common: Common) -> None:
    if importlib.util.find_spec("llama_cpp") is not None:
        pytest.skip("this interpreter has llama-cpp-python")
    with pytest.raises(ToolMissingError, match="pip install 'llama-cpp-python"):
        servers.llama_cpp_python(common)
    with pytest.raises(ToolMissingError, match="no-such-python"):
        servers.llama_cpp_python(common, "no-such-python")


def test_servers_start_with_the_environment_of_the_shell(root: Path) -> None:
    """`llama_native` tunes OpenMP for its own process; a server we compare with must not inherit that."""
    code = "import os, bench.peers, bench.native; print(os.environ == dict(bench.ENVIRONMENT), *bench.ENVIRONMENT)"
    clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=clean, capture_output=True, text=True, timeout=60, check=True
    )
    same, *names = done.stdout.split()
    assert same == "False", "llama_native no longer sets variables: bench.ENVIRONMENT is not needed any more"
    assert "GOMP_SPINCOUNT" not in names


def test_structured(root: Path, chat_model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "structured.json"
    done = command(
        root, "bench.structured", "--model", str(chat_model_path), "--streams", "2", "--generate", "4", "--rounds", "1",
        "--json", str(path),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    rates = results(path, "bench.structured")["rates"]
    assert set(rates) == {"free", "objects", "a long string", "text, tools offered"}
    assert all(rate > 0 for found in rates.values() for rate in found)
    assert "of free" in done.stdout
