"""A request with nothing left open: what will be computed, and what the metadata holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.diffusion.latent_upscaling import LatentUpscaler
from backend.diffusion.names import resolve_schedule, split_sampler_name
from backend.diffusion.noise import NoiseKind
from backend.diffusion.samplers.sampler import Sampler
from backend.diffusion.schedules import Schedule
from backend.errors import RequestError
from backend.families.family import Description
from backend.init_image import InitImage
from backend.pipeline.planned_adapters import PlannedAdapters
from backend.pipeline.planned_embeddings import PlannedEmbeddings
from backend.pipeline.planned_hypernetworks import PlannedHypernetworks
from backend.recipe import Recipe
from backend.registry import Registry
from backend.request import MAX_SEED, RANDOM_SEED, GenerationRequest, PredictionKind
from backend.second_pass import Detailer, HiresFix, Tiles
from backend.text.emphasis import EmphasisMode


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Everything that a request can name and that is code."""

    samplers: Registry[Sampler]
    schedules: Registry[Schedule]
    emphasis_modes: Registry[EmphasisMode]
    noise_sources: Registry[NoiseKind]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a user has set once for all requests that leave it open."""

    clip_skip: int | None = None
    emphasis: str = "original"
    noise_source: str = "nv"
    exact_batches: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A checkpoint, and a VAE when it is not the checkpoint's own, as the metadata name them.

    use_ema: whether the checkpoint's averaged weights are used. text_encoders: those that were chosen.
    prediction: the one that was chosen; None for what the file says.
    checkpoint_hash, vae_hash: the first 10 hex digits of the files' SHA-256; None while they are not known.
    recipe: what makes the model, with the hashes of its files as far as they are known; `checkpoint` is then the name
    of the result, and checkpoint_hash that of the recipe.
    """

    checkpoint: str
    checkpoint_hash: str | None = None
    vae: str | None = None
    vae_hash: str | None = None
    use_ema: bool = False
    text_encoders: tuple[str, ...] = ()
    prediction: PredictionKind | None = None
    unused_text_encoders: tuple[str, ...] = ()
    recipe: Recipe | None = None


@dataclass(frozen=True, kw_only=True)
class RefinerPlan:
    """A second model that finishes the picture.

    switch: the share of the steps after which it takes over. switch_timestep: the timestep, in place of that share.
    """

    model: ModelName
    switch: float
    switch_timestep: int | None


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """A job that makes pictures, resolved.

    size_step: sides are multiples of it.
    is_schedule_asked: whether the schedule was chosen, and not taken because it is the sampler's own.
    seed: of the first image; image k has seed + k.
    distilled_guidance: None for models that take none. shift: None for the model's own.
    prompt, negative_prompt: as they were written. adapters: also what of the prompts is encoded.
    init: the picture to begin with. width, height: of what the network makes; a part of the picture where only the
    masked one is made. hires, details: what follows the first pass.
    notices: what the user should know of how the request was understood.
    """

    prompt: str
    negative_prompt: str
    adapters: PlannedAdapters
    model: ModelName
    sampler: Sampler
    schedule: Schedule
    is_schedule_asked: bool
    steps: int
    width: int
    height: int
    size_step: int
    guidance_scale: float
    distilled_guidance: float | None
    guidance_rescale: float
    shift: float | None
    refiner: RefinerPlan | None
    seed: int
    batch_size: int
    batch_count: int
    clip_skip: int
    emphasis: EmphasisMode
    noise_source: NoiseKind
    exact_batches: bool
    embeddings: PlannedEmbeddings = field(default_factory=PlannedEmbeddings)
    hypernetworks: PlannedHypernetworks = field(default_factory=PlannedHypernetworks)
    init: InitImage | None = None
    tiles: Tiles | None = None
    hires: SecondPass | None = None
    details: tuple[DetailPass, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        return self.batch_size * self.batch_count

    @property
    def all_plans(self) -> tuple[GenerationPlan, ...]:
        """This one, and those of what follows its first pass."""
        return (self, *([self.hires.plan] if self.hires else []), *(one.plan for one in self.details))

    @property
    def words(self) -> str:
        """The prompt without tags, which is encoded."""
        return self.adapters.words

    @property
    def negative_words(self) -> str:
        return self.adapters.negative_words


@dataclass(frozen=True, kw_only=True)
class SecondPass:
    """The picture made again at a larger size: plan.width and plan.height.

    latent_upscaler: what enlarges latents; None where `hires.upscaler` enlarges pictures.
    """

    hires: HiresFix
    plan: GenerationPlan
    latent_upscaler: LatentUpscaler | None


@dataclass(frozen=True, kw_only=True)
class DetailPass:
    """Regions made again; each at the size of the plan."""

    detailer: Detailer
    plan: GenerationPlan


def resolve(
    request: GenerationRequest,
    *,
    model: ModelName,
    description: Description,
    choices: Choices,
    standing: Standing,
    refiner: ModelName | None = None,
    adapters: PlannedAdapters | None = None,
    init_size: tuple[int, int] | None = None,
    notices: tuple[str, ...] = (),
) -> GenerationPlan:
    """Fill in what the request leaves open, from the model's defaults and the user's standing choices.

    adapters: None for a request that has nothing to do with any. init_size: width and height, in pixels, for a request
    that begins with a picture and names none. The seed must be drawn already.
    Raises UnknownName, and RequestError for a seed that is still to be drawn and for sides that the model cannot have.
    """
    defaults = description.defaults
    if request.seed == RANDOM_SEED:
        raise RequestError("seed", "must be drawn before the job is planned")
    sampler, named = split_sampler_name(request.sampler or defaults.sampler, choices.samplers, choices.schedules)
    wanted = request.schedule or named or (None if request.sampler else defaults.schedule)
    schedule = resolve_schedule(wanted, sampler, choices.schedules)
    usual = init_size or (description.native_size, description.native_size)
    width, height = request.width or usual[0], request.height or usual[1]
    _check_side("width", width, description.size_step)
    _check_side("height", height, description.size_step)
    if request.tiles is not None:
        _check_side("tiles.size", request.tiles.size, description.size_step)
    return GenerationPlan(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        adapters=adapters or PlannedAdapters(words=request.prompt, negative_words=request.negative_prompt),
        model=model,
        sampler=sampler,
        schedule=schedule,
        is_schedule_asked=wanted is not None and wanted in choices.schedules,
        steps=request.steps if request.steps is not None else defaults.steps,
        width=width,
        height=height,
        size_step=description.size_step,
        guidance_scale=defaults.guidance_scale if request.guidance_scale is None else float(request.guidance_scale),
        distilled_guidance=_distilled_guidance(request, defaults.distilled_guidance),
        guidance_rescale=defaults.guidance_rescale
        if request.guidance_rescale is None
        else float(request.guidance_rescale),
        shift=None if request.shift is None or not description.has_shift else float(request.shift),
        refiner=None
        if refiner is None
        else RefinerPlan(
            model=refiner, switch=float(request.refiner_switch), switch_timestep=request.refiner_switch_timestep
        ),
        seed=request.seed,
        batch_size=request.batch_size,
        batch_count=request.batch_count,
        clip_skip=request.clip_skip or standing.clip_skip or defaults.clip_skip,
        emphasis=choices.emphasis_modes[request.emphasis or standing.emphasis],
        noise_source=choices.noise_sources[request.noise_source or standing.noise_source],
        exact_batches=standing.exact_batches if request.exact_batches is None else request.exact_batches,
        init=request.init,
        tiles=request.tiles,
        notices=notices,
    )


def _distilled_guidance(request: GenerationRequest, default: float | None) -> float | None:
    if default is None or request.distilled_guidance is None:
        return default
    return float(request.distilled_guidance)


def _check_side(field: str, value: int, step: int) -> None:
    if value % step:
        lower = value - value % step
        raise RequestError(field, f"{value} is no multiple of {step}, which this model needs; use {lower} or "
                           f"{lower + step}")  # fmt: skip


def seed_of(plan: GenerationPlan, index: int) -> int:
    """The seed of image `index` of a job; seeds wrap around at the largest one."""
    return (plan.seed + index) % (MAX_SEED + 1)
