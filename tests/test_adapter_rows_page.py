"""The rows of LoRAs in a real browser: what is done to them is what a job gets, and it is there after a reload."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.engine.engine import Engine
from backend.weights.safetensors_file import write_safetensors
from tests.browser import SINK, Visit, served_page
from tests.test_browser import CONTRASTS, NAME_IN_FOCUS, OVERLAPPING
from tests.tiny_adapters import KEY, KOHYA, QUERY, lora_tensors
from tests.tiny_checkpoint import tiny_tensors

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HARMFUL = SINK.replace("/", "")
PASTE = """([selector, text]) => {
  const data = new DataTransfer();
  data.setData("text/plain", text);
  document.querySelector(selector).dispatchEvent(
    new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    with served_page(tmp_path_factory.mktemp("adapters")) as (engine, url):
        folder = engine.settings.lora_dirs[0]
        write_lora(folder / "fog.safetensors", seed=1)
        write_lora(folder / "paint.safetensors", seed=2)
        write_lora(folder / "large.safetensors", seed=3, says={"ss_base_model_version": "sdxl_base_v1-0"})
        write_lora(folder / f"{HARMFUL}.safetensors", seed=4)
        engine.library.refresh()
        yield engine, url


@pytest.fixture
def visit(browser: Any, served: tuple[Engine, str]) -> Iterator[Visit]:
    """A visit with the checkpoint "tiny". Nothing may go wrong in it."""
    visit = Visit(browser, served[1])
    visit.field("Checkpoint").click()
    visit.page.get_by_role("option", name="tiny").click()
    yield visit
    visit.close()
    assert visit.problems == []


def write_lora(path: Path, *, seed: int, says: dict[str, str] | None = None) -> None:
    """A LoRA for two layers of the tiny checkpoint."""
    model = tiny_tensors()
    shapes = {KOHYA[module]: tuple(model[f"{module}.weight"].shape) for module in (QUERY, KEY)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, lora_tensors(shapes, seed=seed), says or {})


def add(visit: Visit, name: str) -> None:
    visit.field("Add a LoRA").click()
    visit.page.locator(".em-pick-option").filter(has=visit.page.get_by_text(name, exact=True)).click()
    row(visit, name).wait_for()


def row(visit: Visit, name: str) -> Any:
    return visit.page.locator(".em-adapter").filter(
        has=visit.page.get_by_role("switch", name=f"Use {name}", exact=True)
    )


def order(visit: Visit) -> list[str]:
    return visit.page.locator(".em-adapter .em-pick-search").evaluate_all("all => all.map((field) => field.value)")


def wait_for_rows(visit: Visit, names: list[str]) -> None:
    """Until this browser keeps rows of these names: what is typed is kept once it rests."""
    visit.page.wait_for_function(
        """names => JSON.stringify(JSON.parse(localStorage["emulsion.txt2img"] ?? "{}").adapters
             ?.map((row) => row.adapter.file.name)) === names""",
        arg=json.dumps(names, separators=(",", ":")),
    )


def generate(visit: Visit, engine: Engine) -> dict[str, Any]:
    """The request of a new job, as the server tells it."""
    before = len(engine.jobs())
    visit.field("Steps").fill("1")
    visit.press("Generate")
    visit.page.wait_for_function("n => document.querySelectorAll('.em-thumbnail').length > n", arg=before)
    job = engine.jobs()[-1].id
    return visit.context.request.get(f"{visit.url}api/v1/jobs/{job}").json()["request"]


def open_blocks(visit: Visit, name: str) -> Any:
    row(visit, name).get_by_role("button", name="Blocks", exact=True).click()
    row(visit, name).locator(".em-block").first.wait_for()
    return row(visit, name)


def sliders(visit: Visit, name: str) -> dict[str, float]:
    found = (
        row(visit, name)
        .locator(".em-track")
        .evaluate_all("all => all.map((track) => [track.dataset.block, Number(track.ariaValueNow)])")
    )
    return dict(found)


def test_rows_are_put_in_order_switched_off_sent_and_come_back(visit, engine):
    add(visit, "fog")
    add(visit, "paint")
    strength = row(visit, "paint").get_by_role("spinbutton", name="Strength")
    strength.fill("0.5")
    strength.press("ArrowUp")
    assert strength.input_value() == "0.55"
    row(visit, "paint").get_by_role("button", name="Text encoders as strong", exact=False).click()
    row(visit, "paint").get_by_role("spinbutton", name="Text encoders").fill("-0.25")
    ranks = row(visit, "fog").get_by_role("spinbutton", name="Ranks")
    ranks.fill("1")
    strength.press("Alt+ArrowUp")
    assert order(visit) == ["paint", "fog"]
    sent = generate(visit, engine)["adapters"]
    assert [adapter["file"]["name"] for adapter in sent] == ["paint", "fog"]
    assert [adapter["strength"] for adapter in sent] == [0.55, 1]
    assert [adapter["text_encoder_strength"] for adapter in sent] == [-0.25, None]
    assert [adapter.get("max_rank") for adapter in sent] == [None, 1]
    ranks.fill("")
    row(visit, "paint").get_by_role("switch").click()
    (only,) = generate(visit, engine)["adapters"]
    assert (only["file"]["name"], "max_rank" in only) == ("fog", False)

    wait_for_rows(visit, ["paint", "fog"])
    visit.page.reload()
    visit.wait_until_ready(visit.page)
    row(visit, "paint").wait_for()
    assert order(visit) == ["paint", "fog"]
    assert not row(visit, "paint").get_by_role("switch").is_checked()
    assert strength.input_value() == "0.55"
    visit.page.get_by_role("tab", name="Memory", exact=True).first.click()
    visit.page.get_by_role("tab", name="txt2img", exact=True).first.click()
    assert order(visit) == ["paint", "fog"]
    visit.press("Use settings")  # of the second picture, which was made without the row that is off
    wait_for_rows(visit, ["fog"])
    assert order(visit) == ["fog"]


def test_a_row_is_dragged_duplicated_removed_and_brought_back(visit):
    add(visit, "fog")
    add(visit, "paint")
    handle, below = visit.page.locator(".em-handle").first.bounding_box(), row(visit, "paint").bounding_box()
    visit.page.mouse.move(handle["x"] + 8, handle["y"] + 8)
    visit.page.mouse.down()
    visit.page.mouse.move(handle["x"] + 8, below["y"] + below["height"] - 4, steps=4)
    assert visit.page.locator(".em-dragged").count() == 1
    visit.page.mouse.up()
    assert order(visit) == ["paint", "fog"]
    assert visit.page.evaluate(NAME_IN_FOCUS) == "Move fog"
    row(visit, "paint").get_by_role("button", name="Duplicate").click()
    assert order(visit) == ["paint", "paint", "fog"]
    row(visit, "fog").get_by_role("button", name="Remove fog").click()
    wait_for_rows(visit, ["paint", "paint"])
    visit.press("Undo")
    assert order(visit) == ["paint", "paint", "fog"]
    visit.page.locator(".em-handle").first.press("Control+z")
    assert order(visit) == ["paint", "fog"]
    visit.press("Redo")
    wait_for_rows(visit, ["paint", "paint", "fog"])


def test_lists_presets_and_elements_set_the_sliders_of_blocks(visit, engine):
    add(visit, "fog")
    box = open_blocks(visit, "fog")
    numbers = [0.5] * 12
    numbers[0] = 0.25
    visit.page.evaluate(PASTE, [".em-block-editor .em-track", ",".join(map(str, numbers))])
    visit.page.wait_for_function("document.querySelector('.em-track[data-block=IN04]').ariaValueNow === '0.5'")
    shown = sliders(visit, "fog")
    assert (shown["TE1"], shown["M00"], shown["OUT05"]) == (0.25, 0.5, 0.5)
    assert (shown["IN00"], shown["OUT11"]) == (0, 0)
    visit.page.locator(".em-track[data-block=OUT11]").dblclick()
    assert sliders(visit, "fog")["OUT11"] == 1
    box.get_by_label("Preset of block weights").select_option("OUTALL")
    visit.page.wait_for_function("document.querySelector('.em-track[data-block=IN04]').ariaValueNow === '0'")
    assert sliders(visit, "fog")["OUT03"] == 1
    box.get_by_label("Elemental weights").fill("OUT03-OUT05:attn:0.5")
    box.get_by_label("Elemental weights").press("Tab")
    visit.page.wait_for_function("localStorage['emulsion.txt2img']?.includes('attn')")
    box.get_by_role("button", name="Copy").click()
    copied = box.get_by_label("Block weights as a list")
    visit.page.wait_for_function("document.querySelector('[aria-label=\"Block weights as a list\"]').value !== ''")
    assert copied.input_value() == ",".join(["1"] + ["0"] * 16 + ["1"] * 9)
    weights = generate(visit, engine)["adapters"][0]["weights"]
    assert any(override["value"] == 0.5 and override.get("kinds") for override in weights["overrides"])
    copied.fill("1,2,3")
    box.get_by_role("button", name="Read list").click()
    box.get_by_role("alert").filter(visible=True).wait_for()
    box.get_by_role("button", name="All 1").click()
    assert set(sliders(visit, "fog").values()) == {1}
    visit.problems[:] = [told for told in visit.problems if "422" not in told]  # which is what was tried


def test_a_curve_over_the_steps_is_read_drawn_and_refused_in_words(visit, engine):
    add(visit, "fog")
    row(visit, "fog").get_by_role("button", name="Over the steps").click()
    field = row(visit, "fog").get_by_label("Strength over the steps")
    field.fill("1@0, much")
    field.press("Tab")
    assert "no strength at a position" in row(visit, "fog").get_by_role("alert").filter(visible=True).inner_text()
    field.fill("1@0, 0@0.5")
    field.press("Tab")
    row(visit, "fog").locator(".em-curve-drawing").wait_for()
    sent = generate(visit, engine)["adapters"][0]
    assert sent["curve"] == {"points": [[0, 1], [0.5, 0]], "in_steps": False}


def test_families_matches_and_tags_of_the_prompt_are_told(visit):
    visit.field("Prompt").fill("a cat <lora:fog:0.5> <lora:nowhere:1>")
    add(visit, "large")
    row(visit, "large").locator(".em-adapter-warning", has_text="Trained for").wait_for()
    badge = row(visit, "large").get_by_role("button", name="Match: 2 of 2")
    badge.click()
    row(visit, "large").get_by_text("denoiser: 2 of 2 modules").wait_for()
    visit.page.locator(".em-tag-chip[data-found=yes]", has_text="fog").wait_for()
    visit.page.locator(".em-tag-chip[data-found=no]", has_text="nowhere").wait_for()
    fit = visit.page.locator(".em-fit")
    fit.filter(has_text="nowhere").wait_for()  # whether a job fits is asked with its LoRAs
    visit.field("Go on without missing LoRAs").check()
    fit.and_(visit.page.locator("[data-fit=yes]")).wait_for()
    visit.field("Add a LoRA").fill("pai")
    names = visit.page.locator(".em-pick-option .em-pick-name").filter(visible=True)
    assert names.all_inner_texts() == ["paint"]
    visit.field("Add a LoRA").press("Enter")
    assert order(visit) == ["large", "paint"]


def test_another_tab_adds_a_row_and_names_of_files_are_only_text(visit):
    visit.page.evaluate(
        """name => document.dispatchEvent(
             new CustomEvent("emulsion:add-adapter", { detail: { name, strength: 0.7 } }))""",
        HARMFUL,
    )
    visit.page.locator(".em-adapter").wait_for()
    assert order(visit) == [HARMFUL]
    assert visit.page.locator(".em-strength-number").first.input_value() == "0.7"
    assert visit.page.evaluate("window.harmed") is None
    assert visit.page.locator("img[src='x']").count() == 0


def test_the_merge_tab_takes_loras_by_block_and_plots_take_the_rows_of_the_form(visit):
    add(visit, "fog")
    visit.turn_to("Merge")
    merge = visit.page.locator("[data-part=added]")
    visit.page.locator("[data-part=bank] .em-block").first.wait_for()
    visit.field("Model A").select_option("tiny")
    visit.field("Model B").select_option("finisher")
    merge.get_by_label("Add a LoRA").click()
    merge.locator(".em-pick-option", has_text="paint").click()
    merge.get_by_role("button", name="Blocks", exact=True).click()
    merge.locator(".em-track").first.press("Home")
    visit.page.wait_for_function(
        """() => JSON.parse(localStorage["emulsion.merge"]).loras?.[0]?.adapter.weights?.overrides[0].value === 0"""
    )
    with visit.page.expect_request(lambda request: request.url.endswith("api/v1/jobs")) as asked:
        visit.press("Generate with this recipe")
    sent = asked.value.post_data_json
    assert [adapter["file"]["name"] for adapter in sent["adapters"]] == ["fog"]
    added = sent["recipe"]["root"]["adapters"][0]
    assert added["file"]["name"] == "paint"
    assert added["weights"]["overrides"] == [{"value": 0, "blocks": ["IN00"]}]
    visit.field("Values of X").fill("0, 1")
    with visit.page.expect_request(lambda request: request.url.endswith("api/v1/plots")) as plotted:
        visit.page.locator("[data-part=plots]").get_by_role("button", name="Plot", exact=True).click()
    assert [adapter["file"]["name"] for adapter in plotted.value.post_data_json["request"]["adapters"]] == ["fog"]
    visit.page.wait_for_function("document.querySelectorAll('.em-plot-grid img').length === 2")


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_rows_can_be_read_and_used_in_every_window(browser, served, width, scheme):
    visit = Visit(browser, served[1], width=width, height=844, scheme=scheme)
    visit.field("Checkpoint").click()
    visit.page.get_by_role("option", name="tiny").click()
    add(visit, "fog")
    add(visit, "large")
    row(visit, "fog").get_by_role("button", name="Text encoders as strong", exact=False).click()
    open_blocks(visit, "fog").get_by_role("button", name="Over the steps").click()
    row(visit, "large").locator(".em-match").filter(visible=True).wait_for()
    contrasts, overlapping = visit.page.evaluate(CONTRASTS), visit.page.evaluate(OVERLAPPING)
    scroll_width = visit.page.evaluate("document.documentElement.scrollWidth")
    nodes = visit.context.new_cdp_session(visit.page).send("Accessibility.getFullAXTree")["nodes"]
    visit.close()
    roles = {"button", "textbox", "combobox", "spinbutton", "checkbox", "switch", "slider"}
    controls = [node for node in nodes if node.get("role", {}).get("value") in roles and not node.get("ignored")]
    assert [text for ratio, text in contrasts if ratio < 4.5] == []
    assert overlapping == []
    assert scroll_width <= width
    assert [node["role"]["value"] for node in controls if not node.get("name", {}).get("value", "").strip()] == []
    assert visit.problems == []
