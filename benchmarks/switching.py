"""Ten switches between two SD 1.5 checkpoints: `python -m benchmarks.switching`.

Each job is one step at 64 x 64 pixels with the same prompt. What is timed is the switch: from the job's start to the
start of its first step. The memory of the process is read after each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from backend.engine.engine import Engine
from backend.engine.settings import Settings
from backend.events import Event, JobStarted, StageStarted
from backend.request import GenerationRequest
from benchmarks.checkpoint import SHAPES, random_checkpoint

_GOAL = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description="Switching between two checkpoints.")
    parser.add_argument("--work", type=Path, help="folder for the random files, kept; a temporary one otherwise")
    parser.add_argument("--output", type=Path, help="where to write all figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        files = [random_checkpoint(work, SHAPES["sd15"], seed=seed) for seed in (0, 1)]
        settings = Settings.for_root(Path(temporary) / "root", checkpoint_dirs=tuple(files), force_cpu=True)
        engine = Engine.open(settings, persistent=False)
        engine.change_preferences(preview_every=0)
        rows = [_switch(engine, files[number % 2].stem) for number in range(12)]
        engine.close()
    for number, row in enumerate(rows):
        print(f"{number:2} {row['seconds']:.3f} s to the first step, {row['anonymous'] / 2**20:.0f} MiB anonymous")
    slowest = max(row["seconds"] for row in rows[2:])
    growth = rows[-1]["anonymous"] - rows[2]["anonymous"]
    verdict = "met" if slowest < _GOAL else "MISSED"
    print(f"slowest after the first pass: {slowest:.3f} s ({verdict}); memory grew by {growth / 2**20:.1f} MiB")
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


def _switch(engine: Engine, checkpoint: str) -> dict[str, float]:
    began: dict[str, float] = {}

    def observe(event: Event) -> None:
        match event:
            case JobStarted():
                began["job"] = time.monotonic()
            case StageStarted(stage="sampling"):
                began["sampling"] = time.monotonic()
            case _:
                pass

    unsubscribe = engine.subscribe(observe)
    request = GenerationRequest(prompt="a lighthouse", checkpoint=checkpoint, steps=1, width=64, height=64, seed=1)
    job = engine.wait(engine.submit(request))
    unsubscribe()
    if job.error:
        raise SystemExit(job.error)
    lines = Path("/proc/self/status").read_text().splitlines()
    anonymous = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return {"seconds": began["sampling"] - began["job"], "anonymous": anonymous}


if __name__ == "__main__":
    main()
