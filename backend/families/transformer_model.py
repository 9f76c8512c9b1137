"""What all families with a diffusion transformer share: a `Model` of one, an autoencoder and a way to read prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from backend.diffusion.guidance import ConditionedNetwork, Conditioning
from backend.diffusion.levels import Levels
from backend.diffusion.prediction import Prediction
from backend.diffusion.process import Process
from backend.families.family import Evaluation, LatentPreview, Machine, Prompt
from backend.families.latent_space import LatentSpace
from backend.families.planning import needs_plan, plan_encoder, plan_network
from backend.memory.dry_run import Call
from backend.memory.part import Part
from backend.memory.planner import Plan

# Shapes: B batch, G groups of B / G images with a conditioning in common, C channels, h x w latent size, R rows of
# (timestep, group), S vectors of modulation, D width.


class ConditionedTransformer(Protocol):
    """A transformer that was told a conditioning, and computed at once what of it is the same at every step."""

    def modulation(self, timesteps: Tensor, groups: Tensor) -> Tensor:
        """[R, S, D] for timesteps [R] and the groups [R] that they are for. Rows do not depend on each other."""
        ...

    def predict(self, x: Tensor, modulation: Tensor) -> Tensor:
        """The prediction [B, C, h, w] for x [B, C, h, w] and modulation [B, S, D]."""
        ...


class TransformerModel:
    """A `Model`. condition: tells the network that the residency gives for `transformer` a conditioning.

    call: how the network is called for an evaluation, so that what it takes can be calculated.
    """

    def __init__(
        self,
        *,
        family: str,
        transformer: Part,
        condition: Callable[[nn.Module, Conditioning], ConditionedTransformer],
        latents: LatentSpace,
        latent_channels: int,
        levels: Callable[[int, int, float | None], Levels],
        prediction: Prediction,
        process: Process,
        encode_prompt: Callable[[Prompt], Conditioning],
        text_parts: Sequence[Part],
        call: Callable[[Evaluation], Call],
        machine: Machine,
    ) -> None:
        self.family = family
        self.prediction = prediction
        self.process = process
        self._transformer = transformer
        self._condition = condition
        self._latents = latents
        self._latent_channels = latent_channels
        self._levels = levels
        self._encode_prompt = encode_prompt
        self._text_parts = tuple(text_parts)
        self._call = call
        self._machine = machine

    def levels(self, width: int, height: int, shift: float | None) -> Levels:
        return self._levels(width, height, shift)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return self._latent_channels, height // 8, width // 8

    def encode_prompt(self, prompt: Prompt) -> Conditioning:
        return self._encode_prompt(prompt)

    def text_plans(self) -> Sequence[Plan]:
        return [plan_encoder(self._machine, part) for part in self._text_parts]

    def network_plan(self, evaluation: Evaluation) -> Plan:
        return plan_network(self._machine, self._transformer, evaluation, self._call)

    def decoding_plan(self, width: int, height: int) -> Plan:
        return self._latents.decoding_plan(width, height)

    def plan_if_scarce(self, evaluation: Evaluation) -> Plan | None:
        return self.network_plan(evaluation) if needs_plan(self._machine, self._transformer, evaluation) else None

    def network(self, timesteps: Sequence[float], working_bytes: int = 0) -> ConditionedNetwork:
        network = self._machine.residency.get(self._transformer, working_bytes)
        planned = torch.tensor(timesteps, dtype=torch.float32).tolist()
        runs: dict[Conditioning, _Run] = {}

        @torch.inference_mode()
        def predict(x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            if conditioning not in runs:
                runs[conditioning] = _Run(self._condition(network, conditioning), conditioning.groups, planned)
            return runs[conditioning].predict(x, timesteps)

        return self._machine.compiled(network, predict)

    def decode(self, latents: Tensor) -> Tensor:
        return self._latents.decode(latents)

    def encode(self, images: Tensor) -> Tensor:
        return self._latents.encode(images)

    def latent_preview(self) -> LatentPreview:
        return self._latents.preview()


class _Run:
    """One conditioning at the timesteps of a run, whose modulation is computed ahead of its first step."""

    def __init__(self, conditioned: ConditionedTransformer, groups: int, timesteps: Iterable[float]) -> None:
        self._conditioned = conditioned
        self._groups = groups
        self._modulation: dict[float, Tensor] = {}  # [G, S, D] by timestep
        self._prepare(timesteps)

    def predict(self, x: Tensor, timesteps: Tensor) -> Tensor:
        told: list[float] = timesteps.tolist()
        self._prepare(told)  # samplers may look between the planned ones
        images = len(told) // self._groups
        rows = [self._modulation[timestep][index // images] for index, timestep in enumerate(told)]
        return self._conditioned.predict(x, torch.stack(rows)).float().contiguous()

    def _prepare(self, timesteps: Iterable[float]) -> None:
        new = sorted(set(timesteps) - self._modulation.keys(), reverse=True)
        if new:
            rows = torch.tensor(new).repeat_interleave(self._groups)
            computed = self._conditioned.modulation(rows, torch.arange(self._groups).repeat(len(new)))
            self._modulation.update(zip(new, computed.unflatten(0, (len(new), self._groups)), strict=True))
