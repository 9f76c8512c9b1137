"""The Plots tab in a real browser: axes, matrix, lines, boards that fill; and generating forever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backend.engine.batch_request import BatchRequest
from backend.engine.engine import Engine
from backend.engine.job import JobState
from tests.browser import Visit
from tests.test_browser import CONTRASTS

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TIMEOUT = 60


@pytest.fixture
def engine(served: tuple[Engine, str]) -> Iterator[Engine]:
    yield served[0]
    for board in served[0].boards.all():
        served[0].boards.remove(board.id)


@pytest.fixture
def visit(browser: Any, served: tuple[Engine, str]) -> Iterator[Visit]:
    """The tab, with a form of two steps. Nothing may go wrong in it."""
    visit = Visit(browser, served[1])
    fill_form(visit)
    open_tab(visit)
    yield visit
    visit.close()
    assert visit.problems == []


def fill_form(visit: Visit) -> None:
    visit.field("Prompt").first.fill("a cat|in snow")
    visit.field("Steps").first.fill("2")
    visit.field("Steps").first.press("Tab")
    visit.field("Checkpoint").first.click()
    visit.page.get_by_role("option", name="tiny").first.click()
    visit.page.wait_for_function("""() => JSON.parse(localStorage["emulsion.txt2img"] ?? "{}").steps == 2""")


def open_tab(visit: Visit) -> None:
    visit.turn_to("Plots")
    visit.field("Values of axis X").wait_for()


def part(visit: Visit, name: str) -> Any:
    return visit.page.locator(f".em-plotting [data-part={name}]")


def wait_for_count(visit: Visit, text: str) -> None:
    visit.page.wait_for_function(
        "text => document.querySelector('.em-plotting [data-part=count]').textContent.startsWith(text)", arg=text
    )


def kind_of(visit: Visit, axis: str) -> Any:
    return visit.page.get_by_role("combobox", name=f"Axis {axis}", exact=True)


def choose(visit: Visit, axis: str, words: str, label: str) -> None:
    field = kind_of(visit, axis)
    field.click()
    field.fill(words)
    visit.page.locator(".em-plotting .em-pick-option", has_text=label).first.click()


def wait_for_pictures(visit: Visit, count: int) -> None:
    visit.page.wait_for_function(
        "count => document.querySelectorAll('.em-plotting .em-plot img').length === count", arg=count
    )


def test_a_board_of_two_axes_fills_and_its_cells_open(visit: Visit, engine: Engine) -> None:
    visit.field("Values of axis X").fill("1-2")
    choose(visit, "Y", "cfg", "CFG Scale")
    visit.field("Values of axis Y").fill("2, 7")
    wait_for_count(visit, "4 pictures")
    part(visit, "start").click()
    wait_for_pictures(visit, 4)
    visit.page.get_by_role("link", name="Grid picture").wait_for()
    visit.page.get_by_role("button", name="Open Seed 2, CFG Scale 7").click()
    visit.page.locator("dialog[open] img").first.wait_for()
    (board,) = engine.boards.all()
    assert [cell.state for cell in board.cells] == ["done"] * 4


def test_values_that_cannot_be_are_told_at_their_axis_and_axes_change_places(visit: Visit, engine: Engine) -> None:
    choose(visit, "Y", "steps", "Steps")
    visit.field("Values of axis Y").fill("two")
    visit.page.wait_for_function(
        "document.querySelector('[aria-label=\"Values of axis Y\"]').getAttribute('aria-invalid') === 'true'"
    )
    assert visit.field("Values of axis X").get_attribute("aria-invalid") == "false"
    visit.field("Values of axis Y").fill("1-3")
    part(visit, "swap").click()
    wait_for_count(visit, "12 pictures")
    assert kind_of(visit, "X").input_value() == "Steps"
    assert visit.field("Values of axis X").input_value() == "1-3"
    assert kind_of(visit, "Y").input_value() == "Seed"


def test_a_fourth_axis_can_be_added_and_is_told_of_what_is_wrong_with_it(visit: Visit, engine: Engine) -> None:
    part(visit, "add").click()
    for axis, words, label in (("Y", "steps", "Steps"), ("Z", "cfg", "CFG Scale"), ("4", "height", "Height")):
        choose(visit, axis, words, label)
    visit.field("Values of axis 4").fill("64, 65")
    visit.page.wait_for_function(
        "document.querySelector('[aria-label=\"Values of axis 4\"]').getAttribute('aria-invalid') === 'true'"
    )
    visit.field("Values of axis 4").fill("64, 128")
    wait_for_count(visit, "72 pictures")


def test_a_matrix_and_lines(visit: Visit, engine: Engine) -> None:
    part(visit, "way").select_option("matrix")
    wait_for_count(visit, "2 pictures")
    part(visit, "way").select_option("lines")
    part(visit, "lines").fill('a red house\n--prompt "a dog" --steps 1\n--nonsense 5')
    visit.page.wait_for_function(
        "document.querySelector('.em-plotting [data-part=count]').textContent.includes('nonsense')"
    )
    part(visit, "lines").fill('a red house\n--prompt "a dog" --steps 1')
    wait_for_count(visit, "2 pictures")
    part(visit, "start").click()
    wait_for_pictures(visit, 2)
    jobs = [job.request for job in engine.jobs()][-2:]
    assert [(job.prompt, job.steps) for job in jobs] == [("a red house", 2), ("a dog", 1)]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_board_can_be_cancelled_tried_again_and_removed(visit: Visit, engine: Engine) -> None:
    choose(visit, "Y", "steps", "Steps")
    visit.field("Values of axis Y").fill("60, 61")
    wait_for_count(visit, "8 pictures")
    part(visit, "start").click()
    visit.page.locator(".em-plot").get_by_role("button", name="Cancel").click()
    visit.page.locator(".em-plot td", has_text="cancelled").first.wait_for()
    visit.page.get_by_role("button", name="Try failed ones again").click()
    visit.page.locator(".em-plot td", has_text="queued").first.wait_for()
    visit.page.locator(".em-plot").get_by_role("button", name="Remove").click()
    visit.page.locator(".em-plot").wait_for(state="detached")
    assert engine.boards.all() == []


def test_generating_forever_makes_one_picture_after_the_other_until_it_is_switched_off(
    visit: Visit, engine: Engine
) -> None:
    before = {job.id for job in engine.jobs()}
    visit.turn_to("txt2img")
    switch = visit.page.get_by_role("button", name="Forever", exact=True).first
    switch.click()
    visit.page.locator(".em-note", has_text="switched off, or this page is reloaded").wait_for()
    deadline = time.monotonic() + TIMEOUT
    while sum(job.id not in before and job.state is JobState.DONE for job in engine.jobs()) < 2:
        assert time.monotonic() < deadline
        visit.page.wait_for_timeout(100)
    switch.click()
    assert switch.get_attribute("aria-pressed") == "false"
    jobs = [job for job in engine.jobs() if job.id not in before]
    for job in jobs:
        engine.wait(job.id, TIMEOUT)
    assert len(jobs) >= 2
    assert len({job.request.seed for job in jobs}) == len(jobs)  # pyright: ignore[reportAttributeAccessIssue]
    assert all(job.state is not JobState.QUEUED for job in engine.jobs())


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_everything_can_be_read_and_has_a_name(
    browser: Any, served: tuple[Engine, str], width: int, scheme: str
) -> None:
    visit = Visit(browser, served[1], width=width, height=844, scheme=scheme)
    open_tab(visit)
    part(visit, "base").select_option("img2img")
    part(visit, "loops").check()
    found = visit.page.evaluate(CONTRASTS)
    scroll_width = visit.page.evaluate("document.documentElement.scrollWidth")
    nodes = visit.context.new_cdp_session(visit.page).send("Accessibility.getFullAXTree")["nodes"]
    visit.close()
    roles = {"button", "textbox", "combobox", "spinbutton", "checkbox"}
    controls = [node for node in nodes if node.get("role", {}).get("value") in roles and not node.get("ignored")]
    assert [text for ratio, text in found if ratio < 4.5] == []
    assert [node["role"]["value"] for node in controls if not node.get("name", {}).get("value", "").strip()] == []
    assert scroll_width <= width


def test_a_batch_of_chosen_pictures_is_made_with_the_form(visit: Visit, engine: Engine, tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"broken")
    visit.turn_to("img2img")
    form = visit.page.locator("#em-form-img2img")
    form.locator("button.label-wrap", has_text="Batch").click()
    box = form.locator(".em-batch-box")
    box.get_by_label("Folder with pictures").fill(str(tmp_path))
    box.get_by_role("button", name="Start the batch").click()
    box.locator(".em-batch-entry", has_text="2 of 3 done, 1 failed").wait_for()
    box.get_by_role("button", name="What failed").click()
    visit.page.locator(".em-status-text:visible", has_text="c.png").first.wait_for()
    box.get_by_label("Folder with pictures").fill("")
    box.locator("[data-part=files]").set_input_files([tmp_path / "a.png", tmp_path / "b.png"])
    box.get_by_role("button", name="Start the batch").click()
    box.locator(".em-batch-entry", has_text="2 uploaded pictures").filter(has_text="2 of 2 done").wait_for()
    newest = engine.boards.all()[0].request
    assert isinstance(newest, BatchRequest)
    assert newest.request.init is not None
    assert newest.request.init.denoising_strength == 0.75
