"""LoRAs that make a model need few steps, told by their names, and what they have to be used with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TITLES = ("modelspec.title", "ss_output_name")
_NUM_STEPS = re.compile(r"(?<!\d)(\d{1,2})[ _-]?step", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """words: of which one stands in the name, or in its beginning. needs: samplers, schedules and guidance."""

    label: str
    words: re.Pattern[str]
    steps: str
    needs: str


def _named(*words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{'|'.join(words)})(?![a-z])", re.IGNORECASE)


_DISTILLED = "a CFG scale of 1 (a negative prompt has no effect then)"
# the first that fits; FLUX has guidance of its own, which these leave as it is
_KINDS = (
    _Kind(label="Hyper-SD for FLUX", words=_named(r"hyper[ _-]?flux\S*"), steps="8 or 16",
          needs="a strength of about 0.125, and the usual distilled guidance of 3.5"),
    _Kind(label="Turbo for FLUX", words=_named(r"flux\S*[ _-]turbo\S*"), steps="8",
          needs="a strength of 1, and the usual distilled guidance of 3.5"),
    _Kind(label="a LoRA of Hyper-SD that keeps guidance", words=_named(r"hyper[ _-]?sd\S*cfg\S*"), steps="8 or 12",
          needs="the sampler `euler` or `ddim`, and a CFG scale of 5 to 8"),
    _Kind(label="a LoRA of Hyper-SD", words=_named(r"hyper[ _-]?sd(?:xl)?"), steps="1 to 8",
          needs=f"the sampler `tcd`, or `euler` with the schedule `turbo`, and {_DISTILLED}"),
    _Kind(label="an SDXL-Lightning LoRA", words=_named("lightning"), steps="4 or 8",
          needs=f"the sampler `euler`, the schedule `turbo`, and {_DISTILLED}"),
    _Kind(label="a DMD2 LoRA", words=_named("dmd2"), steps="4",
          needs=f"the sampler `lcm`, the schedule `dmd2`, and {_DISTILLED}"),
    _Kind(label="a TCD LoRA", words=_named("tcd"), steps="4 to 8",
          needs=f"the sampler `tcd`, and {_DISTILLED}"),
    _Kind(label="an LCM LoRA", words=_named("lcm"), steps="4 to 8",
          needs="the sampler `lcm`, the schedule `lcm`, and a CFG scale of 1 to 2"),
    _Kind(label="a Turbo LoRA", words=_named("turbo"), steps="1 to 4",
          needs=f"the sampler `euler_ancestral`, the schedule `turbo`, and {_DISTILLED}"),
)  # fmt: skip


def hint_of(file_name: str, metadata: Mapping[str, str]) -> str:
    """A sentence for the user; "" for LoRAs of the usual kind."""
    names = (file_name, *(metadata[key][:200] for key in _TITLES if key in metadata))
    for name in names:
        kind = next((kind for kind in _KINDS if kind.words.search(name)), None)
        if kind is not None:
            return f"By its name it is {kind.label}: use {_steps(name) or kind.steps} steps, {kind.needs}."
    return ""


def _steps(name: str) -> str:
    found = _NUM_STEPS.search(name)
    return found[1] if found else ""
