"""What pytest finds by itself: fixtures of tests that drive the page, and how many threads they compute with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

# Before anything imports torch: tiny tensors are computed faster on one thread, and much faster on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # child processes inherit it

if TYPE_CHECKING:
    from backend.engine.engine import Engine


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; tests skip where there is none."""
    from tests.browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    """An engine, and the address of its page. Asks for the browser first, so that nothing is started without one."""
    from tests.browser import served_page

    with served_page(tmp_path_factory.mktemp("page")) as served:
        yield served


@pytest.fixture
def engine(served: tuple[Engine, str]) -> Engine:
    """Of the page that is served; tests without a page have fixtures of their own."""
    return served[0]
