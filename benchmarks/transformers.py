"""Speed of diffusion transformers against diffusers', in shapes reduced in depth: `python -m benchmarks.transformers`.

One evaluation at 512 x 512 with random weights: SD 3.5 medium (a pair for guidance) and FLUX.1 dev. Both programs take
turns in one process, each in whichever data type it is faster, and the best of several evaluations counts. Ours has its
modulation computed beforehand, once for all steps of a run, as the pipeline does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import nn

from backend.nn.flux import Flux, FluxConfig, token_rotations
from backend.nn.mmdit import MMDiT, MMDiTConfig, cropped_positions

_STEPS = 28  # of a run, among which its modulation is shared
_GOAL = 0.85
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """ours, theirs: an evaluation in a data type, as a function that can be timed."""

    name: str
    ours: Callable[[torch.dtype], Callable[[], object]]
    theirs: Callable[[torch.dtype], Callable[[], object]]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="Transformers of Emulsion against diffusers'.")
    parser.add_argument("--output", type=Path, help="where to write all figures as JSON")
    parser.add_argument("--rounds", type=int, default=4, help="evaluations of each (4)")
    arguments = parser.parse_args()
    contests = (
        Contest(name="SD 3.5 medium, 3 of 24 blocks", ours=_our_sd3, theirs=_their_sd3),
        Contest(name="FLUX.1 dev, 1 of 19 and 2 of 38 blocks", ours=_our_flux, theirs=_their_flux),
    )
    rows = [_row(contest, arguments.rounds) for contest in contests]
    for row in rows:
        verdict = "met" if row["ratio"] <= _GOAL else "MISSED"
        print(f"{row['name']:42} {row['ours']:.3f} s  diffusers {row['diffusers']:.3f} s  {row['ratio']:.2f} {verdict}")
        print("   ", row["seconds"])
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


def _row(contest: Contest, rounds: int) -> dict[str, object]:
    runs = {
        f"{who} {str(dtype).removeprefix('torch.')}": make(dtype)
        for dtype in _DTYPES
        for who, make in (("ours", contest.ours), ("diffusers", contest.theirs))
    }
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    ours, theirs = (min(s for name, s in seconds.items() if name.startswith(who)) for who in ("ours", "diffusers"))
    return {"name": contest.name, "ours": ours, "diffusers": theirs, "ratio": ours / theirs, "seconds": seconds}


def _our_sd3(dtype: torch.dtype) -> Callable[[], object]:
    network = MMDiT(MMDiTConfig(blocks=3, dual_blocks=2, has_query_norm=True))
    _randomise(network, dtype)
    x, context, vector = (torch.randn(shape).to(dtype) for shape in ((2, 16, 64, 64), (2, 333, 4096), (2, 2048)))
    positions = cropped_positions(torch.randn(1, 384 * 384, 1536), 32, 32).to(dtype)
    tokens = network.embed_context(context)
    modulation = network.modulation(torch.full((2 * _STEPS,), 500.0), vector.repeat(_STEPS, 1))

    def evaluate() -> object:
        return network(x, tokens, modulation[:2], positions)

    return evaluate


def _their_sd3(dtype: torch.dtype) -> Callable[[], object]:
    network = SD3Transformer2DModel(
        sample_size=128, num_layers=3, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384,
        dual_attention_layers=(0, 1), qk_norm="rms_norm", pooled_projection_dim=2048,
    )  # fmt: skip
    _randomise(network, dtype)
    x, context, vector = (torch.randn(shape).to(dtype) for shape in ((2, 16, 64, 64), (2, 333, 4096), (2, 2048)))
    return lambda: network(x, context, vector, torch.full((2,), 500.0))


def _our_flux(dtype: torch.dtype) -> Callable[[], object]:
    network = Flux(FluxConfig(double_blocks=1, single_blocks=2, is_guided=True))
    _randomise(network, dtype)
    x, context, vector = (torch.randn(shape).to(dtype) for shape in ((1, 16, 64, 64), (1, 512, 4096), (1, 768)))
    tokens = network.embed_context(context)
    modulation = network.modulation(torch.tensor([500.0]), vector, torch.tensor([3.5]))
    rotation = token_rotations(network.config, 512, 32, 32)
    return lambda: network(x, tokens, modulation, rotation)


def _their_flux(dtype: torch.dtype) -> Callable[[], object]:
    network = FluxTransformer2DModel(num_layers=1, num_single_layers=2, guidance_embeds=True)
    _randomise(network, dtype)
    x, context, vector = (torch.randn(shape).to(dtype) for shape in ((1, 1024, 64), (1, 512, 4096), (1, 768)))
    image_ids = torch.zeros(1024, 3)
    image_ids[:, 1], image_ids[:, 2] = torch.arange(1024) // 32, torch.arange(1024) % 32
    return lambda: network(
        x, context, vector, torch.tensor([0.5]), image_ids, torch.zeros(512, 3), guidance=torch.tensor([3.5])
    )


def _randomise(network: nn.Module, dtype: torch.dtype) -> None:
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    network.to(dtype).eval().requires_grad_(False)


if __name__ == "__main__":
    main()
