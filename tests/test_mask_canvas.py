"""The editor of pictures and masks in a real browser: what is painted is what arrives, pixel by pixel."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from backend.errors import RequestError
from tests.browser import chromium
from tests.canvas_page import Store, served_canvases
from ui.canvas_value import CanvasValue, read_canvas

WIDTH, HEIGHT = 96, 72
PATIENCE_MS = 60_000  # the machine may be very busy
HASH = "a" * 64
SCRIPTS = """() => performance.getEntriesByType("resource").map((entry) => entry.name)"""


class Served(NamedTuple):
    browser: Any
    store: Store
    url: str


class Canvas:
    """One visit of the page, with a picture on the first canvas."""

    def __init__(self, served: Served, side: tuple[int, int] = (WIDTH, HEIGHT), touch: bool = False) -> None:
        self.store, self.url = served.store, served.url
        self.store.is_broken = False
        self.context = served.browser.new_context(viewport={"width": 1280, "height": 900}, has_touch=touch)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(self.url)
        self.width, self.height = side
        self.root = self.page.locator("#canvas-inpaint .em-canvas")
        self.stage = self.root.locator(".em-canvas-stage")

    def open(self, data: bytes) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.root.get_by_role("button", name="Open a picture").last.click()
        chooser.value.set_files({"name": "picture.png", "mimeType": "image/png", "buffer": data})
        self.wait_for_picture()

    def wait_for_picture(self) -> None:
        self.page.locator("#canvas-inpaint .em-canvas[data-empty=no]").wait_for()
        self.page.locator("#canvas-inpaint .em-canvas-facts", has_text="masked").wait_for()

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()

    def set(self, label: str, value: float) -> None:
        field = self.root.get_by_label(label, exact=True)
        field.fill(str(value))
        field.press("Tab")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a place in the picture is in the window, while the picture fits the stage."""
        box = self.stage.bounding_box()
        scale = min((box["width"] - 24) / self.width, (box["height"] - 24) / self.height, 8)
        left = box["x"] + (box["width"] - self.width * scale) / 2
        top = box["y"] + (box["height"] - self.height * scale) / 2
        return left + x * scale, top + y * scale

    def drag(self, *points: tuple[float, float], button: str = "left") -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down(button=button)
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=3)
        self.page.mouse.up(button=button)

    def value(self) -> dict[str, Any]:
        """What Generate is clicked with at once, without waiting for the pause after a stroke."""
        before = len(self.store.generated)
        self.page.get_by_role("button", name="Generate").click()
        for _ in range(PATIENCE_MS // 20):
            if len(self.store.generated) > before:
                return json.loads(self.store.generated[-1])
            self.page.wait_for_timeout(20)
        raise AssertionError("Generate did nothing")

    def mask(self) -> NDArray[np.uint8]:
        picture = self.store.picture(self.value()["mask"])
        assert picture.mode == "L"
        return np.asarray(picture)

    def script(self, name: str) -> str:
        """The address of one of the page's scripts."""
        return next(url for url in self.page.evaluate(SCRIPTS) if url.endswith(f"/{name}"))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with chromium() as browser, served_canvases() as (store, url):
        yield Served(browser, store, url)


@pytest.fixture(scope="module")
def visit(served: Served) -> Iterator[Canvas]:
    canvas = Canvas(served)
    canvas.open(png(picture()))
    yield canvas
    canvas.context.close()


@pytest.fixture
def canvas(visit: Canvas) -> Canvas:
    """The picture anew, with a brush 9 pixels wide. What tests before did lies in the history."""
    visit.store.is_broken = False
    visit.page.get_by_role("tab", name="Inpaint").click()
    visit.press("Take the picture off")
    visit.open(png(picture()))
    visit.press("Mask")
    visit.press("Lasso (L)")
    visit.root.get_by_label("Erase", exact=True).uncheck()
    visit.press("Brush (B)")
    visit.set("Size", 9)
    visit.set("Hardness", 100)
    assert visit.problems == []
    return visit


def picture(width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([across % 256, down % 256, (across * down) % 256], axis=-1).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def near(start: tuple[float, float], end: tuple[float, float], radius: float, size: tuple[int, int]) -> NDArray[Any]:
    """Distance of each pixel's middle to a line at most `radius`: what a round, hard brush covers."""
    across, down = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    line = np.array(end) - np.array(start)
    along = ((across - start[0]) * line[0] + (down - start[1]) * line[1]) / max(line @ line, 1e-9)
    along = np.clip(along, 0, 1)
    return np.hypot(across - start[0] - along * line[0], down - start[1] - along * line[1]) <= radius


@pytest.mark.browser
@pytest.mark.slow
class TestInTheBrowser:
    def test_a_stroke_of_the_mouse_arrives_pixel_by_pixel_and_the_picture_byte_by_byte(self, canvas: Canvas) -> None:
        uploads = len(canvas.store.uploads)
        canvas.drag((20.5, 30.5), (60.5, 30.5), (60.5, 50.5))
        value = canvas.value()
        mask = np.asarray(canvas.store.picture(value["mask"]))
        expected = near((20.5, 30.5), (60.5, 30.5), 4.5, (96, 72)) | near((60.5, 30.5), (60.5, 50.5), 4.5, (96, 72))
        assert set(np.unique(mask)) == {0, 255}
        assert (mask[expected] == 255).all()
        # The mouse stands on pixels of the screen, so the edge may lie a fraction of a pixel further out.
        assert not mask[
            ~(near((20.5, 30.5), (60.5, 30.5), 5, (96, 72)) | near((60.5, 30.5), (60.5, 50.5), 5, (96, 72)))
        ].any()
        original = png(picture())
        assert canvas.store.files[value["picture"]] == original
        assert value["picture"] == hashlib.sha256(original).hexdigest()
        assert (value["width"], value["height"], value["borders"]) == (96, 72, None)
        canvas.drag((5, 5), (9, 5))
        later = canvas.value()
        assert later["picture"] == value["picture"]
        assert later["mask"] != value["mask"]
        assert canvas.store.uploads[uploads:].count(value["picture"]) <= 1  # once, however often the mask is stored

        canvas.press("Eraser (E)")
        canvas.drag((60.5, 30.5), (60.5, 50.5))
        erased = canvas.mask()
        assert not erased[near((60.5, 30.5), (60.5, 50.5), 4.5, (96, 72))].any()
        assert erased[30, 22:50].all()
        canvas.press("Brush (B)")
        canvas.drag((22, 30), (50, 30), button="right")
        assert not canvas.mask()[30, 22:50].any()

    def test_rectangles_are_typed_or_dragged_and_every_step_can_be_undone(self, canvas: Canvas) -> None:
        canvas.press("Rectangle (R)")
        for label, number in zip(("x", "y", "width", "height"), (10, 20, 30, 15), strict=True):
            canvas.set(f"Rectangle {label}", number)
        canvas.press("Apply")
        typed = np.zeros((72, 96), np.uint8)
        typed[20:35, 10:40] = 255
        assert (canvas.mask() == typed).all()
        canvas.drag((50, 5), (70, 12))
        dragged = typed.copy()
        dragged[5:12, 50:70] = 255
        assert (canvas.mask() == dragged).all()
        canvas.press("Invert")
        assert (canvas.mask() == 255 - dragged).all()
        canvas.stage.press("Control+z")
        canvas.stage.press("Control+z")
        assert (canvas.mask() == typed).all()
        canvas.stage.press("Control+Shift+Z")
        assert (canvas.mask() == dragged).all()
        canvas.stage.press("Control+z")
        canvas.stage.press("Control+z")
        assert canvas.value()["mask"] is None
        canvas.stage.press("Control+y")
        assert (canvas.mask() == typed).all()

    def test_a_lasso_takes_what_it_surrounds_and_after_x_takes_it_away(self, canvas: Canvas) -> None:
        canvas.press("Lasso (L)")
        canvas.drag((10, 10), (80, 10), (80, 60), (10, 60))
        mask = canvas.mask()
        assert set(np.unique(mask)) == {0, 255}
        assert mask[12:58, 12:78].all()
        assert not mask[:9].any()
        assert not mask[:, 82:].any()
        canvas.stage.press("x")
        canvas.drag((30, 20), (60, 20), (60, 40), (30, 40))
        assert not canvas.mask()[22:38, 32:58].any()

    def test_what_is_on_the_canvas_survives_another_tab_and_a_reload(self, canvas: Canvas) -> None:
        canvas.drag((20, 20), (70, 50))
        before = canvas.mask()
        canvas.page.get_by_role("tab", name="Sketch").click()
        canvas.page.locator("#canvas-sketch .em-canvas").wait_for()
        canvas.page.get_by_role("tab", name="Inpaint").click()
        canvas.stage.wait_for()
        canvas.drag((20, 60), (21, 60))
        after = canvas.mask()
        assert (after >= before).all()
        assert after[60, 20] == 255
        uploads = len(canvas.store.uploads)
        canvas.page.reload()
        canvas.wait_for_picture()
        assert (canvas.mask() == after).all()
        assert len(canvas.store.uploads) == uploads

    def test_the_keyboard_alone_paints_a_mask(self, canvas: Canvas) -> None:
        canvas.set("Size", 3)
        canvas.stage.focus()
        for _ in range(3):
            canvas.stage.press("Shift+ArrowRight")
        canvas.stage.press(" ")
        mask = canvas.mask()
        x, y = 48 + 3, 36
        assert mask[y - 1 : y + 2, x - 1 : x + 2].all()
        assert mask.astype(bool).sum() == 9
        canvas.stage.press("r")
        canvas.stage.press("Enter")
        for key in ["Shift+ArrowRight"] * 7 + ["Shift+ArrowDown"] * 4:
            canvas.stage.press(key)
        canvas.stage.press("Enter")
        expected = mask.copy()
        expected[y : y + 5, x : x + 8] = 255
        assert (canvas.mask() == expected).all()
        for key in ["Enter", *["Shift+ArrowLeft"] * 9, *["Shift+ArrowUp"] * 6, "Enter"]:
            canvas.stage.press(key)
        expected[y - 2 : y + 5, x - 2 : x + 8] = 255
        assert (canvas.mask() == expected).all()
        assert canvas.root.get_by_role("status").inner_text() == "Rectangle: done."

    def test_keys_and_the_wheel_change_size_hardness_and_scale(self, canvas: Canvas) -> None:
        size, hardness = (canvas.root.get_by_label(label, exact=True) for label in ("Size", "Hardness"))
        scale = canvas.root.locator(".em-canvas-scale")
        canvas.stage.press("]")
        assert size.input_value() == "10"
        canvas.stage.press("{")
        assert hardness.input_value() == "90"
        canvas.page.mouse.move(*canvas.at(48, 36))
        canvas.page.keyboard.down("Alt")
        canvas.page.mouse.wheel(0, -100)
        canvas.page.keyboard.up("Alt")
        canvas.page.wait_for_function("document.querySelector('[aria-label=Size]').value === '11'")
        assert scale.inner_text() != "100 %"
        canvas.stage.press("1")
        assert scale.inner_text() == "100 %"
        canvas.page.mouse.wheel(0, -200)
        canvas.page.wait_for_function("document.querySelector('.em-canvas-scale').textContent !== '100 %'")
        canvas.stage.press("0")
        canvas.drag((48.5, 36.5), (48.5, 36.5))
        mask = canvas.mask()
        assert mask[36, 48] == 255  # where the mouse was, whatever the scale had been
        assert len(np.unique(mask)) > 2  # a soft edge

    def test_a_mask_grows_shrinks_and_gets_soft_by_pixels(self, canvas: Canvas) -> None:
        canvas.press("Rectangle (R)")
        for label, number in zip(("x", "y", "width", "height"), (30, 20, 24, 20), strict=True):
            canvas.set(f"Rectangle {label}", number)
        canvas.press("Apply")
        before = canvas.mask()
        canvas.set("Pixels to grow, shrink or feather by", 5)
        canvas.press("Grow")
        grown = canvas.mask()
        rows, columns = np.nonzero(grown)
        assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (25, 59, 15, 45)
        assert grown[15, 25] == 0  # corners are cut
        assert set(np.unique(grown)) == {0, 255}
        canvas.press("Shrink")
        assert (canvas.mask() == before).all()
        canvas.press("Feather")
        soft = canvas.mask().astype(int)
        assert (np.diff(soft[30, 20:42]) >= 0).all()
        assert soft[30, 24] == 0
        assert soft[30, 35] == 255
        assert 100 < soft[30, 29] < 155

    def test_a_stroke_on_a_picture_of_4096_pixels_arrives_as_it_was_painted(self, served: Served) -> None:
        canvas = Canvas(served, (4096, 4096))
        canvas.open(png(np.full((4096, 4096, 3), 90, np.uint8)))
        canvas.set("Size", 300)
        canvas.set("Hardness", 60)
        canvas.drag((500, 500), (3500, 900), (700, 3300))
        painted = canvas.page.evaluate(
            """async (script) => {
                 const { data } = (await import(script)).canvasOf("canvas-inpaint").document.content.mask;
                 const digest = await crypto.subtle.digest("SHA-256", data);
                 return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
               }""",
            canvas.script("mask_canvas.js"),
        )
        mask = canvas.mask()
        assert mask.shape == (4096, 4096)
        assert mask[500, 500] == mask[900, 3500] == 255
        assert hashlib.sha256(mask.tobytes()).hexdigest() == painted
        canvas.context.close()

    def test_colours_become_a_new_picture_which_is_the_old_one_where_nothing_is_painted(self, canvas: Canvas) -> None:
        canvas.press("Colours")
        canvas.root.get_by_label("Colour", exact=True).fill("#2040ff")
        canvas.drag((30.5, 30.5), (60.5, 30.5))
        value = canvas.value()
        made = np.asarray(canvas.store.picture(value["picture"]))
        painted = (made != picture()).any(axis=-1)
        assert (made[painted] == (0x20, 0x40, 0xFF)).all()
        assert painted[30, 30:60].all()
        assert not painted[:24].any()
        assert not painted[38:].any()
        assert value["mask"] is None
        assert canvas.store.files[value["base"]] == png(picture())
        canvas.page.reload()
        canvas.wait_for_picture()
        assert canvas.value() == value
        canvas.press("Colours")
        canvas.press("Clear colours")
        assert canvas.value()["picture"] == value["base"]

    def test_borders_are_dragged_out_of_the_edges_or_typed(self, canvas: Canvas) -> None:
        edge = canvas.root.get_by_role("slider", name="New border: right")
        x, y = canvas.at(WIDTH, HEIGHT / 2)
        canvas.page.mouse.move(x, y)
        canvas.page.mouse.down()
        canvas.page.mouse.move(canvas.at(WIDTH + 17, 0)[0], y, steps=3)
        canvas.page.mouse.up()
        assert edge.get_attribute("aria-valuenow") == "16"
        canvas.set("New border top", 24)
        canvas.root.get_by_role("slider", name="New border: left").press("ArrowLeft")
        assert canvas.value()["borders"] == {"left": 8, "top": 24, "right": 16, "bottom": 0}
        canvas.stage.press("Control+z")
        assert canvas.value()["borders"] == {"left": 0, "top": 24, "right": 16, "bottom": 0}
        canvas.page.reload()
        canvas.wait_for_picture()
        assert canvas.value()["borders"] == {"left": 0, "top": 24, "right": 16, "bottom": 0}
        canvas.press("No new borders")
        assert canvas.value()["borders"] is None

    def test_a_mask_is_loaded_at_the_size_of_the_picture_and_saved_as_it_is(self, canvas: Canvas) -> None:
        half = np.zeros((36, 48), np.uint8)
        half[:, 24:] = 255
        with canvas.page.expect_file_chooser() as chooser:
            canvas.press("Load mask")
        chooser.value.set_files({"name": "half.png", "mimeType": "image/png", "buffer": png(half)})
        canvas.page.locator(".em-spoken", has_text="brought to the picture's size").wait_for(state="attached")
        expected = np.kron(half, np.ones((2, 2), np.uint8))
        assert (canvas.mask() == expected).all()
        with canvas.page.expect_download() as download:
            canvas.press("Save mask")
        assert (np.asarray(Image.open(download.value.path())) == expected).all()

    def test_pictures_are_pasted_dropped_and_sent_and_the_last_one_can_be_brought_back(self, canvas: Canvas) -> None:
        other = png(picture(40, 56))
        for kind, target in (("drop", ".em-canvas-stage"), ("paste", "body")):
            canvas.page.evaluate(
                """([bytes, kind, target]) => {
                     const data = new DataTransfer();
                     data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
                     const given = { bubbles: true, cancelable: true };
                     const event =
                       kind === "drop"
                         ? new DragEvent(kind, { ...given, dataTransfer: data })
                         : new ClipboardEvent(kind, { ...given, clipboardData: data });
                     document.querySelector(target).dispatchEvent(event);
                   }""",
                [list(other), kind, target],
            )
            canvas.page.locator("#canvas-inpaint .em-canvas-facts", has_text="40 × 56").wait_for()
            assert canvas.value()["picture"] == hashlib.sha256(other).hexdigest()
            canvas.press("Undo (Ctrl+Z)")
            canvas.page.locator("#canvas-inpaint .em-canvas-facts", has_text="96 × 72").wait_for()
        sent = CanvasValue(picture=hashlib.sha256(other).hexdigest(), borders=(8, 0, 0, 0)).text()
        canvas.page.get_by_label("Fill with").fill(sent)
        canvas.page.get_by_label("Fill with").press("Enter")
        canvas.page.locator("#canvas-inpaint .em-canvas-facts", has_text="40 × 56").wait_for()
        value = canvas.value()
        assert read_canvas("canvas", json.dumps(value)) == CanvasValue(
            picture=hashlib.sha256(other).hexdigest(), width=40, height=56, borders=(8, 0, 0, 0)
        )
        canvas.page.evaluate(
            "async ([script, value]) => (await import(script)).setCanvas('canvas-sketch', value)",
            [canvas.script("mask_canvas.js"), {"picture": value["picture"]}],
        )
        canvas.page.get_by_role("tab", name="Sketch").click()
        canvas.page.locator("#canvas-sketch .em-canvas-facts", has_text="40 × 56").wait_for()
        # Gradio says the "" of the beginning again; it takes nothing off.
        canvas.page.wait_for_timeout(300)
        assert canvas.page.locator("#canvas-sketch .em-canvas[data-empty=no]").is_visible()

    def test_undo_forgets_the_oldest_steps_rather_than_more_memory_than_it_may_have(self, canvas: Canvas) -> None:
        kept = canvas.page.evaluate(
            """async ([history, layers]) => {
                 const { makeHistory } = await import(history);
                 const { makeLayer, whole } = await import(layers);
                 const layer = makeLayer(600, 300, 1);
                 const steps = makeHistory({ maxBytes: 600 * 300 * 2.5, maxSteps: 50 });
                 for (let step = 1; step <= 4; step++) {
                   const change = steps.record(layer);
                   change.touch(whole(layer));
                   layer.data.forEach((_, at) => (layer.data[at] = (at * step) % 251));
                   change.commit("Step");
                 }
                 const bytes = steps.bytes();
                 let count = 0;
                 while (steps.undo()) count++;
                 const isSecond = layer.data.every((value, at) => value === (at * 2) % 251);
                 while (steps.redo());
                 return [bytes, count, isSecond, layer.data.every((value, at) => value === (at * 4) % 251)];
               }""",
            [canvas.script("mask_history.js"), canvas.script("mask_layer.js")],
        )
        assert kept == [2 * 600 * 300, 2, True, True]

    def test_nothing_is_generated_with_a_mask_that_could_not_be_stored(self, canvas: Canvas) -> None:
        canvas.value()
        before = len(canvas.store.generated)
        canvas.store.is_broken = True
        canvas.press("Fill")
        canvas.page.get_by_role("button", name="Generate").click()
        canvas.page.locator(".em-note", has_text="the disk is full").first.wait_for()
        assert len(canvas.store.generated) == before
        canvas.store.is_broken = False
        assert (canvas.mask() == 255).all()

    def test_fingers_paint_and_two_of_them_move_and_zoom(self, served: Served) -> None:
        canvas = Canvas(served, touch=True)
        canvas.open(png(picture()))
        canvas.set("Size", 9)
        devtools = canvas.context.new_cdp_session(canvas.page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            places = [dict(zip("xy", canvas.at(*point), strict=True), id=at) for at, point in enumerate(points)]
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

        scale = canvas.root.locator(".em-canvas-scale")
        fitted = scale.inner_text()
        touch("touchStart", (30, 30))
        touch("touchStart", (30, 30), (50, 30))
        touch("touchMove", (20, 30), (60, 30))
        touch("touchEnd")
        assert float(scale.inner_text().split()[0]) > 1.5 * float(fitted.split()[0])
        canvas.stage.press("0")
        touch("touchStart", (30.5, 30.5))
        touch("touchMove", (50.5, 30.5))
        touch("touchEnd")
        mask = canvas.mask()
        assert mask[30, 31:50].all()
        assert not mask[:24].any()
        assert not mask[37:].any()
        canvas.context.close()

    def test_every_control_has_a_name_and_tab_stays_in_an_editor_that_fills_the_window(self, canvas: Canvas) -> None:
        canvas.press("Rectangle (R)")
        nameless = canvas.root.evaluate(
            """(root) => [...root.querySelectorAll("button, input, [tabindex]")]
                 .filter((one) => !one.ariaHidden && !one.ariaLabel && !one.innerText && !one.labels?.[0]?.innerText)
                 .map((one) => one.outerHTML)"""
        )
        assert nameless == []
        canvas.press("Fill the window")
        box = canvas.root.bounding_box()
        assert (box["x"], box["y"], box["width"], box["height"]) == (0, 0, 1280, 900)
        canvas.root.get_by_role("button", name="Open a picture").first.focus()
        canvas.page.keyboard.press("Shift+Tab")
        assert canvas.root.evaluate("(root) => root.contains(document.activeElement)")
        canvas.page.keyboard.press("Tab")
        assert canvas.page.evaluate("document.activeElement.ariaLabel") == "Open a picture"
        canvas.stage.press("Escape")
        assert canvas.root.bounding_box()["width"] < 1280


class TestTheValue:
    def test_it_is_read_as_it_was_written(self) -> None:
        value = CanvasValue(picture=HASH, mask="b" * 64, width=64, height=32, borders=(8, 0, 0, 16))
        assert read_canvas("canvas", value.text()) == value
        assert read_canvas("canvas", "") == CanvasValue() == read_canvas("canvas", None)
        assert CanvasValue().text() == ""

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("{", "canvas"),
            ("[]", "canvas"),
            ('{"picture": "/etc/passwd"}', "canvas.picture"),
            (json.dumps({"picture": HASH, "mask": 3}), "canvas.mask"),
            (json.dumps({"picture": HASH, "borders": {"left": -8}}), "canvas.borders.left"),
            (json.dumps({"picture": HASH, "borders": [1]}), "canvas.borders"),
            (json.dumps({"picture": HASH, "width": "wide"}), "canvas.width"),
        ],
    )
    def test_what_no_canvas_would_say_is_refused_by_name(self, text: str, told: str) -> None:
        with pytest.raises(RequestError) as caught:
            read_canvas("canvas", text)
        assert caught.value.field == told
