"""Recipes: how a model is made of others. Values only, which go into requests, pictures, files and JSON."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias, cast

from backend.errors import RequestError

MAX_DEPTH = 16  # of models in models
MAX_MODELS = 16  # of one merge
MAX_OVERRIDES = 4096  # every block times every kind, and more
MAX_RECIPE_BYTES = 1_048_576
LOWEST, HIGHEST = -10.0, 10.0  # of a weight: outside of 0 to 1 it extrapolates
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_.:+-]{1,64}")


class StoredDtype(Enum):
    """What the numbers of a finished model are stored as. AS_FIRST: every weight as the first model has it."""

    AS_FIRST = "as_first"
    FLOAT32 = "fp32"
    FLOAT16 = "fp16"
    BFLOAT16 = "bf16"
    FLOAT8_E4M3 = "fp8_e4m3"
    FLOAT8_E5M2 = "fp8_e5m2"


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A file of the library by its name. sha256: of the whole file in hex, "" while it is not known.

    tensors: SHA-256 of a LoRA's tensors alone, "" where it is not known: other metadata make it no other LoRA.
    """

    name: str
    sha256: str = ""
    tensors: str = ""


@dataclass(frozen=True, kw_only=True)
class Override:
    """A value for the weights that lie in one of `blocks`, are of one of `kinds` and belong to one of `streams`.

    Names as the block layout of the family has them (backend/merging/block_layout.py); none means any.
    """

    value: float
    blocks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A number for every weight of a model: that of the last override which fits, or `base`."""

    base: float
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckpointInput:
    """A file as it is. use_ema: its averaged weights in place of the plain ones."""

    file: FileRef
    use_ema: bool = False


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Several models combined, weight by weight.

    rule, normalisation: registry names ("lerp", "none"). models: in the order of the rule's roles.
    parameters: the rule's numbers by name, sorted; those that are left out have the rule's default.
    seed: of rules that draw.
    """

    rule: str
    models: tuple[Node, ...]
    parameters: tuple[tuple[str, Weights], ...] = ()
    normalisation: str = "none"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class AdapterUse:
    """A LoRA that is added. text_encoder_strength: None for the same as `strength`. weights: a factor by block.

    max_rank: how many of its ranks count, None for all; its scale stays the same.
    """

    file: FileRef
    strength: float = 1.0
    text_encoder_strength: float | None = None
    weights: Weights | None = None
    max_rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class WithAdapters:
    model: Node
    adapters: tuple[AdapterUse, ...]


@dataclass(frozen=True, kw_only=True)
class WithVae:
    """A model with another autoencoder."""

    model: Node
    vae: FileRef


Node: TypeAlias = "CheckpointInput | Merge | WithAdapters | WithVae"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is made. Everything but the name decides what it is."""

    root: Node
    dtype: StoredDtype = StoredDtype.AS_FIRST
    name: str = ""

    def files(self) -> Iterator[FileRef]:
        """Every file that it names, in order, with repetitions."""
        return _files(self.root)

    def to_mapping(self) -> dict[str, Any]:
        """JSON values; `recipe_from` gives the same recipe back."""
        return {"name": self.name, "dtype": self.dtype.value, "root": _mapping(self.root)}

    @property
    def hash(self) -> str:
        """SHA-256 in hex of what decides the weights: contents of files where they are known, and not names."""
        content = {"dtype": self.dtype.value, "root": _mapping(self.root, nameless=True)}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def with_hashes(recipe: Recipe, hashes: Mapping[str, str]) -> Recipe:
    """The recipe in which files carry the SHA-256 that `hashes` has under their names, and no other hash."""
    return replace(recipe, root=_hashed(recipe.root, hashes))


def recipe_from(value: Any) -> Recipe:
    """Read JSON values. Raises RequestError, which says where they are wrong."""
    found = _object(value, "recipe", {"root"}, {"name", "dtype"})
    try:
        dtype = StoredDtype(found.get("dtype", StoredDtype.AS_FIRST.value))
    except ValueError:
        known = ", ".join(dtype.value for dtype in StoredDtype)
        raise RequestError("recipe.dtype", f"must be one of {known}, not {found['dtype']!r:.60}") from None
    name = found.get("name", "")
    return Recipe(name=_text(name, "recipe.name"), dtype=dtype, root=_node(found["root"], "recipe.root", MAX_DEPTH))


def parse_recipe(text: str) -> Recipe:
    """Read JSON. Raises RequestError."""
    if len(text) > MAX_RECIPE_BYTES:
        raise RequestError("recipe", f"is {len(text):,} characters long; at most {MAX_RECIPE_BYTES:,} are read")
    try:
        return recipe_from(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise RequestError("recipe", f"is no JSON ({str(error)[:100]})") from error


def _files(node: Node) -> Iterator[FileRef]:
    match node:
        case CheckpointInput():
            yield node.file
        case Merge():
            for model in node.models:
                yield from _files(model)
        case WithAdapters():
            yield from _files(node.model)
            yield from (adapter.file for adapter in node.adapters)
        case WithVae():
            yield from _files(node.model)
            yield node.vae


def _hashed(node: Node, hashes: Mapping[str, str]) -> Node:
    def known(file: FileRef) -> FileRef:
        return FileRef(name=file.name, sha256=hashes[file.name]) if file.name in hashes else file

    match node:
        case CheckpointInput():
            return replace(node, file=known(node.file))
        case Merge():
            return replace(node, models=tuple(_hashed(model, hashes) for model in node.models))
        case WithAdapters():
            adapters = tuple(replace(adapter, file=known(adapter.file)) for adapter in node.adapters)
            return replace(node, model=_hashed(node.model, hashes), adapters=adapters)
        case WithVae():
            return replace(node, model=_hashed(node.model, hashes), vae=known(node.vae))


def _mapping(node: Node, *, nameless: bool = False) -> dict[str, Any]:
    def file(ref: FileRef) -> dict[str, str]:
        if nameless and ref.sha256:
            return {"sha256": ref.sha256}
        return {name: text for name, text in vars(ref).items() if text or name == "name"}

    match node:
        case CheckpointInput():
            return {"type": "checkpoint", "file": file(node.file), **({"use_ema": True} if node.use_ema else {})}
        case Merge():
            return {
                "type": "merge",
                "rule": node.rule,
                "models": [_mapping(model, nameless=nameless) for model in node.models],
                "parameters": {name: weights_mapping(weights) for name, weights in node.parameters},
                "normalisation": node.normalisation,
                "seed": node.seed,
            }
        case WithAdapters():
            return {
                "type": "adapters",
                "model": _mapping(node.model, nameless=nameless),
                "adapters": [{**adapter_mapping(adapter), "file": file(adapter.file)} for adapter in node.adapters],
            }
        case WithVae():
            return {"type": "vae", "model": _mapping(node.model, nameless=nameless), "vae": file(node.vae)}


def adapter_mapping(adapter: AdapterUse) -> dict[str, Any]:
    """JSON values; `adapter_from` gives the same use back."""
    return {
        "file": {name: text for name, text in vars(adapter.file).items() if text or name == "name"},
        "strength": adapter.strength,
        "text_encoder_strength": adapter.text_encoder_strength,
        "weights": None if adapter.weights is None else weights_mapping(adapter.weights),
        **({} if adapter.max_rank is None else {"max_rank": adapter.max_rank}),
    }


def weights_mapping(weights: Weights) -> dict[str, Any]:
    """JSON values; `weights_from` gives the same weights back."""
    overrides = [
        {
            "value": override.value,
            **{name: list(names) for name, names in _selection(override).items() if names},
        }
        for override in weights.overrides
    ]
    return {"base": weights.base, **({"overrides": overrides} if overrides else {})}


def _selection(override: Override) -> dict[str, tuple[str, ...]]:
    return {"blocks": override.blocks, "kinds": override.kinds, "streams": override.streams}


def _node(value: Any, where: str, depth: int) -> Node:
    if depth == 0:
        raise RequestError(where, f"is more than {MAX_DEPTH} models in one another")
    if not isinstance(value, Mapping):
        raise RequestError(where, f"must be an object, not {type(cast('object', value)).__name__}")
    kind: Any = cast("Mapping[str, Any]", value).get("type")
    match kind:
        case "checkpoint":
            found = _object(value, where, {"type", "file"}, {"use_ema"})
            use_ema = found.get("use_ema", False)
            if not isinstance(use_ema, bool):
                raise RequestError(f"{where}.use_ema", "must be true or false")
            return CheckpointInput(file=_file(found["file"], f"{where}.file"), use_ema=use_ema)
        case "merge":
            return _merge(value, where, depth)
        case "adapters":
            found = _object(value, where, {"type", "model", "adapters"}, set())
            adapters = _list(found["adapters"], f"{where}.adapters", MAX_MODELS)
            return WithAdapters(
                model=_node(found["model"], f"{where}.model", depth - 1),
                adapters=tuple(
                    adapter_from(adapter, f"{where}.adapters[{index}]") for index, adapter in enumerate(adapters)
                ),
            )
        case "vae":
            found = _object(value, where, {"type", "model", "vae"}, set())
            return WithVae(
                model=_node(found["model"], f"{where}.model", depth - 1), vae=_file(found["vae"], f"{where}.vae")
            )
        case _:
            raise RequestError(f"{where}.type", f"must be checkpoint, merge, adapters or vae, not {kind!r:.60}")


def _merge(value: Any, where: str, depth: int) -> Merge:
    found = _object(value, where, {"type", "rule", "models"}, {"parameters", "normalisation", "seed"})
    models = _list(found["models"], f"{where}.models", MAX_MODELS)
    if not models:
        raise RequestError(f"{where}.models", "is empty; a merge takes at least one model")
    parameters: Any = found.get("parameters", {})
    if not isinstance(parameters, Mapping):
        raise RequestError(f"{where}.parameters", "must be an object")
    seed = found.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise RequestError(f"{where}.seed", f"must be a whole number from 0 to 2**63 - 1, not {seed!r:.60}")
    named = cast("Mapping[str, Any]", parameters)
    return Merge(
        rule=_identifier(found["rule"], f"{where}.rule"),
        models=tuple(_node(model, f"{where}.models[{index}]", depth - 1) for index, model in enumerate(models)),
        parameters=tuple(
            (_identifier(name, f"{where}.parameters"), weights_from(named[name], f"{where}.parameters.{name:.60}"))
            for name in sorted(named)
        ),
        normalisation=_identifier(found.get("normalisation", "none"), f"{where}.normalisation"),
        seed=seed,
    )


def adapter_from(value: Any, where: str) -> AdapterUse:
    """Read JSON values. where: what errors call it. Raises RequestError."""
    found = _object(value, where, {"file"}, {"strength", "text_encoder_strength", "weights", "max_rank"})
    text, weights, max_rank = found.get("text_encoder_strength"), found.get("weights"), found.get("max_rank")
    if max_rank is not None and (not isinstance(max_rank, int) or isinstance(max_rank, bool) or max_rank < 1):
        raise RequestError(f"{where}.max_rank", f"must be a whole number from 1 on, not {max_rank!r:.60}")
    return AdapterUse(
        file=_file(found["file"], f"{where}.file"),
        strength=_number(found.get("strength", 1.0), f"{where}.strength"),
        text_encoder_strength=None if text is None else _number(text, f"{where}.text_encoder_strength"),
        weights=None if weights is None else weights_from(weights, f"{where}.weights"),
        max_rank=max_rank,
    )


def weights_from(value: Any, where: str) -> Weights:
    """Read JSON values; a number stands for the same everywhere. where: what errors call it. Raises RequestError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Weights(base=_number(value, where))
    found = _object(value, where, {"base"}, {"overrides"})
    overrides = _list(found.get("overrides", []), f"{where}.overrides", MAX_OVERRIDES)
    return Weights(
        base=_number(found["base"], f"{where}.base"),
        overrides=tuple(_override(override, f"{where}.overrides[{index}]") for index, override in enumerate(overrides)),
    )


def _override(value: Any, where: str) -> Override:
    found = _object(value, where, {"value"}, {"blocks", "kinds", "streams"})
    names = {
        field: tuple(
            _identifier(name, f"{where}.{field}")
            for name in _list(found.get(field, []), f"{where}.{field}", MAX_OVERRIDES)
        )
        for field in ("blocks", "kinds", "streams")
    }
    return Override(value=_number(found["value"], f"{where}.value"), **names)


def _file(value: Any, where: str) -> FileRef:
    if isinstance(value, str):
        return FileRef(name=_text(value, where))
    found = _object(value, where, {"name"}, {"sha256", "tensors"})
    hashes = {name: _text(found.get(name, ""), f"{where}.{name}").lower() for name in ("sha256", "tensors")}
    for name, digits in hashes.items():
        if digits and not _SHA256.fullmatch(digits):
            raise RequestError(f"{where}.{name}", "must be 64 hex digits")
    return FileRef(name=_text(found["name"], f"{where}.name"), **hashes)


def _object(value: Any, where: str, needed: set[str], optional: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(where, f"must be an object, not {type(cast('object', value)).__name__}")
    found = cast("Mapping[str, Any]", value)
    if missing := sorted(needed - found.keys()):
        raise RequestError(where, f'has no "{missing[0]}"')
    if unknown := sorted(str(name) for name in found.keys() - needed - optional):
        raise RequestError(where, f'has "{unknown[0]:.60}", which is not known. Known: '
                           f"{', '.join(sorted(needed | optional))}")  # fmt: skip
    return found


def _list(value: Any, where: str, longest: int) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise RequestError(where, "must be a list")
    found = cast("Sequence[Any]", value)
    if len(found) > longest:
        raise RequestError(where, f"has {len(found)} entries; at most {longest} are read")
    return found


def _number(value: Any, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(where, f"must be a number, not {value!r:.60}")
    if not LOWEST <= value <= HIGHEST:
        raise RequestError(where, f"{value:g} is outside {LOWEST:g} to {HIGHEST:g}")
    return float(value)


def _identifier(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise RequestError(where, f"must be a short name, not {value!r:.60}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > 500:
        raise RequestError(where, "must be a text of at most 500 characters")
    return value
