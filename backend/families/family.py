"""What a family of models is, and the one interface through which the pipeline drives a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor, nn

from backend.diffusion.guidance import ConditionedNetwork, Conditioning
from backend.diffusion.levels import Levels
from backend.diffusion.prediction import Prediction
from backend.diffusion.process import Process
from backend.families.hypernetwork_files import HypernetworkUse
from backend.families.notices import Notices
from backend.families.tiny_decoders import TinyDecoders
from backend.memory.device import DeviceFacts
from backend.memory.dry_run import CallCosts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.planner import Plan
from backend.memory.residency import Residency
from backend.nn.compilation import BlockCompiler
from backend.request import PredictionKind
from backend.text.embeddings import TextualInversion
from backend.text.emphasis import EmphasisMode
from backend.weights.source import WeightSource

# Shapes: B batch, C latent channels, h x w latent size, M context tokens, D context width.


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a model is used with when the user has not chosen.

    distilled_guidance: the scale that the network itself is told, or None when it takes none.
    guidance_rescale: see `GenerationRequest`.
    reason: where these come from, for the user ("SDXL Turbo: its file says so").
    """

    sampler: str = "dpmpp_2m"
    schedule: str = "automatic"
    steps: int = 20
    guidance_scale: float = 7.0
    distilled_guidance: float | None = None
    guidance_rescale: float = 0.0
    clip_skip: int = 1
    reason: str = ""


class PictureUse(str, Enum):
    """What a network does with a picture that it is given beside the latents."""

    NONE = "none"  # it is given none
    INPAINTING = "inpainting"  # it continues the picture where a mask lets it
    EDITING = "editing"  # it changes the picture as the prompt says


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a header says about how to use a model.

    native_size: side, in pixels, of the pictures that it was trained on. size_step: sides are multiples of it.
    text_encoders: kinds ("clip_l", "clip_h", "clip_g", "t5") that it can use; embedded: those that the file holds;
    needed: those without which it does not run. latent_channels: of its autoencoder; has_vae: whether the file has one.
    has_shift: whether its noise levels can be shifted (flow models).
    prediction: what its network predicts where a user may know better; None where that is certain.
    picture_use: what it does with a picture; where that is not NONE, it makes less of a text alone.
    """

    native_size: int
    defaults: Defaults
    size_step: int = 8
    text_encoders: tuple[str, ...] = ("clip_l",)
    embedded: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    latent_channels: int = 4
    has_vae: bool = True
    has_shift: bool = False
    is_refiner: bool = False
    prediction: PredictionKind | None = None
    picture_use: PictureUse = PictureUse.NONE


class Preview(Protocol):
    """Shows about what latents will become."""

    def rgb(self, latents: Tensor) -> Tensor:
        """Colours [B, 3, H, W], about 0..1, of diffusion latents [B, C, h, w], in float32 on the CPU; of any size."""
        ...


@dataclass(frozen=True, kw_only=True)
class LatentPreview:
    """A `Preview` by a linear map: rgb = latents [C, ...] @ matrix [C, 3] + bias [3], about 0..1; of their size."""

    matrix: Tensor
    bias: Tensor

    def rgb(self, latents: Tensor) -> Tensor:
        return torch.einsum("bchw,cr->brhw", latents, self.matrix) + self.bias[:, None, None]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text and how it is to be read.

    width, height: of the picture in pixels; some families are told. distilled_guidance: see `Defaults`.
    embeddings: the textual inversions that the text mentions.
    """

    text: str
    is_negative: bool = False
    clip_skip: int = 1
    emphasis: EmphasisMode
    width: int
    height: int
    distilled_guidance: float | None = None
    embeddings: tuple[TextualInversion, ...] = ()

    def vectors_for(self, kind: str, width: int) -> dict[str, Tensor]:
        """The vectors [N, width] that an encoder reads in place of names."""
        found = ((embedding.name, embedding.vectors_for(kind, width)) for embedding in self.embeddings)
        return {name: vectors for name, vectors in found if vectors is not None}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a network evaluates in one call.

    images: groups times pictures. width, height: pixels. tokens: of the text.
    """

    images: int
    width: int
    height: int
    tokens: int = 77


class Model(Protocol):
    """A checkpoint that is ready to make pictures. Its parts are fetched from the residency when they are used."""

    @property
    def family(self) -> str: ...

    @property
    def prediction(self) -> Prediction: ...

    @property
    def process(self) -> Process: ...

    @property
    def picture_use(self) -> PictureUse: ...

    @property
    def takes_image_guidance(self) -> bool:
        """Whether guidance by a picture is possible, which needs predictions without it."""
        ...

    @property
    def latent_kind(self) -> object:
        """Equal for models whose latents mean the same, so that one can take over those of the other."""
        ...

    def levels(self, width: int, height: int, shift: float | None) -> Levels:
        """The noise levels for pictures of this size. shift: of the levels of a flow model; None for the model's."""
        ...

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture of this size in pixels."""
        ...

    def encode_prompt(self, prompt: Prompt) -> Conditioning:
        """One group, in float32."""
        ...

    def network(self, timesteps: Sequence[float], working_bytes: int = 0) -> ConditionedNetwork:
        """The network with its weights in reach. x is float32 and already scaled; the prediction is float32.

        timesteps: those of the run, so that what depends on nothing else is computed once. Others may follow.
        working_bytes: what it needs for its activations, which is kept free.
        """
        ...

    def retire(self) -> None:
        """Have the network make room before everything else, because another takes its place, until it is used."""
        ...

    def text_plans(self) -> Sequence[Plan]:
        """How the text encoders would run, from headers alone. Raises OutOfMemory."""
        ...

    def network_plan(self, evaluation: Evaluation) -> Plan:
        """How the network would run, from headers and a calculation. Raises OutOfMemory."""
        ...

    def plan_if_scarce(self, evaluation: Evaluation) -> Plan | None:
        """`network_plan`, or None where there is so much memory that the calculation can be spared."""
        ...

    def decoding_plan(self, width: int, height: int) -> Plan:
        """How the autoencoder would make a picture. Raises OutOfMemory."""
        ...

    def encoding_plan(self, width: int, height: int) -> Plan:
        """How the autoencoder would read a picture. Raises OutOfMemory."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures [B, 3, H, W] float32, about -1..1, of diffusion latents [B, C, h, w]. Raises NumericalError."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """The diffusion latents [B, C, h, w], the means of their distributions, of pictures [B, 3, H, W] in -1..1."""
        ...

    def picture_channels(self, picture: Tensor, mask: Tensor | None, weight: float = 1.0) -> Tensor:
        """What `Conditioning.image` holds [1, X, h, w] for a picture [1, 3, H, W] in -1..1.

        mask: [1, 1, H, W] in 0..1, rounded: 1 is to change; None when everything is. Networks for editing read none.
        weight: how much of what is to change is hidden from a network for inpainting: 1 all of it, 0 nothing.
        Raises ValueError for a network that is given no picture.
        """
        ...

    def latent_preview(self) -> Preview: ...


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The files of one model.

    vae replaces the autoencoder inside the checkpoint. text_encoders: by kind ("clip_l", "clip_h", "clip_g", "t5"),
    in place of those inside the checkpoint. hypernetworks: in the order in which they change contexts; only families
    that say so take any.
    """

    checkpoint: WeightSource
    vae: WeightSource | None = None
    text_encoders: Mapping[str, WeightSource] = field(default_factory=dict[str, WeightSource])
    use_ema: bool = False
    hypernetworks: tuple[HypernetworkUse, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a model runs, and how. costs: what calls of networks take, as far as that was calculated before.

    compiler: of networks' blocks; None for a machine that never compiles. notices: what models tell users.
    tiny_decoders: files that show pictures while they form.
    """

    device: DeviceFacts
    policy: DtypePolicy
    residency: Residency
    costs: CallCosts = field(default_factory=CallCosts)
    compiler: BlockCompiler | None = None
    notices: Notices = field(default_factory=Notices)
    tiny_decoders: TinyDecoders = field(default_factory=TinyDecoders)

    def compiled(self, network: nn.Module, evaluate: ConditionedNetwork) -> ConditionedNetwork:
        """`evaluate`, in which the blocks of `network` run compiled if that is wanted and possible."""
        return evaluate if self.compiler is None else self.compiler.around(network, evaluate)


@dataclass(frozen=True, kw_only=True)
class Family:
    """All facts about one family, or, with `load` None, a kind of file that is known by name but not run.

    recognise looks at names and shapes alone. describe goes by a header alone; a family that runs has both `describe`
    and `load`. advice completes the sentence "This is a <label> file: ...". takes_hypernetworks: see `ModelFiles`.
    """

    name: str
    label: str
    recognise: Callable[[WeightSource], bool]
    describe: Callable[[WeightSource], Description] | None = None
    load: Callable[[ModelFiles, Machine], Model] | None = None
    advice: str = ""
    aliases: tuple[str, ...] = ()
    takes_hypernetworks: bool = False


def identify(source: WeightSource, families: Sequence[Family]) -> Family | None:
    """The first of `families` that recognises `source`."""
    return next((family for family in families if family.recognise(source)), None)
