"""img2img and inpaint in a real browser: pictures go in, masks are painted, and what was asked for comes out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.init_image import InitImage
from backend.request import GenerationRequest
from backend.second_pass import HiresFix, Rectangle
from tests.browser import Visit
from tests.test_browser import CONTRASTS, OVERLAPPING

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OUTSIDE = """() => [...document.querySelectorAll("button, input, textarea, .em-card, .em-results")]
  .filter((e) => e.checkVisibility() && !e.closest(".visually-hidden, .em-strip"))
  .filter((e) => e.getBoundingClientRect().left < 0 || e.getBoundingClientRect().right > innerWidth + 0.5)
  .map((e) => e.outerHTML.slice(0, 80))"""


@pytest.fixture
def visit(browser: Any, served: tuple[Engine, str]) -> Iterator[Visit]:
    """A visit in which nothing may go wrong, whatever the test looks at."""
    visit = Visit(browser, served[1])
    yield visit
    visit.close()
    assert visit.problems == []


def test_a_mask_that_is_painted_with_the_mouse_changes_its_part_and_nothing_else(visit, engine):
    before = _made(engine, seed=31)
    visit.page.locator(".em-infotext", has_text="Seed: 31").wait_for()
    visit.press("To inpaint")
    form = _form(visit, "inpaint")
    _wait_for_canvas(visit, "inpaint")
    form.get_by_label("Mask blur", exact=True).fill("0")
    form.get_by_label("Steps", exact=True).fill("2")
    form.get_by_label("Seed", exact=True).fill("7")
    _paint(visit)
    done = _after(visit, engine, lambda: _generate(form))  # at once: the stroke is not stored yet
    init = done.request.init
    assert init is not None
    assert init.mask is not None
    mask = np.asarray(engine.pictures.open(init.mask.picture).convert("L"))
    was, now = (np.asarray(Image.open(job.images[0].path)) for job in (before, done))
    assert 0 < np.count_nonzero(mask) < mask.size
    assert np.array_equal(was[mask == 0], now[mask == 0])
    assert not np.array_equal(was[mask > 0], now[mask > 0])

    again = _after(visit, engine, lambda: visit.press("Make again"))
    assert again.request == done.request
    assert again.images[0].path.read_bytes() == done.images[0].path.read_bytes()

    form.get_by_label("Mask blur", exact=True).fill("9")  # something else, in the meantime
    visit.turn_to("txt2img")
    visit.press("Use settings")
    form.wait_for()  # the tab opens by itself
    visit.page.wait_for_function("document.querySelector('#field-inpaint-init-mask-blur').value === '0'")
    restored = _after(visit, engine, lambda: _generate(form))
    assert restored.request.init == init
    assert restored.images[0].path.read_bytes() == done.images[0].path.read_bytes()


def test_a_picture_comes_in_by_dragging_between_tabs_by_pasting_and_by_dropping(visit, engine):
    _made(engine, seed=41, width=72)
    thumbnail = visit.page.get_by_role("option", name="Seed 41: a cat")
    thumbnail.wait_for()
    address = visit.page.evaluate(
        """async () => {
             const data = new DataTransfer();
             const event = (name) => new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true });
             document.querySelector(".em-thumbnail").dispatchEvent(event("dragstart"));
             document.querySelector("[role=tab][data-tab-id=img2img]").dispatchEvent(event("dragover"));
             return data.getData("text/uri-list");
           }"""
    )
    assert "outputs/" in address
    form = _form(visit, "img2img")  # the tab opens by itself
    visit.page.evaluate(
        """(address) => {
             const data = new DataTransfer();
             data.setData("text/uri-list", address);
             const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
             document.querySelector("#em-form-img2img .em-canvas").dispatchEvent(drop);
           }""",
        address,
    )
    _wait_for_canvas(visit, "img2img")
    visit.page.wait_for_function("document.querySelector('#field-img2img-width').placeholder === '72'")
    form.get_by_role("button", name="× 2", exact=True).click()
    visit.page.wait_for_function("document.querySelector('#field-img2img-width').value === '144'")
    form.get_by_role("button", name="Picture", exact=True).click()
    visit.page.wait_for_function("document.querySelector('#field-img2img-width').value === ''")
    assert visit.page.locator("#field-img2img-width").get_attribute("placeholder") == "72"

    form.get_by_label("Prompt", exact=True).focus()
    _give(visit, "paste", "#em-form-img2img .em-prompt textarea", _png(96))
    visit.page.wait_for_function("document.querySelector('#field-img2img-width').placeholder === '96'")
    _give(visit, "drop", "#em-form-img2img .em-columns, #em-form-img2img", _png(80))
    visit.page.wait_for_function("document.querySelector('#field-img2img-width').placeholder === '80'")

    form.locator(".em-fit[data-fit=yes]").wait_for()
    form.get_by_label("Denoising strength", exact=True).fill("0.5")
    form.get_by_label("Steps", exact=True).fill("2")
    init = _after(visit, engine, lambda: _generate(form)).request.init
    assert init == InitImage(picture=init.picture, denoising_strength=0.5)
    assert engine.pictures.open(init.picture).size == (80, 64)
    visit.page.reload()
    visit.wait_until_ready(visit.page)
    visit.turn_to("img2img")
    _wait_for_canvas(visit, "img2img")
    assert form.get_by_label("Denoising strength", exact=True).input_value() == "0.5"
    assert visit.field("Steps").first.input_value() == ""  # each tab has its own


def test_the_forms_say_what_is_missing(visit):
    visit.turn_to("inpaint")
    _generate(_form(visit, "inpaint"))
    visit.page.locator(".em-note", has_text="no picture to begin with").wait_for()


def test_a_picture_is_made_again_in_high_resolution_and_compared_with_the_first(visit, engine):
    _made(engine, seed=51)
    visit.page.locator(".em-infotext", has_text="Seed: 51").wait_for()
    visit.page.get_by_role("button", name="Hires fix").click()
    visit.field("Hires scale").fill("1.5")
    visit.field("Hires steps").fill("1")
    visit.press("Hires this picture")
    visit.page.locator(".em-infotext", has_text="Hires upscale: 1.5").wait_for()
    job = engine.jobs()[-1]
    assert job.request.hires == HiresFix(scale=1.5, steps=1)
    assert job.request.seed == 51
    assert Image.open(job.images[0].path).size == (96, 96)

    visit.press("Compare")
    visit.page.get_by_role("option", name="Seed 51: a cat").last.click()
    line = visit.page.get_by_label("Divider between the two pictures")
    line.wait_for()
    over = visit.page.locator("dialog .em-over")
    assert "50%" in over.evaluate("image => getComputedStyle(image).clipPath")
    line.press("ArrowRight")
    assert "49.5%" in over.evaluate("image => getComputedStyle(image).clipPath")
    visit.page.keyboard.press("Escape")
    visit.page.locator("dialog").wait_for(state="detached")


def test_regions_are_drawn_on_the_picture_and_made_again(visit, engine):
    _made(engine, seed=61)
    visit.page.locator(".em-infotext", has_text="Seed: 61").wait_for()
    visit.page.get_by_role("button", name="Details").click()
    visit.press("Add a pass")
    visit.press("Draw on the picture")
    box = visit.page.locator(".em-region-stage").bounding_box()
    _drag(visit, box, (0.25, 0.25), (0.75, 0.5))
    visit.press("Done")
    typed = visit.field("Rectangles of pass 1")
    assert typed.input_value() == "16, 16, 32, 16"
    typed.fill("16, 16, 32, 24")
    visit.field("Prompt").fill("a cat")
    visit.field("Steps").fill("1")
    job = _after(visit, engine, lambda: _generate(visit.page))
    assert [one.rectangles for one in job.request.detailers] == [(Rectangle(x=16, y=16, width=32, height=24),)]


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (800, "dark")])
def test_nothing_lies_over_one_another_or_outside_of_the_window(browser, served, engine, width, scheme):
    picture = engine.pictures.add(_png(64)).sha256
    visit = Visit(browser, served[1], width=width, height=900, scheme=scheme)
    for tab in ("img2img", "inpaint"):
        visit.page.evaluate("([id, text]) => (localStorage[id] = text)",
                            [f"emulsion.canvas.canvas-{tab}", f'{{"picture": "{picture}"}}'])  # fmt: skip
        visit.turn_to(tab)
        form = _form(visit, tab)
        _wait_for_canvas(visit, tab)
        for box in ("Hires fix", "Tiled diffusion", "Details"):
            form.get_by_role("button", name=box).first.click()
        form.get_by_role("button", name="Add a pass").click()
        assert visit.page.evaluate(OUTSIDE) == []
        assert visit.page.evaluate(OVERLAPPING) == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert [text for ratio, text in visit.page.evaluate(CONTRASTS) if ratio < 4.5] == []
    visit.close()
    assert visit.problems == []


def _made(engine: Engine, **values: Any) -> JobView:
    job = engine.wait(engine.submit(GenerationRequest(prompt="a cat", steps=1, **values)))
    assert job.state is JobState.DONE
    return job


def _form(visit: Visit, name: str) -> Any:
    form = visit.page.locator(f"#em-form-{name}[data-state=open]")
    form.wait_for()
    return form


def _wait_for_canvas(visit: Visit, name: str) -> None:
    visit.page.wait_for_function(f"localStorage['emulsion.canvas.canvas-{name}']?.includes('width')")
    visit.page.locator(f"#em-form-{name} .em-factors .em-shape").first.wait_for()


def _generate(form: Any) -> None:
    form.get_by_role("button", name="Generate", exact=True).click()


def _after(visit: Visit, engine: Engine, act: Callable[[], None]) -> JobView:
    """The job that `act` puts into the queue, once it is done and its picture is on the page."""
    before = len(engine.jobs())
    act()
    while len(engine.jobs()) == before:
        visit.page.wait_for_timeout(50)
        assert visit.page.locator(".em-note-problem").all_inner_texts() == []
    job = engine.wait(engine.jobs()[-1].id, 60)
    assert job.state is JobState.DONE, job.error
    visit.page.locator(f".em-thumbnail img[src*='{job.images[0].path.stem}']").first.wait_for(state="attached")
    return job


def _paint(visit: Visit) -> None:
    """A stroke across the middle of the canvas."""
    size = visit.page.locator("#em-form-inpaint .em-canvas").get_by_label("Size", exact=True).first
    size.fill("12")
    size.press("Tab")
    box = visit.page.locator("#em-form-inpaint .em-canvas-stage").bounding_box()
    _drag(visit, box, (0.4, 0.3), (0.6, 0.3))


def _drag(visit: Visit, box: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (start, end)]
    visit.page.mouse.move(*points[0])
    visit.page.mouse.down()
    visit.page.mouse.move(*points[1], steps=4)
    visit.page.mouse.up()


def _give(visit: Visit, how: str, target: str, png: bytes) -> None:
    """Drop or paste a picture."""
    visit.page.evaluate(
        """([how, target, bytes]) => {
             const data = new DataTransfer();
             data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
             const given = { bubbles: true, cancelable: true };
             document.querySelector(target).dispatchEvent(how === "drop"
               ? new DragEvent("drop", { dataTransfer: data, ...given })
               : new ClipboardEvent("paste", { clipboardData: data, ...given }));
           }""",
        [how, target, list(png)],
    )


def _png(width: int) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 255, (64, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
