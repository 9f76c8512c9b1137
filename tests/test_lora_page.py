"""The LoRA tab in a real browser: cards, search, tags in the prompt, notes and metadata that stay, hostile names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.engine.engine import Engine
from backend.weights.safetensors_file import write_safetensors
from tests.browser import SINK, Visit, served_page
from tests.test_browser import CONTRASTS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = SINK.replace("/", "")
MODULE = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
LORAS: dict[str, dict[str, str]] = {
    "ink": {"ss_tag_frequency": '{"a": {"ink wash": 7, "' + HOSTILE.replace('"', "") + '": 2}}'},
    "styles/oil": {"modelspec.trigger_phrase": "thick paint"},
    HOSTILE: {"modelspec.title": SINK, SINK: SINK},
}


def write_lora(path: Path, metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = {"lora_down.weight": torch.ones(2, 16), "lora_up.weight": torch.ones(16, 2), "alpha": torch.tensor(2.0)}
    write_safetensors(path, {f"{MODULE}.{name}": tensor for name, tensor in layers.items()}, metadata)


@pytest.fixture(scope="module")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    with served_page(tmp_path_factory.mktemp("loras")) as (engine, url):
        for name, metadata in LORAS.items():
            write_lora(engine.settings.lora_dirs[0] / f"{name}.safetensors", metadata)
        write_safetensors(engine.settings.embedding_dirs[0] / "st.ar.safetensors", {"emb_params": torch.ones(2, 16)})
        write_safetensors(engine.settings.hypernetwork_dirs[0] / "more" / "anime.safetensors", {"x": torch.ones(1)})
        engine.library.refresh()
        yield engine, url


@pytest.fixture
def visit(browser: Any, served: tuple[Engine, str]) -> Iterator[Visit]:
    visit = Visit(browser, served[1])
    open_tab(visit)
    yield visit
    visit.close()
    assert visit.problems == []


def open_tab(visit: Visit) -> None:
    visit.turn_to("LoRA")
    visit.page.locator(".em-lora").first.wait_for()


def names(visit: Visit) -> list[str]:
    return visit.page.locator(".em-lora-name").all_inner_texts()


def card(visit: Visit, name: str) -> Any:
    return visit.page.locator(".em-lora-use").filter(has_text=name).first


def prompt(visit: Visit) -> str:
    return visit.page.locator("#box-prompt textarea").input_value()


def open_details(visit: Visit, name: str) -> None:
    card(visit, name).focus()
    card(visit, name).press("i")
    visit.page.locator(".em-lora-notes").wait_for()


def test_cards_are_found_by_words_keys_and_folders(visit):
    assert names(visit) == [HOSTILE, "ink", "oil"]
    visit.page.keyboard.press("/")
    visit.page.keyboard.type("thick")  # a trigger word of one of them
    visit.page.locator("[data-part=count]", has_text="1 of 3").wait_for()
    assert names(visit) == ["oil"]
    visit.page.keyboard.press("Escape")
    visit.page.locator(".em-lora").nth(2).wait_for()
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("ArrowRight")
    assert visit.page.evaluate("document.activeElement.innerText").endswith("ink")
    visit.page.locator("[data-part=folders] button", has_text="styles").click()
    visit.page.locator("[data-part=count]", has_text="1 of 3").wait_for()
    assert names(visit) == ["oil"]


def test_a_click_puts_the_tag_and_its_words_into_the_prompt_and_another_takes_them_out(visit):
    card(visit, "oil").click()
    assert prompt(visit) == "<lora:oil:1> thick paint"
    assert card(visit, "oil").get_attribute("aria-pressed") == "true"
    card(visit, "ink").click()
    assert prompt(visit) == "<lora:oil:1> thick paint <lora:ink:1>"
    card(visit, "oil").click()
    assert prompt(visit) == "<lora:ink:1>"
    visit.turn_to("txt2img")
    visit.field("Prompt").fill("a cat")
    open_tab(visit)
    assert card(visit, "ink").get_attribute("aria-pressed") == "false"


def test_textual_inversions_and_hypernetworks_are_cards_of_their_own_kind(visit):
    visit.turn_to("txt2img")
    visit.field("Prompt").fill("a stxar, a cat")
    open_tab(visit)
    for kind, name, piece in (
        ("Textual inversions", "st.ar", "a stxar, a cat, st.ar"),
        ("Hypernetworks", "anime", "a stxar, a cat <hypernet:more/anime:1>"),
    ):
        visit.field("Kind").select_option(kind)
        card(visit, name).wait_for()
        assert len(names(visit)) == 1
        assert card(visit, name).get_attribute("aria-pressed") == "false"
        card(visit, name).click()
        assert prompt(visit) == piece
        assert card(visit, name).get_attribute("aria-pressed") == "true"
        card(visit, name).click()
        assert prompt(visit) == "a stxar, a cat"
    visit.field("Kind").select_option("LoRAs")
    card(visit, "ink").wait_for()


def test_shift_and_a_click_ask_for_a_row(visit):
    visit.page.evaluate("addEventListener('emulsion:add-adapter', (event) => (window.asked = event.detail), true)")
    card(visit, "ink").click(modifiers=["Shift"])
    assert visit.page.evaluate("window.asked") == {"name": "ink", "strength": 1}
    assert prompt(visit) == ""


def test_notes_and_metadata_stay(visit):
    open_details(visit, "ink")
    visit.field("Preferred weight").fill("0.6")
    visit.page.locator("textarea[name=notes]").fill("for winter")
    visit.page.locator(".em-lora-notes .em-lora-state[data-kind=done]").wait_for()
    visit.page.locator(".em-lora-metadata summary").click()
    visit.press("Add a line")
    visit.field("Name of the new line").fill("modelspec.author")
    visit.field("Value of the new line").fill("someone")
    visit.press("Save into the file")
    visit.page.locator(".em-lora-metadata .em-lora-state[data-kind=done]").wait_for()
    visit.page.reload()
    visit.wait_until_ready(visit.page)
    open_tab(visit)
    open_details(visit, "ink")
    assert visit.page.locator("textarea[name=notes]").input_value() == "for winter"
    visit.page.locator(".em-lora-metadata summary").click()
    assert visit.page.locator(".em-lora-pair", has_text="modelspec.author").inner_text().endswith("someone")
    card(visit, "ink").click()
    assert prompt(visit) == "<lora:ink:0.6>"


def test_a_hash_shows_its_file(visit, served):
    engine, _ = served
    entry = engine.library.find_lora("styles/oil")
    field = visit.field("Find by hash")
    field.fill(engine.library.lora_hash(entry)[:12])
    field.press("Enter")
    visit.page.locator("[data-part=found]", has_text="It is styles/oil.").wait_for()
    visit.page.locator(".em-lora-details h2", has_text="oil").wait_for()


def test_texts_of_other_people_are_shown_and_never_run(visit):
    open_details(visit, "harmed")
    assert visit.page.locator(".em-lora-details h2").inner_text() == SINK
    visit.page.locator(".em-lora-metadata summary").click()
    assert visit.page.locator(".em-lora-pair code", has_text="harmed").inner_text() == SINK
    open_details(visit, "ink")
    word = visit.page.locator(".em-lora-word", has_text="harmed")
    word.click()
    assert HOSTILE[:20] in prompt(visit)
    assert visit.page.evaluate("window.harmed") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_tab_can_be_read_and_is_no_wider_than_a_phone(browser, served, scheme):
    visit = Visit(browser, served[1], width=390, height=844, scheme=scheme)
    open_tab(visit)
    open_details(visit, "ink")
    found = visit.page.evaluate(CONTRASTS)
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    visit.close()
    assert [text for ratio, text in found if ratio < 4.5] == []
    assert len(found) > 15
    assert width <= 390
    assert visit.problems == []
