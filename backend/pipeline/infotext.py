"""A1111's `parameters` text: prompt, negative prompt and one line of `key: value` pairs.

    a cat in the rain
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x768

Other programs write and read it too, so the rules are theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

from backend.adapter_row import AdapterRow, NameHash, rows_from
from backend.errors import RequestError
from backend.pipeline.infotext_pictures import pictures_from
from backend.pipeline.infotext_values import shown, split_size, without_hash
from backend.pipeline.planned_embeddings import PREFIX
from backend.recipe import parse_recipe
from backend.request import GenerationRequest, PredictionKind

NEGATIVE_PROMPT = "Negative prompt:"
MIN_PAIRS = 3  # a last line with fewer pairs is a line of the prompt
_SAY_NOTHING_TO_DO = frozenset({"Version", "User", "VAE hash", "TI", "Hashes"})
_DONE_AFTERWARDS = "Postprocess "  # begins A1111's keys of that
_HASH_BEHIND_HYPERNET = re.compile(r" ?\([0-9a-fA-F]{4,64}\)$")
_HASH = re.compile(r"[0-9a-f]{8,64}")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Infotext:
    """What an infotext says. parameters: every value as its text, in the order of the line."""

    prompt: str = ""
    negative_prompt: str = ""
    parameters: dict[str, str] = field(default_factory=dict[str, str])

    def sizes(self) -> dict[str, str]:
        """The two numbers of every value like "512x768", as A1111 names them: "Size-1" and "Size-2"."""
        found: dict[str, str] = {}
        for key, value in self.parameters.items():
            if (size := split_size(value)) is not None:
                found[f"{key}-1"], found[f"{key}-2"] = size
        return found


class RestoredRequest(NamedTuple):
    """fields: values for GenerationRequest by name; notices: what of the infotext was not restored, and why."""

    fields: dict[str, Any]
    notices: list[str]


def write_infotext(prompt: str, negative_prompt: str, parameters: Mapping[str, object]) -> str:
    """The text for these prompts and pairs, in their order; pairs whose value is None are left out.

    Raises ValueError for a key that no reader would find again.
    """
    for key in parameters:
        if len(key) < 2 or not _is_word(key[0]) or not all(map(_is_of_key, key)):
            raise ValueError(f"infotext key {key!r} needs two or more letters, digits, spaces, hyphens or slashes")
    pairs = [
        key if key == str(value) else f"{key}: {_quote(str(value))}"
        for key, value in parameters.items()
        if value is not None
    ]
    negative = f"\n{NEGATIVE_PROMPT} {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{', '.join(pairs)}".strip()


def write_names(names: Sequence[str]) -> str:
    """Names as one value, with commas between them; a name that would not be read back otherwise is a JSON string."""
    return ", ".join(map(_quote_name, names))


def read_names(text: str) -> tuple[str, ...]:
    """The names in a value that `write_names` wrote."""
    names: list[str] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        end = _end_of_value(text, at)
        names.append(_unquote(text[at:end].rstrip()))
        at = end + 1
    return tuple(names)


def write_name_hashes(hashes: Sequence[NameHash]) -> str:
    """Names and hashes as A1111 writes those of the LoRAs of a picture: "cat: 0123456789ab, dog: ba9876543210"."""
    return ", ".join(f"{known.name}: {known.hash}" for known in hashes)


def read_name_hashes(text: str) -> tuple[NameHash, ...]:
    """The other way round. Colons and commas may be parts of a name. What has no hash behind it is left out."""
    found: list[NameHash] = []
    pending: list[str] = []
    for part in text.split(","):
        pending.append(part)
        digits = part.rpartition(":")[2].strip().lower()
        if ":" in part and _HASH.fullmatch(digits):
            name = ",".join(pending).rpartition(":")[0].strip()
            found += [NameHash(name=name, hash=digits)] if name else []
            pending = []
    return tuple(found)


def read_infotext(text: str) -> Infotext:
    """Read what any of the programs wrote. Never fails: what is no list of pairs is prompt. Linear in the length."""
    *lines, last = text.strip().split("\n")
    pairs = read_pairs(last)
    if len(pairs) < MIN_PAIRS:
        lines, pairs = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    current = prompt
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE_PROMPT):
            current, line = negative, line[len(NEGATIVE_PROMPT) :].strip()
        if line or current:  # blank lines in front of a prompt are not part of it
            current.append(line)
    return Infotext(
        prompt="\n".join(prompt),
        negative_prompt="\n".join(negative),
        parameters={key: _unquote(value) for key, value in pairs if value},
    )


def read_pairs(line: str) -> list[tuple[str, str]]:
    """The (key, value) pairs in a line, values still quoted.

    A key is a letter, digit or underscore and one or more of these, spaces, hyphens or slashes, up to a colon. Its
    value is a double-quoted string before a comma or the end, or else everything up to the next comma.
    """
    pairs: list[tuple[str, str]] = []
    at = 0
    while (colon := line.find(":", at)) >= 0:
        key = _key_before(line, at, colon)
        at = colon + 1
        if key is None:
            continue
        while at < len(line) and line[at].isspace():
            at += 1
        end = _end_of_value(line, at)
        pairs.append((key, line[at:end]))
        at = end + 1
    return pairs


def request_from_infotext(infotext: Infotext) -> RestoredRequest:
    """Which request would make the picture again, as far as this program can.

    Sampler, schedule, checkpoint and VAE are names as they were written; looking them up is up to whoever knows what
    there is. What A1111 leaves out when it is at its default is filled in, so that no preference takes its place.
    """
    restored = RestoredRequest({"prompt": infotext.prompt, "negative_prompt": infotext.negative_prompt}, [])
    left = dict(infotext.parameters)
    if not left:
        return restored
    for key in _SAY_NOTHING_TO_DO:
        left.pop(key, None)
    _restore(restored, left, "Steps", lambda text: {"steps": int(text)})
    _restore(restored, left, "Sampler", lambda text: {"sampler": text})
    _restore(restored, left, "Schedule type", lambda text: {"schedule": text})
    _restore(restored, left, "CFG scale", lambda text: {"guidance_scale": float(text)})
    _restore(restored, left, "Distilled CFG Scale", lambda text: {"distilled_guidance": float(text)})
    _restore(restored, left, "CFG Rescale", lambda text: {"guidance_rescale": float(text)}, default="0")
    _restore(restored, left, "Shift", lambda text: {"shift": float(text)})
    _restore(restored, left, "Seed", lambda text: {"seed": int(text)})
    _restore(restored, left, "Size", _size_fields)
    _restore_checkpoint(restored, left)
    _restore(restored, left, "Merge recipe", lambda text: {"recipe": parse_recipe(text)})
    _restore(restored, left, "VAE", lambda text: {"vae": None if text in ("Automatic", "None") else text})
    _restore(restored, left, "Text encoders", lambda text: {"text_encoders": read_names(text)})
    _restore(restored, left, "Lora hashes", lambda text: {"name_hashes": read_name_hashes(text)})
    _restore(restored, left, "TI hashes", lambda text: _with_embeddings(restored.fields, text))
    _restore(restored, left, "Adapters", lambda text: {"adapters": _rows(text)})
    _restore(restored, left, "Refiner", lambda text: {"refiner": without_hash(text)})
    _restore(restored, left, "Refiner switch at", lambda text: {"refiner_switch": float(text)})
    _restore(restored, left, "Refiner switch timestep", lambda text: {"refiner_switch_timestep": int(text)})
    _restore(restored, left, "Prediction", lambda text: {"prediction": PredictionKind(text)})
    _restore(restored, left, "EMA weights", lambda text: {"use_ema": text == "True"})
    _restore(restored, left, "Clip skip", lambda text: {"clip_skip": int(text)}, default="1")
    _restore(restored, left, "Emphasis", lambda text: {"emphasis": text}, default="Original")
    _restore(restored, left, "RNG", lambda text: {"noise_source": "NV" if text == "GPU" else text}, default="GPU")
    _restore(restored, left, "Hypernet", lambda text: _with_hypernetwork(restored.fields, left, text))
    pictures = pictures_from(left)
    restored.fields.update(pictures.fields)
    restored.notices.extend(pictures.notices)
    restored.notices.extend(_upscaling_in(left))
    restored.notices.extend(
        f"{key}: {shown(value)} was not restored; it has no meaning here."
        for key, value in left.items()
        if key not in pictures.keys
    )
    return restored


def _restore(
    restored: RestoredRequest,
    left: dict[str, str],
    key: str,
    read: Callable[[str], dict[str, Any]],
    default: str | None = None,
) -> None:
    """Take `key` out of `left` and put what `read` makes of it among the fields, or a notice when it makes no sense."""
    text = left.pop(key, default)
    if text is None:
        return
    try:
        values = read(text.strip())
        GenerationRequest(**values)
    except RequestError as error:
        restored.notices.append(f"{key}: {shown(text)} was not restored: {error.problem}.")
    except ValueError:
        restored.notices.append(f"{key}: {shown(text)} was not restored; it is not what belongs there.")
    else:
        restored.fields.update(values)


def _upscaling_in(left: dict[str, str]) -> list[str]:
    """Take out what was done to the finished picture, which no request for it asks for."""
    done = {key: left.pop(key) for key in [key for key in left if key.startswith(_DONE_AFTERWARDS)]}
    upscaler = done.get(f"{_DONE_AFTERWARDS}upscaler")
    by = f" by {shown(upscaler)}" if upscaler else ""
    return [f"The picture was made larger afterwards{by}; these settings make it as it was before."] if done else []


def _with_hypernetwork(fields: Mapping[str, Any], left: dict[str, str], name: str) -> dict[str, Any]:
    """As the tag that later versions of A1111 have in its place."""
    strength = float(left.pop("Hypernet strength", "1"))
    return {"prompt": f"{fields['prompt']}<hypernet:{_HASH_BEHIND_HYPERNET.sub('', name)}:{strength:g}>"}


def _with_embeddings(fields: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Which files the textual inversions are, beside the LoRAs."""
    used = (NameHash(name=PREFIX + known.name, hash=known.hash) for known in read_name_hashes(text))
    return {"name_hashes": (*fields.get("name_hashes", ()), *used)}


def _restore_checkpoint(restored: RestoredRequest, left: dict[str, str]) -> None:
    """By name, or by hash where the text has no name."""
    model_hash = left.pop("Model hash", None)
    if "Model" not in left and model_hash is not None:
        left["Model"] = model_hash
    _restore(restored, left, "Model", lambda text: {"checkpoint": text})


def _rows(text: str) -> tuple[AdapterRow, ...]:
    """Raises ValueError for what is no JSON, RequestError for rows that are none."""
    try:
        return rows_from(json.loads(text))
    except RecursionError as error:  # thousands of brackets
        raise ValueError(text) from error


def _size_fields(text: str) -> dict[str, Any]:
    if (size := split_size(text)) is None:
        raise ValueError(text)
    return {"width": int(size[0]), "height": int(size[1])}


def _key_before(line: str, start: int, colon: int) -> str | None:
    """The key that ends at `colon` and begins at `start` or later."""
    begin = colon
    while begin > start and _is_of_key(line[begin - 1]):
        begin -= 1
    while begin < colon and not _is_word(line[begin]):
        begin += 1
    return line[begin:colon] if colon - begin >= 2 else None


def _end_of_value(line: str, start: int) -> int:
    """Where the value that begins at `start` ends: at its comma or at the end of the line."""
    if line.startswith('"', start):
        closing = _closing_quote(line, start)
        # The quoted text must not be empty, and nothing may follow it but a comma.
        if closing > start + 1 and (closing + 1 == len(line) or line[closing + 1] == ","):
            return closing + 1
    comma = line.find(",", start)
    return len(line) if comma < 0 else comma


def _closing_quote(line: str, opening: int) -> int:
    """Where the next double quote without a backslash is; -1 when there is none."""
    at = opening + 1
    while at < len(line) and line[at] != '"':
        at += 2 if line[at] == "\\" else 1
    return at if at < len(line) else -1


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _is_of_key(character: str) -> bool:
    return _is_word(character) or character in " -/"


def _quote(value: str) -> str:
    """`value`, as a JSON string if it would not be read back otherwise.

    The others quote for a comma, a colon or a newline only, and lose empty values, outer spaces and outer quotes.
    """
    is_plain = value and value == value.strip() and value[0] != '"' and not any(mark in value for mark in ",:\n")
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _quote_name(name: str) -> str:
    is_plain = name and name == name.strip() and name[0] != '"' and "," not in name
    return name if is_plain else json.dumps(name, ensure_ascii=False)


def _unquote(value: str) -> str:
    """The content of a JSON string; `value` itself when it is none."""
    if not (len(value) > 1 and value[0] == value[-1] == '"'):
        return value
    try:
        content = cast(str, json.loads(value))
        content.encode()
    except ValueError:  # no JSON, or half of a surrogate pair, which no file can hold
        return value
    return content
