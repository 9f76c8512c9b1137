"""`info FILE`: what a model file is, from its header."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.commands.info_lora import lora_mapping, lora_rows, read_lora
from backend.commands.terminal import as_line
from backend.diffusion.schedules import AUTOMATIC
from backend.engine.components import ENCODER_LABELS
from backend.errors import RequestError, UnsupportedCheckpoint
from backend.families import builtin
from backend.families.family import Description, Family, PictureUse
from backend.families.recognition import recognised
from backend.memory.byte_sizes import as_text
from backend.merging.layouts import layout_of, network_blocks, shares
from backend.text.encoder_layouts import kind_of_encoder
from backend.weights.gguf_header import MAGIC
from backend.weights.hashing import SHORT, hashes_of_safetensors, sha256_of
from backend.weights.source import WeightSource
from backend.weights.weight_file import open_weights

_PICTURE_USES = {
    PictureUse.INPAINTING: "inpainting: it continues a picture behind a mask",
    PictureUse.EDITING: "editing: it changes a picture as the prompt says",
}


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What the header of a weight file says.

    family, label: of the family that recognises it; "unknown" when none does.
    problem: why it cannot be run, or "".
    dtypes, stored: what numbers are stored as ("float16", "Q4_K") -> how many of them, and their bytes.
    blocks: of a model that can be merged, and the share of its network's parameters that each has.
    description: how it is used when nothing is chosen, and which parts it holds; None for what cannot be run.
    """

    file: str
    family: str
    label: str
    problem: str
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    stored: Mapping[str, int]
    size: int
    metadata: Mapping[str, str]
    blocks: Mapping[str, float]
    description: Description | None


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """sha256; its first ten digits, which file lists show; the eight digits of old A1111 versions.

    autov3: of a safetensors file's tensors alone, "" for other files; A1111 writes its first 12 digits for a LoRA.
    """

    sha256: str
    short: str
    legacy: str
    autov3: str


def run(values: argparse.Namespace, root: Path) -> int:
    """Print the facts about `values.file`. Raises FileError, and what `read_lora` raises."""
    facts = read_facts(values.file)
    lora = read_lora(values.file, values.ckpt) if facts.family in ("lora", "unknown") else None
    if values.ckpt is not None and lora is None:
        raise RequestError("--ckpt", f"is for LoRAs, and {values.file.name} is none; leave it out")
    hashes = None if values.no_hash else read_hashes(values.file)
    if values.json:
        told = {"lora": lora_mapping(lora)} if lora else {}
        print(json.dumps({**asdict(facts), **told, **(asdict(hashes) if hashes else {})}, indent=2))
    else:
        print("\n".join(_lines(facts, hashes, lora_rows(lora) if lora else {})))
    return 0


def read_facts(path: Path) -> FileFacts:
    """Look at the header alone. Raises FileError."""
    source = open_weights(path)
    dtypes, stored = _census(source)
    family, name, label, problem = _kind(source)
    return FileFacts(
        file=path.name,
        family=name,
        label=label,
        problem=problem,
        tensors=len(source.keys()),
        parameters=sum(dtypes.values()),
        dtypes=dict(dtypes.most_common()),
        stored=stored,
        size=path.stat().st_size,
        metadata=source.metadata,
        blocks=_blocks(source, family),
        description=family.describe(source) if family and family.describe else None,
    )


def read_hashes(path: Path) -> Hashes:
    """Read the whole file: about a second for every gigabyte."""
    with path.open("rb") as file:
        has_header = file.read(len(MAGIC)) != MAGIC
    sha256, autov3 = hashes_of_safetensors(path) if has_header else (sha256_of(path), "")
    return Hashes(sha256=sha256, short=sha256[:SHORT], legacy=_legacy_hash(path), autov3=autov3)


def _kind(source: WeightSource) -> tuple[Family | None, str, str, str]:
    """Family, if there is one, and name, label and problem."""
    try:
        family = recognised(source, builtin.BUILTIN)
    except UnsupportedCheckpoint as error:
        return None, "unknown", "unknown", error.problem
    if family.load:
        return family, family.name, family.label, ""
    kind = kind_of_encoder(source)
    label = family.label if kind is None else f"{ENCODER_LABELS[kind]} text encoder"
    return family, family.name, label, family.advice


def _blocks(source: WeightSource, family: Family | None) -> dict[str, float]:
    if family is None or family.load is None:
        return {}
    layout = layout_of(family.name, tuple(source.keys()))
    found = shares(layout, source)
    return {name: round(found.get(name, 0.0), 6) for name in network_blocks(layout)}


def _census(source: WeightSource) -> tuple[Counter[str], dict[str, int]]:
    """How many numbers there are of each kind, and the bytes that they take."""
    numbers: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    for key in source.keys():
        spec, packing = source.spec(key), source.packing(key)
        kind = packing.name if packing else str(spec.dtype).removeprefix("torch.")
        numbers[kind] += spec.num_elements
        stored[kind] += source.storage_bytes(key)
    return numbers, dict(stored)


def _legacy_hash(path: Path) -> str:
    """A1111's hash before version 1.2: of the 64 KiB that follow the first MiB."""
    with path.open("rb") as file:
        file.seek(2**20)
        return hashlib.sha256(file.read(2**16)).hexdigest()[:8]


def _lines(facts: FileFacts, hashes: Hashes | None, lora: Mapping[str, str]) -> list[str]:
    """lora: what there is to say of a LoRA, by its title."""
    rows = {
        "family": f"{facts.label} ({facts.family})" if facts.family != "unknown" else "unknown",
        "can be used": f"no: {facts.problem}" if facts.problem else "yes",
        **(_use(facts.description) if facts.description else {}),
        **lora,
        "tensors": f"{facts.tensors:,}",
        "parameters": f"{facts.parameters:,}",
        "data types": ", ".join(_share(name, count, facts) for name, count in facts.dtypes.items()),
        "size": f"{as_text(facts.size)} ({facts.size:,} bytes)",
    }
    if facts.blocks:
        rows["blocks"] = ", ".join(f"{name} {100 * share:.3g} %" for name, share in facts.blocks.items())
    if hashes:
        rows |= {"sha256": hashes.sha256, "short hash": hashes.short, "A1111 hash": hashes.legacy}
        rows |= {"AutoV3": hashes.autov3} if hashes.autov3 else {}
    lines = [as_line(facts.file), *(f"  {name:<12}{value}" for name, value in rows.items())]
    if facts.metadata:
        lines += ["  metadata", *(f"    {as_line(key, 80)}: {as_line(text)}" for key, text in facts.metadata.items())]
    return lines


def _use(description: Description) -> dict[str, str]:
    """How a model is used, and of what it consists."""
    usual = description.defaults
    said = [f"{usual.steps} steps", usual.sampler]
    if usual.schedule != AUTOMATIC:
        said.append(usual.schedule)
    said.append(f"guidance {usual.guidance_scale:g}")
    if usual.distilled_guidance is not None:
        said.append(f"distilled guidance {usual.distilled_guidance:g}")
    if usual.guidance_rescale:
        said.append(f"guidance rescale {usual.guidance_rescale:g}")
    size = f"{description.native_size} x {description.native_size}, sides in steps of {description.size_step}"
    rows = {"picture": size, "defaults": ", ".join(said)}
    if usual.reason:
        rows["because"] = usual.reason
    if description.picture_use is not PictureUse.NONE:
        rows["made for"] = _PICTURE_USES[description.picture_use]
    held = [ENCODER_LABELS[kind] for kind in description.embedded] + (["VAE"] if description.has_vae else [])
    rows["holds"] = ", ".join(held) or "neither text encoder nor VAE"
    lacking = [
        ENCODER_LABELS[kind] + ("" if kind in description.needed else " (not needed)")
        for kind in description.text_encoders
        if kind not in description.embedded
    ] + ([] if description.has_vae else ["VAE"])
    if lacking:
        rows["lacks"] = ", ".join(lacking)
    return rows


def _share(name: str, count: int, facts: FileFacts) -> str:
    share = f" {100 * count / facts.parameters:.3g} %" if facts.parameters else ""
    return f"{name}{share} ({as_text(facts.stored[name])})"
