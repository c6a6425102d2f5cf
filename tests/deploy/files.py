"""The deployment's files: the Dockerfile's instructions, YAML, and the manifests that kustomize renders."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

#: Where pip puts the programs of packages: hadolint and kubectl.
PROGRAMS = Path(sys.executable).parent


def documents(text: str) -> list[dict[str, Any]]:
    """The documents of a YAML stream."""
    return [document for document in yaml.safe_load_all(text) if document]


def instructions(stage: str = "") -> list[tuple[str, str]]:
    """The Dockerfile's instructions, of one stage or of all: name and the rest, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").split("\n") if line.strip()]
    parsed, current = [], ""
    for line in lines:
        name, _, rest = line.partition(" ")
        if name == "FROM":
            current = rest.split()[-1]
        if stage in ("", current):
            parsed.append((name, re.sub(r" +", " ", rest.strip())))
    return parsed


@functools.cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """The manifests of an overlay, by kubectl's own kustomize."""
    command = [PROGRAMS / "kubectl", "kustomize", DEPLOY / "kubernetes" / "overlays" / overlay]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return documents(result.stdout)


def manifest(overlay: str, kind: str) -> dict[str, Any]:
    """The only manifest of that kind."""
    (found,) = (document for document in rendered(overlay) if document["kind"] == kind)
    return found
