"""The Dockerfile: hadolint has nothing to say, and what it copies, sets and calls exists."""

import json
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from server import config
from server.routes import ROUTES
from tests.deploy.files import PROGRAMS, ROOT, instructions


def environment() -> dict[str, str]:
    """What the image sets."""
    return dict(word.split("=", 1) for name, rest in instructions("run") if name == "ENV" for word in shlex.split(rest))


def test_hadolint() -> None:
    result = subprocess.run(
        [PROGRAMS / "hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_bases_are_pinned() -> None:
    bases = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG" and "BASE" in rest)
    assert re.fullmatch(r"debian:\d+\.\d+-slim(@sha256:[0-9a-f]{64})?", bases["BASE"])
    assert bases["BUILD_BASE"] == "${BASE}"


def test_only_what_git_tracks_is_copied() -> None:
    """And .dockerignore lets it in, or the build would stop there."""
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    sources = [
        word
        for name, rest in instructions("build")
        if name == "COPY" and not rest.startswith("--from")
        for word in rest.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert f"!{source}" in ignore
        tracked = subprocess.run(["git", "ls-files", source], cwd=ROOT, capture_output=True, text=True, check=True)
        assert tracked.stdout, f"git does not track {source}"
    assert not [source for source in sources if source.startswith(("model", "data", "tests"))]


def test_the_package_finds_what_it_builds_from() -> None:
    """`packages.find` and MANIFEST.in may name more than the image has, but not need it."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (label,) = (rest for name, rest in instructions("run") if name == "LABEL")
    assert f'version="{content["project"]["version"]}"' in label


def locked(file: str) -> dict[str, Version]:
    """The packages of a lock file; every one has a hash."""
    pins = re.split(r"\n(?=\S)", (ROOT / "deploy" / file).read_text().strip())
    pins = [pin for pin in pins if not pin.startswith("#")]
    assert all("--hash=sha256:" in pin for pin in pins)
    return {canonicalize_name(pin.split("==")[0]): Version(re.split(r"[ ;\\]", pin.split("==")[1])[0]) for pin in pins}


def test_locks_hold_what_the_package_requires() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = content["project"]["optional-dependencies"]
    wanted = {
        "build.lock": content["build-system"]["requires"],
        "run.lock": content["project"]["dependencies"]
        + extras["documents"] + extras["nvml"] + extras["otel"] + extras["postgres"],
    }  # fmt: skip
    for file, requirements in wanted.items():
        pins = locked(file)
        for requirement in map(Requirement, requirements):
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, f"make lock: {requirement}"
    (install,) = (rest for name, rest in instructions("build") if name == "RUN" and ".lock" in rest)
    assert "--require-hashes" in install and all(file in install for file in wanted)


def test_build_options_exist() -> None:
    usage = subprocess.run([ROOT / "build_llama.sh", "--help"], capture_output=True, text=True, check=True).stdout
    (step,) = (rest for name, rest in instructions("build") if name == "RUN" and "./build_llama.sh" in rest)
    used = re.findall(r"--[a-z-]+", step)
    assert {"--march", "--rpc", "--cuda", "--cuda-arch", "--vulkan"} == set(used)
    assert all(f"{option} " in usage for option in used)


def test_environment_is_a_valid_configuration() -> None:
    settings = config.read(environment())
    assert settings.http_address.host == settings.prometheus_http_address.host == "0.0.0.0"
    exposed = next(rest for name, rest in instructions("run") if name == "EXPOSE")
    assert exposed.split() == [str(settings.http_address.port), str(settings.prometheus_http_address.port)]


def test_runs_as_nobody_in_particular() -> None:
    (user,) = (rest for name, rest in instructions("run") if name == "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    (made,) = (rest for name, rest in instructions("run") if name == "RUN")
    uid, gid = user.split(":")
    assert f"groupadd --gid {gid} lucid" in made  # else the files' group would not be the process's
    assert f"useradd --uid {uid} --gid {gid} " in made
    volumes = next(json.loads(rest) for name, rest in instructions("run") if name == "VOLUME")
    written = {environment()["XDG_CACHE_HOME"], environment()["XDG_DATA_HOME"]}
    assert set(volumes) == written


def test_entrypoint_starts_the_server() -> None:
    (entrypoint,) = (json.loads(rest) for name, rest in instructions("run") if name == "ENTRYPOINT")
    assert entrypoint == ["python", "-m", "server"]


@pytest.mark.parametrize("address", ["0.0.0.0:9", "[::]:9"])
def test_healthcheck(address: str) -> None:
    """It asks the route that needs no key, and fails where nobody answers (port 9 is discard; nothing listens)."""
    (check,) = (rest.split("CMD", 1)[1] for name, rest in instructions("run") if name == "HEALTHCHECK")
    _, *arguments = json.loads(check)
    assert any(route.path == "/health" and route.open for route in ROUTES)
    result = subprocess.run(
        [sys.executable, *arguments],
        env={"HTTP_ADDRESS": address},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert "ConnectionRefusedError" in result.stderr
