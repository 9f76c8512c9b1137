"""The rows of LoRAs in a real browser: what is done to them is what a job gets, and it is there after a reload."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.engine.engine import Engine
from backend.weights.safetensors_file import write_safetensors
from tests.browser import SINK, Visit, chromium, served_page
from tests.test_browser import CONTRASTS, OVERLAPPING
from tests.tiny_adapters import KEY, KOHYA, QUERY, lora_tensors
from tests.tiny_checkpoint import tiny_tensors

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HARMFUL = SINK.replace("/", "")
DRAG_ENDS = "() => !document.querySelector('.em-dragged')"
PASTE = """([selector, text]) => {
  const data = new DataTransfer();
  data.setData("text/plain", text);
  document.querySelector(selector).dispatchEvent(
    new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


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
def engine(served: tuple[Engine, str]) -> Engine:
    return served[0]


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


def kept(visit: Visit) -> list[dict[str, Any]]:
    """The rows that this browser keeps, once they rest."""
    visit.page.wait_for_timeout(500)
    return json.loads(visit.page.evaluate("localStorage['emulsion.txt2img']"))["adapters"]


def generate(visit: Visit) -> dict[str, Any]:
    """The request of a new job, as the server tells it."""
    before = visit.page.locator(".em-thumbnail").count()
    visit.field("Steps").fill("1")
    with visit.page.expect_response(lambda answer: "gradio_api" in answer.url):
        visit.press("Generate")
    visit.page.wait_for_function("n => document.querySelectorAll('.em-thumbnail').length > n", arg=before)
    jobs = visit.context.request.get(f"{visit.url}api/v1/jobs").json()
    newest = (jobs["jobs"] if isinstance(jobs, dict) else jobs)[-1]["id"]
    return visit.context.request.get(f"{visit.url}api/v1/jobs/{newest}").json()["request"]


def test_rows_are_put_in_order_switched_off_and_sent(visit):
    add(visit, "fog")
    add(visit, "paint")
    strength = row(visit, "paint").get_by_role("spinbutton", name="Strength")
    strength.fill("0.5")
    strength.press("ArrowUp")
    assert strength.input_value() == "0.55"
    row(visit, "paint").get_by_role("button", name="Text encoders as strong", exact=False).click()
    row(visit, "paint").get_by_role("spinbutton", name="Text encoders").fill("-0.25")
    strength.press("Alt+ArrowUp")
    assert order(visit) == ["paint", "fog"]
    request = generate(visit)
    assert [adapter["file"]["name"] for adapter in request["adapters"]] == ["paint", "fog"]
    assert request["adapters"][0]["strength"] == 0.55
    assert request["adapters"][0]["text_encoder_strength"] == -0.25
    assert request["adapters"][1]["text_encoder_strength"] is None
    row(visit, "paint").get_by_role("switch").click()
    assert [adapter["file"]["name"] for adapter in generate(visit)["adapters"]] == ["fog"]
