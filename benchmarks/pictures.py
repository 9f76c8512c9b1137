"""Speed, memory and exactness at the shapes of SD 1.5 or SDXL against diffusers: `python -m benchmarks.pictures sd15`.

One picture of 512 x 512 with guidance, from a float16 file with random weights. Every run is a process of its own; ours
and diffusers' take turns, and medians are compared: diffusers' in whichever data type it is faster.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from backend.memory.device import detect_device
from benchmarks.checkpoint import SHAPES, random_checkpoint
from benchmarks.diffusers_run import write_configuration
from benchmarks.watched_process import Watched, run_watched

_GOAL_PARITY = 1e-5


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that a run has, and the most that ours may be as a share of diffusers'."""

    name: str
    unit: str
    of: Callable[[Watched], float]
    goal: float | None = None


MEASURES = (
    Measure(name="a step", unit="s", of=lambda run: _step(run), goal=0.8),
    Measure(name="own memory at its peak", unit="GB", of=lambda run: run.peak_anonymous / 1e9, goal=0.8),
    Measure(name="from the call to the first step's end", unit="s", of=lambda run: _first(run) - _load(run), goal=0.5),
    Measure(name="from the program's start to there", unit="s", of=lambda run: _first(run) - run.began, goal=0.5),
    Measure(name="of that, beyond a step", unit="s", of=lambda run: _first(run) - run.began - _step(run)),
    Measure(name="decoding", unit="s", of=lambda run: run.result["decode_seconds"]),
    Measure(name="from the program's start to the picture", unit="s", of=lambda run: run.result["done"] - run.began),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Emulsion against diffusers.")
    parser.add_argument("shape", choices=sorted(name for name, shape in SHAPES.items() if shape.unet))
    parser.add_argument("--output", type=Path, help="where to write all figures as JSON")
    parser.add_argument("--work", type=Path, help="folder for the random file, kept; a temporary one otherwise")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each (2)")
    parser.add_argument("--steps", type=int, default=4, help="sampling steps of each picture, at least 2 (4)")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], help="data types that diffusers tries")
    parser.add_argument("--no-parity", action="store_true", help="do not compare the networks' results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = _measured(arguments, arguments.work or Path(temporary))
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


def _measured(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    shape = SHAPES[arguments.shape]
    checkpoint = random_checkpoint(work, shape)
    configuration = write_configuration(work / f"diffusers-{shape.name}", shape.name)
    machine = _machine()
    print(machine["processor"], "|", machine["threads"], "threads |", machine["date"], flush=True)
    speed = run_watched("benchmarks.arithmetic", shape.name).result
    ours: list[Watched] = []
    peers: dict[str, list[Watched]] = {dtype: [] for dtype in arguments.dtypes}
    what = str(checkpoint), str(arguments.steps)
    for _ in range(arguments.rounds):
        ours.append(run_watched("benchmarks.emulsion_run", *what))
        for dtype, runs in peers.items():
            runs.append(run_watched("benchmarks.diffusers_run", *what, shape.name, dtype, str(configuration)))
    fastest = min(peers, key=lambda dtype: median(_step(run) for run in peers[dtype]))
    rows = [_row(measure, ours, peers) for measure in MEASURES]
    dtype: str = ours[0].result["computes_in"]
    _print_rows(rows, dtype, fastest)
    achieved = {
        "step": speed["step_flops"] / rows[0]["ours"],
        "decoding": speed["decode_flops"] / median(run.result["decode_seconds"] for run in ours),
    }
    _print_speed(speed, achieved, dtype)
    has_parity = shape.name == "sd15" and not arguments.no_parity
    errors = run_watched("benchmarks.parity", str(checkpoint)).result if has_parity else {}
    _print_errors(errors)
    return {
        "machine": machine,
        "shape": shape.name,
        "computes_in": dtype,
        "rows": rows,
        "peaks": speed["peaks"],
        "attention": speed["attention"],
        "achieved": achieved,
        "parity": errors,
    }


def _row(measure: Measure, ours: list[Watched], peers: dict[str, list[Watched]]) -> dict[str, Any]:
    """The ratio is to the best of diffusers' settings by this measure."""
    values = {"ours": ours, **{f"diffusers {dtype}": runs for dtype, runs in peers.items()}}
    values = {who: [measure.of(run) for run in runs] for who, runs in values.items()}
    medians = {who: median(numbers) for who, numbers in values.items()}
    best = min(number for who, number in medians.items() if who != "ours")
    return {
        "name": measure.name,
        "unit": measure.unit,
        **medians,
        "best": best,
        "ratio": medians["ours"] / best,
        "goal": measure.goal,
        "runs": values,
    }


def _print_rows(rows: list[dict[str, Any]], dtype: str, fastest: str) -> None:
    print(f"\n{'medians':42} {'ours':>9} {'best peer':>9} {'ratio':>6}  goal   (ours {dtype}; diffusers' steps are "
          f"fastest in {fastest})")  # fmt: skip
    for row in rows:
        goal = "" if row["goal"] is None else f"{row['goal']:.2f} {'met' if row['ratio'] <= row['goal'] else 'MISSED'}"
        name = f"{row['name']}, {row['unit']}"
        print(f"{name:42} {row['ours']:9.2f} {row['best']:9.2f} {row['ratio']:6.2f}  {goal}")


def _print_speed(speed: dict[str, Any], achieved: dict[str, float], dtype: str) -> None:
    print("\nGFLOP/s, the best of this machine: ", end="")
    print(", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in speed["peaks"].items()))
    print("  attention: " + ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in speed["attention"].items()))
    best = max(rate for name, rate in speed["peaks"].items() if name.endswith(dtype))
    for name, rate in achieved.items():
        tera = speed[f"{'step' if name == 'step' else 'decode'}_flops"] / 1e12
        print(f"  {name}: {tera:.2f} TFLOP at {rate / 1e9:.0f} GFLOP/s, {rate / best:.0%} of the best in {dtype}")


def _print_errors(errors: dict[str, float]) -> None:
    if errors:
        print("\nLargest difference from the reference in float32, as a share of the largest value:")
    for name, error in errors.items():
        print(f"  {name}: {error:.1e} {'met' if error <= _GOAL_PARITY else 'MISSED'}")


def _machine() -> dict[str, str]:
    return {
        "processor": detect_device(force_cpu=True).name,
        "threads": str(torch.get_num_threads()),
        "system": platform.platform(),
        "torch": torch.__version__,
        "date": datetime.now().isoformat(timespec="minutes"),
    }


def _load(run: Watched) -> float:
    return run.result["load_began"]


def _first(run: Watched) -> float:
    return run.result["step_ends"][0]


def _step(run: Watched) -> float:
    """Seconds of a step, the first one left out, which also waits for weights."""
    return median(end - start for start, end in pairwise(run.result["step_ends"]))


if __name__ == "__main__":
    main()
