"""What a family of models is, and the one interface through which the pipeline drives a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from backend.diffusion.guidance import ConditionedNetwork, Conditioning
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import Prediction
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.text.chunks import CompiledPrompt
from backend.text.emphasis import EmphasisMode
from backend.weights.source import WeightSource

# Shapes: B batch, C latent channels, h x w latent size, M context tokens, D context width.


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a model is used with when the user has not chosen."""

    sampler: str = "dpmpp_2m"
    schedule: str = "automatic"
    steps: int = 20
    guidance_scale: float = 7.0
    clip_skip: int = 1


@dataclass(frozen=True, kw_only=True)
class LatentPreview:
    """A linear map from latents to colours: rgb = latents [C, ...] @ matrix [C, 3] + bias [3], about 0..1."""

    matrix: Tensor
    bias: Tensor


class Model(Protocol):
    """A checkpoint that is ready to make pictures. Its parts are fetched from the residency when they are used."""

    @property
    def family(self) -> str: ...

    @property
    def native_size(self) -> int:
        """Side, in pixels, of the pictures that the model was trained on."""
        ...

    @property
    def defaults(self) -> Defaults: ...

    @property
    def levels(self) -> NoiseLevels: ...

    @property
    def prediction(self) -> Prediction: ...

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture of this size in pixels."""
        ...

    def compile_prompt(self, text: str, emphasis: EmphasisMode) -> CompiledPrompt: ...

    def encode_prompt(self, prompt: CompiledPrompt, *, clip_skip: int, emphasis: EmphasisMode) -> Conditioning:
        """For one image, in float32; its context [1, M, D] has a multiple of 77 tokens."""
        ...

    def network(self) -> ConditionedNetwork:
        """The network with its weights in memory. x is float32 and already scaled; the prediction is float32."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures [B, 3, H, W] float32, about -1..1, of diffusion latents [B, C, h, w]. Raises NumericalError."""
        ...

    def latent_preview(self) -> LatentPreview: ...


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The files of one model. `vae` replaces the autoencoder inside the checkpoint."""

    checkpoint: WeightSource
    vae: WeightSource | None = None
    use_ema: bool = False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a model runs."""

    device: DeviceFacts
    policy: DtypePolicy
    residency: Residency


@dataclass(frozen=True, kw_only=True)
class Family:
    """All facts about one family, or, with `load` None, a kind of file that is known by name but not run.

    recognise looks at names and shapes alone. describe gives native size in pixels and defaults, from a header alone;
    a family that runs has both `describe` and `load`. advice completes the sentence "This is a <label> file: ...".
    """

    name: str
    label: str
    recognise: Callable[[WeightSource], bool]
    describe: Callable[[WeightSource], tuple[int, Defaults]] | None = None
    load: Callable[[ModelFiles, Machine], Model] | None = None
    advice: str = ""
    aliases: tuple[str, ...] = ()


def identify(source: WeightSource, families: Sequence[Family]) -> Family | None:
    """The first of `families` that recognises `source`."""
    return next((family for family in families if family.recognise(source)), None)
