"""Networks that make pictures larger: their files, tiles without seams, memory, transparency."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backend.errors import Cancelled, NumericalError, OutOfMemory, UnsupportedCheckpoint
from backend.families.family import Machine
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.upscaling.builtin import BUILTIN
from backend.upscaling.pictures import upscaled_picture
from backend.upscaling.upscaler import Upscaler, open_upscaler
from backend.weights.source import InMemory
from tests.upscaler_files import as_numbered, as_released, compact, esrgan

DEVICE = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=True, has_float16=False)
FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)


def machine(*, budget: int = 2**30, unet: torch.dtype = torch.float32) -> Machine:
    return Machine(device=DEVICE, policy=dataclasses.replace(FULL, unet=unet), residency=Residency(budget))


def opened(weights: Mapping[str, Tensor], on: Machine | None = None) -> Upscaler:
    source = InMemory(weights, origin=Path("tiny.safetensors"))
    return open_upscaler(source, BUILTIN, on or machine())


def picture(height: int = 20, width: int = 24, *, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (channels, height, width), generator=torch.Generator().manual_seed(seed)).byte()


def difference(a: Tensor, b: Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def reference(weights: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """ESRGAN as its paper has it: [3, H, W] -> [3, 4 H, 4 W], uint8."""

    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def bent(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    first = block = conv("conv_first", image[None].float() / 255)
    for dense in ("body.0.rdb1", "body.0.rdb2", "body.0.rdb3"):
        seen = [block]
        for layer in range(1, 5):
            seen.append(bent(conv(f"{dense}.conv{layer}", torch.cat(seen, 1))))
        block = block + 0.2 * conv(f"{dense}.conv5", torch.cat(seen, 1))
    x = first + conv("conv_body", first + 0.2 * block)
    for up in ("conv_up1", "conv_up2"):
        x = bent(conv(up, x.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    made = conv("conv_last", bent(conv("conv_hr", x)))
    return (made[0].clamp(0, 1) * 255).round().byte()


@pytest.mark.parametrize("naming", [dict, as_released, as_numbered], ids=["real-esrgan", "released", "numbered"])
def test_every_naming_of_esrgan_gives_what_the_paper_says(naming) -> None:
    weights = esrgan(size=0.2)
    upscaler = opened(naming(weights))
    assert (upscaler.label, upscaler.scale, upscaler.channels) == ("ESRGAN", 4, 3)
    expected = reference(weights, picture())
    assert expected.float().std() > 10
    assert difference(upscaler.upscale(picture()), expected) <= 1


def test_averaged_weights_are_taken_where_a_trainer_kept_both() -> None:
    both = {f"params.{key}": value for key, value in esrgan(seed=1).items()}
    both |= {f"params_ema.{key}": value for key, value in esrgan(seed=2).items()}
    assert torch.equal(opened(both).upscale(picture()), opened(esrgan(seed=2)).upscale(picture()))


def test_a_compact_network_that_learnt_nothing_repeats_pixels() -> None:
    upscaler = opened(compact(scale=3, size=0))
    assert (upscaler.label, upscaler.scale) == ("RealESRGAN compact", 3)
    expected = picture().repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert torch.equal(upscaler.upscale(picture()), expected)


@pytest.mark.parametrize(("unshuffle", "scale"), [(1, 4), (2, 2), (4, 1)])
def test_networks_that_enlarge_less_take_pixels_as_channels_and_any_size(unshuffle: int, scale: int) -> None:
    upscaler = opened(esrgan(unshuffle=unshuffle))
    assert upscaler.upscale(picture(21, 23)).shape == (3, 21 * scale, 23 * scale)


@pytest.mark.parametrize("weights", [compact(convs=8, size=0.3), esrgan(size=0.2)], ids=["compact", "esrgan"])
def test_tiles_are_the_whole_picture_without_seams(weights: Mapping[str, Tensor]) -> None:
    upscaler = opened(weights)
    image = picture(70, 110)
    tiles: list[tuple[int, int]] = []
    made = upscaler.upscale(image, tile=40, on_tile=lambda done, every: tiles.append((done, every)))
    assert tiles == [(done, 6) for done in range(1, 7)]
    assert difference(made, upscaler.upscale(image)) <= 1


def test_tiles_shrink_until_they_fit_into_the_memory() -> None:
    weights, image = compact(convs=2), picture(200, 210)
    counts: dict[int, int] = {}

    def upscaled(budget: int) -> Tensor:
        return opened(weights, machine(budget=budget)).upscale(
            image, on_tile=lambda _done, every: counts.update({budget: every})
        )

    whole = upscaled(2**30)
    assert difference(upscaled(2**22), whole) <= 1
    assert counts[2**30] == 1
    assert counts[2**22] > 1
    with pytest.raises(OutOfMemory):
        upscaled(2**12)


def test_a_tile_that_turns_out_too_large_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = opened(compact(convs=2))
    image, areas = picture(140, 150), []
    forward = torch.nn.PReLU.forward
    expected = upscaler.upscale(image)

    def scarce(self: torch.nn.PReLU, x: Tensor) -> Tensor:
        areas.append(x.shape[2] * x.shape[3])
        if areas[-1] > 100 * 100:
            raise torch.OutOfMemoryError("tried to allocate 1.0 GiB")
        return forward(self, x)

    monkeypatch.setattr("backend.nn.srvgg.PReLU.forward", scarce)
    assert torch.equal(upscaler.upscale(image), expected)
    assert max(areas) > 100 * 100


def test_cancelling_ends_it_between_tiles_and_inside_of_one() -> None:
    upscaler = opened(esrgan())
    done: list[int] = []
    with pytest.raises(Cancelled):
        upscaler.upscale(
            picture(60, 120), tile=60, on_tile=lambda n, _: done.append(n), is_cancelled=lambda: bool(done)
        )
    assert done == [1]
    asked: list[bool] = []
    with pytest.raises(Cancelled):
        upscaler.upscale(picture(), is_cancelled=lambda: asked.append(True) or len(asked) > 5)
    assert len(asked) == 6
    assert upscaler.upscale(picture()).shape == (3, 80, 96)


def test_what_overflows_float16_is_computed_in_float32() -> None:
    weights = compact(size=0.1)
    weights["body.2.weight"] = weights["body.2.weight"] * 1e7
    weights["body.4.weight"] = weights["body.4.weight"] * 1e-7
    weights["body.2.bias"] = weights["body.2.bias"] * 0
    precise = opened(weights).upscale(picture())
    half = opened(weights, machine(unet=torch.float16))
    assert torch.equal(half.upscale(picture()), precise)
    fine = opened(compact(size=0.1), machine(unet=torch.float16)).upscale(picture())
    assert difference(fine, opened(compact(size=0.1)).upscale(picture())) <= 1


def test_a_damaged_file_is_told() -> None:
    weights = compact()
    weights["body.2.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"tiny\.safetensors"):
        opened(weights).upscale(picture())


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("conv_first.weight", "layers.0.residual_group.blocks.0.attn.logit_scale"), "Swin2SR"),
        (("layers.0.residual_group.overlap_attn.relative_position_bias_table",), "HAT"),
        (("stylegan_decoder.style_mlp.1.weight",), "GFPGAN"),
        (("quantize.embedding.weight", "position_emb"), "CodeFormer"),
        (("something.weight",), "no upscaler of a known kind"),
    ],
)
def test_files_of_other_kinds_are_named_with_those_that_run(keys: tuple[str, ...], name: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=rf"{name}.*ESRGAN, RealESRGAN compact, SwinIR"):
        opened({f"params_ema.{key}": torch.zeros(1) for key in keys})


@pytest.mark.parametrize("missing", ["conv_hr.weight", "conv_last.weight", "conv_first.weight"])
def test_half_of_a_file_is_refused(missing: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="missing"):
        opened({key: tensor for key, tensor in esrgan().items() if key != missing})


def test_half_of_a_compact_file_is_refused() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="missing"):
        opened({key: tensor for key, tensor in compact().items() if not key.startswith("body.2")})


def image_of(mode: str, size: tuple[int, int] = (24, 20)) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 4), dtype=np.uint8)
    pixels[:, : width // 2, 3] = 0
    return Image.fromarray(pixels).convert(mode) if mode != "L" else Image.fromarray(pixels[..., 0])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("colours", [1, 3, 4])
def test_pictures_stay_what_they_are_whatever_channels_a_network_has(mode: str, colours: int) -> None:
    done: list[tuple[int, int]] = []
    upscaler = opened(esrgan(colours=colours))
    made = upscaled_picture(image_of(mode), upscaler, on_tile=lambda *told: done.append(told))
    assert (made.mode, made.size) == (mode, (96, 80))
    assert done[-1][0] == done[-1][1] == len(done)


def test_alpha_is_enlarged_like_the_colours_and_hidden_colours_do_not_run_out() -> None:
    upscaler = opened(compact(size=0))
    made = upscaled_picture(image_of("RGBA"), upscaler)
    assert made.getchannel("A").tobytes() == image_of("RGBA").getchannel("A").resize((48, 40), 0).tobytes()
    seen = Image.new("RGBA", (24, 20), (250, 0, 0, 255))
    seen.paste((0, 0, 0, 0), (0, 0, 12, 20))
    hidden_black = np.asarray(upscaled_picture(seen, upscaler))
    assert hidden_black[10, 23, :3] == pytest.approx((250, 0, 0), abs=4)
    assert hidden_black[10, 23, 3] == 0


def test_an_opaque_picture_costs_no_second_run() -> None:
    runs: list[tuple[int, int]] = []
    made = upscaled_picture(image_of("RGB").convert("RGBA"), opened(compact()), on_tile=lambda *told: runs.append(told))
    assert runs == [(1, 1)]
    assert made.getchannel("A").getextrema() == (255, 255)
