"""The transformer of FLUX.1 computes what diffusers' does, and modulation ahead of time changes no bit."""

import dataclasses

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from backend.nn.attention import AttentionPlace, attention
from backend.nn.flux import Flux, FluxConfig, from_patches, is_used_once, to_patches, token_rotations
from tests.reference_weights import relative_error, with_random_weights

DEV = FluxConfig(
    width=64, heads=2, mlp_width=256, double_blocks=2, single_blocks=3, context_dim=24, vector_dim=20, is_guided=True
)
SCHNELL = dataclasses.replace(DEV, is_guided=False)

_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_SINGLE = {
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "linear2": "proj_out",
}
_TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}


def diffusers_weights(ours: Flux) -> dict[str, Tensor]:
    """The weights of a network of ours under diffusers' names, its fused layers taken apart."""
    renamed: dict[str, Tensor] = {}
    width = ours.config.width
    for key, value in ours.state_dict().items():
        layer, _, kind = key.rpartition(".")
        kind = "weight" if kind == "scale" else kind
        block, _, inside = layer.partition(".")[2].partition(".")
        if layer.startswith("double_blocks") and inside.endswith("attn.qkv"):
            names = ("to_q", "to_k", "to_v") if inside.startswith("img") else ("add_q_proj", "add_k_proj", "add_v_proj")
            for name, part in zip(names, value.chunk(3), strict=True):
                renamed[f"transformer_blocks.{block}.attn.{name}.{kind}"] = part
        elif layer.startswith("double_blocks"):
            renamed[f"transformer_blocks.{block}.{_DOUBLE[inside]}.{kind}"] = value
        elif layer.startswith("single_blocks") and inside == "linear1":
            names = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
            for name, part in zip(names, value.split([width, width, width, ours.config.mlp_width]), strict=True):
                renamed[f"single_transformer_blocks.{block}.{name}.{kind}"] = part
        elif layer.startswith("single_blocks"):
            renamed[f"single_transformer_blocks.{block}.{_SINGLE[inside]}.{kind}"] = value
        elif layer == "final_layer.adaLN_modulation.1":
            renamed[f"norm_out.linear.{kind}"] = torch.cat(value.chunk(2)[::-1])  # diffusers has the scale first
        else:
            renamed[f"{_TOP[layer]}.{kind}"] = value
    return renamed


def diffusers_twin(ours: Flux) -> nn.Module:
    config = ours.config
    reference = FluxTransformer2DModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_layers=config.double_blocks,
        num_single_layers=config.single_blocks,
        attention_head_dim=config.width // config.heads,
        num_attention_heads=config.heads,
        joint_attention_dim=config.context_dim,
        pooled_projection_dim=config.vector_dim,
        guidance_embeds=config.is_guided,
        axes_dims_rope=config.axes,
    ).eval()
    reference.load_state_dict(diffusers_weights(ours))
    return reference


def inputs(config: FluxConfig, batch: int = 2, size: tuple[int, int] = (8, 12)) -> tuple[Tensor, ...]:
    """x, context, vector, timesteps and guidance."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(batch, config.in_channels // 4, *size), (batch, 7, config.context_dim), (batch, config.vector_dim)]
    numbers = (torch.linspace(999.5, 20, batch), torch.linspace(3.5, 1, batch))
    return (*(torch.randn(shape, generator=generator) for shape in shapes), *numbers)


def run(network: Flux, x: Tensor, context: Tensor, vector: Tensor, timesteps: Tensor, guidance: Tensor, **hooks):
    rotation = token_rotations(network.config, context.shape[1], x.shape[-2] // 2, x.shape[-1] // 2)
    told = network.modulation(timesteps, vector, guidance)
    return network(x, network.embed_context(context), told, rotation, **hooks)


@pytest.fixture(scope="module")
def dev() -> Flux:
    return with_random_weights(Flux(DEV))


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        DEV,
        SCHNELL,
        dataclasses.replace(DEV, width=96, heads=4, mlp_width=384),
        dataclasses.replace(DEV, in_channels=384),
    ],
    ids=["dev", "schnell", "other heads", "Fill"],
)
def test_network_equals_diffusers(config):
    ours = with_random_weights(Flux(config))
    x, context, vector, timesteps, guidance = inputs(config)
    expected = diffusers_twin(ours)(
        hidden_states=to_patches(x),
        encoder_hidden_states=context,
        pooled_projections=vector,
        timestep=timesteps / 1000,
        guidance=guidance if config.is_guided else None,
        img_ids=FluxPipeline._prepare_latent_image_ids(1, 4, 6, "cpu", torch.float32),
        txt_ids=torch.zeros(context.shape[1], 3),
    ).sample
    actual = run(ours, x, context, vector, timesteps, guidance)
    assert relative_error(to_patches(actual), expected) < 1e-5


def test_latents_become_the_patches_of_diffusers_and_patches_latents():
    x = torch.randn(2, 16, 6, 10)
    packed = FluxPipeline._pack_latents(x, 2, 16, 6, 10)
    assert torch.equal(to_patches(x), packed)
    assert torch.equal(from_patches(packed, 6, 10), x)


def test_published_heads_turn_by_16_56_and_56_numbers():
    assert FluxConfig().axes == (16, 56, 56)


@torch.no_grad()
@pytest.mark.parametrize("num_rows", [1, 5, 64, 70])
def test_a_row_of_modulation_has_the_same_bits_alone_and_among_others(dev, num_rows):
    *_, vector, timesteps, guidance = inputs(DEV, batch=num_rows)
    together = dev.modulation(timesteps, vector, guidance)
    for row in {0, num_rows // 2, num_rows - 1}:
        alone = dev.modulation(*(tensor[row : row + 1] for tensor in (timesteps, vector, guidance)))
        assert torch.equal(together[row], alone[0])


@torch.no_grad()
def test_what_is_used_once_is_not_needed_by_a_step(dev):
    x, context, vector, timesteps, guidance = inputs(DEV)
    told, tokens = dev.modulation(timesteps, vector, guidance), dev.embed_context(context)
    rotation = token_rotations(DEV, 7, 4, 6)
    expected = dev(x, tokens, told, rotation)
    bare = with_random_weights(Flux(DEV))
    for name, layer in bare.named_modules():
        if is_used_once(name):
            layer.to("meta")
    assert torch.equal(bare(x, tokens, told, rotation), expected)
    needed = {name for name, parameter in bare.named_parameters() if not parameter.is_meta}
    assert not any("mod" in name or "_in." in name.removeprefix("img_in.") for name in needed)


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other(dev):
    given = inputs(DEV, batch=3)
    alone = [run(dev, *(tensor[i : i + 1] for tensor in given)) for i in range(3)]
    assert relative_error(run(dev, *given), torch.cat(alone)) < 1e-5


@torch.no_grad()
def test_every_attention_goes_through_the_hook(dev):
    places: list[AttentionPlace] = []

    def recording(q: Tensor, k: Tensor, v: Tensor, place: AttentionPlace) -> Tensor:
        places.append(place)
        return attention(q, k, v, place)

    assert torch.equal(run(dev, *inputs(DEV), attend=recording), run(dev, *inputs(DEV)))
    assert len(places) == len(set(places)) == DEV.double_blocks + DEV.single_blocks


@torch.no_grad()
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_network_computes_from_narrow_weights_what_it_does_from_widened_ones(stored):
    narrow, wide = (with_random_weights(Flux(DEV)).to(stored) for _ in range(2))
    wide.float()
    assert relative_error(run(narrow, *inputs(DEV)), run(wide, *inputs(DEV))) < 1e-5


@torch.no_grad()
def test_network_changes_nothing_that_it_is_given(dev):
    given = inputs(DEV)
    before = [tensor.clone() for tensor in given]
    run(dev, *given)
    assert all(map(torch.equal, given, before))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(FluxConfig(), 11_901_408_320), (FluxConfig(is_guided=False), 11_891_178_560)],
    ids=["dev", "schnell"],
)
def test_full_size_networks_have_the_published_number_of_parameters(config, parameters):
    with torch.device("meta"):
        network = Flux(config)
    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    once = sum(count for name, count in counts.items() if is_used_once(name.rpartition(".")[0]))
    assert sum(counts.values()) == parameters
    assert once / parameters == pytest.approx(0.275, abs=0.005)
