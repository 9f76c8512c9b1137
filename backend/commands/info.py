"""`info FILE`: what a model file is, from its header."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.commands.terminal import as_line
from backend.families import builtin
from backend.families.family import identify
from backend.memory.byte_sizes import as_text
from backend.weights.hashing import SHORT, sha256_of
from backend.weights.safetensors_file import open_safetensors


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What the header of a weight file says.

    family, label: of the family that recognises it; "unknown" when none does. problem: why it cannot be run, or "".
    dtypes: data type -> elements.
    """

    file: str
    family: str
    label: str
    problem: str
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    size: int
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """sha256; its first ten digits, which file lists show; the eight digits of old A1111 versions."""

    sha256: str
    short: str
    legacy: str


def run(values: argparse.Namespace, root: Path) -> int:
    """Print the facts about `values.file`. Raises FileError."""
    facts = read_facts(values.file)
    hashes = None if values.no_hash else read_hashes(values.file)
    if values.json:
        print(json.dumps({**asdict(facts), **(asdict(hashes) if hashes else {})}, indent=2))
    else:
        print("\n".join(_lines(facts, hashes)))
    return 0


def read_facts(path: Path) -> FileFacts:
    """Look at the header alone. Raises FileError."""
    source = open_safetensors(path)
    family = identify(source, builtin.BUILTIN)
    dtypes: Counter[str] = Counter()
    for key in source.keys():
        spec = source.spec(key)
        dtypes[str(spec.dtype).removeprefix("torch.")] += spec.num_elements
    if family is None:
        problem = "no kind of model that this version knows has these weights"
    else:
        problem = "" if family.load else family.advice
    return FileFacts(
        file=path.name,
        family=family.name if family else "unknown",
        label=family.label if family else "unknown",
        problem=problem,
        tensors=len(source.keys()),
        parameters=sum(dtypes.values()),
        dtypes=dict(dtypes.most_common()),
        size=path.stat().st_size,
        metadata=source.metadata,
    )


def read_hashes(path: Path) -> Hashes:
    """Read the whole file: about a second for every gigabyte."""
    sha256 = sha256_of(path)
    return Hashes(sha256=sha256, short=sha256[:SHORT], legacy=_legacy_hash(path))


def _legacy_hash(path: Path) -> str:
    """A1111's hash before version 1.2: of the 64 KiB that follow the first MiB."""
    with path.open("rb") as file:
        file.seek(2**20)
        return hashlib.sha256(file.read(2**16)).hexdigest()[:8]


def _lines(facts: FileFacts, hashes: Hashes | None) -> list[str]:
    rows = {
        "family": f"{facts.label} ({facts.family})" if facts.family != "unknown" else "unknown",
        "can be used": f"no: {facts.problem}" if facts.problem else "yes",
        "tensors": f"{facts.tensors:,}",
        "parameters": f"{facts.parameters:,}",
        "data types": ", ".join(_share(name, count, facts.parameters) for name, count in facts.dtypes.items()),
        "size": f"{as_text(facts.size)} ({facts.size:,} bytes)",
    }
    if hashes:
        rows |= {"sha256": hashes.sha256, "short hash": hashes.short, "A1111 hash": hashes.legacy}
    lines = [as_line(facts.file), *(f"  {name:<12}{value}" for name, value in rows.items())]
    if facts.metadata:
        lines += ["  metadata", *(f"    {as_line(key, 80)}: {as_line(text)}" for key, text in facts.metadata.items())]
    return lines


def _share(name: str, count: int, total: int) -> str:
    return f"{name} {100 * count / total:.3g} %" if total else name
