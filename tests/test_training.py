"""Trainings resume bit for bit, and what they export is a checkpoint that the program runs."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.families.builtin import BUILTIN
from backend.families.family import Machine, ModelFiles, Prompt, identify
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.nn.autoencoder import Autoencoder
from backend.nn.unet import UNet, UNetConfig
from backend.text.emphasis import BUILTIN as EMPHASIS
from backend.training.autoencoder_trainer import (
    CONFIG,
    AutoencoderTraining,
    as_input,
    encode_all,
    normalise_latents,
    train_autoencoder,
)
from backend.training.checkpointing import load_state
from backend.training.concepts import COLOURS, CONCEPTS, STYLES, Subject, TrainingError, caption_of
from backend.training.diffusion_trainer import UNET, DiffusionTraining, LatentData, sample, train_diffusion
from backend.training.export import LATENT_SCALE, METADATA, checkpoint_tensors
from backend.training.night import SKY, at_night
from backend.training.text_trainer import TextTraining, Vocabulary, contexts_of, train_text_encoder
from backend.weights.safetensors_file import open_safetensors, write_safetensors

TINY = UNetConfig(model_channels=16, channel_mult=(1, 1, 2, 2), context_dim=8, num_heads=2, norm_groups=4)
FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)


@pytest.fixture
def pictures() -> Tensor:
    return torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def data() -> LatentData:
    generator = torch.Generator().manual_seed(0)
    return LatentData(
        latents=torch.randn(6, 4, 8, 8, generator=generator),
        contexts=torch.randn(5, 77, 8, generator=generator).bfloat16(),
        captions=torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [1, 3]]),
        weights=torch.ones(6),
    )


def diffusion(data: LatentData, file: Path, steps: int, *, processes: int = 1) -> dict[str, Tensor]:
    training = DiffusionTraining(steps=steps, batch=4, save_every=2, decay_from=1.0, processes=processes)
    saves: list[int] = []
    train_diffusion(data, file, training, TINY, lambda: saves.append(1) if processes == 1 else None)
    state = load_state(file)
    assert state is not None
    assert state["step"] == steps
    return state["average"]


def test_a_diffusion_training_resumes_bit_for_bit(data: LatentData, tmp_path: Path) -> None:
    whole = diffusion(data, tmp_path / "whole.pt", 4)
    diffusion(data, tmp_path / "halves.pt", 2)
    resumed = diffusion(data, tmp_path / "halves.pt", 4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_diffusion_training_lowers_its_loss(data: LatentData, tmp_path: Path) -> None:
    """On six latents a few dozen steps are enough to do better than predicting nothing."""
    training = DiffusionTraining(steps=24, batch=6, save_every=24, processes=1, learning_rate=3e-3, average_decay=0.9)
    train_diffusion(data, tmp_path / "state.pt", training, TINY, lambda: None)
    state = load_state(tmp_path / "state.pt")
    assert state is not None
    unet = UNet(TINY)
    unet.load_state_dict(state["average"])
    contexts = data.contexts.float()
    latents = sample(unet.eval(), contexts[:4], contexts[-1:], (4, 8, 8), steps=4, guidance=1.0, seed=0)
    nearest = torch.cdist(latents.flatten(1), data.latents.flatten(1)).min(dim=1).values
    far = torch.cdist(torch.randn_like(latents).flatten(1), data.latents.flatten(1)).min(dim=1).values
    assert nearest.mean() < far.mean()


def test_an_autoencoder_training_resumes_bit_for_bit(pictures: Tensor, tmp_path: Path) -> None:
    def train(file: str, steps: int) -> Autoencoder:
        training = AutoencoderTraining(steps=steps, batch=2, crop=32, save_every=1)
        return train_autoencoder(pictures, tmp_path / file, training)

    whole = train("whole.pt", 2)
    train("halves.pt", 1)
    resumed = train("halves.pt", 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_normalised_latents_have_unit_variance_and_decode_to_the_same_pictures(pictures: Tensor) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(CONFIG).eval().requires_grad_(False)
    before = encode_all(autoencoder, pictures)
    decoded = autoencoder.decode(before)
    after = normalise_latents(autoencoder, before, LATENT_SCALE)
    assert (after * LATENT_SCALE).std(dim=(0, 2, 3)).allclose(torch.ones(4), atol=1e-4)
    assert autoencoder.encode(as_input(pictures))[0].allclose(after, atol=1e-3)
    assert autoencoder.decode(after).allclose(decoded, atol=1e-3)


def test_captions_name_what_the_picture_shows() -> None:
    rng = random.Random(0)
    subject = Subject(CONCEPTS[0], STYLES[0], "blue", is_recoloured=True)
    captions = [caption_of(subject, rng) for _ in range(50)]
    assert all("blue apple" in caption.text for caption in captions)
    assert {caption.style for caption in captions} == {None, STYLES[0]}
    assert all((STYLES[0].words in caption.text) == (caption.style is not None) for caption in captions)


def test_a_damaged_state_file_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(TrainingError, match="remove it to start over"):
        load_state(tmp_path / "state.pt")


def test_the_exported_checkpoint_runs_with_the_contexts_it_was_trained_on(tmp_path: Path) -> None:
    rng = random.Random(0)
    colours = [None, *COLOURS]
    subjects = [Subject(concept, STYLES[0], rng.choice(colours), is_recoloured=False) for concept in CONCEPTS[:4]]
    captions = [caption_of(subject, rng) for subject in subjects for _ in range(3)]
    vocabulary = Vocabulary.of(captions)
    encoder = train_text_encoder(captions, vocabulary, TextTraining(steps=2, batch=4))
    torch.manual_seed(0)
    tensors = checkpoint_tensors(
        UNet(UNET).state_dict(), Autoencoder(CONFIG).state_dict(), encoder.state_dict(), vocabulary.token_ids
    )
    write_safetensors(tmp_path / "tiny.safetensors", tensors, METADATA)
    source = open_safetensors(tmp_path / "tiny.safetensors")
    family = identify(source, BUILTIN)
    assert family is not None
    assert family.load is not None
    device = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=False, has_float16=False)
    machine = Machine(device=device, policy=FULL, residency=Residency(2**30))
    model = family.load(ModelFiles(checkpoint=source), machine)
    assert family.describe is not None
    assert family.describe(source).native_size == 128
    prompt = Prompt(text=captions[0].text, emphasis=EMPHASIS[0], width=64, height=64)
    context = model.encode_prompt(prompt)
    trained = contexts_of(encoder, torch.tensor([vocabulary.rows(captions[0].text)])).float()
    assert (context.context - trained).abs().max() < 0.05  # float16 in the file, bfloat16 in the training
    assert model.network([])(torch.randn(1, 4, 16, 16), torch.tensor([500.0]), context).isfinite().all()


def test_at_night_white_is_the_sky_and_colours_stay() -> None:
    pictures = torch.tensor([[255, 255, 255], [255, 0, 0], [0, 0, 0]], dtype=torch.uint8).T.reshape(1, 3, 1, 3)
    assert at_night(pictures)[0, :, 0].T.tolist() == [list(SKY), [255, 0, 0], [0, 0, 0]]
