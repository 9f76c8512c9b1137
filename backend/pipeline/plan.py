"""A request with nothing left open: what will be computed, and what the metadata holds."""

from __future__ import annotations

from dataclasses import dataclass

from backend.diffusion.names import resolve_schedule, split_sampler_name
from backend.diffusion.noise import NoiseKind
from backend.diffusion.samplers.sampler import Sampler
from backend.diffusion.schedules import Schedule
from backend.errors import RequestError
from backend.families.family import Defaults
from backend.registry import Registry
from backend.request import MAX_SEED, RANDOM_SEED, GenerationRequest
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

    use_ema: whether the checkpoint's averaged weights are used.
    checkpoint_hash, vae_hash: the first 10 hex digits of the files' SHA-256; None while they are not known.
    """

    checkpoint: str
    checkpoint_hash: str | None = None
    vae: str | None = None
    vae_hash: str | None = None
    use_ema: bool = False


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """A text-to-image job, resolved.

    is_schedule_asked: whether the schedule was chosen, and not taken because it is the sampler's own.
    seed: of the first image; image k has seed + k.
    """

    prompt: str
    negative_prompt: str
    model: ModelName
    sampler: Sampler
    schedule: Schedule
    is_schedule_asked: bool
    steps: int
    width: int
    height: int
    guidance_scale: float
    seed: int
    batch_size: int
    batch_count: int
    clip_skip: int
    emphasis: EmphasisMode
    noise_source: NoiseKind
    exact_batches: bool

    @property
    def num_images(self) -> int:
        return self.batch_size * self.batch_count


def resolve(
    request: GenerationRequest,
    *,
    model: ModelName,
    native_size: int,
    defaults: Defaults,
    choices: Choices,
    standing: Standing,
) -> GenerationPlan:
    """Fill in what the request leaves open, from the model's defaults and the user's standing choices.

    The seed must be drawn already. Raises UnknownName, and RequestError for a seed that is still to be drawn.
    """
    if request.seed == RANDOM_SEED:
        raise RequestError("seed", "must be drawn before the job is planned")
    sampler, named = split_sampler_name(request.sampler or defaults.sampler, choices.samplers, choices.schedules)
    wanted = request.schedule or named or (None if request.sampler else defaults.schedule)
    schedule = resolve_schedule(wanted, sampler, choices.schedules)
    return GenerationPlan(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=model,
        sampler=sampler,
        schedule=schedule,
        is_schedule_asked=wanted is not None and wanted in choices.schedules,
        steps=request.steps if request.steps is not None else defaults.steps,
        width=request.width or native_size,
        height=request.height or native_size,
        guidance_scale=defaults.guidance_scale if request.guidance_scale is None else float(request.guidance_scale),
        seed=request.seed,
        batch_size=request.batch_size,
        batch_count=request.batch_count,
        clip_skip=request.clip_skip or standing.clip_skip or defaults.clip_skip,
        emphasis=choices.emphasis_modes[request.emphasis or standing.emphasis],
        noise_source=choices.noise_sources[request.noise_source or standing.noise_source],
        exact_batches=standing.exact_batches if request.exact_batches is None else request.exact_batches,
    )


def seed_of(plan: GenerationPlan, index: int) -> int:
    """The seed of image `index` of a job; seeds wrap around at the largest one."""
    return (plan.seed + index) % (MAX_SEED + 1)
