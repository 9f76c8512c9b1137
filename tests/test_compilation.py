"""Compiled blocks give the same predictions, and plain ones take over when compiling fails."""

import shutil

import pytest
import torch
from torch import Tensor

from backend.nn.compilation import BlockCompiler, is_streamed
from backend.nn.unet import UNet, UNetConfig

CONFIG = UNetConfig(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, transformer_depth=(0, 1), context_dim=16, num_heads=2,
    norm_groups=8,
)  # fmt: skip
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def network() -> UNet:
    torch.manual_seed(0)
    return UNet(CONFIG).eval().requires_grad_(False)


def evaluated(unet: UNet) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = (torch.randn(shape, generator=generator) for shape in ((1, 4, 8, 8), (1, 7, 16)))
    return unet(x, torch.tensor([500.0]), context)


@needs_compiler
@pytest.mark.slow
def test_compiled_blocks_predict_the_same_and_later_networks_need_no_new_compilation() -> None:
    unet = network()
    expected = evaluated(unet)
    failures: list[str] = []
    compiler = BlockCompiler(lambda: True, failures.append)
    torch._dynamo.utils.counters.clear()
    compiled = compiler.around(unet, lambda: evaluated(unet))()
    assert (compiled - expected).abs().max() < 1e-5 * expected.abs().max()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    assert (failures, compiler.is_used) == ([], True)
    compiler.around(unet, lambda: evaluated(unet))()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_when_compiling_fails_the_plain_network_goes_on_and_the_user_is_told_once() -> None:
    unet = network()
    expected = evaluated(unet)
    failures: list[str] = []
    compiler = BlockCompiler(lambda: True, failures.append)

    def broken(*_arguments: object) -> Tensor:
        if torch.compiler.is_compiling() or not failures:
            raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand more")
        return evaluated(unet)

    run = compiler.around(unet, broken)
    assert torch.equal(run(), expected)
    assert torch.equal(run(), expected)
    assert failures == ["no C++ compiler"]


def test_other_errors_are_not_taken_for_the_compiler_s() -> None:
    def broken() -> Tensor:
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        BlockCompiler(lambda: True, lambda problem: None).around(network(), broken)()


def test_nothing_is_compiled_unless_it_is_wanted() -> None:
    unet = network()
    compiler = BlockCompiler(lambda: False, lambda problem: None)
    assert torch.equal(compiler.around(unet, lambda: evaluated(unet))(), evaluated(unet))
    assert not compiler.is_used


def test_a_network_whose_layers_come_and_go_is_not_compiled() -> None:
    unet = network()
    assert not is_streamed(unet)
    unet.middle_block[0].in_layers[2].register_forward_pre_hook(lambda module, inputs: None)
    assert is_streamed(unet)
    told: list[str] = []
    compiler = BlockCompiler(lambda: True, told.append)
    assert torch.equal(compiler.around(unet, lambda: evaluated(unet))(), evaluated(unet))
    assert "come and go" in told[0]
    assert not compiler.is_used
