"""Samplers, schedules and detectors of extensions, wrapped so that a fault in one is told with the extension's name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor

from backend.diffusion.levels import Levels
from backend.diffusion.noise import NoiseSource
from backend.diffusion.process import Denoise, Process
from backend.diffusion.samplers import Sampler
from backend.diffusion.schedules import Schedule
from backend.errors import EmulsionError, ExtensionError
from backend.images.detector import Detector


def guarded_sampler(extension: str, sampler: Sampler) -> Sampler:
    """The same sampler, which raises ExtensionError when it breaks or takes something else for latents.

    What `denoise` raises passes: cancelling, running out of memory and faults of the network are not the sampler's.
    """
    what = f'sampler "{sampler.name}"'

    def sample(denoise: Denoise, x: Tensor, sigmas: Sequence[float], process: Process, noise: NoiseSource, /) -> Tensor:
        not_its_own: list[Exception] = []

        def watched(inner_x: Tensor, sigma: float) -> Tensor:
            if problem := _problem_with_latents(inner_x, x):
                raise ExtensionError(extension, f"its {what} must call denoise with {problem}")
            try:
                return denoise(inner_x, sigma)
            except Exception as error:
                not_its_own.append(error)
                raise

        with _blaming(extension, what, not_its_own):
            result = sampler.sample(watched, x, sigmas, process, noise)
        if problem := _problem_with_latents(result, x):
            raise ExtensionError(extension, f"its {what} must return {problem}")
        return result

    return dataclasses.replace(sampler, sample=sample)


def guarded_schedule(extension: str, schedule: Schedule) -> Schedule:
    """The same schedule, which raises ExtensionError when it breaks or its levels are no way down to 0."""

    def sigmas(steps: int, levels: Levels) -> list[float]:
        with _blaming(extension, f'schedule "{schedule.name}"', ()):
            result = [float(sigma) for sigma in schedule.sigmas(steps, levels)]
        if problem := _problem_with_levels(result, steps):
            raise ExtensionError(extension, f'its schedule "{schedule.name}" {problem}')
        return result

    return dataclasses.replace(schedule, sigmas=sigmas)


def guarded_detector(extension: str, detector: Detector) -> Detector:
    """The same detector, which raises ExtensionError when it breaks or finds something else than masks."""
    what = f'detector "{detector.name}"'

    def find(picture: Image.Image) -> list[Image.Image]:
        with _blaming(extension, what, ()):
            masks: list[object] = list(detector.find(picture.copy()))
        found: list[Image.Image] = []
        for mask in masks:
            if not isinstance(mask, Image.Image) or mask.mode != "L" or mask.size != picture.size:
                raise ExtensionError(extension, f"its {what} must find masks: grey pictures of the picture's size")
            found.append(mask)
        return found

    return dataclasses.replace(detector, find=find)


def _problem_with_latents(found: object, expected: Tensor) -> str:
    if not isinstance(found, Tensor):
        return f"latents, not {type(found).__name__}"
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{_described(expected)}, not {_described(found)}"
    return ""


def _described(latents: Tensor) -> str:
    return f"latents of shape {list(latents.shape)} and type {str(latents.dtype).removeprefix('torch.')}"


def _problem_with_levels(sigmas: Sequence[float], steps: int) -> str:
    if len(sigmas) != steps + 1:
        return f"must give {steps + 1} levels for {steps} steps, not {len(sigmas)}"
    if not all(math.isfinite(sigma) for sigma in sigmas):
        return "gave a level that is not a number"
    if sigmas[-1] != 0 or any(sigma <= sigma_next for sigma, sigma_next in pairwise(sigmas)):
        return "must go down at every step and end at 0"
    return ""


@contextmanager
def _blaming(extension: str, what: str, not_its_own: Collection[Exception]) -> Generator[None, None, None]:
    try:
        yield
    except (EmulsionError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if any(error is other for other in not_its_own):
            raise
        raise ExtensionError(extension, f"its {what} failed: {type(error).__name__}: {error}") from error
