"""What diffusion transformers do with tokens: projections to heads, feed-forward layers, patches of latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.attention import Attend, AttentionPlace
from backend.nn.layers import Conv2d, Linear

# Shapes: B batch, N tokens, D width, H heads, C channels, P side of a patch, h x w latent size.

_TOKENS_AT_ONCE = 1024


class Mlp(nn.Module):
    """Two layers around a GELU; `fc1` and `fc2` in checkpoints."""

    def __init__(self, dim: int, hidden: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, out_dim or dim)

    def forward(self, x: Tensor) -> Tensor:
        return by_token(lambda part: self.fc2(gelu(self.fc1(part))), x)


class PatchEmbedding(nn.Module):
    """One token for each P x P patch of latents: [B, C, h, w] -> [B, h / P * w / P, D]."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = Conv2d(channels, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()  # as all that follows takes it fastest


def gelu(x: Tensor) -> Tensor:
    """The approximation by a hyperbolic tangent, as the networks were trained with."""
    return F.gelu(x, approximate="tanh")


def by_token(layers: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply layers that see one token at a time to x [B, N, D], to some of the tokens at a time.

    What is in between is four times as wide as x. With much fewer tokens at a time the weights would be read too often.
    """
    parts = [layers(part) for part in x.flatten(0, 1).split(_TOKENS_AT_ONCE)]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined.unflatten(0, x.shape[:2])


def split_heads(qkv: Sequence[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [B, N, H, D / H], of three [B, N, D].

    In this order all that works on one token takes half the time or less that it takes with the heads outside.
    """
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv)
    return q, k, v


def attended(attend: Attend, q: Tensor, k: Tensor, v: Tensor, place: AttentionPlace) -> Tensor:
    """What queries [B, N, H, D / H] find in keys and values [B, M, H, D / H], with the heads joined: [B, N, D]."""
    return join_heads(attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), place))


def join_heads(attended: Tensor) -> Tensor:
    """[B, H, N, D / H] -> [B, N, D]."""
    return attended.transpose(1, 2).flatten(2)


def from_patches(tokens: Tensor, like: Tensor, patch: int) -> Tensor:
    """[B, h / P * w / P, P * P * C], the channels innermost, -> [B, C, h, w] of the size of `like` [B, ..., h, w]."""
    height, width = like.shape[-2:]
    grid = tokens.unflatten(1, (height // patch, width // patch)).unflatten(-1, (patch, patch, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
