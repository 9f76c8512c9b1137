"""The transformer of PixArt computes what diffusers' does, and modulation ahead of time changes no bit."""

import dataclasses

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from backend.nn.attention import AttentionPlace, attention
from backend.nn.pixart import PixArt, PixArtConfig, grid_positions, is_used_once
from tests.reference_weights import relative_error, with_random_weights

SIGMA = PixArtConfig(width=96, heads=4, blocks=2, mlp_width=384, context_dim=24)
ALPHA = dataclasses.replace(SIGMA, is_told_sizes=True)
SAMPLE_SIZE = 128  # latent pixels, of which 64 make a unit of position

_BLOCK = {
    "scale_shift_table": "scale_shift_table",
    "attn.proj": "attn1.to_out.0",
    "cross_attn.q_linear": "attn2.to_q",
    "cross_attn.proj": "attn2.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_FUSED = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
}
_TOP = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "csize_embedder.mlp.0": "adaln_single.emb.resolution_embedder.linear_1",
    "csize_embedder.mlp.2": "adaln_single.emb.resolution_embedder.linear_2",
    "ar_embedder.mlp.0": "adaln_single.emb.aspect_ratio_embedder.linear_1",
    "ar_embedder.mlp.2": "adaln_single.emb.aspect_ratio_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "final_layer.linear": "proj_out",
}


def diffusers_weights(ours: PixArt) -> dict[str, Tensor]:
    """The weights of a network of ours under diffusers' names, its fused layers taken apart."""
    renamed: dict[str, Tensor] = {}
    for key, value in ours.state_dict().items():
        if key == "final_layer.scale_shift_table":
            renamed["scale_shift_table"] = value
        elif not key.startswith("blocks."):
            layer, _, kind = key.rpartition(".")
            renamed[f"{_TOP[layer]}.{kind}"] = value
        else:
            _, block, inside = key.split(".", 2)
            layer, _, kind = inside.rpartition(".")
            prefix = f"transformer_blocks.{block}."
            if layer in _FUSED:
                for name, part in zip(_FUSED[layer], value.chunk(len(_FUSED[layer])), strict=True):
                    renamed[f"{prefix}{name}.{kind}"] = part
            else:
                renamed[prefix + (f"{_BLOCK[layer]}.{kind}" if layer else inside)] = value
    return renamed


def diffusers_twin(ours: PixArt) -> nn.Module:
    config = ours.config
    reference = PixArtTransformer2DModel(
        sample_size=SAMPLE_SIZE,
        num_layers=config.blocks,
        attention_head_dim=config.width // config.heads,
        num_attention_heads=config.heads,
        cross_attention_dim=config.width,
        caption_channels=config.context_dim,
        use_additional_conditions=config.is_told_sizes,
    ).eval()
    reference.load_state_dict(diffusers_weights(ours))
    return reference


def inputs(batch: int = 2, size: tuple[int, int] = (8, 12)) -> tuple[Tensor, ...]:
    """x, context, mask, timesteps and sizes."""
    generator = torch.Generator().manual_seed(2)
    context = torch.randn(batch, 9, SIGMA.context_dim, generator=generator)
    mask = torch.arange(9) < torch.linspace(9, 3, batch).round()[:, None]
    sizes = torch.tensor([[64.0, 96.0, 64 / 96]]).expand(batch, -1)
    return torch.randn(batch, 4, *size, generator=generator), context, mask, torch.linspace(999, 20, batch), sizes


def run(network: PixArt, x: Tensor, context: Tensor, mask: Tensor, timesteps: Tensor, sizes: Tensor, **hooks):
    embedded = network.embed_context(context)
    tokens = [states[counts] for states, counts in zip(embedded, mask, strict=True)]
    positions = grid_positions(network.config.width, x.shape[-2] // 2, x.shape[-1] // 2, span=32)
    return network(x, tokens, network.modulation(timesteps, sizes, x.dtype), positions, **hooks)


@pytest.fixture(scope="module")
def alpha() -> PixArt:
    return with_random_weights(PixArt(ALPHA))


@torch.no_grad()
@pytest.mark.parametrize("config", [SIGMA, ALPHA], ids=["Sigma", "alpha"])
def test_network_equals_diffusers(config):
    ours = with_random_weights(PixArt(config))
    x, context, mask, timesteps, sizes = inputs()
    expected = diffusers_twin(ours)(
        x,
        context,
        timesteps,
        added_cond_kwargs={"resolution": sizes[:, :2], "aspect_ratio": sizes[:, 2:]},
        encoder_attention_mask=mask,
    ).sample[:, :4]
    assert relative_error(run(ours, x, context, mask, timesteps, sizes), expected) < 1e-5


@torch.no_grad()
def test_images_with_a_text_in_common_are_a_group(alpha):
    x, context, mask, timesteps, sizes = inputs(batch=4)
    context, mask = context[:2], mask[:2]
    tokens = [states[counts] for states, counts in zip(alpha.embed_context(context), mask, strict=True)]
    told = alpha.modulation(timesteps, sizes, x.dtype)
    positions = grid_positions(ALPHA.width, 4, 6, span=32)
    repeated = run(alpha, x, *(t.repeat_interleave(2, 0) for t in (context, mask)), timesteps, sizes)
    assert relative_error(alpha(x, tokens, told, positions), repeated) < 1e-5


@torch.no_grad()
def test_positions_grow_with_the_picture_and_end_at_the_same_place():
    reference = diffusers_twin(with_random_weights(PixArt(SIGMA))).pos_embed
    without_latents = reference(torch.zeros(1, 4, 128, 128)) - reference.proj.bias
    assert relative_error(grid_positions(SIGMA.width, 64, 64, span=32), without_latents) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("num_rows", [1, 5, 64, 70])
def test_a_row_of_modulation_has_the_same_bits_alone_and_among_others(alpha, num_rows):
    *_, timesteps, sizes = inputs(batch=num_rows)
    together = alpha.modulation(timesteps, sizes, torch.float32)
    for row in {0, num_rows // 2, num_rows - 1}:
        alone = alpha.modulation(timesteps[row : row + 1], sizes[row : row + 1], torch.float32)
        assert torch.equal(together[row], alone[0])


@torch.no_grad()
def test_what_is_used_once_is_not_needed_by_a_step(alpha):
    x, context, _, timesteps, sizes = inputs()
    told, tokens = alpha.modulation(timesteps, sizes, x.dtype), list(alpha.embed_context(context))
    positions = grid_positions(ALPHA.width, 4, 6, span=32)
    expected = alpha(x, tokens, told, positions)
    bare = with_random_weights(PixArt(ALPHA))
    for name, layer in bare.named_modules():
        if is_used_once(name):
            layer.to("meta")
    assert torch.equal(bare(x, tokens, told, positions), expected)
    needed = {name for name, parameter in bare.named_parameters() if not parameter.is_meta}
    assert not any("embedder.mlp" in name or name.startswith(("t_block", "y_")) for name in needed)


@torch.no_grad()
def test_every_attention_goes_through_the_hook(alpha):
    places: list[AttentionPlace] = []

    def recording(q: Tensor, k: Tensor, v: Tensor, place: AttentionPlace) -> Tensor:
        places.append(place)
        return attention(q, k, v, place)

    assert torch.equal(run(alpha, *inputs(), attend=recording), run(alpha, *inputs()))
    assert len(set(places)) == 2 * ALPHA.blocks
    assert sum(place.is_cross for place in set(places)) == ALPHA.blocks


@torch.no_grad()
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_network_computes_from_narrow_weights_what_it_does_from_widened_ones(stored):
    narrow, wide = (with_random_weights(PixArt(ALPHA)).to(stored) for _ in range(2))
    wide.float()
    assert relative_error(run(narrow, *inputs()), run(wide, *inputs())) < 1e-5


@torch.no_grad()
def test_network_changes_nothing_that_it_is_given(alpha):
    given = inputs()
    before = [tensor.clone() for tensor in given]
    run(alpha, *given)
    assert all(map(torch.equal, given, before))


def test_full_size_network_has_the_published_number_of_parameters():
    """That of diffusers' network, of which the positions and the empty caption are no parameters either."""
    with torch.device("meta"):
        ours, theirs = PixArt(PixArtConfig()), PixArtTransformer2DModel(caption_channels=4096, sample_size=64)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
