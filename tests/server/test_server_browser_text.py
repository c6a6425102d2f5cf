"""The page in Chromium: whatever text arrives, from whom and in whatever pieces, it is shown as text."""

import json
import re

from browser import Visit
from playwright.sync_api import Browser, expect
from server_process import ServerProcess

#: Each of them would open a dialog or send a request if it were ever read as markup.
MARKUP = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(2)</script>",
    '<svg onload="alert(3)"></svg>',
    '<a href="javascript:alert(4)">link</a>',
    '</p></div><iframe src="//example.org/"></iframe>',
)


def test_markup_of_the_user_stays_text(visit: Visit) -> None:
    visit.set(max_tokens="8")
    question = "\n".join(MARKUP)
    turn = visit.answer(question)
    assert turn.locator(".question p").inner_text() == question
    visit.page.click("#toggle-chats")
    assert MARKUP[0] in visit.page.locator("#chats .chat").inner_text()
    visit.open()
    visit.page.click("#toggle-chats")
    visit.page.click("#chats .chat")
    assert visit.turn().locator(".question p").inner_text() == question
    assert visit.page.locator("#transcript :is(img, script, svg[onload], a, iframe)").count() == 0


def test_markup_of_the_model_stays_text(visit: Visit) -> None:
    # A schema with one value makes the model say exactly that.
    said = "```html\n" + "\n".join(MARKUP) + "\n```\n" + "\n".join(MARKUP)
    form = {"type": "json_schema", "json_schema": {"name": "markup", "schema": {"const": said}}}
    visit.set(max_tokens="400", extra=json.dumps({"response_format": form}))
    turn = visit.answer("Go on.")
    shown = turn.locator(".text").inner_text()
    assert json.loads(shown) == said
    assert turn.locator(".answer :is(img, script, svg, a, iframe)").count() == 0


def test_markup_in_citations_stays_text(visit: Visit) -> None:
    citations = [
        {"file": markup, "chunk": index, "score": 0.9 - index / 10, "text": markup}
        for index, markup in enumerate(MARKUP)
    ]
    script = """async citations => {
        const { passages } = await import('/page/passages.js');
        document.querySelector('#empty').append(passages(citations));
    }"""
    visit.page.evaluate(script, citations)
    visit.page.click("#empty summary")
    assert visit.page.locator(".passages blockquote").all_inner_texts() == list(MARKUP)
    assert visit.page.locator(".passages cite").all_inner_texts() == list(MARKUP)
    assert visit.page.locator(".passages summary").inner_text() == "5 passages · best score 0.900"


def test_code_blocks_are_nodes_and_can_be_copied(visit: Visit) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    script = """async text => {
        const { render } = await import('/page/format.js');
        const place = document.querySelector('#empty p');
        const target = document.createElement('div');
        place.replaceWith(target);
        for (let end = 0; end <= text.length; end += 1) render(target, text.slice(0, end));
        return [...target.children].map(node => [node.dataset.kind, (node.querySelector('code') ?? node).textContent]);
    }"""
    text = "First.\n\nSecond\nline.\n\n```html\n<b>bold</b>\n\n  two\n```\nLast. <i>x</i>\n\n~~~~\nopen ``` fence"
    assert visit.page.evaluate(script, text) == [
        ["text", "First."],
        ["text", "Second\nline."],
        ["code", "<b>bold</b>\n\n  two"],
        ["text", "Last. <i>x</i>"],
        ["code", "open ``` fence"],
    ]
    visit.page.locator(".code-block button").first.click()
    expect(visit.page.locator(".code-block button").first).to_have_text("Copied")
    assert visit.page.evaluate("navigator.clipboard.readText()") == "<b>bold</b>\n\n  two"


def test_the_policy_stops_scripts_that_get_in_all_the_same(browser: Browser, server: ServerProcess) -> None:
    context = browser.new_context()
    visit = Visit(context, server)
    for script in (
        "document.body.innerHTML = '<img src=x onerror=alert(1)>'",
        "document.body.append(Object.assign(document.createElement('script'), {text: 'alert(1)'}))",
        "document.body.setAttribute('onclick', 'alert(1)'); document.body.click()",
    ):
        visit.page.evaluate(f"() => {{ try {{ {script} }} catch (error) {{ return String(error) }} }}")
    assert len([line for line in visit.wrong if re.search("Content Security Policy|Trusted", line)]) == 3, visit.wrong
    assert len(visit.wrong) == 3
    context.close()


def test_events_survive_any_cut_of_their_bytes(visit: Visit) -> None:
    stream = (
        '\ufeff: ping\n\ndata: {"a": "ä€😀"}\n\nevent: error\r\ndata: one\r\ndata: two\r\n\r\n'
        "id: 7\rretry: 5\rdata:tight\r\rdata\n\nnonsense\n\ndata: [DONE]\n\ndata: cut off"
    ).encode()
    script = """async ([bytes, size]) => {
        const { events } = await import('/page/sse.js');
        const all = new Uint8Array(bytes);
        const stream = new ReadableStream({ start(controller) {
            for (let at = 0; at < all.length; at += size) controller.enqueue(all.slice(at, at + size));
            controller.close();
        } });
        const found = [];
        for await (const { event, data } of events(stream)) found.push([event, data]);
        return found;
    }"""
    expected = [
        ["message", '{"a": "ä€😀"}'],
        ["error", "one\ntwo"],
        ["message", "tight"],
        ["message", ""],
        ["message", "[DONE]"],
    ]
    for size in (1, 2, 3, 5, 7, 16, len(stream)):
        assert visit.page.evaluate(script, [list(stream), size]) == expected, size
