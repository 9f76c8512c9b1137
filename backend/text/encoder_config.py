"""The configurations of text encoders, from the shapes of their weights under the names of their networks."""

from __future__ import annotations

from collections.abc import Sequence

from backend.errors import KeysDoNotMatch
from backend.nn.clip_text import ClipTextConfig
from backend.nn.t5 import T5Config
from backend.text.chunks import CHUNK_LENGTH
from backend.text.clip_tokenizer import END_TEXT
from backend.text.encoder_layouts import CLIP_L, PROJECTION, TOKENS
from backend.text.t5_tokenizer import T5_TOKENS
from backend.weights.source import WeightSource

_HEAD_WIDTH = 64  # of every published CLIP


def clip_config_from(source: WeightSource, kind: str, *, heads: int | None = None) -> ClipTextConfig:
    """kind: which CLIP it is; OpenAI's CLIP-L has another activation than OpenCLIP's networks.

    heads: one for every 64 channels unless said; narrow encoders say theirs in the metadata of their file.
    Raises KeysDoNotMatch.
    """
    tokens, positions, fc1 = _specs(
        source, "text encoder", (TOKENS, "embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight")
    )
    heads = heads or max(1, tokens[1] // _HEAD_WIDTH)
    if tokens[0] <= END_TEXT or positions[0] < CHUNK_LENGTH or tokens[1] % heads:
        found = f"{tokens[0]} tokens, {positions[0]} positions, {tokens[1]} channels for {heads} heads"
        raise KeysDoNotMatch(source.origin, "text encoder", misshaped=[found])
    has_projection = PROJECTION in frozenset(source.keys())
    return ClipTextConfig(
        vocabulary=tokens[0],
        width=tokens[1],
        layers=_count(source, "encoder.layers.{}.mlp.fc1.weight"),
        heads=heads,
        mlp_width=fc1[0],
        positions=positions[0],
        quick_gelu=kind == CLIP_L,
        projection_width=source.spec(PROJECTION).shape[0] if has_projection else None,
    )


def t5_config_from(source: WeightSource) -> T5Config:
    """Raises KeysDoNotMatch."""
    layer = "encoder.block.0.layer."
    tokens, bias, q, wi = _specs(
        source,
        "T5 text encoder",
        (
            "shared.weight",
            layer + "0.SelfAttention.relative_attention_bias.weight",
            layer + "0.SelfAttention.q.weight",
            layer + "1.DenseReluDense.wi_0.weight",
        ),
    )
    buckets, heads = bias
    if tokens[0] < T5_TOKENS or q[0] % heads:
        found = f"{tokens[0]} tokens, {q[0]} channels for {heads} heads"
        raise KeysDoNotMatch(source.origin, "T5 text encoder", misshaped=[found])
    return T5Config(
        vocabulary=tokens[0],
        width=tokens[1],
        layers=_count(source, "encoder.block.{}.layer.0.SelfAttention.q.weight"),
        heads=heads,
        head_width=q[0] // heads,
        mlp_width=wi[0],
        buckets=buckets,
    )


def _specs(source: WeightSource, part: str, needed: Sequence[str]) -> list[tuple[int, ...]]:
    """The shapes of matrices. Raises KeysDoNotMatch when one is missing, or is no matrix."""
    keys = frozenset(source.keys())
    if missing := [key for key in needed if key not in keys]:
        raise KeysDoNotMatch(source.origin, part, missing=missing)
    shapes = [source.spec(key).shape for key in needed]
    if misshaped := [
        f"{key} {list(shape)}" for key, shape in zip(needed, shapes, strict=True) if not _is_matrix(shape)
    ]:
        raise KeysDoNotMatch(source.origin, part, misshaped=misshaped)
    return shapes


def _is_matrix(shape: Sequence[int]) -> bool:
    return len(shape) == 2 and min(shape) > 0


def _count(source: WeightSource, pattern: str) -> int:
    keys = frozenset(source.keys())
    count = 0
    while pattern.format(count) in keys:
        count += 1
    return count
