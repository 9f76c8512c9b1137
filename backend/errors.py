"""Every error that Emulsion raises on purpose, on one page.

EmulsionError                     something the user can understand and act on
├── RequestError                  a field of a request is wrong; names the field
│   └── NotSupported              a field asks for what this version cannot do
├── UnknownName                   a sampler, schedule, checkpoint ... that nobody registered
│   └── UnknownPicture            a picture that is not in the store
├── AmbiguousName                 a name that fits several; lists them
├── FileError                     a file could not be used; names the path
│   ├── BadCheckpoint             not a readable weight file, or a damaged one
│   ├── UnsupportedCheckpoint     readable, but of a kind that this version does not run
│   ├── KeysDoNotMatch            weights and network disagree: missing, unexpected or mis-shaped keys
│   ├── AdapterDoesNotFit         a LoRA for models of another kind
│   ├── PickleRefused             a legacy pickle file; it must be converted first
│   └── BadImage                  not a picture that is safe to decode
├── UnsupportedMerge              models that cannot be merged, or not with one another
├── OutputError                   a result could not be written
│   ├── DiskFull
│   └── NotWritable
├── OutOfMemory                   a budget or the machine is too small for the job
├── NumericalError                the network produced values that are not numbers
├── Cancelled                     the user stopped the job
├── ServerError                   the server could not start (port in use ...)
└── ExtensionError                an extension is broken; names the extension

A message says what was wrong, what was found and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

_LISTED = 40  # names that a message lists


class EmulsionError(Exception):
    """A problem that can be told to the user as it stands."""


class RequestError(EmulsionError):
    """A field of a request is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class NotSupported(RequestError):
    """A field asks for what this version cannot do."""


class UnknownName(EmulsionError):
    """A name that is not registered under its kind."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f'There is no {kind} named "{name[:200]}". {_known(name, known)}')
        self.kind = kind
        self.name = name
        self.known = tuple(known)


class UnknownPicture(UnknownName):
    """A picture that is not in the store; its name is a hash, which no list of others helps with."""

    def __init__(self, sha256: str) -> None:
        EmulsionError.__init__(
            self, f'There is no picture "{sha256[:64]}". It was removed, or it never came here: add its file again.'
        )
        self.kind = "picture"
        self.name = sha256
        self.known = ()


class AmbiguousName(EmulsionError):
    """A name that fits several things of its kind."""

    def __init__(self, kind: str, name: str, found: Sequence[str]) -> None:
        super().__init__(
            f'"{name[:200]}" is the name of {len(found)} {kind}s: {_listed(found)}. Write which one is meant.'
        )
        self.kind = kind
        self.name = name
        self.found = tuple(found)


class FileError(EmulsionError):
    """A file could not be used."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{Path(path).name}: {problem}")
        self.path = Path(path)
        self.problem = problem


class BadCheckpoint(FileError):
    """Not a readable weight file, or a damaged one."""


class UnsupportedCheckpoint(FileError):
    """A readable weight file of a kind that this version does not run."""


class KeysDoNotMatch(FileError):
    """Weights and network disagree about names or shapes."""

    def __init__(
        self,
        path: Path | str,
        part: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        misshaped: Sequence[str] = (),
    ) -> None:
        found = [
            f"{len(keys)} {kind} ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
            for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
            if keys
        ]
        super().__init__(
            path, f"its {part} does not fit the network: {'; '.join(found)}. Download the file again or choose another."
        )
        self.part = part
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.misshaped = tuple(misshaped)


class AdapterDoesNotFit(FileError):
    """A LoRA of which too little can be added to a model."""


class PickleRefused(FileError):
    """A legacy pickle file, which can run code when it is opened."""


class BadImage(FileError):
    """Not a picture that is safe to decode."""


class UnsupportedMerge(EmulsionError):
    """Models that cannot be merged, or not with one another."""


class OutputError(EmulsionError):
    """A result could not be written."""


class DiskFull(OutputError):
    """The disk has no room for a result."""


class NotWritable(OutputError):
    """A folder refuses new files."""


class OutOfMemory(EmulsionError):
    """A budget, or the machine, is too small for the job."""


class NumericalError(EmulsionError):
    """The network produced values that are not numbers."""


class Cancelled(EmulsionError):
    """The user stopped the job."""

    def __init__(self) -> None:
        super().__init__("Cancelled.")


class ServerError(EmulsionError):
    """The server could not start."""


class ExtensionError(EmulsionError):
    """An extension is broken."""

    def __init__(self, extension: str, problem: str) -> None:
        super().__init__(f"Extension {extension}: {problem}")
        self.extension = extension
        self.problem = problem


def _known(name: str, known: Sequence[str]) -> str:
    """Of thousands of files, those that are called most like it."""
    if len(known) <= _LISTED:
        return f"Known: {', '.join(known) if known else 'none'}."
    like = difflib.get_close_matches(name[:200], known, 5, 0.4)
    return f"Known: {len(known):,}" + (f", of which the most like it: {', '.join(like)}." if like else ".")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else "")
