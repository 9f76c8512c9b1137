"""`python -m backend.commands COMMAND`: the command line beside the page."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.commands.arguments import build_parser
from backend.commands.terminal import as_line
from backend.errors import Cancelled, EmulsionError

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it went well, 1 after an error that is told in one line, 130 when it was stopped."""
    values = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    # Each command is imported only when it runs: --help needs nothing that must be installed.
    match values.command:
        case "generate":
            from backend.commands.generate import run
        case "merge":
            from backend.commands.merge import run
        case "upscale":
            from backend.commands.upscale import run
        case "info":
            from backend.commands.info import run
        case "convert":
            from backend.commands.convert import run
        case _:
            from backend.commands.doctor import run
    try:
        status = run(values, ROOT)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads has enough, as `head` after its lines; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Cancelled, KeyboardInterrupt):
        print(f"{values.command}: stopped", file=sys.stderr)
        return 130
    except EmulsionError as error:
        print(f"{values.command}: {as_line(str(error), 2000)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
