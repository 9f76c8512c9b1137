"""One picture by Emulsion, through the engine as the page does it: `... benchmarks.emulsion_run FILE STEPS [BUDGET]`.

BUDGET: bytes that the program may take; without it, whatever suits the machine.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from backend.engine.engine import Engine
from backend.engine.settings import Settings
from backend.events import Event, Progress, StageStarted
from backend.memory.dtype_policy import policy_for
from backend.request import GenerationRequest


def main(checkpoint: Path, steps: int, budget: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.for_root(Path(folder), checkpoint_dirs=(checkpoint,), force_cpu=True, memory_budget=budget)
        engine = Engine.open(settings, persistent=False)
        step_ends: list[float] = []
        stages: list[tuple[str, float]] = []

        def observe(event: Event) -> None:
            match event:
                case Progress():
                    step_ends.append(time.monotonic())
                case StageStarted():
                    stages.append((event.stage, time.monotonic()))
                case _:
                    pass

        engine.subscribe(observe)
        load_began = time.monotonic()
        request = GenerationRequest(
            prompt="a photograph of a lighthouse on a cliff at dusk",
            negative_prompt="blurry",
            sampler="euler",
            steps=steps,
            width=512,
            height=512,
            seed=1,
        )
        job = engine.wait(engine.submit(request))
        done = time.monotonic()
        peaks = engine.memory().peaks
        engine.close()
    if job.error:
        raise SystemExit(job.error)
    began = dict(stages)
    print(
        json.dumps(
            {
                "load_began": load_began,
                "step_ends": step_ends,
                "decode_seconds": began["saving"] - began["decoding"],
                "done": done,
                "peaks": {peak.stage: peak.host_bytes for peak in peaks},
                "computes_in": str(policy_for(engine.device).unet).removeprefix("torch."),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
