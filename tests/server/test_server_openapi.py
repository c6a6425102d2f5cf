"""GET /openapi.json: valid, complete, and true."""

import re
from typing import Any

import openapi_spec_validator
import pytest
from server_process import ServerProcess

from server.routes import ROUTES, url_map


@pytest.fixture(scope="module")
def document(server: ServerProcess) -> Any:
    answer = server.get("/openapi.json")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json


def test_it_is_openapi_3_1(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    openapi_spec_validator.validate(document)


def test_it_has_every_route_and_no_other(document: Any) -> None:
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    matched = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in url_map().iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == matched
    assert len(ROUTES) == len(matched)


def test_every_operation_is_described(document: Any) -> None:
    operations = {
        f"{method.upper()} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    for name, operation in operations.items():
        assert operation["summary"], name
        assert {"200", "500", "503"} <= set(operation["responses"]), name
        assert ("requestBody" in operation) == name.startswith(("POST", "PUT", "PATCH")), name
        errors = [response for status, response in operation["responses"].items() if status >= "400"]
        assert all("$ref" in error or "content" in error for error in errors), name


def test_it_says_what_validates(document: Any) -> None:
    chat = document["components"]["schemas"]["ChatRequest"]
    assert chat["required"] == ["messages"]
    assert chat["properties"]["top_logprobs"]["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 20}
    error = document["components"]["schemas"]["ErrorDetail"]
    assert set(error["required"]) == {"message", "type", "param", "code"}
