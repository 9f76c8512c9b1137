"""What is said of a checkpoint that is made to be given a picture."""

import dataclasses
from pathlib import Path

import pytest

from backend.commands.__main__ import main
from backend.engine.engine import Engine
from backend.engine.settings import Settings
from backend.families.family import PictureUse
from backend.init_image import Borders, InitImage, MaskInput
from backend.pipeline.picture_notices import picture_notices
from backend.request import GenerationRequest
from tests.tiny_checkpoint import UNET, write_tiny_checkpoint
from ui.components.model_card import card_of

HASH = "0" * 64
PLAIN = InitImage(picture=HASH)
MASKED = InitImage(picture=HASH, mask=MaskInput(picture=HASH))
LARGER = InitImage(picture=HASH, borders=Borders(left=64))
INPAINTING, EDITING, NONE = PictureUse.INPAINTING, PictureUse.EDITING, PictureUse.NONE


@pytest.mark.parametrize(
    ("use", "init", "words"),
    [
        (INPAINTING, None, "made for inpainting: give it a picture and a mask"),
        (INPAINTING, PLAIN, "without a mask all of the picture is to change"),
        (EDITING, None, "edits pictures: give it one"),
    ],
)
def test_a_picture_that_is_missing_is_asked_for(use: PictureUse, init: InitImage | None, words: str) -> None:
    (notice,) = picture_notices(use, init)
    assert words in notice


@pytest.mark.parametrize(
    ("use", "init"),
    [(INPAINTING, MASKED), (INPAINTING, LARGER), (EDITING, PLAIN), (NONE, None), (NONE, PLAIN), (NONE, MASKED)],
)
def test_nothing_is_said_where_the_picture_suits(use: PictureUse, init: InitImage | None) -> None:
    assert list(picture_notices(use, init)) == []


@pytest.mark.parametrize(("channels", "use"), [(9, "inpainting"), (8, "editing")])
def test_jobs_cards_and_info_tell_what_a_checkpoint_is_made_for(
    channels: int, use: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "models" / "checkpoints" / "tiny.safetensors"
    write_tiny_checkpoint(path, unet=dataclasses.replace(UNET, in_channels=channels))
    engine = Engine.open(Settings.for_root(tmp_path, force_cpu=True, memory_budget=2**30), persistent=False)
    try:
        assert any("This checkpoint" in notice for notice in engine.plan(GenerationRequest(prompt="a", seed=1)).notices)
        assert card_of(engine, "tiny")["picture_use"] == use
    finally:
        engine.close()
    assert main(["info", str(path)]) == 0
    assert f"{use}: it" in capsys.readouterr().out
