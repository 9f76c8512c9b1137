"""Read the configuration of a U-Net and an autoencoder off the names and shapes of their weights."""

from __future__ import annotations

import dataclasses

from backend.errors import KeysDoNotMatch
from backend.families.shapes import Shapes
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
    shapes = Shapes(source, "U-Net")
    model_channels, in_channels = shapes["input_blocks.0.0.weight"][:2]
    channel_mult, num_res_blocks, input_depths = _way_down(shapes, model_channels)
    output_depths = _way_up(shapes)
    context = next((key for key in source.keys() if key.endswith("attn2.to_k.weight")), "attn2.to_k.weight")
    projection = context.partition("transformer_blocks.")[0] + "proj_in.weight"
    transformer_depth = input_depths[::num_res_blocks] if num_res_blocks else ()
    config = UNetConfig(
        in_channels=in_channels,
        out_channels=shapes["out.2.weight"][0],
        model_channels=model_channels,
        channel_mult=channel_mult,
        num_res_blocks=num_res_blocks,
        transformer_depth=transformer_depth,
        middle_res_blocks=sum(f"middle_block.{index}.in_layers.0.weight" in shapes for index in range(3)),
        middle_depth=_depth(shapes, "middle_block"),
        context_dim=shapes[context][1],
        num_heads=num_heads,
        head_dim=head_dim,
        linear_projections=len(shapes[projection]) == 2,
        norm_groups=norm_groups,
        adm_in_channels=shapes["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shapes else None,
        guidance_width=shapes["time_embed.cond_proj.weight"][1] if "time_embed.cond_proj.weight" in shapes else None,
    )
    alike_up = tuple(depth for depth in reversed(transformer_depth) for _ in range(num_res_blocks + 1))
    alike_down = tuple(depth for depth in transformer_depth for _ in range(num_res_blocks))
    if (input_depths, output_depths) != (alike_down, alike_up):
        return dataclasses.replace(config, input_depths=input_depths, output_depths=output_depths)
    return config


def _way_down(shapes: Shapes, model_channels: int) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Channels of each level in units of the first, residual blocks a level, transformer blocks behind each."""
    channel_mult: list[int] = []
    blocks: list[int] = [0]
    depths: list[int] = []
    index = 1
    while True:
        name = f"input_blocks.{index}"
        if f"{name}.0.op.weight" in shapes:
            blocks.append(0)
        elif f"{name}.0.in_layers.0.weight" in shapes:
            if not blocks[-1]:
                channel_mult.append(shapes[f"{name}.0.out_layers.0.weight"][0] // model_channels)
            blocks[-1] += 1
            depths.append(_depth(shapes, name))
        else:
            break
        index += 1
    if len(set(blocks)) > 1:
        raise KeysDoNotMatch(
            shapes.source.origin,
            "U-Net",
            missing=[f"input_blocks.{index}.0 (its levels have {blocks} residual blocks, which no known network has)"],
        )
    return tuple(channel_mult), blocks[0], tuple(depths)


def _way_up(shapes: Shapes) -> tuple[int, ...]:
    """Transformer blocks behind each residual block of the way up."""
    num_blocks = shapes.count("output_blocks.", ".0.in_layers.0.weight")
    return tuple(_depth(shapes, f"output_blocks.{index}") for index in range(num_blocks))


def _depth(shapes: Shapes, block: str) -> int:
    return shapes.count(f"{block}.1.transformer_blocks.", ".norm1.weight")


def autoencoder_config_from(source: WeightSource, *, norm_groups: int) -> AutoencoderConfig:
    """The configuration of an autoencoder in LDM layout, whose keys start at `encoder.` and `decoder.`.

    Raises KeysDoNotMatch when the names that every autoencoder has are missing.
    """
    shapes = Shapes(source, "autoencoder")
    channels, in_channels = shapes["encoder.conv_in.weight"][:2]
    levels = shapes.count("encoder.down.", ".block.0.conv1.weight")
    return AutoencoderConfig(
        channels=channels,
        channel_mult=tuple(
            shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] // channels for level in range(levels)
        ),
        num_res_blocks=shapes.count("encoder.down.0.block.", ".conv1.weight"),
        latent_channels=shapes["decoder.conv_in.weight"][1],
        in_channels=in_channels,
        norm_groups=norm_groups,
        has_quant_conv="post_quant_conv.weight" in shapes,
    )
