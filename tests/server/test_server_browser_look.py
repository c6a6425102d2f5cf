"""The page in Chromium: keyboard, colours, phones, the engine's strip."""

import re
from typing import Any

import pytest
from browser import Visit
from playwright.sync_api import Browser, expect
from server_process import ServerProcess, eventually


def test_keys_alone_are_enough(visit: Visit) -> None:
    page = visit.page
    visit.set(max_tokens="4")
    expect(page.locator("#open-settings")).to_be_focused()  # the dialog gives the focus back
    page.focus("#prompt")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#prompt") == "one\ntwo"
    page.keyboard.press("Enter")
    turn = visit.turn()
    assert page.input_value("#prompt") == ""
    assert turn.locator(".question p").inner_text() == "one\ntwo"
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.press("Enter")  # nothing to send
    assert page.locator(".turn").count() == 1
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        name, style = page.evaluate(
            """() => { const e = document.activeElement;
            return [e === document.body ? '' : e.id || e.textContent.trim(), getComputedStyle(e).outlineStyle]; }"""
        )
        if name:
            reached.add(name)
            assert style != "none", f"{name} shows that it has the focus"
    assert {
        "prompt",
        "send",
        "new-chat",
        "open-settings",
        "theme",
        "toggle-chats",
        "model",
        "Regenerate",
        "Copy",
    } <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_choice_and_can_be_read(visit: Visit, scheme: str) -> None:
    page = visit.page
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    other = "dark" if scheme == "light" else "light"
    shown = "getComputedStyle(document.body).backgroundColor"
    ground = page.evaluate(shown)
    assert (luminance(ground) > 0.5) == (scheme == "light")
    for name in ("ink", "muted", "accent", "wrong"):
        for behind in ("ground", "surface", "sunken"):
            assert contrast(*colours(page, name, behind)) >= 4.5, (name, behind)
    assert contrast(*colours(page, "on-accent", "accent")) >= 4.5
    assert contrast(*colours(page, "wrong", "wrong-ground")) >= 4.5
    for name in ("prepare", "retrieve", "queue", "prefill", "decode", "sampling", "output", "edge"):
        for behind in ("ground", "surface"):
            assert contrast(*colours(page, name, behind)) >= 3, (name, behind)  # graphics and the edges of controls
    while page.locator("html").get_attribute("data-theme") != other:
        page.click("#theme")
    assert (luminance(page.evaluate(shown)) > 0.5) == (other == "light")
    visit.open()
    assert (luminance(page.evaluate(shown)) > 0.5) == (other == "light")


def colours(page: Any, *names: str) -> list[str]:
    script = """names => names.map(name => { const e = document.createElement('i'); e.style.color = `var(--${name})`;
        document.body.append(e); const c = getComputedStyle(e).color; e.remove(); return c; })"""
    return page.evaluate(script, list(names))  # type: ignore[no-any-return]


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2.2)."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_phone_shows_everything_without_scrolling_sideways(browser: Browser, server: ServerProcess) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 720}, has_touch=True, is_mobile=True)
    visit = Visit(context, server)
    page = visit.page

    def check(what: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, what
        assert page.evaluate(
            "document.querySelector('#scroller').scrollWidth <= document.querySelector('#scroller').clientWidth"
        ), what
        outside = page.evaluate(
            """() => [...document.querySelectorAll('button, input, textarea, select, .value, dd')]
            .filter(e => e.checkVisibility({visibilityProperty: true}))
            .filter(e => { const r = e.getBoundingClientRect(); return r.width && (r.left < 0 || r.right > 360.5); })
            .map(e => e.outerHTML)"""
        )
        assert outside == [], what

    check("empty")
    visit.set(max_tokens="30", extra='{"ignore_eos": true}')
    visit.answer("Write " + "verylongword" * 20)
    check("an answer")
    page.click("#open-settings")
    check("the settings")
    page.keyboard.press("Escape")
    page.click("#toggle-chats")
    check("the conversations")
    context.close()
    assert visit.wrong == []


def test_the_engine_is_asked_only_while_the_page_is_seen(visit: Visit) -> None:
    page = visit.page
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/v1/engine") else None)
    page.wait_for_timeout(2500)
    assert 2 <= len(asked) <= 4
    # headless Chromium never hides a tab, so the page is told that it is hidden
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    asked.clear()
    page.wait_for_timeout(2500)
    assert asked == []
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(500)
    assert asked


def test_the_strip_goes_on_after_answers_that_make_no_sense(visit: Visit) -> None:
    script = """() => {
        const { fetch, setTimeout } = window;
        const reset = new ReadableStream({ start: (body) => body.error(new TypeError("connection reset")) });
        const answers = ["<html>a proxy's page</html>", reset, "null", "{}"];
        window.shown = [];
        window.setTimeout = (then, pause) => setTimeout(then, pause / 10);
        window.fetch = (...request) => {
            window.shown.push(document.querySelector("#model").textContent);
            return answers.length ? Promise.resolve(new Response(answers.shift())) : fetch(...request);
        };
    }"""
    visit.page.evaluate(script)
    eventually(lambda: visit.page.evaluate("shown.length") > 5, "the engine is asked again")
    assert visit.page.evaluate("shown.slice(0, 5)") == ["rusty_llm", *["unreachable"] * 4]
    expect(visit.page.locator("#model")).to_have_text("rusty_llm")


def test_the_strip_opens_the_engines_settings(visit: Visit) -> None:
    visit.page.click("#model")
    shown = visit.page.locator("#plan").inner_text()
    assert "4 requests of up to 1,024 tokens" in shown
    assert "model.gguf" in shown
    visit.page.keyboard.press("Escape")
    expect(visit.page.locator("#plan")).to_be_hidden()
