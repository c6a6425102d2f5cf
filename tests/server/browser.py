"""A real browser, Debian's headless Chromium, on the page of a real server."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from server_process import PATIENCE, ServerProcess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def launch_browser() -> Iterator[Browser]:
    """Start Chromium; skips the test where there is none, which must not happen in continuous integration."""
    if CHROMIUM is None:
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain("no Chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not work as root or in most containers.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """The page open in a tab, and everything that went wrong in it."""

    def __init__(self, context: BrowserContext, server: ServerProcess) -> None:
        context.set_default_timeout(PATIENCE * 1000)
        self.server = server
        #: Errors and warnings on the console, uncaught exceptions, dialogs, and requests to anybody else.
        self.wrong: list[str] = []
        #: Bodies of chat completion requests, in order.
        self.sent: list[Any] = []
        self.page: Page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"exception: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.open()

    def open(self) -> None:
        """Load the page (again) and wait until its script runs."""
        self.page.goto(self.server.url)
        self.page.locator("#theme[aria-label]").wait_for()
        expect(self.page.locator("#model")).not_to_have_text("connecting", timeout=30_000)

    def _console(self, message: Any) -> None:
        # Chromium itself reports every response that is not a success.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.wrong.append(f"{message.type}: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if not request.url.startswith(self.server.url):
            self.wrong.append(f"request to {request.url}")
        if request.url.endswith("/v1/chat/completions"):
            self.sent.append(request.post_data_json)

    def ask(self, question: str) -> None:
        """Type a question and press Enter."""
        self.page.fill("#prompt", question)
        self.page.press("#prompt", "Enter")

    def turn(self, number: int = 1, *, over: bool = True) -> Locator:
        """The turn `number`, by default once its answer is over."""
        turn = self.page.locator(f".turn:nth-child({number})")
        if over:
            self.page.locator(f".turn:nth-child({number})[aria-busy=false]").wait_for()
        return turn

    def answer(self, question: str, number: int = 1) -> Locator:
        """Ask, wait for the end of the answer, return its turn."""
        self.ask(question)
        return self.turn(number)

    def set(self, **fields: str) -> None:
        """Fill in the settings, by the names of their fields, and close them."""
        self.page.click("#open-settings")
        for name, value in fields.items():
            field = self.page.locator(f"#settings [name={name}]")
            if name == "extra" and not field.is_visible():
                self.page.click("#settings summary")
            if name == "knowledge":
                field.select_option(value)
            else:
                field.fill(value)
        self.page.keyboard.press("Escape")
