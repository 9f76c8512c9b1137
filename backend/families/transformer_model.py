"""What all families with a diffusion transformer share: a `Model` of one, an autoencoder and a way to read prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from backend.diffusion.guidance import ConditionedNetwork, Conditioning, Text
from backend.diffusion.levels import Levels
from backend.diffusion.prediction import Prediction
from backend.diffusion.process import Process
from backend.families.family import Evaluation, Machine, Prompt
from backend.families.latent_model import LatentModel
from backend.families.latent_space import LatentSpace
from backend.families.picture_input import PictureInput
from backend.memory.dry_run import Call
from backend.memory.part import Part

# Shapes: B batch, G groups of B / G images with a conditioning in common, C channels, h x w latent size, R rows of
# (timestep, group), S vectors of modulation, D width.


class ConditionedTransformer(Protocol):
    """A transformer that was told a conditioning, and computed at once what of it is the same at every step."""

    def modulation(self, timesteps: Tensor, groups: Tensor) -> Tensor:
        """[R, S, D] for timesteps [R] and the groups [R] that they are for. Rows do not depend on each other."""
        ...

    def predict(self, x: Tensor, modulation: Tensor) -> Tensor:
        """The prediction [B, C, h, w] for x [B, C + X, h, w], of which X are those of a picture, and modulation
        [B, S, D]."""
        ...


class TransformerModel(LatentModel):
    """A `Model`. condition: tells the network that the residency gives for `part` a conditioning."""

    def __init__(
        self,
        *,
        family: str,
        machine: Machine,
        part: Part,
        call: Callable[[Evaluation], Call],
        condition: Callable[[nn.Module, Conditioning], ConditionedTransformer],
        levels: Callable[[int, int, float | None], Levels],
        prediction: Prediction,
        process: Process,
        latents: LatentSpace,
        encode_prompt: Callable[[Prompt], Conditioning],
        text_parts: Sequence[Part],
        picture: PictureInput | None = None,
    ) -> None:
        super().__init__(
            family=family,
            machine=machine,
            part=part,
            call=call,
            prediction=prediction,
            process=process,
            latents=latents,
            encode_prompt=encode_prompt,
            text_parts=text_parts,
            picture=picture,
        )
        self._condition = condition
        self._levels = levels

    def levels(self, width: int, height: int, shift: float | None) -> Levels:
        return self._levels(width, height, shift)

    def network(self, timesteps: Sequence[float], working_bytes: int = 0) -> ConditionedNetwork:
        network = self.fetch(working_bytes)
        planned = torch.tensor(timesteps, dtype=torch.float32).tolist()
        runs: dict[Text, _Run] = {}
        joined = self.picture_joiner()

        @torch.inference_mode()
        def predict(x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            text = conditioning.text
            if text not in runs:
                runs[text] = _Run(self._condition(network, conditioning), conditioning.groups, planned)
            return runs[text].predict(joined(x, conditioning.image), timesteps)

        return self._machine.compiled(network, predict)


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
