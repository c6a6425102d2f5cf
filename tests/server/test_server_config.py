"""Configuration: every variable, its limits, and what it says when it is wrong."""

import re
import subprocess
import sys

import pytest
from server_process import ROOT, environment

from server import config
from server.config import ConfigError
from server.kinds import Address


def test_defaults_are_those_of_the_system_this_re_implements() -> None:
    read = config.read({})
    assert read.http_address == Address("127.0.0.1", 8080)
    assert read.prometheus_http_address == Address("127.0.0.1", 8081)
    assert str(read.model_path) == "model/model.gguf"
    assert (read.model_max_token, read.model_gpu_layers, read.main_gpu) == (128, 0, 0)
    assert (read.model_alias, read.instance_label) == ("rusty_llm", "default")
    assert read.model_prompt_template is None


def test_set_values_win_and_empty_ones_count_as_unset() -> None:
    read = config.read({"MODEL_MAX_TOKEN": "7", "HTTP_ADDRESS": "[::1]:90", "LOG_LEVEL": "Debug", "MODEL_PATH": ""})
    assert read.model_max_token == 7
    assert read.http_address == Address("::1", 90)
    assert str(read.http_address) == "[::1]:90"
    assert read.log_level == "debug"
    assert str(read.model_path) == "model/model.gguf"


def test_lists_of_machines_and_shares() -> None:
    read = config.read(
        {"MODEL_RPC": "10.0.0.2:50052, node-3:50052", "MODEL_GPU_LAYERS": "99", "MODEL_TENSOR_SPLIT": "3, 0.5"}
    )
    assert read.model_rpc == (Address("10.0.0.2", 50052), Address("node-3", 50052))
    assert read.model_tensor_split == (3.0, 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_ADDRESS", "localhost"),
        ("HTTP_ADDRESS", "localhost:0"),
        ("HTTP_ADDRESS", "localhost:65536"),
        ("HTTP_ADDRESS", "::1:8080"),
        ("HTTP_WORKERS", "0"),
        ("HTTP_WORKERS", "many"),
        ("HTTP_WORKERS", "1.5"),
        ("MODEL_THREADS", "-1"),
        ("MODEL_THREADS", "513"),
        ("MODEL_GPU_LAYERS", "10001"),
        ("MAIN_GPU", "64"),
        ("MODEL_RPC", "host"),
        ("MODEL_RPC", "a:1,a:1"),
        ("MODEL_RPC", "[::1]:50052"),
        ("MODEL_RPC", ",".join(f"host:{port}" for port in range(1, 18))),
        ("MODEL_TENSOR_SPLIT", "3;1"),
        ("MODEL_TENSOR_SPLIT", "1,-1"),
        ("MODEL_TENSOR_SPLIT", "0,0"),
        ("MODEL_TENSOR_SPLIT", "1" + 16 * ",1"),
        ("MODEL_SPLIT_MODE", "tensor"),
        ("MODEL_CONTEXT", "63"),
        ("MODEL_CONTEXT", "-64"),
        ("MODEL_STEP_MS", "1.5"),
        ("MODEL_PARALLEL", "257"),
        ("MODEL_MAX_TOKEN", "0"),
        ("MODEL_FLASH_ATTENTION", "yes"),
        ("MODEL_PROMPT_TEMPLATE", "no placeholders"),
        ("MODEL_PROMPT_TEMPLATE", "only {query}"),
        ("QUEUE_TIMEOUT", "0"),
        ("QUEUE_TIMEOUT", "nan"),
        ("REQUEST_TIMEOUT", "-3"),
        ("LOG_LEVEL", "loud"),
        ("INSTANCE_LABEL", "line\nbreak"),
        ("PROMETHEUS_HTTP_ADDRESS", "127.0.0.1:8080"),
    ],
)
def test_a_bad_value_is_refused_by_name_value_and_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.read({name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}={value!r} ")
    assert "allowed: " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"MODEL_RPC": "host:50052"}, "MODEL_GPU_LAYERS=0 keeps every layer on this machine"),
        ({"MODEL_KV_CELLS": "512"}, "needs MODEL_KV_LAYOUT=unified, not auto"),
        ({"MODEL_KV_CELLS": "512", "MODEL_KV_LAYOUT": "streams"}, "needs MODEL_KV_LAYOUT=unified, not streams"),
        ({"MODEL_KV_TYPE": "q8_0", "MODEL_FLASH_ATTENTION": "off"}, "MODEL_FLASH_ATTENTION=off forbids it"),
        ({"MODEL_KV_TYPE": "q4_0", "MODEL_FLASH_ATTENTION": "off"}, "MODEL_FLASH_ATTENTION=off forbids it"),
    ],
)
def test_values_that_do_not_go_together_are_refused(variables: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        config.read(variables)


def test_values_that_go_together_are_taken() -> None:
    assert config.read({"MODEL_KV_CELLS": "512", "MODEL_KV_LAYOUT": "unified"}).model_kv_cells == 512
    assert config.read({"MODEL_KV_TYPE": "q8_0", "MODEL_FLASH_ATTENTION": "auto"}).model_kv_type == "q8_0"
    assert config.read({"MODEL_CONTEXT": "64"}).model_context == 64


@pytest.mark.parametrize("name", ["MODEL_MAX_TOKENS", "MODEL_FOO", "HTTP_WORKER", "QUEUE_TIME_OUT"])
def test_a_name_that_was_meant_to_be_ours_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}='1' is not a known variable; "):
        config.read({name: "1"})


@pytest.mark.parametrize(
    "name",
    ["HTTP_PROXY", "PATH", "MODEL_SERVICE_HOST", "MODEL_PORT", "MODEL_PORT_80_TCP_ADDR", "QUEUE_NAME", "LOGLEVEL"],
)
def test_other_peoples_variables_are_left_alone(name: str) -> None:
    assert config.read({name: "1"}) == config.read({})


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "command",
    [("-m", "server"), ("-m", "gunicorn", "-c", "server/gunicorn_settings.py", "server.app:application")],
)
def test_a_bad_value_ends_the_start_with_one_line_and_exit_code_2(command: tuple[str, ...]) -> None:
    ended = run(sys.executable, *command, HTTP_WORKERS="many")
    assert ended.returncode == 2
    assert ended.stderr == "error: HTTP_WORKERS='many' is not valid; allowed: a whole number from 1 to 4096\n"
    assert ended.stdout == ""


def test_help_lists_every_variable_with_default_meaning_and_allowed_values() -> None:
    ended = run(sys.executable, "-m", "server", "--help")
    assert ended.returncode == 0
    assert ended.stderr == ""
    for name, variable in config.variables().items():
        entry = rf"{name} \({variable.kind.name}; default {re.escape(variable.default or 'unset')}\)"
        text = rf"{entry}\n\s+{re.escape(variable.meaning)}\n\s+allowed: {re.escape(variable.kind.allowed)}\n?"
        assert re.search(text, ended.stdout), name


def test_other_arguments_are_a_usage_error() -> None:
    ended = run(sys.executable, "-m", "server", "--port", "80")
    assert ended.returncode == 2
    assert "usage: python -m server" in ended.stderr
