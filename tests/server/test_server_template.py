"""Chat templates: what they may use, and that broken and hostile ones are contained, in bounded time and memory."""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from engine import Timings
from llama_native import Model
from server import template
from server.errors import ApiError
from server.prompt import PromptBuilder
from server.schema.chat import Message
from server.template import ChatTemplate, TemplateBusyError, TemplateError

#: A template that computes until it is stopped.
ENDLESS = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"

MESSAGES = [{"role": "user", "content": "hi"}]


def render(source: str, **variables: object) -> str:
    with closing(ChatTemplate(source, "<s>", "</s>")) as chat:
        return chat.render(MESSAGES, variables)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>hi</s>"),
        ("{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in range(4) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "013"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=True, sort_keys=True) }}", '{"a": 1, "b": "\\u00e9"}'),
        ("{{ [1, 2] | tojson(indent=2) }}", "[\n  1,\n  2\n]"),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{% if add_generation_prompt %}\n  {% set x = 1 %}\nA{% endif %}\n", "A"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hi!"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        ("{{ thinking }}", "False"),
        ("{{ tools is none }}", "True"),
    ],
)
def test_what_templates_may_use(source: str, expected: str) -> None:
    assert render(source, thinking=False, bos_token="no") == expected


def test_the_process_has_no_secrets_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "sk-secret")
    monkeypatch.setenv("KNOWLEDGE_URL", "postgresql://user:secret@host/knowledge")
    with closing(ChatTemplate(template.CHATML, "<s>", "</s>")) as chat:
        assert chat._process is not None
        environment = Path(f"/proc/{chat._process._child.pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"secret" not in environment


def test_the_date_in_a_template() -> None:
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nothing.here }}", "no attribute 'nothing'"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe|undefined|no attribute"),
        ("{{ (messages | map(attribute='__class__') | list)[0].mro() }}", "unsafe|not safely|undefined|no attribute"),
        ("{{ '{0.__class__.__mro__}'.format(messages) }}", "unsafe|no attribute"),
        ("{{ messages.append(1) }}", "unsafe|not safely callable"),
        ("{{ 1 // 0 }}", "division"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{% for i in range(999) %}{% for j in range(9999) %}xxxxxxxxxx{% endfor %}{% endfor %}", "writes without end"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ 'x'.ljust(messages | length * 10 ** 10) | length }}", "MemoryError"),
        ("{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "Memory|takes"),
        ("{{ '%1000000000d' | format(messages | length) }}", "without end|Memory"),
        ("{{ '\\ud800' }}", "not text"),
    ],
)
def test_failing_and_hostile_templates_are_contained(source: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        ENDLESS,
        "{{ (messages | length + 9) ** (10 ** 8) }}",
    ],
    ids=["loops", "recursion", "power"],
)
def test_a_template_that_computes_for_ever_is_stopped_and_others_go_on(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "RENDER_SECONDS", 1.0)
    with closing(ChatTemplate("{% if stay %}hi{% else %}" + source + "{% endif %}", "", "")) as chat:
        with pytest.raises(TemplateError, match="takes more than 1 s"):
            chat.render(MESSAGES)
        assert chat.render(MESSAGES, {"stay": True}) == "hi"


def test_messages_do_not_wait_for_ever_behind_others(monkeypatch: pytest.MonkeyPatch, vocab_model: Model) -> None:
    monkeypatch.setattr(template, "RENDER_SECONDS", 0.5)
    chat = ChatTemplate("{% if stay %}hi{% else %}" + ENDLESS + "{% endif %}", "", "")
    prompts = PromptBuilder(vocab_model.vocab, chat, None, 1000)
    together = threading.Barrier(6)

    def status(_: int) -> int:
        together.wait()
        with pytest.raises(ApiError) as refused:
            prompts.chat([Message("user", "hi")], None, Timings())
        if refused.value.status == 503:
            assert refused.value.body.error.code == "template_busy"
            assert dict(refused.value.headers)["Retry-After"] == "1"
        return refused.value.status

    with closing(prompts), ThreadPoolExecutor(6) as pool:
        assert set(pool.map(status, range(6))) == {400, 503}
        assert prompts.text([Message("user", "hi")], {"stay": True}) == "hi"


def test_a_process_that_is_killed_is_replaced() -> None:
    with closing(ChatTemplate("{% if stay %}hi{% else %}" + ENDLESS + "{% endif %}", "", "")) as chat:
        process = chat._process
        assert process is not None
        killer = threading.Timer(0.5, process._child.kill)
        killer.start()
        with pytest.raises(TemplateError, match="ended its process"):
            chat.render(MESSAGES)
        assert chat.render(MESSAGES, {"stay": True}) == "hi"


def test_a_process_that_died_between_two_requests_fails_neither() -> None:
    with closing(ChatTemplate("{{ messages[0].content }}", "", "")) as chat:
        assert chat._process is not None
        os.kill(chat._process._child.pid, signal.SIGKILL)
        chat._process._child.wait(30)
        assert chat.render(MESSAGES) == "hi"


@pytest.mark.parametrize("broken", ["python", "program"])
def test_a_process_that_cannot_be_started_again_is_not_the_messages_fault(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with closing(ChatTemplate("{{ messages[0].content }}", "", "")) as chat:
        assert chat._process is not None
        chat._process._child.kill()
        chat._process._child.wait(30)
        with monkeypatch.context() as patch:
            if broken == "python":
                patch.setattr(sys, "executable", str(tmp_path / "none"))
            else:
                patch.setattr(template, "_PROGRAM", tmp_path / "none.py")
            with pytest.raises(TemplateBusyError, match="cannot be started"):
                chat.render(MESSAGES)
            before = set(Path("/proc/self/fd").iterdir())
            with pytest.raises(TemplateBusyError, match="cannot be started"):
                chat.render(MESSAGES)
            assert set(Path("/proc/self/fd").iterdir()) <= before
            with pytest.raises(TemplateError, match="cannot be compiled"):
                ChatTemplate("x", "", "")
        assert chat.render(MESSAGES) == "hi"


def test_a_closed_template_starts_no_process() -> None:
    chat = ChatTemplate("x", "", "")
    chat.close()
    with pytest.raises(TemplateBusyError, match="shutting down"):
        chat.render(MESSAGES)
    assert chat._process is None
    chat.close()


def test_the_process_ends_with_its_parent() -> None:
    chat = ChatTemplate("x", "", "")
    assert chat._process is not None
    child = chat._process._child
    chat._process._socket.close()  # what the kernel does when a process dies
    assert child.wait(30) == 0


def test_large_conversations_come_through() -> None:
    text = "é" * 3_000_000
    with closing(ChatTemplate("{{ messages[0].content }}", "", "")) as chat:
        assert chat.render([{"role": "user", "content": text}]) == text


def test_a_broken_template_is_refused_when_it_is_compiled() -> None:
    with pytest.raises(TemplateError, match=r"broken: .* \(line 2\)"):
        ChatTemplate("\n{% if %}", "", "")


def test_no_file_of_ours_shadows_a_module_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert render("x") == "x"
    finally:
        os.chdir(before)
