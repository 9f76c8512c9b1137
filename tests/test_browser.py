"""The page in a real browser: from a click to a saved picture, and everything that must not happen meanwhile."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.errors import UnknownPicture
from backend.images.png_text import read_png_text
from backend.request import GenerationRequest
from tests.browser import PATIENCE_MS, SINK, Visit, server_with_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

INFOTEXT = (
    "a dog\nNegative prompt: fog\nSteps: 6, Sampler: Euler, Schedule type: Karras, CFG scale: 3, Seed: 12, Size: 96x64"
)
NAME_IN_FOCUS = "document.activeElement.ariaLabel || document.activeElement.innerText || ''"
# Controls and texts of the form that lie on one another, or that are too narrow to be used.
OVERLAPPING = """() => {
  const all = [...document.querySelectorAll(".em-form :is(input, textarea, button, label, span[data-testid])")]
    .filter((e) => e.checkVisibility() && !e.closest(".em-go, .em-prompt-box") && e.type !== "range")
    .map((e) => [e, e.getBoundingClientRect()]);
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
  const found = all.filter(([e, box]) => e.type === "number" && box.width < 44).map(([e]) => `narrow: ${e.id}`);
  all.forEach(([e, box], at) => all.slice(at + 1).forEach(([other, its]) => {
    if (meet(box, its) && !e.contains(other) && !other.contains(e)) found.push(`${e.outerHTML} / ${other.outerHTML}`);
  }));
  return found.map((text) => text.slice(0, 240));
}"""
# Ratios of text to what lies behind it, for every text that can be seen.
CONTRASTS = """() => {
  const numbers = (text) => (text.match(/[0-9.]+/g) ?? []).map(Number);
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * (top[3] ?? 1) + below[i] * (1 - (top[3] ?? 1)));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(numbers(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => (top.length ? over(top, below) : below), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("[disabled], script, style")) continue;
    if (!element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
    const style = getComputedStyle(element);
    if (parseFloat(style.fontSize) === 0 || element.closest(".sr-only, .visually-hidden")) continue;
    const ground = behind(element);
    const [a, b] = [light(over(numbers(style.color), ground)), light(ground)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture
def engine(served: tuple[Engine, str]) -> Iterator[Engine]:
    yield served[0]
    for job in served[0].jobs():
        served[0].cancel(job.id)
        served[0].wait(job.id, 30)


@pytest.fixture
def visit(browser: Any, served: tuple[Engine, str], engine: Engine) -> Iterator[Visit]:
    """A visit in which nothing may go wrong, whatever the test looks at."""
    visit = Visit(browser, served[1])
    yield visit
    visit.close()
    assert visit.problems == []


def test_generate_makes_a_picture_and_shows_the_very_file_that_was_saved(visit, engine):
    visit.field("Prompt").fill("a cat in the rain")
    visit.field("Negative prompt").fill("blurry")
    visit.field("Steps").fill("3")
    visit.field("Seed").fill("1234")
    visit.press("Generate")
    picture = visit.page.locator(".em-picture")
    picture.wait_for()
    visit.page.wait_for_function("document.querySelector('.em-picture').naturalWidth === 64")
    saved = engine.jobs()[-1].images[0]
    served = visit.context.request.get(picture.evaluate("image => image.src")).body()
    assert served == saved.path.read_bytes()
    assert read_png_text(served)["parameters"] == saved.infotext
    shown = visit.page.locator(".em-infotext").inner_text()
    assert shown == saved.infotext
    assert "Steps: 3" in shown
    assert "Seed: 1234" in shown
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes() == served
    assert download.value.suggested_filename == saved.path.name


def test_a_page_that_is_reloaded_goes_on_watching_the_job(visit, engine):
    visit.field("Prompt").fill("a long job")
    visit.field("Steps").fill("1000")
    visit.press("Generate")
    first = _step(visit)
    visit.page.reload()
    visit.wait_until_ready(visit.page)
    assert _step(visit) > first
    visit.page.wait_for_function("document.querySelector('.em-preview').naturalWidth > 0")
    assert visit.page.locator(".em-preview").is_visible()
    assert re.fullmatch(r"\[\d+%\] Emulsion", visit.page.title())
    assert visit.field("Prompt").input_value() == "a long job"
    assert visit.field("Steps").input_value() == "1000"
    other = visit.open()
    other.locator(".em-progress").wait_for()
    visit.press("Cancel")
    visit.page.locator(".em-progress").wait_for(state="hidden")
    other.locator(".em-progress").wait_for(state="hidden")
    assert engine.jobs()[-1].state is JobState.CANCELLED
    assert visit.page.title() == "Emulsion"


def test_jobs_wait_in_the_queue_and_each_can_be_cancelled(visit, engine):
    visit.field("Prompt").fill("first")
    visit.field("Steps").fill("1000")
    visit.field("Prompt").press("Control+Enter")
    visit.page.locator(".em-progress").wait_for()
    for prompt in ("second", "third"):
        visit.field("Prompt").fill(prompt)
        visit.field("Prompt").press("Control+Enter")
        visit.page.locator(".em-queue-entry", has_text=prompt).wait_for()
    assert visit.page.locator(".em-waiting").inner_text() == "2 waiting"
    visit.press("Cancel waiting job 1")
    visit.page.locator(".em-queue-entry", has_text="second").wait_for(state="detached")
    visit.page.keyboard.press("Escape")
    visit.page.locator(".em-queue-entry", has_text="third").wait_for(state="detached")
    visit.page.locator(".em-progress").wait_for()
    states = {job.request.prompt: job.state for job in engine.jobs()}
    assert states["first"] is states["second"] is JobState.CANCELLED
    assert states["third"] is JobState.RUNNING
    visit.page.keyboard.press("Escape")
    visit.page.locator(".em-progress").wait_for(state="hidden")


def test_what_cannot_be_done_is_told_and_stays_until_it_is_closed(visit):
    visit.field("Width").fill("100")
    visit.press("Generate")
    told = visit.page.get_by_role("alert").filter(has_text="multiple of 8")
    told.wait_for()
    assert "width" in told.inner_text()
    visit.page.locator(".em-note", has_text="multiple of 8").wait_for()
    visit.press("Close this message")
    told.wait_for(state="hidden")


def test_the_selected_picture_gives_its_seed_its_settings_and_its_place_in_the_lightbox(visit, engine):
    for seed in (21, 22):
        engine.wait(engine.submit(GenerationRequest(prompt=f"picture {seed}", seed=seed, steps=2, sampler="heun")))
    thumbnails = visit.page.get_by_role("option", name=re.compile("Seed 2[12]: picture"))
    visit.page.get_by_role("option", name="Seed 22: picture 22").wait_for()
    assert thumbnails.count() == 2
    visit.page.get_by_role("option", name="Seed 21: picture 21").click()
    visit.press("Reuse seed")
    assert visit.field("Seed").input_value() == "21"
    visit.press("Random seed")
    assert visit.field("Seed").input_value() == ""

    visit.press("Enlarge the selected picture")
    visit.page.locator("dialog[open]").wait_for()
    assert visit.page.locator("dialog img").get_attribute("alt") == "picture 21"
    visit.page.keyboard.press("ArrowLeft")
    assert visit.page.locator("dialog img").get_attribute("alt") == "picture 22"
    visit.page.keyboard.press("Escape")
    visit.page.locator("dialog").wait_for(state="detached")

    visit.press("Use settings")
    visit.page.wait_for_function("document.querySelector('#field-seed').value === '22'")
    assert visit.field("Prompt").input_value() == "picture 22"
    assert visit.field("Steps").input_value() == "2"
    assert visit.field("Sampler").input_value() == "Heun"
    visit.page.evaluate("""() => Object.defineProperty(navigator, "clipboard", { value: undefined })""")
    visit.press("Copy infotext")  # as over plain http in a local network
    visit.page.locator(".em-note", has_text="Infotext copied.").wait_for()


def test_a_picture_or_an_infotext_that_is_dropped_on_the_prompt_fills_the_form(visit, engine):
    job = engine.wait(engine.submit(GenerationRequest(prompt="dropped", seed=5, steps=2, width=72)))
    visit.page.evaluate(
        """async ([address, target]) => {
             const data = new DataTransfer();
             data.items.add(new File([await (await fetch(address)).blob()], "a.png", { type: "image/png" }));
             const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
             document.querySelector(target).dispatchEvent(drop);
           }""",
        [f"outputs/{job.images[0].path.relative_to(engine.settings.output_dir).as_posix()}", ".em-prompt textarea"],
    )
    visit.page.wait_for_function("document.querySelector('#field-seed').value === '5'")
    assert visit.field("Prompt").input_value() == "dropped"
    assert visit.field("Width").input_value() == "72"

    visit.page.evaluate(
        """([text, target]) => {
             const data = new DataTransfer();
             data.setData("text/plain", text);
             const paste = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
             document.querySelector(target).dispatchEvent(paste);
           }""",
        [INFOTEXT, ".em-prompt textarea"],
    )
    visit.page.wait_for_function("document.querySelector('#field-seed').value === '12'")
    assert visit.field("Prompt").input_value() == "a dog"
    assert visit.field("Sampler").input_value() == "Euler"
    assert visit.field("Schedule").input_value() == "Karras"
    assert visit.field("Width").input_value() == "96"


def test_an_empty_field_shows_what_the_model_has_and_can_be_emptied_again(visit):
    steps = visit.field("Steps")
    assert (steps.input_value(), steps.get_attribute("placeholder")) == ("", "20")
    assert visit.field("Width").get_attribute("placeholder") == "64"
    steps.fill("33")
    visit.press("Back to the model's default: Steps")
    assert steps.input_value() == ""
    visit.page.get_by_title("88 × 64").click()
    visit.page.wait_for_function("document.querySelector('#field-width').value === '88'")
    visit.press("Swap width and height")
    visit.page.wait_for_function("document.querySelector('#field-height').value === '88'")
    assert visit.field("Width").input_value() == "64"


def test_another_checkpoint_finishes_the_picture(visit, engine):
    visit.field("Prompt").fill("a cat")
    visit.field("Steps").fill("4")
    visit.page.get_by_role("button", name=re.compile("^Refiner")).click()
    visit.field("Refiner checkpoint").click()
    visit.page.get_by_role("option", name="finisher").click()
    visit.field("Switch at").fill("0.5")
    visit.press("Generate")
    visit.page.locator(".em-infotext", has_text="Refiner: finisher, Refiner switch at: 0.5").wait_for()
    assert engine.jobs()[-1].state is JobState.DONE
    visit.page.wait_for_function("localStorage['emulsion.txt2img']?.includes('finisher')")
    visit.page.reload()
    visit.wait_until_ready(visit.page)
    visit.field("Refiner checkpoint").wait_for()  # the box is open, since it is used
    assert visit.field("Refiner checkpoint").input_value() == "finisher"


def test_fields_are_there_for_models_that_have_a_use_for_them(visit):
    assert not visit.field("Distilled guidance").is_visible()
    visit.field("Checkpoint").click()
    visit.page.get_by_role("option", name="flow").click()
    visit.page.locator(".em-model-part[data-kind=missing]", has_text="CLIP-L").wait_for()
    visit.field("Distilled guidance").wait_for()
    assert visit.field("Distilled guidance").get_attribute("placeholder") == "3.5"
    assert visit.field("Width").get_attribute("step") == "16"
    visit.page.get_by_title("1184 × 896").or_(visit.page.get_by_title("1152 × 896")).click()
    visit.page.wait_for_function("document.querySelector('#field-height').value === '896'")
    visit.page.locator(".em-fit[data-fit=problem]").wait_for()


def test_the_memory_tab_shows_what_is_where_and_lets_go_of_it(visit, engine):
    engine.wait(engine.submit(GenerationRequest(prompt="a cat", seed=5, steps=2)))
    fit = visit.page.locator(".em-fit[data-fit=yes]")
    fit.wait_for()
    assert fit.inner_text()
    visit.page.get_by_role("tab", name="Memory", exact=True).first.click()
    visit.page.locator(".em-held-name", has_text="U-Net").first.wait_for()
    visit.page.locator(".em-peak", has_text="sampling").wait_for()
    assert visit.page.get_by_role("meter", name=re.compile("^Models")).count() == 1
    visit.press("Unload everything")
    visit.page.get_by_text("Nothing is held").wait_for()
    assert engine.memory().used == 0
    idle = visit.field("Unload after minutes")
    idle.fill("30")
    idle.press("Tab")
    visit.page.locator(".em-note", has_text="Saved.").wait_for()
    assert engine.preferences.idle_unload_minutes == 30
    visit.field("Compile networks").check()
    visit.page.wait_for_function("document.querySelectorAll('.em-note').length > 1")
    assert engine.preferences.compile_networks
    engine.change_preferences(compile_networks=False)
    idle.fill("99999")
    idle.press("Tab")
    visit.page.locator(".em-note", has_text="idle_unload_minutes").wait_for()
    engine.change_preferences(idle_unload_minutes=0)
    visit.problems[:] = [told for told in visit.problems if "422" not in told]  # which is what was tried


def test_the_memory_tab_counts_stored_pictures_and_removes_the_unused(visit, engine, tmp_path):
    picture = tmp_path / "old.png"
    Image.new("RGB", (8, 8)).save(picture)
    sha256 = engine.pictures.add(picture.read_bytes()).sha256
    os.utime(engine.pictures.path(sha256), (1, 1))
    visit.page.get_by_role("tab", name="Memory", exact=True).first.click()
    count = f"{engine.pictures.size().pictures} picture"
    visit.page.locator(".em-stored-pictures", has_text=count).wait_for()
    visit.press("Remove unused")
    visit.page.locator(".em-note", has_text="1 picture, 0 MiB removed.").wait_for()
    with pytest.raises(UnknownPicture):
        engine.pictures.path(sha256)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_text_of_the_memory_tab_stands_out(browser, served, engine, scheme):
    engine.wait(engine.submit(GenerationRequest(prompt="a cat", seed=5, steps=1)))
    visit = Visit(browser, served[1], width=390, height=844, scheme=scheme)
    visit.turn_to("Memory")
    visit.page.locator(".em-held-name").first.wait_for()
    found = visit.page.evaluate(CONTRASTS)
    scroll_width = visit.page.evaluate("document.documentElement.scrollWidth")
    visit.close()
    assert len(found) > 15
    assert [text for ratio, text in found if ratio < 4.5] == []
    assert scroll_width <= 390


def test_typing_asks_for_the_tokens_once_and_attention_keys_change_weights(visit):
    visit.requests.clear()
    prompt = visit.field("Prompt")
    prompt.press_sequentially("a small red house by the sea")
    visit.page.locator("#box-prompt .em-tokens", has_text="7/75").wait_for()
    assert len([url for url in visit.requests if "component_server" in url]) < 4
    prompt.press("Control+ArrowUp")
    prompt.press("Control+ArrowUp")
    assert prompt.input_value() == "a small red house by the (sea:1.2)"
    prompt.press("Control+ArrowDown")
    prompt.press("Control+ArrowDown")
    assert prompt.input_value() == "a small red house by the sea"


def test_texts_of_other_people_are_shown_and_never_run(visit, engine):
    harmful = next(entry.name for entry in engine.library.checkpoints() if "harmed" in entry.name)
    visit.field("Checkpoint").click()
    visit.page.get_by_role("option", name=harmful).click()
    visit.page.locator(".em-model-title", has_text="harmed").wait_for()
    visit.field("Prompt").fill(SINK)
    visit.field("Steps").fill("1")
    visit.press("Generate")
    visit.page.locator(".em-infotext", has_text="harmed").wait_for()
    visit.press("Use settings")
    visit.page.locator(".em-note").wait_for()
    visit.press("Enlarge the selected picture")
    visit.page.keyboard.press("Escape")
    visit.page.evaluate(
        """([text, target]) => {
             const data = new DataTransfer();
             data.setData("text/plain", text);
             document.querySelector(target).dispatchEvent(
               new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
           }""",
        [f"{SINK}\nSteps: 4, Sampler: {SINK}, Seed: 1, Model: {SINK}", ".em-prompt textarea"],
    )
    visit.page.get_by_role("alert").filter(has_text="harmed").wait_for()
    visit.page.reload()
    visit.wait_until_ready(visit.page)
    visit.page.locator(".em-infotext", has_text="harmed").wait_for()
    assert visit.page.evaluate("window.harmed") is None
    assert visit.page.locator("img[src='x']").count() == 0


def test_the_choice_of_light_or_dark_is_remembered(visit):
    is_dark = "document.body.classList.contains('dark')"
    assert visit.page.evaluate(is_dark)
    visit.press("Theme: system")
    assert not visit.page.evaluate(is_dark)
    visit.page.reload()
    visit.page.get_by_role("button", name="Theme: light").wait_for()
    assert not visit.page.evaluate(is_dark)
    visit.page.emulate_media(color_scheme="light")
    visit.page.emulate_media(color_scheme="dark")
    visit.page.wait_for_timeout(100)
    assert not visit.page.evaluate(is_dark)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_text_stands_out_from_what_is_behind_it(browser, served, engine, scheme):
    engine.wait(engine.submit(GenerationRequest(prompt="a cat", seed=5, steps=1)))
    visit = Visit(browser, served[1], scheme=scheme)
    visit.page.locator(".em-infotext", has_text="Steps").wait_for()
    visit.field("Checkpoint").click()
    visit.page.get_by_role("option", name="broken").click()
    visit.page.locator(".em-model-problem").wait_for()
    visit.press("Generate")
    visit.page.locator(".em-status-text", has_text="broken").wait_for()
    found = visit.page.evaluate(CONTRASTS)
    visit.close()
    assert len(found) > 30
    assert [text for ratio, text in found if ratio < 4.5] == []


def test_everything_that_can_be_used_has_a_name_and_is_reached_with_the_tab_key(visit, engine):
    engine.wait(engine.submit(GenerationRequest(prompt="a cat", seed=5, steps=1)))
    visit.page.locator(".em-details").wait_for()
    session = visit.context.new_cdp_session(visit.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "combobox", "spinbutton", "link", "checkbox", "tab", "option", "img", "progressbar"}
    controls = [node for node in nodes if node.get("role", {}).get("value") in roles and not node.get("ignored")]
    assert len(controls) > 30
    assert [node["role"]["value"] for node in controls if not node.get("name", {}).get("value", "").strip()] == []

    visit.field("Prompt").focus()
    reached = []
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        reached.append(
            visit.page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText || ''")
        )
    for name in ("Checkpoint", "Sampler", "Random seed", "Generate", "Enlarge the selected picture", "Use settings"):
        assert name in reached


@pytest.mark.parametrize("width", [390, 700, 1024, 1920])
def test_nothing_is_wider_than_the_window(browser, served, engine, width):
    visit = Visit(browser, served[1], width=width, height=844)
    visit.page.get_by_text("Advanced").click()
    visit.field("CLIP skip").wait_for()
    overflow = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, .em-card, .em-results")]
          .filter((e) => e.checkVisibility() && !e.closest(".visually-hidden, .em-strip"))
          .filter((e) => e.getBoundingClientRect().left < 0 || e.getBoundingClientRect().right > innerWidth + 0.5)
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    scroll_width = visit.page.evaluate("document.documentElement.scrollWidth")
    overlapping = visit.page.evaluate(OVERLAPPING)
    visit.close()
    assert overflow == []
    assert overlapping == []
    assert scroll_width <= width
    assert visit.problems == []


def test_a_page_comes_back_as_it_was_left_when_the_server_was_started_again(browser, engine):
    with server_with_page(engine) as url:
        visit = Visit(browser, url)
        visit.field("Prompt").fill("typed before the restart")
        visit.field("Steps").fill("17")
        visit.page.wait_for_function("localStorage['emulsion.txt2img']?.includes('17')")
        visit.page.evaluate("window.isOld = true")
    visit.page.get_by_text("Server does not answer").wait_for()
    with server_with_page(engine, port=int(url.rsplit(":")[-1].strip("/"))):
        visit.page.wait_for_function("window.isOld === undefined")
        visit.wait_until_ready(visit.page)
        assert visit.field("Prompt").input_value() == "typed before the restart"
        assert visit.field("Steps").input_value() == "17"
        visit.close()


def test_a_hidden_browser_tab_holds_no_connection(browser, served):
    visit = Visit(browser, served[1])
    visit.page.evaluate(
        """() => {
             window.opened = [];
             const Before = EventSource;
             window.EventSource = class extends Before { constructor(...a) { super(...a); window.opened.push(this); } };
             window.turn = (isHidden) => {
               Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
               document.dispatchEvent(new Event("visibilitychange"));
             };
           }"""
    )
    open_now = "window.opened.filter((stream) => stream.readyState !== EventSource.CLOSED).length"
    visit.page.evaluate("turn(true)")
    visit.page.evaluate("turn(false)")
    assert visit.page.evaluate(open_now) == 1
    visit.page.evaluate("turn(true)")
    assert visit.page.evaluate(open_now) == 0
    visit.close()
    assert visit.problems == []


def _step(visit: Visit) -> int:
    """The step that the page shows, once it shows one."""
    handle = visit.page.wait_for_function(
        "() => /step (\\d+)/.exec(document.querySelector('.em-numbers').textContent)?.[1]", timeout=PATIENCE_MS
    )
    return int(handle.json_value())
