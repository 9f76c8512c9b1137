"""The Extras tab in a real browser: pictures go in, larger ones come out, and what pictures say is read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.upscale_request import UpscaleRequest
from backend.request import GenerationRequest
from backend.second_pass import HiresFix
from tests.browser import SINK, Visit, served_page
from tests.test_browser import CONTRASTS, OVERLAPPING
from tests.test_img2img_page import OUTSIDE

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PANEL = ".em-extras[data-state=open]"
# Events that carry files: [how, [[name, bytes], ...]]
GIVE = """([how, files]) => {
  const data = new DataTransfer();
  for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  const given = { bubbles: true, cancelable: true };
  document.querySelector(".em-extras").dispatchEvent(how === "drop"
    ? new DragEvent("drop", { dataTransfer: data, ...given })
    : new ClipboardEvent("paste", { clipboardData: data, ...given }));
}"""


@pytest.fixture(scope="module")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    root = tmp_path_factory.mktemp("extras")
    with served_page(root) as served:
        upscalers = served[0].settings.upscaler_dirs[0]
        upscalers.mkdir(parents=True, exist_ok=True)
        (upscalers / "torn.safetensors").write_text("<html>404</html>")
        yield served


@pytest.fixture
def visit(browser: Any, served: tuple[Engine, str]) -> Iterator[Visit]:
    """The tab. Nothing may go wrong in it but what the server refuses."""
    visit = Visit(browser, served[1])
    visit.turn_to("Extras")
    visit.page.locator(PANEL).wait_for()
    yield visit
    visit.close()
    assert [text for text in visit.problems if "api/v1/pictures" not in text] == []


def test_pictures_are_made_larger_and_broken_files_are_told_one_by_one(visit, engine):
    files = [("a.png", _png(40, 24)), ("cut.png", _png(64, 64)[:200]), ("b.png", _png(24, 40)), (f"{SINK}.png", b"")]
    _give(visit, "drop", files)
    visit.field("a.png, 40 × 24").wait_for()
    visit.field("b.png, 24 × 40").wait_for()
    told = visit.page.locator(f"{PANEL} .em-extras-problem")
    told.nth(1).wait_for()
    assert ["cut.png" in told.nth(0).inner_text(), SINK[:10] in told.nth(1).inner_text()] == [True, True]
    visit.field("Upscaler 1").select_option("lanczos")
    assert visit.field("Factor").input_value() == "2"
    assert visit.page.locator(".em-extras-after").all_inner_texts() == ["→ 80 × 48", "→ 48 × 80"]
    job = _upscaled(visit, engine)
    assert [_size(image.path) for image in job.images] == [(80, 48), (48, 80)]
    assert [job.request.upscaler, job.request.scale] == ["lanczos", 2]
    assert visit.page.evaluate("window.harmed ?? null") is None

    visit.press("Before and after")
    before, after = visit.page.locator("dialog .em-over"), visit.page.locator("dialog img:not(.em-over)")
    assert job.request.pictures[1] in before.get_attribute("src")
    assert job.images[1].path.name in after.get_attribute("src")
    visit.page.keyboard.press("Escape")


def test_what_was_chosen_survives_a_reload_and_two_upscalers_are_mixed(visit, engine):
    _give(visit, "paste", [("c.png", _png(32, 32))])
    visit.field("c.png, 32 × 32").wait_for()
    visit.press("To a size")
    _side(visit, "Width").fill("48")
    _side(visit, "Height").fill("")
    assert visit.page.locator(".em-extras-after").inner_text() == "→ 48 × 48"
    _side(visit, "Height").fill("24")
    assert visit.page.locator(".em-extras-after").inner_text() == "→ 48 × 24"
    visit.field("Upscaler 1").select_option("nearest")
    visit.field("Upscaler 2").select_option("bicubic")
    visit.field("Visibility of upscaler 2").fill("0.25")
    visit.page.reload()
    visit.wait_until_ready(visit.page)
    visit.turn_to("Extras")
    visit.field("c.png, 32 × 32").wait_for()
    visit.page.locator("option[value=bicubic]:checked").wait_for(state="attached")
    job = _upscaled(visit, engine)
    assert job.request == UpscaleRequest(
        pictures=job.request.pictures,
        width=48,
        height=24,
        upscaler="nearest",
        second_upscaler="bicubic",
        second_visibility=0.25,
    )
    assert _size(job.images[0].path) == (48, 24)
    visit.press("Remove c.png")
    visit.page.get_by_text("Drop or paste pictures here").wait_for()


def test_a_file_that_is_no_upscaler_is_named_and_cannot_be_chosen(visit):
    visit.page.get_by_text("1 file cannot be used").click()
    assert "torn.safetensors" in visit.page.locator(".em-extras-problems li").inner_text()
    torn = visit.page.locator("option[value=torn]").first
    assert torn.is_disabled()
    visit.press("Look for new upscalers")
    visit.page.locator(".em-note", has_text="1 network").wait_for()


def test_a_result_comes_here_and_says_how_it_was_made(visit, engine):
    made = engine.wait(engine.submit(GenerationRequest(prompt="a cat", steps=1, seed=2**53 + 1)))
    visit.page.locator(".em-infotext", has_text=f"Seed: {2**53 + 1}").wait_for()
    visit.press("To extras")
    name = made.images[0].path.name
    visit.field(f"Infotext of {name}").wait_for()
    assert visit.field(f"Infotext of {name}").inner_text() == made.images[0].infotext
    visit.page.get_by_text("Exact request (JSON)").click()
    shown = visit.field("Exact request (JSON)").inner_text()
    assert json.loads(shown)["request"]["seed"] == 2**53 + 1
    assert len(shown.splitlines()) > 10

    visit.press("Settings to txt2img")
    visit.page.wait_for_function("document.querySelector('#field-steps').value === '1'")
    assert visit.page.locator("#em-form-txt2img").is_visible()
    visit.turn_to("Extras")
    visit.press("Picture to inpaint")
    visit.page.locator("#em-form-inpaint[data-state=open] .em-factors .em-shape").first.wait_for()
    stored = json.loads(visit.page.evaluate("localStorage['emulsion.canvas.canvas-inpaint']"))["picture"]
    assert engine.pictures.data(stored) == made.images[0].path.read_bytes()


def test_a_picture_of_the_hires_fix_is_compared_with_what_it_was_before(visit, engine):
    made = engine.wait(engine.submit(GenerationRequest(prompt="a cat", steps=1, seed=77, hires=HiresFix(steps=1))))
    visit.page.locator(".em-infotext", has_text="Seed: 77").wait_for()
    visit.press("Before and after")
    assert made.images[0].before_hires.name in visit.page.locator("dialog .em-over").get_attribute("src")
    visit.page.wait_for_function("document.querySelector('dialog .em-over').naturalWidth === 64")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (800, "dark"), (1440, "light")])
def test_everything_fits_and_can_be_read(browser, served, width, scheme):
    visit = Visit(browser, served[1], width=width, scheme=scheme)
    visit.turn_to("Extras")
    visit.page.locator(PANEL).wait_for()
    for files in ([], [("a picture with quite a long name.png", _png(40, 24)), ("torn.png", b"no picture")]):
        if files:
            _give(visit, "drop", files)
            visit.page.locator(".em-extras-problem").wait_for()
            visit.field("Upscaler 2").select_option("bicubic")
            visit.press("To a size")
        assert visit.page.evaluate(OUTSIDE) == []
        overlapping = visit.page.evaluate(OVERLAPPING)
        assert [text for text in overlapping if "em-extras-show" not in text] == []  # whose corner has its "Remove"
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert [text for ratio, text in visit.page.evaluate(CONTRASTS) if ratio < 4.5] == []
    visit.close()


def _side(visit: Visit, label: str) -> Any:
    return visit.page.locator(PANEL).get_by_label(label, exact=True)


def _give(visit: Visit, how: str, files: list[tuple[str, bytes]]) -> None:
    visit.page.evaluate(GIVE, [how, [[name, list(data)] for name, data in files]])


def _upscaled(visit: Visit, engine: Engine) -> JobView:
    """The job that the button puts into the queue, once it is done and its last picture is on the page."""
    before = len(engine.jobs())
    visit.page.locator(f"{PANEL} .em-extras-start").click()
    while len(engine.jobs()) == before:
        visit.page.wait_for_timeout(50)
    job = engine.wait(engine.jobs()[-1].id, 60)
    assert job.state is JobState.DONE, job.error
    visit.page.locator(f".em-picture[src*='{job.images[-1].path.stem}']").wait_for(state="attached")
    return job


def _size(path: Any) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _png(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
