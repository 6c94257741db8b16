"""Fixtures of the tests that need a real program."""

from tests.real.browser import browser, chromium

__all__ = ["browser", "chromium"]
