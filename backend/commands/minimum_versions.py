"""Packages whose older versions have known holes, so that a half-finished or borrowed installation is noticed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """reason: what is wrong with versions before `version`."""

    package: str
    version: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outdated:
    """found: the installed version, or "" when the package is missing."""

    minimum: Minimum
    found: str

    def __str__(self) -> str:
        needed = f"{self.minimum.package} {self.minimum.version} or newer is needed"
        if not self.found:
            return f"{needed}, and none is installed"
        return f"{needed}, and {self.found} is installed, which {self.minimum.reason}"


MINIMUMS = (
    Minimum(package="pillow", version="13.0.0", reason="can be made to write past its memory by a prepared picture"),
    Minimum(package="gradio", version="6.20", reason="can be made to fetch addresses for others"),
    Minimum(package="torch", version="2.10", reason="can be made to write past its memory by a prepared pickle"),
    Minimum(package="starlette", version="1.3.1", reason="can be kept busy by one request and misread addresses"),
    Minimum(package="python-multipart", version="0.0.27", reason="can be kept busy by the headers of an upload"),
    Minimum(package="safetensors", version="0.8", reason="was not tried with Emulsion"),
)


def outdated_packages(
    minimums: Sequence[Minimum] = MINIMUMS, installed: Callable[[str], str] = metadata.version
) -> list[Outdated]:
    """Those of `minimums` that the installation does not reach. Nothing is imported for it."""
    found = [Outdated(minimum=minimum, found=_version(minimum.package, installed)) for minimum in minimums]
    return [one for one in found if _numbers(one.found) < _numbers(one.minimum.version)]


def _version(package: str, installed: Callable[[str], str]) -> str:
    try:
        return installed(package)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> list[int]:
    """ "2.13.0+cpu" -> [2, 13, 0]; a missing version is older than any."""
    release = re.match(r"[0-9.]*", version)
    return [int(number) for number in release[0].split(".") if number] if release else []
