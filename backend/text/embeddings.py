"""Textual inversions (Gal et al. 2022): vectors that stand in a prompt for a name, read from files of all trainers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from backend.errors import BadCheckpoint, UnsupportedCheckpoint
from backend.text.chunks import CHUNK_TOKENS
from backend.text.encoder_layouts import CLIP_G, CLIP_H, CLIP_L, T5
from backend.weights.source import WeightSource

# Shapes: N vectors, D width of the encoder that reads them.

ANY = ""  # the kind of vectors whose file says nothing but their width
_KINDS = {"clip_l": CLIP_L, "clip_h": CLIP_H, "clip_g": CLIP_G, "t5": T5, "t5xxl": T5}
_KOHYA = "emb_params"  # kohya-ss, OneTrainer and others
_A1111 = "string_to_param."  # a mapping of one entry, under "*"
_A1111_TOKENS = "string_to_token."
_MAX_WIDTH = 16_384
_FAMILIES = {
    frozenset({(CLIP_L, 768)}): "SD 1",
    frozenset({(CLIP_H, 1024)}): "SD 2",
    frozenset({(CLIP_G, 1280)}): "the SDXL refiner",
    frozenset({(CLIP_L, 768), (CLIP_G, 1280)}): "SDXL",
    frozenset({(CLIP_L, 768), (CLIP_G, 1280), (T5, 4096)}): "SD 3",
}
_KIND_OF_WIDTH = {768: CLIP_L, 1024: CLIP_H, 1280: CLIP_G, 4096: T5}


@dataclass(frozen=True, kw_only=True)
class TextualInversion:
    """Vectors that stand in a prompt for a name; equal ones have one name and equal vectors.

    vectors: [N, D] float32 by the kind of text encoder that reads them, or under `ANY` for one of this width.
    content: SHA-256 of the vectors, in hex. file_hash: that of the file, "" where it is not known.
    """

    name: str
    content: str
    vectors: Mapping[str, Tensor] = field(compare=False, repr=False)
    file_hash: str = field(default="", compare=False)

    def vectors_for(self, kind: str, width: int) -> Tensor | None:
        """What an encoder of this kind and width reads in place of the name, or None."""
        found = self.vectors.get(kind, self.vectors.get(ANY))
        return found if found is not None and found.shape[1] == width else None

    @property
    def num_vectors(self) -> int:
        return max(len(vectors) for vectors in self.vectors.values())

    @property
    def width(self) -> int:
        """Numbers of one vector, those for CLIP-L and CLIP-G counted together, as A1111 does."""
        return sum(vectors.shape[1] for kind, vectors in self.vectors.items() if kind != T5 or len(self.vectors) == 1)

    @property
    def made_for(self) -> str:
        """The family of models that widths show, "SD 1" for example."""
        widths = {(kind or _KIND_OF_WIDTH.get(v.shape[1], ANY), v.shape[1]) for kind, v in self.vectors.items()}
        named = _FAMILIES.get(frozenset(widths))
        return named or f"text encoders of width {' and '.join(str(width) for _, width in sorted(widths))}"

    def is_read_by(self, widths: Mapping[str, int], kinds: tuple[str, ...]) -> bool:
        """Whether a model reads all of it.

        widths: of the text encoders that the model has, by kind. kinds: those that its family can have.
        """
        if not {*self.vectors} - {ANY} <= {*kinds}:
            return False
        reading = {kind for kind, width in widths.items() if self.vectors_for(kind, width) is not None}
        clips = {*widths} - {T5}
        return bool(reading) and (clips <= reading or reading == {T5} == {*self.vectors})


def embedding_of(name: str, vectors: Mapping[str, Tensor], *, file_hash: str = "") -> TextualInversion:
    """vectors: [N, D] by kind, as `TextualInversion` has them."""
    digest = hashlib.sha256()
    for kind in sorted(vectors):
        digest.update(f"{kind} {list(vectors[kind].shape)} ".encode())
        digest.update(vectors[kind].contiguous().numpy().tobytes())
    return TextualInversion(name=name, content=digest.hexdigest(), vectors=dict(vectors), file_hash=file_hash)


def is_embedding(source: WeightSource) -> bool:
    """Whether the names in a file are those of a textual inversion."""
    try:
        _ = _keys_by_kind(source, "")
    except UnsupportedCheckpoint:
        return False
    return True


def read_embedding(source: WeightSource, name: str, *, prefix: str = "", file_hash: str = "") -> TextualInversion:
    """The textual inversion in a file, whose names tell who wrote it.

    prefix: of its keys in a LoRA file that carries it. Raises UnsupportedCheckpoint for a file without one, and
    BadCheckpoint for vectors of impossible shapes and for values that are not numbers.
    """
    vectors: dict[str, Tensor] = {}
    for kind, key in _keys_by_kind(source, prefix).items():
        shape = source.spec(key).shape
        _check_shape(source.origin, key, shape)
        tensor = source.read(key)
        if not tensor.is_floating_point():
            raise BadCheckpoint(source.origin, f'"{key}" holds {tensor.dtype} in place of vectors. Download it again.')
        vectors[kind] = tensor.float().reshape(-1, shape[-1]).clone()
        if not vectors[kind].isfinite().all():
            raise BadCheckpoint(source.origin, f'"{key}" holds values that are not numbers. Download it again.')
    counts = {kind: len(found) for kind, found in vectors.items() if kind != T5}
    if len(set(counts.values())) > 1:
        found = " and ".join(f"{count} for {kind}" for kind, count in counts.items())
        raise BadCheckpoint(source.origin, f"it holds {found}; both must have as many vectors. Download it again.")
    return embedding_of(name, vectors, file_hash=file_hash)


def _keys_by_kind(source: WeightSource, prefix: str) -> dict[str, str]:
    """The kind of encoder -> the key of its vectors."""
    keys = {key[len(prefix) :]: key for key in source.keys() if key.startswith(prefix)}
    keys = {name: key for name, key in keys.items() if not name.startswith(_A1111_TOKENS)}
    if found := {_KINDS[name]: key for name, key in keys.items() if name in _KINDS}:
        return found
    if _KOHYA in keys:
        return {ANY: keys[_KOHYA]}
    terms = [key for name, key in keys.items() if name.startswith(_A1111)] or list(keys.values())
    if len(terms) == 1:  # under A1111's "*", or as diffusers has it, under the token that it was trained for
        return {ANY: terms[0]}
    raise UnsupportedCheckpoint(
        source.origin,
        f"it is no textual inversion that is known: of its {len(terms)} tensors none is named as the vectors are. "
        "If it is a LoRA, put it into models/loras; files of several words are not read.",
    )


def _check_shape(origin: Path, key: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (1, 2) or not all(shape) or shape[-1] > _MAX_WIDTH:
        raise BadCheckpoint(origin, f'"{key}" is {list(shape)}; vectors of a textual inversion are [N, width].')
    if len(shape) == 2 and shape[0] > CHUNK_TOKENS:
        raise BadCheckpoint(
            origin, f'"{key}" holds {shape[0]} vectors; at most {CHUNK_TOKENS} fit into what CLIP reads at a time.'
        )
