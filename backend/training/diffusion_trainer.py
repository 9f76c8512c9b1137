"""Train the small U-Net from the contexts of captions to latents."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from backend.nn.unet import UNet, UNetConfig
from backend.training.autoencoder_trainer import learning_rate_factor
from backend.training.checkpointing import Average, load_state, save_state

_log = logging.getLogger(__name__)

# SD 1.x has 10 channels in a normalisation group; one channel in a group would lose flat colours.
UNET = UNetConfig(model_channels=64, channel_mult=(1, 2, 2, 2), context_dim=128, num_heads=2, norm_groups=8)
TIMESTEPS = 1000


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining:
    steps: int = 4000
    batch: int = 32
    learning_rate: float = 1.2e-3
    decay_from: float = 0.75  # share of the steps before the learning rate falls
    caption_dropout: float = 0.1
    average_decay: float = 0.998
    processes: int = 2  # each computes its share of every batch on one thread
    save_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class LatentData:
    """latents [P, 4, h, w] of unit variance; contexts [C, 77, D], of which the last is that of the empty prompt;
    captions [P, K]: which contexts fit a latent; weights [P]: how often each is drawn."""

    latents: Tensor
    contexts: Tensor
    captions: Tensor
    weights: Tensor


def zero_terminal_snr_alphas() -> Tensor:
    """Cumulative alphas [1000] of SD 1.x, rescaled so that the last step is pure noise (Lin et al. 2023)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    roots = (1 - betas).cumprod(0).sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square().float()


def train_diffusion(
    data: LatentData, state_file: Path, training: DiffusionTraining, config: UNetConfig, on_save: Callable[[], None]
) -> None:
    """Train with velocity targets on zero-terminal-SNR noise until `training.steps`; resumes from `state_file` exactly.

    Every step draws from a generator of its own, so that a resumed training continues bit for bit. The state file holds
    the result: "model", "average" (the weights to use), "optimizer", "step". `on_save` is called after each save.
    """
    if training.processes == 1:
        _train(0, data, state_file, training, config, on_save)
        return
    meeting = state_file.with_name(f".{state_file.name}.meeting")
    meeting.unlink(missing_ok=True)
    try:
        multiprocessing.spawn(  # pyright: ignore[reportPrivateImportUsage]
            _train_beside_others, (meeting, data, state_file, training, config, on_save), nprocs=training.processes
        )
    finally:
        meeting.unlink(missing_ok=True)


def _train_beside_others(rank: int, meeting: Path, data: LatentData, state_file: Path, training: DiffusionTraining,
                         config: UNetConfig, on_save: Callable[[], None]) -> None:  # fmt: skip
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=training.processes)
    try:
        _train(rank, data, state_file, training, config, on_save)
    finally:
        dist.destroy_process_group()


def _train(rank: int, data: LatentData, state_file: Path, training: DiffusionTraining, config: UNetConfig,
           on_save: Callable[[], None]) -> None:  # fmt: skip
    torch.manual_seed(training.seed)
    model = UNet(config)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing in torch's stub
    _start_quietly(model)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=training.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    average = Average(model, training.average_decay)
    start = 0
    if state := load_state(state_file):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, start = state["average"], state["step"]

    losses: list[float] = []
    began = time.monotonic()
    for step in range(start, training.steps):
        factor = learning_rate_factor(step, training.steps, warm_up=150, decay_from=training.decay_from)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * factor
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
        loss = _loss(model, _Batch.draw(data, training, generator).share(rank, training.processes))
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        if training.processes > 1:
            _average_gradients(parameters, training.processes)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(model, step)
        losses.append(float(loss.detach()))
        if rank == 0 and ((step + 1) % training.save_every == 0 or step + 1 == training.steps):
            speed = training.batch * len(losses) / (time.monotonic() - began)
            _log.info("diffusion step %d: loss %.4f, %.1f samples/s", step + 1, sum(losses) / len(losses), speed)
            losses, began = [], time.monotonic()
            save_state(
                state_file,
                {
                    "model": model.state_dict(),
                    "average": average.values,
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
            )
            on_save()


@dataclass(frozen=True)
class _Batch:
    """Noisy latents x [B, 4, h, w] at timesteps [B], their contexts [B, 77, D] and the velocities to predict."""

    x: Tensor
    timesteps: Tensor
    context: Tensor
    velocity: Tensor

    @classmethod
    def draw(cls, data: LatentData, training: DiffusionTraining, generator: torch.Generator) -> _Batch:
        size = training.batch
        index = torch.multinomial(data.weights, size, replacement=True, generator=generator)
        which = torch.randint(data.captions.shape[1], (size,), generator=generator)
        captions = data.captions[index, which]
        captions[torch.rand(size, generator=generator) < training.caption_dropout] = len(data.contexts) - 1
        # One timestep in each of `size` equal ranges: a batch then covers all noise levels.
        timesteps = ((torch.randperm(size, generator=generator) + torch.rand(size, generator=generator)) / size).mul(
            TIMESTEPS
        ).long()  # fmt: skip
        x0 = data.latents[index]
        noise = torch.randn(x0.shape, generator=generator)
        alpha = zero_terminal_snr_alphas()[timesteps][:, None, None, None]
        x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * x0
        return cls(x, timesteps, data.contexts[captions].float(), velocity)

    def share(self, rank: int, processes: int) -> _Batch:
        part = slice(rank, None, processes)
        return _Batch(self.x[part], self.timesteps[part], self.context[part], self.velocity[part])


def _loss(model: UNet, batch: _Batch) -> Tensor:
    """Squared error of the velocity, with one weight for all noise levels: shapes are decided at high noise."""
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(batch.x.contiguous(memory_format=torch.channels_last), batch.timesteps, batch.context)
    return (predicted.float() - batch.velocity).square().mean()


def _average_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _start_quietly(unet: UNet) -> None:
    """Zero the last layer of every residual branch, so that training starts from the identity."""
    for name, parameter in unet.named_parameters():
        if name.endswith(("out_layers.3.weight", "proj_out.weight")) or name.startswith("out.2."):
            nn.init.zeros_(parameter)


@torch.no_grad()
def sample(unet: Callable[..., Tensor], contexts: Tensor, empty: Tensor, shape: tuple[int, ...], *, steps: int,
           guidance: float, seed: int) -> Tensor:  # fmt: skip
    """Latents [B, *shape] for contexts [B, 77, D] by DDIM (Song et al. 2021) with classifier-free guidance."""
    alphas = zero_terminal_snr_alphas()
    x = torch.randn((len(contexts), *shape), generator=torch.Generator().manual_seed(seed))
    both = torch.cat([contexts, empty.expand_as(contexts)])
    timesteps = torch.linspace(TIMESTEPS - 1, 0, steps + 1).round().long()[:-1].tolist()
    for timestep, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        alpha = alphas[timestep]
        conditional, unconditional = unet(x.repeat(2, 1, 1, 1), torch.full((2 * len(x),), timestep), both).chunk(2)
        velocity = unconditional + guidance * (conditional - unconditional)
        x0 = alpha.sqrt() * x - (1 - alpha).sqrt() * velocity
        noise = alpha.sqrt() * velocity + (1 - alpha).sqrt() * x
        alpha = torch.tensor(1.0) if following is None else alphas[following]
        x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
    return x
