"""What the `ui.py` of an extension may use: `setup_page(api: PageApi)` is called once, before the page is built."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from backend.engine.engine import Engine
from backend.errors import ExtensionError

__all__ = ["Engine", "PageApi", "Tab"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Tab:
    """A tab of the page.

    name: lower case letters, digits and hyphens, starting with a letter.
    label: what the tab is called on the page.
    build: makes the tab's Gradio components and events; it runs inside the tab, so components land where they belong.
        `gr.State` and `demo.unload` keep a connection open per browser tab, and browsers have six: do without them.
    """

    name: str
    label: str
    build: Callable[[Engine], None]


class PageApi:
    """The page, as one extension sees it."""

    def __init__(self, extension: str) -> None:
        self._extension = extension
        self._tabs: list[Tab] = []

    def add_tab(self, tab: Tab) -> None:
        """Put `tab` behind the page's own tabs. Raises ExtensionError when its name is malformed or used twice."""
        if not _NAME.fullmatch(tab.name):
            raise ExtensionError(
                self._extension, f'the tab name "{tab.name[:60]}" must be lower case letters, digits and hyphens'
            )
        if not tab.label.strip():
            raise ExtensionError(self._extension, f'the tab "{tab.name}" has no label')
        if any(tab.name == other.name for other in self._tabs):
            raise ExtensionError(self._extension, f'the tab "{tab.name}" is added twice; give one another name')
        self._tabs.append(tab)

    @property
    def tabs(self) -> tuple[Tab, ...]:
        """The tabs so far, in the order in which they were added."""
        return tuple(self._tabs)
