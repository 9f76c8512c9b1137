"""What all models have in common: texts are read, a network works on latents, an autoencoder makes pictures of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from backend.diffusion.guidance import Conditioning
from backend.diffusion.prediction import Prediction
from backend.diffusion.process import Process
from backend.families.family import Evaluation, Machine, PictureUse, Preview, Prompt
from backend.families.latent_space import LatentSpace
from backend.families.picture_input import PictureInput
from backend.families.planning import needs_plan, plan_encoder, plan_network
from backend.memory.dry_run import Call
from backend.memory.part import Part
from backend.memory.planner import Plan


class LatentModel:
    """A `Model` but for its levels and its network.

    part: the network. call: how it is called for an evaluation, so that what that takes can be calculated.
    text_parts: the networks that `encode_prompt` fetches. picture: how the network is given one; None if it is not.
    """

    def __init__(
        self,
        *,
        family: str,
        machine: Machine,
        part: Part,
        call: Callable[[Evaluation], Call],
        prediction: Prediction,
        process: Process,
        latents: LatentSpace,
        encode_prompt: Callable[[Prompt], Conditioning],
        text_parts: Sequence[Part],
        picture: PictureInput | None = None,
    ) -> None:
        self.family = family
        self.prediction = prediction
        self.process = process
        self._machine = machine
        self._part = part
        self._call = call
        self._latents = latents
        self._encode_prompt = encode_prompt
        self._text_parts = tuple(text_parts)
        self._picture = picture

    @property
    def picture_use(self) -> PictureUse:
        return PictureUse.NONE if self._picture is None else self._picture.use

    @property
    def latent_kind(self) -> object:
        return self._latents.kind

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return self._latents.channels, height // 8, width // 8

    def encode_prompt(self, prompt: Prompt) -> Conditioning:
        return self._encode_prompt(prompt)

    def retire(self) -> None:
        self._machine.residency.retire(self._part)

    def text_plans(self) -> Sequence[Plan]:
        return [plan_encoder(self._machine, part) for part in self._text_parts]

    def network_plan(self, evaluation: Evaluation) -> Plan:
        return plan_network(self._machine, self._part, evaluation, self._call)

    def plan_if_scarce(self, evaluation: Evaluation) -> Plan | None:
        return self.network_plan(evaluation) if needs_plan(self._machine, self._part, evaluation) else None

    def decoding_plan(self, width: int, height: int) -> Plan:
        return self._latents.decoding_plan(width, height)

    def encoding_plan(self, width: int, height: int) -> Plan:
        return self._latents.encoding_plan(width, height)

    def decode(self, latents: Tensor) -> Tensor:
        return self._latents.decode(latents)

    def encode(self, images: Tensor) -> Tensor:
        return self._latents.encode(images)

    @property
    def takes_image_guidance(self) -> bool:
        return self._picture is not None and self._picture.is_guiding

    def picture_channels(self, picture: Tensor, mask: Tensor | None, weight: float = 1.0) -> Tensor:
        if self._picture is None:
            raise ValueError(f"a network of {self.family} with this many input channels is given no picture")
        return self._picture.of(self._latents, picture, mask, weight)

    def latent_preview(self) -> Preview:
        return self._latents.preview()

    def picture_joiner(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """See `PictureInput.joiner`; x stays as it is for a network that is given no picture."""
        return (lambda x, image: x) if self._picture is None else self._picture.joiner(self._latents)

    def fetch(self, working_bytes: int) -> nn.Module:
        """The network, with `working_bytes` kept free for its activations."""
        return self._machine.residency.get(self._part, working_bytes)
