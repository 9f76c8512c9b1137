"""Read the configuration of a U-Net and an autoencoder off the names and shapes of their weights."""

from __future__ import annotations

import dataclasses

from backend.families.shapes import Shapes
from backend.nn.autoencoder import AutoencoderConfig
from backend.nn.unet import UNetConfig
from backend.weights.source import WeightSource


def unet_config_from(
    source: WeightSource, *, num_heads: int | None, head_dim: int | None, norm_groups: int
) -> UNetConfig:
    """The configuration of a U-Net whose keys start at `input_blocks.`.

    Head counts and normalisation groups leave no trace in the shapes, so they are given.
    Raises KeysDoNotMatch when the names that every U-Net has are missing, or shapes make no network.
    """
    shapes = Shapes(source, "U-Net")
    model_channels, in_channels = shapes.of_rank("input_blocks.0.0.weight", 4)[:2]
    channel_mult, num_res_blocks, input_depths = _way_down(shapes, model_channels)
    output_depths = _way_up(shapes, len(channel_mult) * (num_res_blocks + 1))
    context = next((key for key in source.keys() if key.endswith("attn2.to_k.weight")), "attn2.to_k.weight")
    projection = context.partition("transformer_blocks.")[0] + "proj_in.weight"
    transformer_depth = input_depths[::num_res_blocks]
    config = UNetConfig(
        in_channels=in_channels,
        out_channels=shapes.of_rank("out.2.weight", 4)[0],
        model_channels=model_channels,
        channel_mult=channel_mult,
        num_res_blocks=num_res_blocks,
        transformer_depth=transformer_depth,
        middle_res_blocks=sum(f"middle_block.{index}.in_layers.0.weight" in shapes for index in range(3)),
        middle_depth=_depth(shapes, "middle_block"),
        context_dim=shapes.of_rank(context, 2)[1],
        num_heads=num_heads,
        head_dim=head_dim,
        linear_projections=len(shapes[projection]) == 2,
        norm_groups=norm_groups,
        adm_in_channels=_columns(shapes, "label_emb.0.0.weight"),
        guidance_width=_columns(shapes, "time_embed.cond_proj.weight"),
    )
    _check_divisible(shapes, config)
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
                channel_mult.append(shapes.of_rank(f"{name}.0.out_layers.0.weight", 1)[0] // model_channels)
            blocks[-1] += 1
            depths.append(_depth(shapes, name))
        else:
            break
        index += 1
    if len(set(blocks)) > 1 or not blocks[0]:
        shapes.misshaped(f"levels of {blocks} residual blocks, where known networks have as many in each")
    return tuple(channel_mult), blocks[0], tuple(depths)


def _way_up(shapes: Shapes, num_blocks: int) -> tuple[int, ...]:
    """Transformer blocks behind each residual block of the way up."""
    shapes.of_rank(f"output_blocks.{num_blocks - 1}.0.in_layers.0.weight", 1)
    return tuple(_depth(shapes, f"output_blocks.{index}") for index in range(num_blocks))


def _columns(shapes: Shapes, key: str) -> int | None:
    return shapes.of_rank(key, 2)[1] if key in shapes else None


def _check_divisible(shapes: Shapes, config: UNetConfig) -> None:
    for level, mult in enumerate(config.channel_mult):
        channels = mult * config.model_channels
        heads = config.heads(channels)
        if not channels or channels % config.norm_groups or not heads or channels % heads:
            shapes.misshaped(
                f"{channels} channels at level {level}, for groups of {config.norm_groups} and {heads} heads"
            )


def _depth(shapes: Shapes, block: str) -> int:
    return shapes.count(f"{block}.1.transformer_blocks.", ".norm1.weight")


def autoencoder_config_from(source: WeightSource, *, norm_groups: int) -> AutoencoderConfig:
    """The configuration of an autoencoder in LDM layout, whose keys start at `encoder.` and `decoder.`.

    Raises KeysDoNotMatch when the names that every autoencoder has are missing, or shapes make no network.
    """
    shapes = Shapes(source, "autoencoder")
    channels, in_channels = shapes.of_rank("encoder.conv_in.weight", 4)[:2]
    levels = max(1, shapes.count("encoder.down.", ".block.0.conv1.weight"))
    widths = [shapes.of_rank(f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)]
    for width in (channels, *widths):
        if width % norm_groups or width % channels:
            shapes.misshaped(f"{width} channels, for groups of {norm_groups}")
    return AutoencoderConfig(
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        num_res_blocks=shapes.count("encoder.down.0.block.", ".conv1.weight"),
        latent_channels=shapes.of_rank("decoder.conv_in.weight", 4)[1],
        in_channels=in_channels,
        norm_groups=norm_groups,
        has_quant_conv="post_quant_conv.weight" in shapes,
    )
