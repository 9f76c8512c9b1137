"""Tags of the prompt that add networks: <lora:name:0.8>, <lyco:name:1:0.5:lbw=MIDD>, <hypernet:name>.

What they mean is A1111's, with the arguments of LoRA Block Weight, loractl and SD.Next. What stands where in a prompt
is found as A1111 finds it, so that the words that are left are the same, and a picture is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from backend.adapter_row import StrengthCurve
from backend.recipe import HIGHEST, LOWEST
from backend.text.tag_curves import Window, constant, is_constant, read_curve, read_number, scaled, within

_LORA, _HYPERNET = "lora", "hypernet"
_KINDS = {"lora": _LORA, "lyco": _LORA, "hypernet": _HYPERNET}
_OPENING = re.compile(r"<(\w+):")
_BROKEN = re.compile(r"(?:<|&lt;)\s*(?:lora|lyco|hypernet)\b[^<>]{0,80}", re.IGNORECASE)
_STEPS = re.compile(r"\s*([\d.]+)\s*-\s*([\d.]+)\s*")
_LONGEST_SHOWN = 100  # characters of a tag in a notice
_MOST_NOTICES = 20
_PARTS = {"in": "IN", "mid": "M", "out": "OUT"}  # SD.Next's arguments and the groups of blocks that they are for
_NAMED = {"te", "unet", "dyn", "lbw", "lbwe", "w", "x", "start", "stop", "step", *_PARTS}


@dataclass(frozen=True, kw_only=True)
class NetworkTag:
    """One tag.

    kind: "lora" or "hypernet". name: as it is written: "name", "folder/name" or "#0123456789ab".
    strength: of the denoiser, and where it changes over the steps, that in the first of them.
    text_encoder_strength: None for the same as `strength`. max_rank: how many ranks count, None for all.
    curve: the denoiser's strengths over the steps, None where they are the same in all.
    block_weights, elemental: texts for `block_weights` of backend/merging/lora_block_weights.py, "" for none.
    x: the number that X stands for in them. text: the tag.
    """

    kind: str
    name: str
    strength: float = 1.0
    text_encoder_strength: float | None = None
    max_rank: int | None = None
    block_weights: str = ""
    elemental: str = ""
    x: float = 1.0
    curve: StrengthCurve | None = None
    text: str


@dataclass(frozen=True, kw_only=True)
class TaggedPrompt:
    """A prompt taken apart. words: without its tags. notices: what is wrong with them, for the user."""

    words: str
    tags: tuple[NetworkTag, ...] = ()
    notices: tuple[str, ...] = ()


def read_tags(prompt: str) -> TaggedPrompt:
    """Find and read all tags. White space around them stays, as A1111 leaves it.

    It takes time in proportion to the length of the prompt. A tag of an unknown kind is left out as well, as A1111 does
    it; one that is not closed stays as words; what cannot be read in a tag has its default. All are in the notices.
    """
    words: list[str] = []
    tags: list[NetworkTag] = []
    notices: list[str] = []
    end = position = 0
    while (opening := _OPENING.search(prompt, position)) is not None:
        closing = prompt.find(">", opening.end())
        if closing < 0:
            break
        position = opening.end()
        if closing == position:  # "<lora:>" has no arguments and is no tag
            continue
        words.append(prompt[end : opening.start()])
        end = position = closing + 1
        text = prompt[opening.start() : end]
        if prompt[opening.start() - 1 : opening.start()] == "\\":
            notices.append(_said(text, "a backslash does not make words of a tag; it is used"))
        kind = _KINDS.get(opening[1])
        if kind is None:
            notices.append(_said(text, "is of no known kind (lora, lyco, hypernet); it is left out of the prompt"))
            continue
        reading = _Reading(text=text, items=prompt[opening.end() : closing].split(":"))
        tags.append(reading.lora() if kind == _LORA else reading.hypernet())
        notices += reading.notices
    words.append(prompt[end:])
    left = "".join(words)
    notices += [_said(found[0], "is no complete tag, and is read as words") for found in _BROKEN.finditer(left)]
    return TaggedPrompt(words=left, tags=tuple(tags), notices=_fewest(notices))


@dataclass
class _Reading:
    """Of the arguments of one tag; `notices` fills as they are read. items: what stands between the colons."""

    text: str
    items: list[str]
    notices: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        arguments = self.items[1:]
        self.positional = [item for item in arguments if item.count("=") != 1]
        pairs = [item.split("=") for item in arguments if item.count("=") == 1]
        self.named = {name.strip(): value for name, value in pairs}
        self.tag = NetworkTag(kind=_LORA, name=self.items[0].strip(), text=self.text)

    def hypernet(self) -> NetworkTag:
        self._leave_out([*self.positional[1:], *(f"{name}={value}" for name, value in self.named.items())])
        strength = self._strength(self.positional[0]) if self.positional else constant(1.0)
        return replace(self.tag, kind=_HYPERNET, strength=strength.points[0][1])

    def lora(self) -> NetworkTag:
        self._take_old_form()
        self._leave_out([*self.positional[3:], *(f"{n}={v}" for n, v in self.named.items() if n not in _NAMED)])
        given = self._argument("te", 0)
        text = constant(1.0) if given is None else self._strength(given)
        given = self._argument("unet", 1)
        denoiser = text if given is None else self._strength(given)
        weights, factor = self.named.get("lbw", "").strip(), self.named.get("w", "").strip()
        if factor and "@" not in factor:
            weights, factor = weights or factor, ""
        denoiser, weights = self._with_parts(denoiser, weights)
        curve = self._in_window(self._with_factor(denoiser, factor))
        strength, text_strength = denoiser.points[0][1], text.points[0][1]
        return replace(
            self.tag,
            strength=strength,
            text_encoder_strength=None if text_strength == strength else text_strength,
            max_rank=self._rank(),
            block_weights=weights,
            elemental=self.named.get("lbwe", "").strip(),
            x=self._number("x", 1.0),
            curve=None if curve == denoiser and is_constant(curve) else curve,
        )

    def _take_old_form(self) -> None:
        """LoRA Block Weight's first form, <lora:name:strength:PRESET:x>, as named arguments."""
        if len(self.positional) < 2 or "@" in self.positional[1] or read_number(self.positional[1]) is not None:
            return
        first, weights, *others = self.positional
        self.named.setdefault("lbw", weights)
        if others:
            self.named.setdefault("lbwe" if read_number(others[0]) is None else "x", others[0])
        self.positional = [first, *(["1"] if "unet" in self.named else []), *others[1:]]

    def _with_parts(self, denoiser: StrengthCurve, weights: str) -> tuple[StrengthCurve, str]:
        """in=, mid= and out= take the place of the strength, so as factors by block they are shares of it."""
        given = [name for name in _PARTS if name in self.named]
        if not given:
            return denoiser, weights
        strength = denoiser.points[0][1]
        if not is_constant(denoiser) or (weights and strength == 0):
            self._say("in=, mid= and out= need one strength, not 0, beside them; they are left out")
            return denoiser, weights
        start = [weights or "BASE=1"] if strength else ["BASE=0", "TE=1"]
        whole = strength or 1.0
        entries = [f"{_PARTS[name]}={self._number(name, strength) / whole!r}" for name in given]
        return constant(whole), ", ".join([*start, *entries])

    def _with_factor(self, denoiser: StrengthCurve, factor: str) -> StrengthCurve:
        if not factor:
            return denoiser
        if not is_constant(denoiser):
            self._say("w= and a strength that changes cannot be combined; w= is left out")
            return denoiser
        return scaled(self._strength(factor), denoiser.points[0][1])

    def _in_window(self, curve: StrengthCurve) -> StrengthCurve:
        """As start=, stop= and step= say. Whole steps are counted from 0: stop=10 is for ten steps.

        In A1111 the counter that LoRA Block Weight looks at is one behind, for which it makes up.
        """
        if "step" in self.named:
            found = _STEPS.fullmatch(self.named["step"])
            if found is None:
                self._say(f"step={self.named['step']:.40} is not like 5-10; it is left out")
            else:
                self.named |= {"start": found[1], "stop": found[2]}
        start, stop = self._bound("start"), self._bound("stop")
        bounds = [bound for bound in (start, stop) if bound]
        if not bounds and stop is None:
            return curve
        shares = {bound < 1 for bound in bounds}
        if len(shares) > 1 or (not is_constant(curve) and shares == {curve.in_steps}):
            self._say("steps and shares of the steps are mixed; start and stop are left out")
            return curve
        window = Window(start=start, stop=stop, in_steps=shares != {True})
        if stop is not None and stop <= (start or 0):
            self._say("it stops before it starts, so it adds nothing to the denoiser")
        return within(curve, window)

    def _bound(self, name: str) -> float | None:
        """Below 1 a share; else a whole step."""
        text = self.named.get(name)
        if text is None:
            return None
        number = read_number(text)
        if number is None or number < 0:
            self._say(f"{name}={text:.40} is no step; it is left out")
            return None
        return number if number < 1 else float(int(number))

    def _argument(self, name: str, index: int) -> str | None:
        return self.named.get(name, self.positional[index] if len(self.positional) > index else None)

    def _strength(self, text: str) -> StrengthCurve:
        curve = read_curve(text)
        if curve is None:
            self._say(f'"{text:.40}" is no strength; it is taken as 1')
            return constant(1.0)
        if "@" in text and any("@" not in part for part in re.split("[,;]", text)):
            self._say(f'a number without @ in "{text:.40}" is for the end')
        if all(LOWEST <= strength <= HIGHEST for _, strength in curve.points):
            return curve
        self._say(f'"{text:.40}" is outside of {LOWEST:g} to {HIGHEST:g}; the nearest strength in that is taken')
        points = tuple((position, min(max(strength, LOWEST), HIGHEST)) for position, strength in curve.points)
        return replace(curve, points=points)

    def _number(self, name: str, default: float) -> float:
        text = self.named.get(name)
        if text is None:
            return default
        number = read_number(text)
        if number is None:
            self._say(f"{name}={text:.40} is no number; it is taken as {default:g}")
            return default
        return number

    def _rank(self) -> int | None:
        """0 is for all, as in LyCORIS."""
        text = self._argument("dyn", 2)
        if text is None:
            return None
        try:
            rank = int(text)
        except ValueError:
            rank = -1
        if rank < 0:
            self._say(f"dyn={text:.40} is no whole number of ranks; all count")
        return rank if rank > 0 else None

    def _leave_out(self, arguments: Iterable[str]) -> None:
        for argument in arguments:
            self._say(f'"{argument:.40}" is not known; it is left out')

    def _say(self, problem: str) -> None:
        self.notices.append(_said(self.text, problem))


def _said(text: str, problem: str) -> str:
    shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    return f"The tag {shown}: {problem}."


def _fewest(notices: Iterable[str]) -> tuple[str, ...]:
    """Each once, and not more than a person reads."""
    different = tuple(dict.fromkeys(notices))
    if len(different) <= _MOST_NOTICES:
        return different
    return (*different[:_MOST_NOTICES], f"{len(different) - _MOST_NOTICES} more notices about tags.")
