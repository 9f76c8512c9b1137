"""The Merge tab in a real browser: curves, previews, saving, plots, and getting a recipe back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from backend.engine.engine import Engine
from backend.merging.metadata import recipe_in
from backend.weights.weight_file import open_weights
from tests.browser import Visit, chromium, served_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DROP = """([bytes, name]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(bytes)], name));
  document.querySelector(".em-merge").dispatchEvent(
    new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    with served_page(tmp_path_factory.mktemp("merging")) as served:
        yield served


@pytest.fixture
def engine(served: tuple[Engine, str]) -> Engine:
    return served[0]


@pytest.fixture
def visit(browser: Any, served: tuple[Engine, str]) -> Iterator[Visit]:
    """The tab with "tiny" as A and "finisher" as B. Nothing may go wrong in it."""
    visit = Visit(browser, served[1])
    open_tab(visit)
    yield visit
    visit.close()
    assert visit.problems == []


def open_tab(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Merge").click()
    visit.page.locator(".em-block").first.wait_for()
    visit.field("Model A").select_option("tiny")
    visit.page.locator(".em-block").first.wait_for()
    visit.field("Model B").select_option("finisher")
    wait_for_text(visit, "[data-part=summary]", "tiny + finisher")


def part(visit: Visit, name: str) -> Any:
    return visit.page.locator(f"[data-part={name}]")


def state(visit: Visit) -> dict[str, Any]:
    return json.loads(visit.page.evaluate("localStorage.getItem('emulsion.merge')"))


def wait_for_text(visit: Visit, selector: str, text: str) -> None:
    visit.page.locator(selector, has_text=text).first.wait_for()


def test_a_curve_is_drawn_across_the_sliders_and_taken_back(visit):
    tracks = visit.page.locator(".em-track")
    first, last = tracks.nth(0).bounding_box(), tracks.nth(5).bounding_box()
    visit.page.mouse.move(first["x"] + 5, first["y"] + first["height"] - 1)
    visit.page.mouse.down()
    visit.page.mouse.move(last["x"] + 5, last["y"] + 1)  # at once: what lies between is drawn, too
    visit.page.mouse.up()
    blocks = state(visit)["weights"]["alpha"]["blocks"]
    drawn = list(blocks.values())
    assert len(drawn) == 6
    assert drawn == sorted(drawn)
    assert (drawn[0], drawn[-1]) == pytest.approx((0, 1), abs=0.02)
    part(visit, "undo").click()
    visit.page.wait_for_function("JSON.parse(localStorage['emulsion.merge']).weights.alpha?.blocks.IN00 === undefined")
    part(visit, "redo").click()
    visit.page.wait_for_function("JSON.parse(localStorage['emulsion.merge']).weights.alpha?.blocks.IN00 !== undefined")
    assert state(visit)["weights"]["alpha"]["blocks"] == blocks


def test_a_slider_obeys_keys_and_typed_numbers(visit):
    slider = visit.page.get_by_role("slider", name="IN00", exact=False).first
    slider.focus()
    slider.press("End")
    slider.press("ArrowDown")
    assert slider.get_attribute("aria-valuenow") == "0.99"
    typed = visit.page.locator(".em-typed").first
    typed.fill("0,25")
    typed.press("Enter")
    assert slider.get_attribute("aria-valuenow") == "0.25"
    slider.dblclick()
    assert "as the base" in slider.get_attribute("aria-valuetext")


def test_weights_are_read_as_other_programs_write_them(visit):
    visit.page.get_by_text("As text", exact=False).click()
    part(visit, "text").fill("IN00=0.2, M00=0.8")
    part(visit, "read").click()
    visit.page.wait_for_function("JSON.parse(localStorage['emulsion.merge']).weights.alpha?.blocks.M00 === 0.8")


def test_a_rule_brings_its_models_numbers_and_formula(visit):
    visit.field("Rule").select_option("add_difference")
    assert "A + α·(B − C)" in part(visit, "formula").inner_text()
    visit.field("Model C").wait_for()
    wait_for_text(visit, "[data-part=numbers]", "Strength")


def test_the_preview_shows_a_the_merge_and_b(visit, engine):
    part(visit, "prompt").fill("a cat")
    part(visit, "preview").click()
    visit.page.wait_for_function(
        "document.querySelectorAll('.em-merge-preview img:not([hidden])').length === 3"
        " && !document.querySelector('.em-merge-preview.em-busy')"
    )
    made = [job.request for job in engine.jobs()[-3:]]
    assert sorted(request.checkpoint for request in made if request.recipe is None) == ["finisher", "tiny"]
    recipe = next(request.recipe for request in made if request.recipe is not None)
    assert [file.name for file in recipe.files()] == ["tiny", "finisher"]
    assert {request.seed for request in made} == {1}
    visit.page.locator(".em-compare-stage").wait_for()


def test_a_merge_is_saved_and_its_file_gives_the_recipe_back(visit, engine):
    visit.field("Rule").select_option("slerp")
    part(visit, "name").fill("mixed")
    part(visit, "save-checkpoint").click()
    wait_for_text(visit, "[data-part=saving]", "is saved")
    path = engine.settings.checkpoint_dirs[0] / "mixed.safetensors"
    recipe = recipe_in(open_weights(path).metadata)
    assert recipe is not None
    assert recipe.to_mapping()["root"]["rule"] == "slerp"
    visit.field("Rule").select_option("lerp")
    visit.page.evaluate(DROP, [list(path.read_bytes()), "mixed.safetensors"])
    visit.page.wait_for_function("JSON.parse(localStorage['emulsion.merge']).rule === 'slerp'")


def test_a_saved_recipe_can_be_chosen_like_a_checkpoint(visit, engine):
    part(visit, "name").fill("by-recipe")
    part(visit, "save-recipe").click()
    wait_for_text(visit, ".em-note", "can now be chosen")
    assert "by-recipe" in [entry.name for entry in engine.library.checkpoints()]


def test_a_plot_fills_cell_by_cell(visit):
    visit.field("Values of X").fill("0, 1")
    part(visit, "plots").get_by_role("button", name="Plot", exact=True).click()
    visit.page.wait_for_function("document.querySelectorAll('.em-plot-grid img').length === 2")


def test_nothing_leaves_a_narrow_window(browser, served):
    visit = Visit(browser, served[1], width=390, height=844)
    visit.page.get_by_role("tab", name="Merge").click()
    visit.page.locator(".em-block").first.wait_for()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.close()
