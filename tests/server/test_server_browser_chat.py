"""The page in Chromium, against a real server and model: answers, stopping, settings, conversations, errors."""

import json
import re
from typing import Any

import pytest
from browser import Visit
from playwright.sync_api import Browser, expect
from server_process import eventually

from engine import PHASES


def widths(turn: Any) -> dict[str, tuple[float, float]]:
    """Left edge and width of each phase's bar as shares of the axis."""
    script = """table => Object.fromEntries([...table.querySelectorAll('tr')].map(row => {
        const track = row.querySelector('.track').getBoundingClientRect();
        const bar = row.querySelector('.bar').getBoundingClientRect();
        return [row.querySelector('th').textContent,
                [(bar.left - track.left) / track.width, bar.width / track.width, 3 / track.width]];
    }))"""
    return turn.locator(".chart table").evaluate(script)  # type: ignore[no-any-return]


def test_an_answer_streams_and_its_waterfall_is_that_of_the_response(visit: Visit) -> None:
    page = visit.page
    visit.set(max_tokens="40", extra='{"ignore_eos": true}')
    # Chromium keeps no body of a stream for its debugger, so the browser's own fetch keeps a copy.
    page.evaluate(
        """() => { const fetch = window.fetch; window.fetch = async (...request) => {
            const response = await fetch(...request);
            if (request[0].endsWith('completions')) window.received = response.clone().text();
            return response; }; }"""
    )
    visit.ask("Count from one to fifty.")
    turn = visit.turn(over=False)
    expect(page.locator("#stop")).to_be_visible()
    turn.locator(".text p").first.wait_for()
    assert turn.get_attribute("aria-busy") == "true", "text is shown before the answer is over"
    visit.turn()
    expect(page.locator("#stop")).to_be_hidden()
    lines = [line[6:] for line in page.evaluate("window.received").split("\n") if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    shown = " ".join(turn.locator(".text").inner_text().split())
    assert shown == " ".join(text.split())

    timings, usage = chunks[-1]["timings"], chunks[-1]["usage"]
    rows = turn.locator(".chart tr").evaluate_all("rows => rows.map(r => [r.cells[0].textContent, +r.dataset.seconds])")
    assert [[name, seconds] for name, seconds in rows if name != "rest"] == [
        [name, timings["phases"][name]] for name in PHASES if name in timings["phases"]
    ]
    end = max(timings["total_seconds"], float(turn.locator(".trace").get_attribute("data-elapsed") or 0))
    cursor = 0.0
    for name, (left, width, tolerance) in widths(turn).items():  # type: ignore[misc]
        seconds = timings["phases"].get(name)
        if seconds is None:
            continue
        assert width == pytest.approx(seconds / end, abs=tolerance), name
        if name in PHASES[: PHASES.index("decode") + 1]:
            assert left == pytest.approx(cursor / end, abs=tolerance), name
        cursor += seconds
    figures = dict(
        turn.locator("[data-figure]").evaluate_all("f => f.map(e => [e.dataset.figure, e.lastChild.textContent])")
    )
    assert figures["tokens"] == str(usage["completion_tokens"]) == "40"
    assert figures["finish"] == "length"
    assert float(figures["decode"].split()[0]) == pytest.approx(timings["predicted_per_second"], abs=0.5)
    tokens = dict(
        turn.locator("[data-tokens]").evaluate_all(
            "t => t.map(e => [e.dataset.tokens, e.querySelector('b').textContent])"
        )
    )
    assert tokens == {"cached": str(timings["cache_n"]), "computed": str(timings["prompt_n"]), "generated": "40"}
    assert turn.locator("[data-gap]").count() == 3


def test_zooming_shows_what_comes_before_the_first_token(visit: Visit) -> None:
    visit.set(max_tokens="60", extra='{"ignore_eos": true}')
    turn = visit.answer("Hi")
    before = widths(turn)["prefill"][1]
    turn.get_by_text("Zoom to the first token").click()
    assert widths(turn)["prefill"][1] > 2 * before
    turn.get_by_text("Whole answer").press("Enter")
    assert widths(turn)["prefill"][1] == pytest.approx(before)


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stopping_frees_the_sequence_and_keeps_the_text(visit: Visit, way: str) -> None:
    visit.set(max_tokens="900", extra='{"ignore_eos": true}')
    visit.ask("Tell a long story.")
    turn = visit.turn(over=False)
    turn.locator(".text p").first.wait_for()
    assert visit.server.metric("lucid_requests_running") == 1
    if way == "button":
        visit.page.click("#stop")
    else:
        visit.page.keyboard.press("Escape")
    visit.turn()
    visit.server.wait_idle()
    assert turn.locator(".text").inner_text()
    assert turn.locator("[data-figure=finish] dd").inner_text() == "stopped"
    expect(visit.page.locator("[data-gauge=running] dd")).to_have_text("0 / 4")
    # what was said so far is part of the conversation
    visit.set(max_tokens="2")
    visit.answer("Go on.", 2)
    assert [message["role"] for message in visit.sent[-1]["messages"]] == ["user", "assistant", "user"]


def test_settings_are_sent_and_kept_but_never_the_key(visit: Visit) -> None:
    page = visit.page
    visit.answer("Hi")
    plain = visit.sent[-1]
    assert set(plain) == {"messages", "stream", "stream_options"}
    visit.set(
        system="Be brief.", temperature="0.5", top_p="0.9", max_tokens="5", seed="7", knowledge="on", passages="3",
        extra='{"min_p": 0.1}',
    )  # fmt: skip
    page.click("#open-settings")
    page.fill("#set-key", "secret-key")
    page.keyboard.press("Escape")
    with page.expect_request("**/v1/chat/completions") as caught:
        visit.answer("Hello", 2)
    assert caught.value.headers["authorization"] == "Bearer secret-key"
    sent = visit.sent[-1]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {name: sent[name] for name in set(sent) - set(plain)} == {
        "temperature": 0.5, "top_p": 0.9, "max_tokens": 5, "seed": 7, "knowledge": {"top_k": 3}, "min_p": 0.1,
    }  # fmt: skip
    assert "secret" not in page.evaluate("JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})")
    visit.open()
    page.click("#open-settings")
    assert page.input_value("#set-temperature") == "0.5"
    assert page.input_value("#set-key") == ""
    page.fill("#set-key", "secret-key")
    page.check("#set-keep-key")
    page.fill("#set-temperature", "9")  # out of range: the last valid one stands
    page.click("#settings summary")
    page.fill("#set-extra", '{"messages": []}')
    expect(page.locator("#set-extra-error")).to_have_text("messages is set by the page itself.")
    page.keyboard.press("Escape")
    visit.open()
    page.click("#open-settings")
    assert page.input_value("#set-key") == "secret-key"
    assert page.input_value("#set-temperature") == "0.5"
    assert page.input_value("#set-extra") == '{"min_p": 0.1}'
    assert "secret" not in page.evaluate("JSON.stringify({...localStorage})")
    page.click("#reset-settings")
    assert page.input_value("#set-temperature") == ""


def test_conversations_are_kept_and_answers_made_anew(visit: Visit) -> None:
    page = visit.page
    visit.set(max_tokens="4")
    visit.answer("First question")
    visit.answer("Second question", 2)
    page.click("#new-chat")
    assert page.locator(".turn").count() == 0
    visit.answer("Another chat")
    assert visit.sent[-1]["messages"] == [{"role": "user", "content": "Another chat"}]
    visit.open()
    page.click("#toggle-chats")
    assert page.locator("#chats .chat").all_inner_texts() == ["Another chat", "First question"]
    page.get_by_role("button", name="First question", exact=True).click()
    assert page.locator(".turn").count() == 2
    assert page.locator(".chart").count() == 2
    before = page.evaluate("performance.now()")
    page.locator(".turn:nth-child(2) .again").click()
    expect(page.locator(".turn")).to_have_count(2)
    visit.turn(2)
    assert before > 0
    assert [message["content"] for message in visit.sent[-1]["messages"]][::2] == ["First question", "Second question"]
    page.click("#toggle-chats")
    page.get_by_role("button", name="Delete “First question”").click()
    assert page.locator(".turn").count() == 0
    visit.open()
    page.click("#toggle-chats")
    assert page.locator("#chats .chat").all_inner_texts() == ["Another chat"]


def test_tool_calls_are_shown(visit: Visit) -> None:
    city = {"city": {"const": "<b>Oslo</b>"}}
    schema = {"type": "object", "properties": city, "required": ["city"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    once = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    visit.set(max_tokens="60", extra=json.dumps(once))
    turn = visit.answer("How is the weather?")
    name, _, arguments = turn.locator(".calls code").inner_text().rstrip(")").partition("(")
    assert (name, json.loads(arguments)) == ("weather", {"city": "<b>Oslo</b>"})
    assert turn.locator("[data-figure=finish] dd").inner_text() == "tool_calls"


def test_errors_are_said_in_plain_words(visit: Visit) -> None:
    page = visit.page
    turn = visit.answer("word " * 3000)
    problem = turn.locator(".problem")
    assert problem.inner_text().startswith("The conversation is too long.")
    page.click("#new-chat")
    page.context.set_offline(True)
    problem = visit.answer("Hi").locator(".problem")
    assert problem.inner_text().startswith("The server cannot be reached.")
    expect(page.locator("#model")).to_have_text("unreachable")
    page.context.set_offline(False)
    visit.set(max_tokens="4")
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn [data-figure=finish] dd")).to_have_text("length")
    assert page.locator(".problem").count() == 0
    expect(page.locator("#model")).to_have_text("rusty_llm")


def test_a_full_server_says_when_to_try_again(browser: Browser, launch: Any) -> None:
    server = launch(MODEL_PARALLEL="1", MODEL_CONTEXT="512", QUEUE_LIMIT="0", HTTP_WORKERS="1")
    server.wait_ready()
    context = browser.new_context()
    visit = Visit(context, server)
    blocker = server.open_chat("Go on.", max_tokens=480, ignore_eos=True, stream=True)
    blocker.recv(1)
    problem = visit.answer("Hi").locator(".problem")
    assert problem.inner_text().startswith("The server cannot take the request now.")
    (seconds,) = re.findall(r"It suggests to try again in (\d+) s\.", problem.inner_text())
    assert 0 < int(seconds) < 600
    blocker.close()
    server.wait_idle()
    visit.set(max_tokens="4")
    eventually(lambda: server.metric("lucid_requests_running") == 0, "the server is free")
    problem.get_by_role("button", name="Try again").click()
    expect(visit.page.locator(".turn [data-figure=finish] dd")).to_have_text("length")
    assert visit.wrong == []
    context.close()


def test_a_server_with_keys_asks_for_one(browser: Browser, launch: Any) -> None:
    server = launch(API_KEYS="right-key", MODEL_PARALLEL="1", MODEL_CONTEXT="512")
    server.wait_ready()
    context = browser.new_context()
    visit = Visit(context, server)
    page = visit.page
    expect(page.locator("#model")).to_have_text("needs a key")
    problem = visit.answer("Hi").locator(".problem")
    assert problem.inner_text().startswith("The server asks for an API key.")
    problem.get_by_role("button", name="Enter the key").click()
    expect(page.locator("#set-key")).to_be_focused()
    page.keyboard.type("right-key")
    page.keyboard.press("Enter")
    visit.set(max_tokens="4")
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn [data-figure=finish] dd")).to_have_text("length")
    expect(page.locator("#model")).to_have_text("rusty_llm")
    assert visit.wrong == []
    context.close()
