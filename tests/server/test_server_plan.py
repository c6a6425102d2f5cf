"""`python -m server plan`: what a configuration takes, against the numbers of a real server."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from server_process import MODEL, ROOT, ServerProcess, environment

from engine import EngineSettings
from llama_native import Model, ModelParams
from server.sizing import ROOM, TooLittleMemoryError, check_memory, measure

#: Bytes of a token in the demo model's KV cache: keys and values, 30 layers, 3 heads of 64 values in two bytes.
KV_TOKEN = 2 * 30 * 3 * 64 * 2


def plan(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", "plan", *arguments],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sized(**variables: str) -> dict[str, Any]:
    done = plan("--json", **variables)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["fits"] else 1), done.stderr
    return found


def _group(leader: int) -> list[int]:
    """The server's processes: gunicorn's master and its worker."""
    children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
    return [leader, *(int(child) for child in children)]


def _resident(pid: int) -> int:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]) * 1024


def test_the_kv_cache_by_the_formula() -> None:
    found = sized(MODEL_PARALLEL="4", MODEL_CONTEXT="1024")
    assert (found["parallel"], found["context"], found["cells"]) == (4, 1024, 4096)
    assert found["kv_token"] == KV_TOKEN
    assert found["kv"] == 4096 * KV_TOKEN
    assert found["total"] == sum(found[name] for name in ("weights", "kv", "scratch", "process", "embedding"))
    assert found["fits"]
    half = sized(MODEL_PARALLEL="4", MODEL_CONTEXT="1024", MODEL_KV_TYPE="q8_0")
    assert half["kv"] == pytest.approx(found["kv"] * 17 / 32)  # 34 bytes for 32 values instead of 64


def test_what_does_not_fit_says_what_would() -> None:
    found = sized(MODEL_PARALLEL="256", MODEL_CONTEXT="1000000")
    assert not found["fits"]
    (line,) = (line for line in found["advice"] if line.endswith("requests at once"))
    context = int(line.split("MODEL_CONTEXT=")[1].split(",")[0])
    room = 0.9 * found["free"]  # what is free changes from one call to the next
    assert sized(MODEL_PARALLEL="256", MODEL_CONTEXT=str(context))["total"] <= room
    assert context == 8192 or sized(MODEL_PARALLEL="256", MODEL_CONTEXT=str(context + 256))["total"] > room
    assert "DOES NOT FIT" in plan(MODEL_PARALLEL="256", MODEL_CONTEXT="1000000").stdout


def test_what_is_chosen_leaves_room_for_the_weights() -> None:
    with Model(MODEL, ModelParams(use_extra_bufts=False)) as model:
        for free in (10 * model.size, 5 * model.size):
            settings = EngineSettings(memory=free)
            sizing = measure(model, settings)
            assert sizing.free == free
            assert sizing.weights + sizing.kv <= free
            assert sizing.kv <= (free - model.size) / 2
            fitting = replace(
                settings, memory=math.ceil(sizing.total / ROOM), parallel=sizing.parallel, context=sizing.context
            )
            check_memory(model, fitting)
            with pytest.raises(TooLittleMemoryError):
                check_memory(model, replace(fitting, memory=sizing.total))


def test_the_plan_covers_a_real_server(launch: Callable[..., ServerProcess]) -> None:
    variables = {"MODEL_PARALLEL": "4", "MODEL_CONTEXT": "2048", "MODEL_FLASH_ATTENTION": "off"}
    server = launch(**variables)
    server.wait_ready()
    assert server.chat("word " * 1500, max_tokens=4).status == 200
    used = max(_resident(pid) for pid in _group(server.process.pid))
    total = sized(**variables)["total"]
    assert 0.5 * total < used <= total


#: How many bytes an embedder takes that embeds the longest text and the largest pack.
EMBEDDER = """
import sys
from pathlib import Path

import numpy as np

from knowledge.embedder import PACK_INPUTS, PACK_TOKENS, Embedder

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

before = resident()
embedder = Embedder(sys.argv[1], threads=1)
embedder.embed([np.full(embedder.max_tokens, 5, np.int32)])
embedder.embed([np.full(PACK_TOKENS // PACK_INPUTS, 5, np.int32)] * PACK_INPUTS)
print(resident() - before)
"""


def test_the_embedding_model_counts() -> None:
    sizes = {"MODEL_PARALLEL": "4", "MODEL_CONTEXT": "1024"}
    path = MODEL.with_name("embed.gguf")
    found, without = sized(**sizes), sized(EMBEDDING_MODEL="none", **sizes)
    command = [sys.executable, "-c", EMBEDDER, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    taken = int(done.stdout)
    assert taken > 0.5 * path.stat().st_size
    assert taken <= found["embedding"] <= 4 * taken
    assert without["embedding"] == 0
    assert found["total"] == without["total"] + found["embedding"]


@pytest.mark.parametrize(
    ("variables", "code", "message"),
    [
        ({"MODEL_CONTEXT": "3"}, 2, "MODEL_CONTEXT='3' is not valid"),
        ({"MODEL_PATH": "none.gguf"}, 1, "none.gguf: no such file"),
        ({"MODEL_PATH": "README.md"}, 1, "not a GGUF file"),
        ({"EMBEDDING_MODEL": "README.md"}, 1, "EMBEDDING_MODEL='README.md': "),
    ],
)
def test_errors_are_one_line(variables: dict[str, str], code: int, message: str) -> None:
    done = plan(**variables)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_json_goes_with_plan_only() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", "--json"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--json goes with plan" in done.stderr
