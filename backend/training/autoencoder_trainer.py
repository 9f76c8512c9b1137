"""Train the small autoencoder: 8x downscaling to 4 channels that keep colours apart."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.autoencoder import Autoencoder, AutoencoderConfig
from backend.training.checkpointing import Average, load_state, save_state

_log = logging.getLogger(__name__)

# SD 1.x has 4 channels in a normalisation group; 32 groups here would flatten colours.
CONFIG = AutoencoderConfig(channels=16, norm_groups=4)


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining:
    steps: int = 3000
    batch: int = 12
    crop: int = 64
    learning_rate: float = 2e-3
    save_every: int = 250
    seed: int = 0


def train_autoencoder(pictures: Tensor, state_file: Path, training: AutoencoderTraining) -> Autoencoder:
    """Train on pictures [P, 3, H, W] uint8 until `training.steps`; resumes from `state_file` exactly.

    The loss is that of the trial: absolute error, its gradients, its error at half, quarter and eighth size, squared
    error, a light Kullback-Leibler term, and a linear read-out of the mean colour of each latent's 8x8 pixels, without
    which the latents correlate and lose colours. Returns the averaged weights.
    """
    torch.manual_seed(training.seed)
    autoencoder = Autoencoder(CONFIG)
    autoencoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing in torch's stub
    read_out = nn.Conv2d(CONFIG.latent_channels, 3, 1)
    parameters = [*autoencoder.parameters(), *read_out.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    average = Average(autoencoder, 0.998)
    start = 0
    if state := load_state(state_file):
        autoencoder.load_state_dict(state["autoencoder"])
        read_out.load_state_dict(state["read_out"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, start = state["average"], state["step"]
    for step in range(start, training.steps):
        rate = learning_rate_factor(step, training.steps, warm_up=100, decay_from=0.4)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * rate
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
        loss, error = _loss(autoencoder, read_out, _crops(pictures, training, generator), generator)
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(autoencoder, step)
        if (step + 1) % training.save_every == 0 or step + 1 == training.steps:
            psnr = -10 * math.log10(error / 4)
            _log.info("autoencoder step %d: loss %.4f, PSNR %.2f dB", step + 1, float(loss.detach()), psnr)
            save_state(
                state_file,
                {
                    "autoencoder": autoencoder.state_dict(),
                    "read_out": read_out.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.values,
                    "step": step + 1,
                },
            )
    average.copy_to(autoencoder)
    return autoencoder.eval().requires_grad_(False)


def learning_rate_factor(step: int, steps: int, *, warm_up: int, decay_from: float) -> float:
    """Linear warm-up, then constant, then a cosine to zero over the last 1 - decay_from of the steps."""
    if step < warm_up:
        return (step + 1) / warm_up
    begin = decay_from * steps
    return 1.0 if step < begin else 0.5 * (1 + math.cos(math.pi * min(1.0, (step - begin) / (steps - begin))))


@torch.no_grad()
def encode_all(autoencoder: Autoencoder, pictures: Tensor, batch: int = 32) -> Tensor:
    """Mean latents [P, 4, h, w] of pictures [P, 3, H, W] uint8."""
    return torch.cat([autoencoder.encode(as_input(part))[0] for part in pictures.split(batch)])


@torch.no_grad()
def normalise_latents(autoencoder: Autoencoder, latents: Tensor, scale: float) -> Tensor:
    """Fold the latents' mean and spread into the 1x1 convolutions, so that latents * `scale` have unit variance.

    Changes the autoencoder and returns the latents that it now gives.
    """
    mean = latents.mean(dim=(0, 2, 3))
    gain = 1 / (latents.std(dim=(0, 2, 3)) * scale)
    channels = len(mean)
    after, before = autoencoder.quant_conv, autoencoder.post_quant_conv
    assert after.bias is not None
    assert before.bias is not None
    before.bias += (before.weight[:, :, 0, 0] * mean).sum(dim=1)
    before.weight /= gain[None, :, None, None]
    after.bias[:channels] = (after.bias[:channels] - mean) * gain
    after.weight[:channels] *= gain[:, None, None, None]
    after.bias[channels:] += 2 * gain.log()
    return (latents - mean[:, None, None]) * gain[:, None, None]


def as_input(pictures: Tensor) -> Tensor:
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _crops(pictures: Tensor, training: AutoencoderTraining, generator: torch.Generator) -> Tensor:
    def pieces() -> Iterator[Tensor]:
        for index in torch.randint(len(pictures), (training.batch,), generator=generator).tolist():
            picture = pictures[index]
            if torch.rand((), generator=generator) < 0.2:
                picture = F.avg_pool2d(picture.float(), 2).round().to(torch.uint8)
            room = picture.shape[-1] - training.crop
            top, left = torch.randint(room + 1, (2,), generator=generator).tolist()
            yield picture[:, top : top + training.crop, left : left + training.crop]

    return as_input(torch.stack(list(pieces())))


def _loss(
    autoencoder: Autoencoder, read_out: nn.Module, image: Tensor, generator: torch.Generator
) -> tuple[Tensor, float]:
    mean, logvar = autoencoder.encode(image)
    noise = torch.randn(mean.shape, generator=generator)
    decoded = autoencoder.decode(mean + noise * (0.5 * logvar).exp())
    difference = decoded - image
    squared = difference.square().mean()
    loss = difference.abs().mean() + squared
    loss = loss + 0.5 * (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean())
    loss = loss + 0.5 / 3 * sum(F.avg_pool2d(difference, size).abs().mean() for size in (2, 4, 8))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    colours = (read_out(mean) - F.avg_pool2d(image, 8)).square().mean()
    return loss + 1e-3 * kl + _correlation(mean) * 0.1 + colours, float(squared.detach())


def _correlation(latents: Tensor) -> Tensor:
    """Mean squared correlation between different latent channels."""
    flat = latents.transpose(0, 1).flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    flat = F.normalize(flat, dim=1)
    off_diagonal = flat @ flat.T - torch.eye(len(flat))
    return off_diagonal.square().mean()
