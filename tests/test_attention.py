"""Attention in bfloat16 is as exact as PyTorch's fused kernel, alone and in a whole picture."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.attention import AttentionPlace, attention
from backend.nn.unet import UNet, UNetConfig

PLACE = AttentionPlace("input_blocks.1.1.transformer_blocks.0", is_cross=False)
SIDE, HEADS = 32, 2


@pytest.fixture(autouse=True)
def _the_same_numbers_each_time() -> None:
    torch.manual_seed(0)


def fused(q: Tensor, k: Tensor, v: Tensor, place: AttentionPlace) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def pixels(width: int, smoothness: int) -> Tensor:
    """States [1, H, N, D] of unit variance over an image, in which neighbours are alike over `smoothness` pixels."""
    states = F.avg_pool2d(torch.randn(HEADS, width, SIDE, SIDE), smoothness)
    states = F.interpolate(states, size=(SIDE, SIDE), mode="bilinear")
    return (states / states.std()).flatten(2).transpose(1, 2)[None].contiguous()  # as the fused kernel wants it


def error(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


@pytest.mark.parametrize("width", [40, 64, 80])
@pytest.mark.parametrize("smoothness", [1, 4])
@pytest.mark.parametrize("scale", [0.5, 1, 2, 3])
def test_bfloat16_is_nearly_as_exact_as_the_fused_kernel(width, smoothness, scale):
    q, k = (scale * pixels(width, smoothness) for _ in range(2))
    assert_nearly_as_exact(q, k, pixels(width, 1))


@pytest.mark.parametrize("scale", [1.5, 3])
def test_bfloat16_is_exact_where_every_pixel_attends_to_itself_with_scores_above_a_hundred(scale):
    q = scale * pixels(40, 4)
    k = q + 0.3 * torch.randn_like(q)
    assert scale < 3 or float((q @ k.transpose(-1, -2)).max()) / 40**0.5 > 100
    assert_nearly_as_exact(q, k, pixels(40, 1))


def test_bfloat16_is_exact_where_all_keys_share_an_offset():
    k = pixels(40, 1) + 3 * torch.randn(1, HEADS, 1, 40)
    assert_nearly_as_exact(2 * pixels(40, 1), k, pixels(40, 1))


def assert_nearly_as_exact(*states: Tensor) -> None:
    low = [t.bfloat16() for t in states]
    exact = F.scaled_dot_product_attention(*(t.double() for t in low))
    ours, theirs = error(attention(*low, PLACE), exact), error(fused(*low, PLACE), exact)
    assert ours != theirs, "both took the same way"
    assert ours < 1.5 * theirs


@pytest.mark.parametrize("tokens", [129, 1500])
def test_numbers_of_tokens_that_fill_no_block_are_attended_to(tokens):
    q, k, v = (torch.randn(2, 3, tokens, 40).bfloat16() for _ in range(3))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert attention(q, k, v, PLACE).shape == q.shape
    assert error(attention(q, k, v, PLACE), exact) < 0.006


def test_float32_and_short_contexts_go_through_the_fused_kernel_bit_for_bit():
    q, k, v = (torch.randn(1, 2, 300, 40) for _ in range(3))
    assert torch.equal(attention(q, k, v, PLACE), fused(q, k, v, PLACE))
    q, k, v = q.bfloat16(), k[:, :, :77].bfloat16(), v[:, :, :77].bfloat16()
    assert torch.equal(attention(q, k, v, PLACE), fused(q, k, v, PLACE))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_with_gradients_the_fused_kernel_computes_and_its_gradients_arrive(which):
    states = [torch.randn(1, 2, 300, 40).bfloat16() for _ in range(3)]
    states[which].requires_grad_()
    result = attention(*states, PLACE)
    assert torch.equal(result, fused(*states, PLACE))
    assert torch.autograd.grad(result.float().sum(), states[which])[0].isfinite().all()
    with torch.no_grad():
        assert not torch.equal(attention(*states, PLACE), fused(*states, PLACE))


# A whole picture


CONFIG = UNetConfig(
    model_channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    transformer_depth=(1,),
    context_dim=24,
    num_heads=2,
    norm_groups=8,
)


@pytest.fixture(scope="module")
def unet() -> UNet:
    generator = torch.Generator().manual_seed(0)
    unet = UNet(CONFIG)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            spread = 0.1 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
            if ".attn1.to_q" in name or ".attn1.to_k" in name:
                spread *= 2  # scores of up to 20, as trained networks have
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            if parameter.dim() < 2 and name.endswith("weight"):
                parameter.add_(1)
    return unet.eval().requires_grad_(False)


@torch.inference_mode()
def picture(unet: nn.Module, seed: int, dtype: torch.dtype, attend) -> Tensor:
    """Latents after four Euler steps with guidance."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 4, 16, 16, generator=generator) * 14.6
    context = torch.randn(2, 9, 24, generator=generator).to(dtype)
    sigmas = [14.6, 4.0, 1.2, 0.4, 0.0]
    for sigma, sigma_next in pairwise(sigmas):
        scaled = (x / (sigma**2 + 1) ** 0.5).to(dtype, memory_format=torch.channels_last).expand(2, -1, -1, -1)
        timesteps = torch.full((2,), 60 * sigma)
        uncond, cond = unet(scaled, timesteps, context, attend=attend).float().chunk(2)
        x = x + (uncond + 5 * (cond - uncond)) * (sigma_next - sigma)
    return x


def test_pictures_in_bfloat16_are_as_close_to_float32_as_with_the_fused_kernel(unet):
    low = UNet(CONFIG)
    low.load_state_dict(unet.state_dict())
    low = low.to(torch.bfloat16, memory_format=torch.channels_last).eval().requires_grad_(False)
    ours = theirs = 0.0
    for seed in range(6):
        exact = picture(unet, seed, torch.float32, fused)
        ours += float((picture(low, seed, torch.bfloat16, attention) - exact).abs().mean())
        theirs += float((picture(low, seed, torch.bfloat16, fused) - exact).abs().mean())
    assert ours != theirs, "both took the same way"
    assert ours < 1.1 * theirs


def test_an_attention_that_sees_nothing_changes_the_picture(unet):
    def blind(q: Tensor, k: Tensor, v: Tensor, place: AttentionPlace) -> Tensor:
        return torch.zeros_like(q)

    exact = picture(unet, 0, torch.float32, attention)
    assert float((picture(unet, 0, torch.float32, blind) - exact).abs().mean()) > 0.1 * float(exact.std())
