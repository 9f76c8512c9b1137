"""The transformer of Stable Diffusion 3 computes what diffusers' does, and modulation ahead of time changes no bit."""

import dataclasses

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from torch import Tensor, nn

from backend.nn.attention import AttentionPlace, attention
from backend.nn.mmdit import MMDiT, MMDiTConfig, cropped_positions, is_used_once
from backend.nn.token_layers import PatchEmbedding
from tests.reference_weights import relative_error, with_random_weights

SD3 = MMDiTConfig(width=64, heads=4, blocks=3, mlp_width=256, context_dim=24, vector_dim=20)
SD35_LARGE = dataclasses.replace(SD3, has_query_norm=True)
SD35_MEDIUM = dataclasses.replace(SD35_LARGE, dual_blocks=2)
TABLE_SIZE = 12


def table_of(config: MMDiTConfig) -> Tensor:
    return torch.randn(1, TABLE_SIZE**2, config.width, generator=torch.Generator().manual_seed(1))


def diffusers_twin(ours: MMDiT) -> nn.Module:
    config = ours.config
    reference = SD3Transformer2DModel(
        sample_size=2 * TABLE_SIZE,
        num_layers=config.blocks,
        attention_head_dim=config.width // config.heads,
        num_attention_heads=config.heads,
        joint_attention_dim=config.context_dim,
        caption_projection_dim=config.width,
        pooled_projection_dim=config.vector_dim,
        pos_embed_max_size=TABLE_SIZE,
        dual_attention_layers=tuple(range(config.dual_blocks)),
        qk_norm="rms_norm" if config.has_query_norm else None,
    ).eval()
    published = {**ours.state_dict(), "pos_embed": table_of(config)}
    reference.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(published))
    return reference


def inputs(config: MMDiTConfig, batch: int = 2, size: tuple[int, int] = (16, 12)) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    shapes = [(batch, config.in_channels, *size), (batch, 7, config.context_dim), (batch, config.vector_dim)]
    timesteps = torch.linspace(999.5, 20, batch)
    return (*(torch.randn(shape, generator=generator) for shape in shapes), timesteps)


def run(network: MMDiT, x: Tensor, context: Tensor, vector: Tensor, timesteps: Tensor, **hooks: object) -> Tensor:
    positions = cropped_positions(table_of(network.config), x.shape[-2] // 2, x.shape[-1] // 2)
    told = network.modulation(timesteps, vector)
    return network(x, network.embed_context(context), told, positions, **hooks)


@pytest.fixture(scope="module")
def medium() -> MMDiT:
    return with_random_weights(MMDiT(SD35_MEDIUM))


@torch.no_grad()
@pytest.mark.parametrize("config", [SD3, SD35_LARGE, SD35_MEDIUM], ids=["3 medium", "3.5 large", "3.5 medium"])
def test_network_equals_diffusers(config):
    ours = with_random_weights(MMDiT(config))
    x, context, vector, timesteps = inputs(config)
    expected = diffusers_twin(ours)(x, context, vector, timesteps).sample
    assert relative_error(run(ours, x, context, vector, timesteps), expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("num_rows", [1, 5, 64, 70])
def test_a_row_of_modulation_has_the_same_bits_alone_and_among_others(medium, num_rows):
    *_, vector, timesteps = inputs(SD35_MEDIUM, batch=num_rows)
    together = medium.modulation(timesteps, vector)
    for row in {0, num_rows // 2, num_rows - 1}:
        assert torch.equal(together[row], medium.modulation(timesteps[row : row + 1], vector[row : row + 1])[0])


@torch.no_grad()
def test_what_is_used_once_is_not_needed_by_a_step(medium):
    """Without their weights, modulation and the embedding of the context fail and a step does not."""
    x, context, vector, timesteps = inputs(SD35_MEDIUM)
    told, tokens = medium.modulation(timesteps, vector), medium.embed_context(context)
    positions = cropped_positions(table_of(SD35_MEDIUM), 8, 6)
    expected = medium(x, tokens, told, positions)
    bare = with_random_weights(MMDiT(SD35_MEDIUM))
    for name, layer in bare.named_modules():
        if is_used_once(name):
            layer.to("meta")
    assert torch.equal(bare(x, tokens, told, positions), expected)
    needed = {name for name, parameter in bare.named_parameters() if not parameter.is_meta}
    assert not any("adaLN" in name or "embedder.mlp" in name for name in needed)


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other(medium):
    x, context, vector, timesteps = inputs(SD35_MEDIUM, batch=3)
    together = run(medium, x, context, vector, timesteps)
    alone = [run(medium, *(tensor[i : i + 1] for tensor in (x, context, vector, timesteps))) for i in range(3)]
    assert relative_error(together, torch.cat(alone)) < 1e-5


@torch.no_grad()
def test_every_attention_goes_through_the_hook(medium):
    places: list[AttentionPlace] = []

    def recording(q: Tensor, k: Tensor, v: Tensor, place: AttentionPlace) -> Tensor:
        places.append(place)
        return attention(q, k, v, place)

    hooked = run(medium, *inputs(SD35_MEDIUM), attend=recording)
    assert torch.equal(hooked, run(medium, *inputs(SD35_MEDIUM)))
    assert len(places) == len(set(places)) == SD35_MEDIUM.blocks + SD35_MEDIUM.dual_blocks


@torch.no_grad()
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_network_computes_from_narrow_weights_what_it_does_from_widened_ones(stored):
    narrow, wide = (with_random_weights(MMDiT(SD35_MEDIUM)).to(stored) for _ in range(2))
    wide.float()
    assert relative_error(run(narrow, *inputs(SD35_MEDIUM)), run(wide, *inputs(SD35_MEDIUM))) < 1e-5


@torch.no_grad()
def test_network_changes_nothing_that_it_is_given(medium):
    given = inputs(SD35_MEDIUM)
    before = [tensor.clone() for tensor in given]
    run(medium, *given)
    assert all(map(torch.equal, given, before))


def test_positions_are_those_of_the_middle_of_the_table():
    table = torch.arange(25.0).view(1, 25, 1)
    assert cropped_positions(table, 1, 1).flatten().tolist() == [12.0]
    assert cropped_positions(table, 2, 3).flatten().tolist() == [6.0, 7.0, 8.0, 11.0, 12.0, 13.0]
    with pytest.raises(ValueError, match="do not fit"):
        cropped_positions(table, 6, 1)


@pytest.mark.parametrize(
    ("config", "parameters", "share_used_once"),
    [
        (MMDiTConfig(), 2_028_328_000, 0.34),
        (MMDiTConfig(dual_blocks=13, has_query_norm=True), 2_243_171_520, 0.34),
        (MMDiTConfig(width=2432, heads=38, blocks=38, mlp_width=9728, has_query_norm=True), 8_056_627_520, 0.33),
    ],
    ids=["3 medium", "3.5 medium", "3.5 large"],
)
def test_full_size_networks_have_the_published_number_of_parameters(config, parameters, share_used_once):
    with torch.device("meta"):
        network = MMDiT(config)
    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    once = sum(count for name, count in counts.items() if is_used_once(name.rpartition(".")[0]))
    assert sum(counts.values()) == parameters
    assert once / parameters == pytest.approx(share_used_once, abs=0.01)


def test_tokens_of_patches_lie_one_behind_the_other():
    embed = PatchEmbedding(4, 24, 2)
    assert embed(torch.randn(2, 4, 6, 10)).is_contiguous()
