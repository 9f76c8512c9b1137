"""Models that are larger than the memory they get: `python -m benchmarks.small_memory sdxl 3` (GiB).

A picture of 512 x 512 from a file with random weights, through the engine, with the program capped by its own budget
and without. What the program takes is read from outside, file pages included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import pairwise
from pathlib import Path

from benchmarks.checkpoint import SHAPES, random_checkpoint
from benchmarks.watched_process import Watched, run_watched


def main() -> None:
    parser = argparse.ArgumentParser(description="Emulsion with less memory than a model has.")
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("cap", type=float, help="GiB that the whole program may take")
    parser.add_argument("--steps", type=int, default=3, help="sampling steps (3)")
    parser.add_argument("--alone", action="store_true", help="leave out the run without a cap")
    parser.add_argument("--work", type=Path, help="folder for the random file, kept; a temporary one otherwise")
    parser.add_argument("--output", type=Path, help="where to write all figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = random_checkpoint(arguments.work or Path(temporary), SHAPES[arguments.shape])
        cap = int(arguments.cap * 2**30)
        runs = {"capped": _run(checkpoint, arguments.steps, str(cap))}
        if not arguments.alone:
            runs["free"] = _run(checkpoint, arguments.steps)
    for name, run in runs.items():
        verdict = "" if name == "free" else " kept" if run.peak_resident <= cap else " EXCEEDED"
        print(f"{name:7} {run.peak_resident / 2**30:5.2f} GiB at the most{verdict}, steps {_steps(run)} s")
        print("        by stage:", {stage: f"{size / 2**30:.2f}" for stage, size in run.result["peaks"].items()})
    if arguments.output:
        figures = {name: {"resident": run.peak_resident, "result": run.result} for name, run in runs.items()}
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


def _run(checkpoint: Path, steps: int, *budget: str) -> Watched:
    return run_watched("benchmarks.emulsion_run", str(checkpoint), str(steps), *budget, timeout=3600)


def _steps(run: Watched) -> list[float]:
    """Seconds between the ends of steps; the first is left out, which also waits for weights."""
    ends = run.result["step_ends"]
    return [round(end - begin, 1) for begin, end in pairwise(ends)]


if __name__ == "__main__":
    main()
