"""GET /, its files, and GET /v1/engine over HTTP; the page at work is in test_server_browser.py."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from server_process import ROOT, Answer, ServerProcess, eventually

PAGE = ROOT / "server" / "page"
FILES = sorted(file.name for file in PAGE.iterdir())
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}


def check_headers(answer: Answer) -> None:
    directives = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_is_html_and_confined(server: ServerProcess) -> None:
    answer = server.get("/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.body == (PAGE / "index.html").read_bytes()
    check_headers(answer)
    head = server.request("HEAD", "/")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize("name", FILES)
def test_files_have_their_type_and_are_sent_once(server: ServerProcess, name: str) -> None:
    answer = server.get(f"/page/{name}")
    assert answer.status == 200
    assert answer.headers["Content-Type"].split(";")[0] == TYPES[Path(name).suffix]
    assert answer.body == (PAGE / name).read_bytes()
    check_headers(answer)
    assert answer.headers["Cache-Control"] == "no-cache"
    again = server.get(f"/page/{name}", If_None_Match=answer.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    check_headers(again)
    assert server.get(f"/page/{name}", If_None_Match='"another"').status == 200


@pytest.mark.parametrize(
    "path", ["/page/", "/page/none.js", "/page/..%2fapp.py", "/page/../app.py", "/page/%2e%2e/app.py"]
)
def test_nothing_else_is_served(server: ServerProcess, path: str) -> None:
    answer = server.get(path)
    assert answer.status == 404
    assert answer.error["code"] == "unknown_url"


def test_every_file_is_used_and_nothing_comes_from_elsewhere() -> None:
    sources = {name: (PAGE / name).read_text("utf-8") for name in FILES}
    everything = "\n".join(sources.values())
    used = set(re.findall(r'(?:href|src)="page/([\w.]+)"', sources["index.html"]))
    used |= set(re.findall(r'from "\./([\w.]+)"', everything))
    assert used | {"index.html"} == set(FILES)
    assert set(re.findall(r"https?://[^\s\"')]+", everything)) == {"http://www.w3.org/2000/svg"}
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
        assert way not in everything
    assert not re.search(r"<script(?![^>]*src=)|<style| style=| on\w+=", sources["index.html"])


def test_the_files_are_in_an_installed_package(tmp_path: Path) -> None:
    command = ["setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, timeout=120)
    program = "import importlib.resources as r; print(*r.files('server').joinpath('page').iterdir(), sep='\\n')"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120
    ).stdout.splitlines()
    assert sorted(found) == [str(tmp_path / "server" / "page" / name) for name in FILES]


def test_the_engine_tells_what_a_request_did(server: ServerProcess) -> None:
    server.wait_idle()
    before = server.get("/v1/engine").json
    usage = server.chat("Count. " + os.urandom(4).hex(), max_tokens=12, ignore_eos=True).json["usage"]
    again = server.chat("Count once more.", max_tokens=3, ignore_eos=True, cache_prompt=True).json["usage"]
    after = server.get("/v1/engine").json
    grown = {name: after["totals"][name] - before["totals"][name] for name in after["totals"]}
    cached = sum(part["prompt_tokens_details"]["cached_tokens"] for part in (usage, again))
    assert grown["generated_tokens"] == 15
    assert grown["cached_tokens"] == cached > 0
    assert grown["prefill_tokens"] == usage["prompt_tokens"] + again["prompt_tokens"] - cached
    assert grown["finished"] == 2
    assert grown["steps"] >= 15
    assert 0 < grown["decode_seconds"] <= grown["busy_seconds"] <= after["clock_seconds"] - before["clock_seconds"]
    assert after["worker"] == before["worker"] != server.process.pid
    assert (after["model"], after["file"], after["object"]) == ("rusty_llm", "model.gguf", "engine")
    assert after["plan"]["parallel"] == after["now"]["sequences"] == 4
    assert after["plan"]["context"] == 1024
    assert after["plan"]["calibrated"] == "off"
    assert after["now"]["kv_cells"] == 4096 >= after["now"]["kv_cells_used"] > 0


def test_the_engine_tells_what_runs(server: ServerProcess) -> None:
    server.wait_idle()
    sock = server.open_chat("Tell a long story.", max_tokens=900, ignore_eos=True, stream=True)
    eventually(lambda: server.get("/v1/engine").json["now"]["running"] == 1, "the request runs")
    sock.close()
    eventually(lambda: server.get("/v1/engine").json["now"]["running"] == 0, "the request is gone")


def test_the_page_is_there_before_the_model(launch: Callable[..., ServerProcess]) -> None:
    server = launch()
    server.wait_listening()
    answer = server.get("/v1/engine")
    assert answer.status in (200, 503)
    assert answer.status == 200 or answer.error["code"] == "model_loading"
    assert server.get("/").status == 200
