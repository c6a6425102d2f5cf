"""Custom resources in deploy/kubernetes against their definitions.

Those of HTTPRoute and ServiceMonitor come from the npm packages of kubernetes-models. No package ships InferencePool's:
its fields are written down here, from the API reference of the Gateway API Inference Extension 1.5
(https://gateway-api-inference-extension.sigs.k8s.io/reference/spec/).
"""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from server.routes import ROUTES
from tests import npm
from tests.deploy.files import manifest, rendered

FOLDER = Path(__file__).with_name("node")

#: Routes for operators only.
ADMIN = {"/v1/engine", "/v1/knowledge"}

PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
NAME = {"type": "string", "minLength": 1, "maxLength": 253}


def fields(*required: str, **properties: object) -> dict[str, object]:
    """The schema of an object that has these properties and no others."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


#: InferencePool, inference.networking.k8s.io/v1, without its status.
INFERENCE_POOL = fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "inference.networking.k8s.io/v1"},
    kind={"const": "InferencePool"},
    metadata={"type": "object"},
    spec=fields(
        *("selector", "targetPorts", "endpointPickerRef"),
        selector=fields(
            "matchLabels",
            matchLabels={"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
        ),
        targetPorts={"type": "array", "minItems": 1, "maxItems": 8, "items": fields("number", number=PORT)},
        appProtocol={"enum": ["http", "kubernetes.io/h2c"]},
        endpointPickerRef=fields(
            "name",
            group={"type": "string", "maxLength": 253},
            kind={"type": "string", "minLength": 1, "maxLength": 63},
            name=NAME,
            port=fields("number", number=PORT),  # required where `kind` is Service, its default
            failureMode={"enum": ["FailOpen", "FailClose"]},
        ),
    ),
)


@pytest.fixture(scope="module")
def packages() -> None:
    npm.install(FOLDER)


def validate(manifests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    command = ["node", "validate.mjs"]
    given = json.dumps(manifests)
    return subprocess.run(command, cwd=FOLDER, input=given, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("overlay", ["cpu", "cuda"])
def test_definitions(overlay: str) -> None:
    result = validate(rendered(overlay))
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split()) == ["HTTPRoute", "ServiceMonitor"]


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(("kind", "field"), [("ServiceMonitor", "endpoints"), ("HTTPRoute", "rules")])
def test_a_wrong_field_is_noticed(kind: str, field: str) -> None:
    wrong = copy.deepcopy(manifest("cpu", kind))
    wrong["spec"][field] = "nothing of the kind"
    result = validate([wrong])
    assert result.returncode == 1
    assert f"spec/{field}" in result.stderr


def test_the_gateway_publishes_what_clients_use() -> None:
    rules = manifest("cpu", "HTTPRoute")["spec"]["rules"]
    published = [match["path"] for rule in rules for match in rule["matches"]]

    def reached(path: str) -> bool:
        exact = {"type": "Exact", "value": path} in published
        return exact or any(path.startswith(one["value"]) for one in published if one["type"] == "PathPrefix")

    paths = {route.path for route in ROUTES if route.path.startswith("/v1/")}
    assert {path for path in paths if not reached(path)} == ADMIN


@pytest.mark.parametrize("overlay", ["cpu", "cuda"])
def test_inference_pool(overlay: str) -> None:
    pool = manifest(overlay, "InferencePool")
    jsonschema.validate(pool, INFERENCE_POOL)
    picker = pool["spec"]["endpointPickerRef"]
    assert picker.get("kind", "Service") != "Service" or picker["port"]["number"]


def test_an_inference_pool_of_an_older_version_is_noticed() -> None:
    """Its drafts had `extensionRef` and a single `targetPortNumber`."""
    wrong = copy.deepcopy(manifest("cpu", "InferencePool"))
    wrong["spec"]["extensionRef"] = wrong["spec"].pop("endpointPickerRef")
    with pytest.raises(jsonschema.ValidationError, match="extensionRef"):
        jsonschema.validate(wrong, INFERENCE_POOL)
