"""Train the small U-Net and its text encoder together, from captions to latents."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from backend.nn.unet import UNet, UNetConfig
from backend.text.clip_tokenizer import ClipTokenizer
from backend.training.autoencoder_trainer import learning_rate_factor
from backend.training.checkpointing import Average, load_state, save_state

_log = logging.getLogger(__name__)

UNET = UNetConfig(model_channels=32, channel_mult=(1, 2, 4, 4), context_dim=128, num_heads=2, norm_groups=8)
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS = 128, 4, 2
BEGIN, END, LENGTH = 49406, 49407, 77
TIMESTEPS = 1000


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining:
    steps: int = 12_000
    batch: int = 24
    learning_rate: float = 1e-3
    decay_from: float = 0.7
    caption_dropout: float = 0.1
    min_snr: float = 5.0  # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"
    save_every: int = 400
    seed: int = 0


@dataclass(frozen=True)
class LatentData:
    """latents [P, 4, h, w] of unit variance; several captions for each; how often each is drawn."""

    latents: Tensor
    captions: Sequence[Sequence[str]]
    weights: Tensor


class TextToLatent(nn.Module):
    """The text encoder and the U-Net, trained together. `token_ids` are the vocabulary entries that have a row."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        super().__init__()
        self.token_ids = tuple(token_ids)
        self.unet = UNet(UNET)
        config = CLIPTextConfig(
            vocab_size=len(token_ids),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=TEXT_HEADS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        self.text = CLIPTextModel(config)
        _start_quietly(self.unet)

    def forward(self, x: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        context = self.text(input_ids=tokens).last_hidden_state
        return self.unet(x, timesteps, context)


def zero_terminal_snr_alphas() -> Tensor:
    """Cumulative alphas [1000] of SD 1.x, rescaled so that the last step is pure noise (Lin et al. 2023)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    roots = (1 - betas).cumprod(0).sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square().float()


def train_diffusion(
    data: LatentData, state_file: Path, training: DiffusionTraining, on_save: Callable[[], None]
) -> TextToLatent:
    """Train with velocity targets on zero-terminal-SNR noise until `training.steps`; resumes from `state_file` exactly.

    Every step draws from a generator of its own, so that a resumed training continues bit for bit.
    """
    torch.manual_seed(training.seed)
    tokenizer = ClipTokenizer.load()
    token_lists = [[tokenizer.encode(caption) for caption in captions] for captions in data.captions]
    used = sorted({token for captions in token_lists for tokens in captions for token in tokens})
    token_ids = [BEGIN, END, *used]
    rows = {token: row for row, token in enumerate(token_ids)}
    table = torch.tensor([[_row(tokens, rows) for tokens in captions] for captions in token_lists])  # [P, K, 77]
    empty = torch.tensor(_row([], rows))

    model = TextToLatent(token_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    average = Average(model, 0.999)
    start = 0
    if state := load_state(state_file):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, start = state["average"], state["step"]

    alphas = zero_terminal_snr_alphas()
    losses: list[float] = []
    began = time.monotonic()
    for step in range(start, training.steps):
        rate = learning_rate_factor(step, training.steps, warm_up=200, decay_from=training.decay_from)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * rate
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
        loss = _loss(model, data, table, empty, alphas, training, generator)
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step)
        losses.append(float(loss.detach()))
        if (step + 1) % training.save_every == 0 or step + 1 == training.steps:
            speed = training.batch * len(losses) / (time.monotonic() - began)
            _log.info("diffusion step %d: loss %.4f, %.1f samples/s", step + 1, sum(losses) / len(losses), speed)
            losses, began = [], time.monotonic()
            save_state(state_file, _state(model, optimizer, average, step + 1))
            on_save()
    average.copy_to(model)
    return model.eval().requires_grad_(False)


def _loss(
    model: TextToLatent,
    data: LatentData,
    table: Tensor,
    empty: Tensor,
    alphas: Tensor,
    training: DiffusionTraining,
    generator: torch.Generator,
) -> Tensor:
    index = torch.multinomial(data.weights, training.batch, replacement=True, generator=generator)
    variant = torch.randint(table.shape[1], (training.batch,), generator=generator)
    tokens = table[index, variant]
    dropped = torch.rand(training.batch, generator=generator) < training.caption_dropout
    tokens = torch.where(dropped[:, None], empty, tokens)
    x0 = data.latents[index]
    timesteps = torch.randint(TIMESTEPS, (training.batch,), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    alpha = alphas[timesteps][:, None, None, None]
    x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * x0
    error = (model(x, timesteps, tokens) - velocity).square().mean(dim=(1, 2, 3))
    snr = alphas[timesteps] / (1 - alphas[timesteps])
    weight = (snr.clamp(max=training.min_snr) / (snr + 1)).clamp(min=0.1)
    return (error * weight / weight.mean()).mean()


def _row(tokens: Sequence[int], rows: dict[int, int]) -> list[int]:
    ids = [BEGIN, *tokens[: LENGTH - 2]]
    return [rows[token] for token in ids + [END] * (LENGTH - len(ids))]


def _start_quietly(unet: UNet) -> None:
    """Zero the last layer of every residual branch, so that training starts from the identity."""
    for name, parameter in unet.named_parameters():
        if name.endswith(("out_layers.3.weight", "proj_out.weight")) or name.startswith("out.2."):
            nn.init.zeros_(parameter)


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, average: Average, step: int) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.values,
        "step": step,
        "token_ids": list(getattr(model, "token_ids", ())),
    }
