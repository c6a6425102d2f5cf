"""Custom resources in deploy/kubernetes against their definitions, as the npm packages of kubernetes-models ship them.

InferencePool is in none of them: test_kubernetes.py looks at the fields that it requires.
"""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import npm
from tests.deploy.files import manifest, rendered

FOLDER = Path(__file__).with_name("node")


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    npm.install(FOLDER)


def validate(manifests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    command = ["node", "validate.mjs"]
    given = json.dumps(manifests)
    return subprocess.run(command, cwd=FOLDER, input=given, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("overlay", ["cpu", "cuda"])
def test_definitions(overlay: str) -> None:
    result = validate(rendered(overlay))
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split()) == ["HTTPRoute", "ServiceMonitor"]


@pytest.mark.parametrize(("kind", "field"), [("ServiceMonitor", "endpoints"), ("HTTPRoute", "rules")])
def test_a_wrong_field_is_noticed(kind: str, field: str) -> None:
    wrong = copy.deepcopy(manifest("cpu", kind))
    wrong["spec"][field] = "nothing of the kind"
    result = validate([wrong])
    assert result.returncode == 1
    assert f"spec/{field}" in result.stderr
