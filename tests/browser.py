"""A file opened in a real browser, without a network: Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@dataclass
class Visit:
    """A page that a browser shows.

    Attributes:
        page: Playwright's.
        errors: What went wrong: errors of the console, of scripts, and failed requests.
        requests: Addresses asked for, other than the file and what it holds itself.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def texts(self, selector: str) -> list[str]:
        """Returns the texts of the elements that a CSS selector finds."""
        return self.page.locator(selector).all_inner_texts()

    def sizes(self, selector: str) -> list[tuple[int, int]]:
        """Returns width and height of the images found, as the browser has decoded them."""
        script = "found => found.map(image => [image.naturalWidth, image.naturalHeight])"
        return [tuple(size) for size in self.page.locator(selector).evaluate_all(script)]


@contextmanager
def launched() -> Iterator[Any]:
    """Starts Chromium; skips the test where Playwright or a browser is missing."""
    api = pytest.importorskip("playwright.sync_api")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(file: Path) -> Iterator[Visit]:
    """Opens a file offline; skips the test where Playwright or a browser is missing."""
    with launched() as browser:
        context = browser.new_context(offline=True)
        visit = Visit(context.new_page())
        _listen(visit, file.as_uri())
        visit.page.goto(file.as_uri(), wait_until="load")
        yield visit


def visit_of(browser: Any, url: str) -> Visit:
    """Opens a page of a server on this machine, as a user of its own.

    ``requests`` are those to others than the server.
    """
    visit = Visit(browser.new_context(viewport={"width": 1400, "height": 1200}).new_page())
    _listen(visit, url)
    visit.page.goto(url, wait_until="load")
    return visit


def _listen(visit: Visit, own: str) -> None:
    def console(message: Any) -> None:
        if message.type in ("error", "warning"):
            visit.errors.append(message.text)

    def failed(asked: Any) -> None:
        if asked.failure != "net::ERR_ABORTED":  # by the page itself, which has all it wants
            visit.errors.append(f"failed: {asked.url[:80]}")

    def request(asked: Any) -> None:
        if not asked.url.startswith((own, "data:", "blob:")):
            visit.requests.append(asked.url)

    visit.page.on("console", console)
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.page.on("requestfailed", failed)
    visit.page.on("request", request)
