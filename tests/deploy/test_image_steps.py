"""deploy/check_image_steps.sh, as far as that goes without a build: its options, and that it knows our Dockerfile.

The whole of it takes minutes, root and the network, and is called by hand.
"""

import re
import subprocess

import pytest

from tests.deploy.files import DEPLOY, instructions

SCRIPT = DEPLOY / "check_image_steps.sh"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_help() -> None:
    result = call("--help")
    assert result.returncode == 0
    assert "--build-arg NAME=VALUE" in result.stdout


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--cache"]])
def test_wrong_usage(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.returncode == 2
    assert arguments[0] in result.stderr


def test_knows_every_instruction() -> None:
    (cases,) = re.findall(r"case \$name in\n(.*?)esac", SCRIPT.read_text(), flags=re.DOTALL)
    known = set(re.findall(r"\b[A-Z]{3,}\b(?=[ |A-Z]*\))", cases))
    assert {name for name, _ in instructions()} <= known
