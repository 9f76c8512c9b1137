"""Read the configuration of a U-Net and an autoencoder off the names and shapes of their weights."""

from __future__ import annotations

from backend.errors import KeysDoNotMatch
from backend.nn.autoencoder import AutoencoderConfig
from backend.nn.unet import UNetConfig
from backend.weights.source import WeightSource


def unet_config_from(
    source: WeightSource, *, num_heads: int | None, head_dim: int | None, norm_groups: int
) -> UNetConfig:
    """The configuration of a U-Net whose keys start at `input_blocks.`.

    Head counts and normalisation groups leave no trace in the shapes, so they are given.
    Raises KeysDoNotMatch when the names that every U-Net has are missing.
    """
    shapes = _Shapes(source, "U-Net")
    model_channels, in_channels = shapes["input_blocks.0.0.weight"][:2]
    channel_mult: list[int] = []
    depths: list[int] = []
    blocks_per_level = [0]
    index = 1
    while f"input_blocks.{index}.0.in_layers.0.weight" in shapes or f"input_blocks.{index}.0.op.weight" in shapes:
        if f"input_blocks.{index}.0.op.weight" in shapes:
            blocks_per_level.append(0)
        else:
            if not blocks_per_level[-1]:
                channel_mult.append(shapes[f"input_blocks.{index}.0.out_layers.0.weight"][0] // model_channels)
                depths.append(shapes.count(f"input_blocks.{index}.1.transformer_blocks.", ".norm1.weight"))
            blocks_per_level[-1] += 1
        index += 1
    context = next((key for key in source.keys() if key.endswith("attn2.to_k.weight")), "attn2.to_k.weight")
    projection = context.partition("transformer_blocks.")[0] + "proj_in.weight"
    return UNetConfig(
        in_channels=in_channels,
        out_channels=shapes["out.2.weight"][0],
        model_channels=model_channels,
        channel_mult=tuple(channel_mult),
        num_res_blocks=blocks_per_level[0],
        transformer_depth=tuple(depths),
        middle_depth=shapes.count("middle_block.1.transformer_blocks.", ".norm1.weight"),
        context_dim=shapes[context][1],
        num_heads=num_heads,
        head_dim=head_dim,
        linear_projections=len(shapes[projection]) == 2,
        norm_groups=norm_groups,
        adm_in_channels=shapes["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shapes else None,
    )


def autoencoder_config_from(source: WeightSource, *, norm_groups: int) -> AutoencoderConfig:
    """The configuration of an autoencoder whose keys start at `encoder.` and `decoder.`.

    Raises KeysDoNotMatch when the names that every autoencoder has are missing.
    """
    shapes = _Shapes(source, "autoencoder")
    channels, in_channels = shapes["encoder.conv_in.weight"][:2]
    levels = shapes.count("encoder.down.", ".block.0.conv1.weight")
    return AutoencoderConfig(
        channels=channels,
        channel_mult=tuple(
            shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] // channels for level in range(levels)
        ),
        num_res_blocks=shapes.count("encoder.down.0.block.", ".conv1.weight"),
        latent_channels=shapes["post_quant_conv.weight"][0],
        in_channels=in_channels,
        norm_groups=norm_groups,
    )


class _Shapes:
    """Shapes by key; a missing key is the file's fault and is told as such."""

    def __init__(self, source: WeightSource, part: str) -> None:
        self._source = source
        self._part = part
        self._keys = frozenset(source.keys())

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __getitem__(self, key: str) -> tuple[int, ...]:
        if key not in self._keys:
            raise KeysDoNotMatch(self._source.origin, self._part, missing=[key])
        return self._source.spec(key).shape

    def count(self, prefix: str, suffix: str) -> int:
        """How many consecutive numbers n, from 0, make `prefix` n `suffix` a key."""
        number = 0
        while f"{prefix}{number}{suffix}" in self._keys:
            number += 1
        return number
