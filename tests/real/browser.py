"""One browser for every test that opens a page: Debian's chromium, driven by playwright.

A page that the fixture opened fails the test through `clean()`: no console error, no exception,
and no request that leaves the folder or server under test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:", "http://localhost:")


@dataclass
class Visit:
    """One opened page and what went wrong on it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def clean(self) -> None:
        """Fail unless the page ran without errors and asked nothing of the outside."""
        assert not self.errors, self.errors
        assert not self.outside, self.outside


@dataclass
class Browser:
    """Opens pages in one running chromium."""

    chromium: object
    visits: list[Visit] = field(default_factory=list)

    def open(
        self, where: str | Path, *, width: int = 1200, height: int = 900, scheme: Literal["light", "dark"] = "light"
    ) -> Visit:
        """Open a file or an address and wait until it is loaded.

        Args:
            where: Path of an HTML file, or an http address on this machine.
            width: Pixels of the window.
            height: Pixels of the window.
            scheme: What the reader's system prefers.
        """
        page = self.chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[attr-defined]
        visit = Visit(page)
        page.on("console", lambda message: visit.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on("request", lambda request: _note(visit, request.url))
        page.goto(where.resolve().as_uri() if isinstance(where, Path) else where, wait_until="load")
        self.visits.append(visit)
        return visit


def _note(visit: Visit, url: str) -> None:
    if not url.startswith(LOCAL):
        visit.outside.append(url)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Debian's chromium, started once; its profile is a temporary folder that playwright removes."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is missing: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'mlsysopt[dev]'")
    flags = ["--disable-dev-shm-usage"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    home = tmp_path_factory.mktemp("browser")
    with sync.sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=program,
            args=flags,
            # Chromium keeps caches and crash reports below HOME even with a profile of its own.
            env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)},
        )
        yield running
        running.close()


@pytest.fixture
def browser(chromium: object) -> Iterator[Browser]:
    """A browser whose pages are closed after the test."""
    opened = Browser(chromium)
    yield opened
    for visit in opened.visits:
        visit.page.close()
