"""Names and shapes of published weight files, written out from the published architectures.

Nothing here comes from the networks of ours that are tested with it. tests/published_headers.py has the files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Shapes: TypeAlias = dict[str, tuple[int, ...]]


def behind(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def joined(parts: Iterable[Shapes]) -> Shapes:
    return {name: shape for part in parts for name, shape in part.items()}


def linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Shapes:
    weight: Shapes = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight


def conv(name: str, inputs: int, outputs: int, kernel: int = 3) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


# U-Nets in LDM layout (CompVis' openaimodel.py, Stability's copies of it)


@dataclass(frozen=True, kw_only=True)
class UNetFacts:
    """As in the YAML of the published configurations. down, up: transformer blocks of each residual block, in order."""

    channels: int
    mult: tuple[int, ...]
    blocks: int = 2
    down: tuple[int, ...]
    up: tuple[int, ...]
    middle: int
    context: int
    linear: bool
    in_channels: int = 4
    vector: int | None = None
    middle_blocks: int = 2


def unet(facts: UNetFacts) -> Shapes:
    embedding = 4 * facts.channels
    shapes = linear("time_embed.0", facts.channels, embedding) | linear("time_embed.2", embedding, embedding)
    if facts.vector is not None:
        shapes |= linear("label_emb.0.0", facts.vector, embedding) | linear("label_emb.0.2", embedding, embedding)
    shapes |= conv("input_blocks.0.0", facts.in_channels, facts.channels)

    number, channels, skips = 1, facts.channels, [facts.channels]
    depths = iter(facts.down)
    for level, mult in enumerate(facts.mult):
        for _ in range(facts.blocks):
            shapes |= _residual(f"input_blocks.{number}.0", channels, mult * facts.channels, embedding)
            channels = mult * facts.channels
            shapes |= _transformer(f"input_blocks.{number}.1", channels, next(depths), facts)
            skips.append(channels)
            number += 1
        if level < len(facts.mult) - 1:
            shapes |= conv(f"input_blocks.{number}.0.op", channels, channels)
            skips.append(channels)
            number += 1

    for index in range(facts.middle_blocks):
        shapes |= _residual(f"middle_block.{2 * index}", channels, channels, embedding)
    shapes |= _transformer("middle_block.1", channels, facts.middle, facts)

    depths, number = iter(facts.up), 0
    for level, mult in reversed(list(enumerate(facts.mult))):
        for index in range(facts.blocks + 1):
            width, depth = mult * facts.channels, next(depths)
            shapes |= _residual(f"output_blocks.{number}.0", channels + skips.pop(), width, embedding)
            channels = width
            shapes |= _transformer(f"output_blocks.{number}.1", channels, depth, facts)
            if level and index == facts.blocks:
                shapes |= conv(f"output_blocks.{number}.{2 if depth else 1}.conv", channels, channels)
            number += 1
    return shapes | norm("out.0", channels) | conv("out.2", channels, 4)


def _residual(name: str, inputs: int, outputs: int, embedding: int) -> Shapes:
    shapes = norm(f"{name}.in_layers.0", inputs) | conv(f"{name}.in_layers.2", inputs, outputs)
    shapes |= linear(f"{name}.emb_layers.1", embedding, outputs)
    shapes |= norm(f"{name}.out_layers.0", outputs) | conv(f"{name}.out_layers.3", outputs, outputs)
    return shapes if inputs == outputs else shapes | conv(f"{name}.skip_connection", inputs, outputs, 1)


def _transformer(name: str, width: int, depth: int, facts: UNetFacts) -> Shapes:
    if not depth:
        return {}
    shapes = norm(f"{name}.norm", width)
    for projection in (f"{name}.proj_in", f"{name}.proj_out"):
        shapes |= linear(projection, width, width) if facts.linear else conv(projection, width, width, 1)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, context in (("attn1", width), ("attn2", facts.context)):
            shapes |= linear(f"{block}.{attention}.to_q", width, width, bias=False)
            shapes |= linear(f"{block}.{attention}.to_k", context, width, bias=False)
            shapes |= linear(f"{block}.{attention}.to_v", context, width, bias=False)
            shapes |= linear(f"{block}.{attention}.to_out.0", width, width)
        shapes |= linear(f"{block}.ff.net.0.proj", width, 8 * width) | linear(f"{block}.ff.net.2", 4 * width, width)
        shapes |= joined(norm(f"{block}.norm{which}", width) for which in (1, 2, 3))
    return shapes


# Autoencoders in LDM layout


def autoencoder(*, latents: int = 4, quantised: bool = True, mult: tuple[int, ...] = (1, 2, 4, 4)) -> Shapes:
    first = 128
    shapes = conv("encoder.conv_in", 3, first)
    channels = first
    for level, factor in enumerate(mult):
        for index in range(2):
            shapes |= _vae_residual(f"encoder.down.{level}.block.{index}", channels, factor * first)
            channels = factor * first
        if level < len(mult) - 1:
            shapes |= conv(f"encoder.down.{level}.downsample.conv", channels, channels)
    shapes |= _vae_middle("encoder.mid", channels)
    shapes |= norm("encoder.norm_out", channels) | conv("encoder.conv_out", channels, 2 * latents)

    shapes |= conv("decoder.conv_in", latents, channels) | _vae_middle("decoder.mid", channels)
    for level, factor in reversed(list(enumerate(mult))):
        for index in range(3):
            shapes |= _vae_residual(f"decoder.up.{level}.block.{index}", channels, factor * first)
            channels = factor * first
        if level:
            shapes |= conv(f"decoder.up.{level}.upsample.conv", channels, channels)
    shapes |= norm("decoder.norm_out", channels) | conv("decoder.conv_out", channels, 3)
    if quantised:
        shapes |= conv("quant_conv", 2 * latents, 2 * latents, 1) | conv("post_quant_conv", latents, latents, 1)
    return shapes


def _vae_residual(name: str, inputs: int, outputs: int) -> Shapes:
    shapes = norm(f"{name}.norm1", inputs) | conv(f"{name}.conv1", inputs, outputs)
    shapes |= norm(f"{name}.norm2", outputs) | conv(f"{name}.conv2", outputs, outputs)
    return shapes if inputs == outputs else shapes | conv(f"{name}.nin_shortcut", inputs, outputs, 1)


def _vae_middle(name: str, channels: int) -> Shapes:
    shapes = _vae_residual(f"{name}.block_1", channels, channels) | _vae_residual(f"{name}.block_2", channels, channels)
    shapes |= norm(f"{name}.attn_1.norm", channels)
    return shapes | joined(conv(f"{name}.attn_1.{part}", channels, channels, 1) for part in ("q", "k", "v", "proj_out"))


# Text encoders


def clip(width: int, layers: int, *, positions: bool = True) -> Shapes:
    """transformers' names, from `text_model.` on. positions: the buffer that older versions saved."""
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, width),
        "text_model.embeddings.position_embedding.weight": (77, width),
    }
    if positions:
        shapes["text_model.embeddings.position_ids"] = (1, 77)
    for index in range(layers):
        layer = f"text_model.encoder.layers.{index}"
        shapes |= joined(linear(f"{layer}.self_attn.{part}_proj", width, width) for part in ("k", "v", "q", "out"))
        shapes |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        shapes |= linear(f"{layer}.mlp.fc1", width, 4 * width) | linear(f"{layer}.mlp.fc2", 4 * width, width)
    return shapes | norm("text_model.final_layer_norm", width)


def open_clip(width: int, layers: int) -> Shapes:
    """OpenCLIP's names, from `transformer.` on."""
    shapes: Shapes = {
        "positional_embedding": (77, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "token_embedding.weight": (49408, width),
    }
    for index in range(layers):
        block = f"transformer.resblocks.{index}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= linear(f"{block}.attn.out_proj", width, width)
        shapes |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
        shapes |= linear(f"{block}.mlp.c_fc", width, 4 * width) | linear(f"{block}.mlp.c_proj", 4 * width, width)
    return shapes | norm("ln_final", width)


def t5_xxl() -> Shapes:
    """The encoder of T5 1.1 XXL."""
    width, inner, mlp = 4096, 64 * 64, 10240
    shapes: Shapes = {"shared.weight": (32128, width), "encoder.final_layer_norm.weight": (width,)}
    for index in range(24):
        block = f"encoder.block.{index}.layer"
        shapes |= joined(linear(f"{block}.0.SelfAttention.{part}", width, inner, bias=False) for part in "qkv")
        shapes |= linear(f"{block}.0.SelfAttention.o", inner, width, bias=False)
        shapes |= linear(f"{block}.1.DenseReluDense.wi_0", width, mlp, bias=False)
        shapes |= linear(f"{block}.1.DenseReluDense.wi_1", width, mlp, bias=False)
        shapes |= linear(f"{block}.1.DenseReluDense.wo", mlp, width, bias=False)
        shapes |= {f"{block}.{which}.layer_norm.weight": (width,) for which in (0, 1)}
    return shapes | {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64)}


# Diffusion transformers


def mmdit(*, depth: int, side: int, dual: int = 0, normalised: bool = False) -> Shapes:
    """Stability's mmdit.py and mmditx.py. side: of the table of positions. dual: blocks with a second attention."""
    width = 64 * depth
    shapes = conv("x_embedder.proj", 16, width, 2) | {"pos_embed": (1, side * side, width)}
    shapes |= linear("t_embedder.mlp.0", 256, width) | linear("t_embedder.mlp.2", width, width)
    shapes |= linear("y_embedder.mlp.0", 2048, width) | linear("y_embedder.mlp.2", width, width)
    shapes |= linear("context_embedder", 4096, width)
    for index in range(depth):
        is_last = index == depth - 1
        for stream in ("x_block", "context_block"):
            block = f"joint_blocks.{index}.{stream}"
            ends = is_last and stream == "context_block"
            second = index < dual and stream == "x_block"
            shapes |= linear(f"{block}.adaLN_modulation.1", width, (2 if ends else 9 if second else 6) * width)
            for attention in ("attn", "attn2") if second else ("attn",):
                shapes |= linear(f"{block}.{attention}.qkv", width, 3 * width)
                if normalised:
                    shapes |= {f"{block}.{attention}.{part}.weight": (64,) for part in ("ln_q", "ln_k")}
                if not ends:
                    shapes |= linear(f"{block}.{attention}.proj", width, width)
            if not ends:
                shapes |= linear(f"{block}.mlp.fc1", width, 4 * width) | linear(f"{block}.mlp.fc2", 4 * width, width)
    return shapes | linear("final_layer.linear", width, 64) | linear("final_layer.adaLN_modulation.1", width, 2 * width)


def flux(*, in_channels: int = 64, guided: bool) -> Shapes:
    """Black Forest Labs' model.py."""
    width, mlp, head = 3072, 4 * 3072, 128
    embedders = [("time_in", 256), ("vector_in", 768)] + ([("guidance_in", 256)] if guided else [])
    shapes = linear("img_in", in_channels, width) | linear("txt_in", 4096, width)
    for name, inputs in embedders:
        shapes |= linear(f"{name}.in_layer", inputs, width) | linear(f"{name}.out_layer", width, width)
    for index in range(19):
        for stream in ("img", "txt"):
            name = f"double_blocks.{index}.{stream}"
            shapes |= linear(f"{name}_mod.lin", width, 6 * width)
            shapes |= linear(f"{name}_attn.qkv", width, 3 * width) | linear(f"{name}_attn.proj", width, width)
            shapes |= {f"{name}_attn.norm.{part}_norm.scale": (head,) for part in ("query", "key")}
            shapes |= linear(f"{name}_mlp.0", width, mlp) | linear(f"{name}_mlp.2", mlp, width)
    for index in range(38):
        name = f"single_blocks.{index}"
        shapes |= linear(f"{name}.linear1", width, 3 * width + mlp) | linear(f"{name}.linear2", width + mlp, width)
        shapes |= {f"{name}.norm.{part}_norm.scale": (head,) for part in ("query", "key")}
        shapes |= linear(f"{name}.modulation.lin", width, 3 * width)
    return shapes | linear("final_layer.linear", width, 64) | linear("final_layer.adaLN_modulation.1", width, 2 * width)


def pixart(*, tokens: int, sized: bool, side: int = 64) -> Shapes:
    """PixArt's own names. tokens: of the caption. sized: whether it is told size and ratio (alpha at 1024)."""
    width = 1152
    shapes = conv("x_embedder.proj", 4, width, 2) | {"pos_embed": (1, side * side, width)}
    shapes |= linear("t_embedder.mlp.0", 256, width) | linear("t_embedder.mlp.2", width, width)
    shapes |= linear("t_block.1", width, 6 * width)
    shapes |= linear("y_embedder.y_proj.fc1", 4096, width) | linear("y_embedder.y_proj.fc2", width, width)
    shapes |= {"y_embedder.y_embedding": (tokens, 4096)}
    for name in ("csize_embedder", "ar_embedder") if sized else ():
        shapes |= linear(f"{name}.mlp.0", 256, width // 3) | linear(f"{name}.mlp.2", width // 3, width // 3)
    for index in range(28):
        block = f"blocks.{index}"
        shapes |= {f"{block}.scale_shift_table": (6, width)}
        shapes |= linear(f"{block}.attn.qkv", width, 3 * width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.cross_attn.q_linear", width, width)
        shapes |= linear(f"{block}.cross_attn.kv_linear", width, 2 * width)
        shapes |= linear(f"{block}.cross_attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", width, 4 * width) | linear(f"{block}.mlp.fc2", 4 * width, width)
    return shapes | {"final_layer.scale_shift_table": (2, width)} | linear("final_layer.linear", width, 32)


# Small things


def kohya_lora(modules: Sequence[str], widths: Mapping[str, tuple[int, int]], rank: int) -> Shapes:
    """modules: as kohya names them; widths: inputs and outputs by the end of their name."""
    shapes: Shapes = {}
    for module in modules:
        inputs, outputs = next(pair for end, pair in widths.items() if module.endswith(end))
        shapes |= {
            f"{module}.alpha": (),
            f"{module}.lora_down.weight": (rank, inputs),
            f"{module}.lora_up.weight": (outputs, rank),
        }
    return shapes
