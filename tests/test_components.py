"""Which files complete a checkpoint that lacks its VAE or its text encoders."""

import time
from pathlib import Path

import pytest
import torch

from backend.engine.components import choose_text_encoders, choose_vae
from backend.engine.idle import IdleUnloader
from backend.engine.library import CheckpointEntry, Library
from backend.errors import RequestError, UnknownName
from backend.families.family import Defaults, Description
from backend.weights.hashing import HashCache
from backend.weights.safetensors_file import write_safetensors

CLIP = "text_model.embeddings.token_embedding.weight"
T5 = "encoder.block.0.layer.0.SelfAttention.q.weight"
FILES = {
    "vae/four.safetensors": {"decoder.conv_in.weight": (8, 4, 3, 3)},
    "vae/sixteen.safetensors": {"first_stage_model.decoder.conv_in.weight": (8, 16, 3, 3)},
    "text_encoders/clip_l.safetensors": {CLIP: (2, 768)},
    "text_encoders/fine-tuned clip_l.safetensors": {CLIP: (3, 768)},
    "text_encoders/clip_g.safetensors": {CLIP: (2, 1280)},
    "text_encoders/t5.safetensors": {T5: (4, 4), "shared.weight": (2, 4)},
    "text_encoders/something.safetensors": {"weight": (2, 2)},
}


def library_of(folder: Path, *names: str) -> Library:
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        write_safetensors(path, {key: torch.zeros(shape) for key, shape in FILES[name].items()})
    return Library((), (folder / "vae",), (folder / "text_encoders",), (), HashCache(folder / "hashes.json"))


ENTRY = CheckpointEntry(name="model", path=Path("model.safetensors"), family="x", problem="", size=1, sha256=None)


def described(**fields: object) -> Description:
    return Description(native_size=512, defaults=Defaults(), **fields)  # pyright: ignore[reportArgumentType]


FLUX = described(text_encoders=("clip_l", "t5"), needed=("clip_l", "t5"), has_vae=False, latent_channels=16)
SD3 = described(text_encoders=("clip_l", "clip_g", "t5"), embedded=("clip_l",))


def test_a_folder_lists_encoders_by_kind_and_leaves_other_files_out(tmp_path: Path) -> None:
    library = library_of(tmp_path, *FILES)
    kinds = {entry.name: entry.kind for entry in library.text_encoders()}
    assert kinds == {"clip_g": "clip_g", "clip_l": "clip_l", "fine-tuned clip_l": "clip_l", "t5": "t5"}
    assert {vae.name: vae.latent_channels for vae in library.vaes()} == {"four": 4, "sixteen": 16}


def test_a_checkpoint_keeps_its_own_vae_unless_another_is_asked_for(tmp_path: Path) -> None:
    library = library_of(tmp_path, *FILES)
    assert choose_vae(None, ENTRY, described(), library) is None
    chosen = choose_vae("four", ENTRY, described(), library)
    assert chosen is not None
    assert chosen.name == "four"
    with pytest.raises(UnknownName, match="sixteen"):
        choose_vae("five", ENTRY, described(), library)


def test_a_vae_of_other_latents_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"sixteen has 16 latent channels; model.safetensors needs 4"):
        choose_vae("sixteen", ENTRY, described(), library_of(tmp_path, *FILES))


def test_a_missing_vae_is_the_only_one_that_fits(tmp_path: Path) -> None:
    chosen = choose_vae(None, ENTRY, FLUX, library_of(tmp_path, *FILES))
    assert chosen is not None
    assert chosen.name == "sixteen"


def test_a_vae_that_is_missing_altogether_is_told_with_its_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"16 latent channels lies in models/vae"):
        choose_vae(None, ENTRY, FLUX, library_of(tmp_path, "vae/four.safetensors"))


def test_needed_encoders_are_found_by_kind(tmp_path: Path) -> None:
    chosen = choose_text_encoders((), ENTRY, FLUX, library_of(tmp_path, *FILES))
    assert [(encoder.kind, encoder.name) for encoder in chosen.used] == [("clip_l", "clip_l"), ("t5", "t5")]


def test_the_encoder_that_was_asked_for_comes_before_the_first_of_its_kind(tmp_path: Path) -> None:
    chosen = choose_text_encoders(("fine-tuned clip_l",), ENTRY, FLUX, library_of(tmp_path, *FILES))
    assert [encoder.name for encoder in chosen.used] == ["fine-tuned clip_l", "t5"]


def test_optional_encoders_complete_a_model_only_when_none_was_asked_for(tmp_path: Path) -> None:
    library = library_of(tmp_path, *FILES)
    assert [encoder.kind for encoder in choose_text_encoders((), ENTRY, SD3, library).used] == ["clip_g", "t5"]
    assert [encoder.kind for encoder in choose_text_encoders(("clip_g",), ENTRY, SD3, library).used] == ["clip_g"]


@pytest.mark.parametrize(
    ("wanted", "description", "there", "told"),
    [
        ((), FLUX, ["text_encoders/clip_l.safetensors"], "needs a T5-XXL text encoder and holds none"),
        (("clip_l", "fine-tuned clip_l"), FLUX, list(FILES), "are both CLIP-L"),
        ((), described(text_encoders=("clip_l", "t5")), [], "holds no text encoder"),
    ],
)
def test_what_does_not_fit_or_is_missing_is_named(
    tmp_path: Path, wanted: tuple[str, ...], description: Description, there: list[str], told: str
) -> None:
    with pytest.raises(RequestError, match=told):
        choose_text_encoders(wanted, ENTRY, description, library_of(tmp_path, *there))


def test_an_encoder_that_the_model_cannot_read_is_passed_over_and_told(tmp_path: Path) -> None:
    chosen = choose_text_encoders(("clip_g",), ENTRY, FLUX, library_of(tmp_path, *FILES))
    assert [encoder.kind for encoder in chosen.used] == ["clip_l", "t5"]
    assert [encoder.name for encoder in chosen.unused] == ["clip_g"]
    assert "clip_g is OpenCLIP-G" in chosen.notices[0]


def test_weights_leave_once_after_idle_minutes_and_stay_while_there_is_work() -> None:
    unloads: list[float] = []
    is_busy = True
    unloader = IdleUnloader(
        lambda: 0.1 / 60, lambda: is_busy, lambda: unloads.append(time.monotonic()), longest_wait=0.02
    )
    unloader.start()
    time.sleep(0.4)
    assert unloads == []
    is_busy = False
    time.sleep(0.8)
    unloader.close()
    assert len(unloads) == 1


def test_zero_idle_minutes_never_unload() -> None:
    unloads: list[float] = []
    unloader = IdleUnloader(lambda: 0.0, lambda: False, lambda: unloads.append(0.0), longest_wait=0.02)
    unloader.start()
    time.sleep(0.2)
    unloader.close()
    assert unloads == []
