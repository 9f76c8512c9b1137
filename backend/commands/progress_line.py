"""One line of a terminal that tells how far a job is."""

from __future__ import annotations

from typing import TextIO

from backend.commands.terminal import as_line
from backend.events import Event, Notice, Progress, StageStarted


class ProgressLine:
    """An observer of events. Where the output is no terminal it tells stages and notices only, a line each."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._is_live = output.isatty()
        self._width = 0

    def __call__(self, event: Event) -> None:
        match event:
            case StageStarted(stage=stage):
                self._show(f"{stage} ...")
            case Progress() if self._is_live:
                self._show(
                    f"step {event.step} of {event.steps}, {event.seconds_per_step:.2f} s a step, "
                    f"{event.eta_seconds:.0f} s left"
                )
            case Notice(text=text):
                self.close()
                print(as_line(text, 1000), file=self._output, flush=True)
            case _:
                pass

    def close(self) -> None:
        """Make the line free for others."""
        if self._is_live and self._width:
            print("\r" + " " * self._width, end="\r", file=self._output, flush=True)
            self._width = 0

    def _show(self, text: str) -> None:
        if self._is_live:
            print("\r" + text.ljust(self._width), end="", file=self._output, flush=True)
            self._width = len(text)
        else:
            print(text, file=self._output, flush=True)
