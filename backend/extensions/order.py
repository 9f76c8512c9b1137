"""In which order extensions are set up, and which are not because of another one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from backend.extensions.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class LoadOrder:
    """ready: every extension behind those that it builds on, otherwise by id. off: the disabled ones.

    refused: those that cannot be set up, each with the reason.
    """

    ready: tuple[Manifest, ...]
    off: tuple[Manifest, ...]
    refused: tuple[tuple[Manifest, str], ...]


def load_order(manifests: Sequence[Manifest], *, disabled: Collection[str] = ()) -> LoadOrder:
    """Sort by `after`.

    Refused are extensions that share an id, all of them, because which one is meant cannot be known; those that build
    on one that is missing or in `disabled`; and those that wait for one another.
    """
    unique, refused = _without_twins([manifest for manifest in manifests if manifest.id not in disabled])
    wanted = {manifest.id: manifest for manifest in unique}
    ready: dict[str, Manifest] = {}
    while free := sorted(
        id for id in wanted.keys() - ready.keys() if all(needed in ready for needed in wanted[id].after)
    ):
        ready[free[0]] = wanted[free[0]]
    stuck = [manifest for manifest in wanted.values() if manifest.id not in ready]
    refused += [(manifest, _why_stuck(manifest, wanted, ready, disabled)) for manifest in stuck]
    off = [manifest for manifest in manifests if manifest.id in disabled]
    return LoadOrder(ready=tuple(ready.values()), off=tuple(off), refused=tuple(refused))


def _without_twins(manifests: Sequence[Manifest]) -> tuple[list[Manifest], list[tuple[Manifest, str]]]:
    by_id: defaultdict[str, list[Manifest]] = defaultdict(list)
    for manifest in manifests:
        by_id[manifest.id].append(manifest)
    unique = [group[0] for group in by_id.values() if len(group) == 1]
    refused: list[tuple[Manifest, str]] = []
    for group in by_id.values():
        for manifest in group if len(group) > 1 else ():
            others = ", ".join(f'"{other.folder.name}"' for other in group if other is not manifest)
            refused.append((manifest, f"its id is also that of {others}; keep one of these folders"))
    return unique, refused


def _why_stuck(
    manifest: Manifest, wanted: Mapping[str, Manifest], ready: Mapping[str, Manifest], disabled: Collection[str]
) -> str:
    for needed in manifest.after:
        if needed in disabled:
            return f'it builds on the extension "{needed}", which is switched off'
        if needed not in wanted:
            return f'it builds on the extension "{needed}", which is missing or broken; install it, or remove this one'
    if circle := _circle_of(manifest, wanted):
        return f"it waits for itself: {' after '.join(circle)}"
    broken = next(needed for needed in manifest.after if needed not in ready)
    return f'it builds on the extension "{broken}", which cannot be set up'


def _circle_of(manifest: Manifest, wanted: Mapping[str, Manifest]) -> list[str]:
    """The shortest way along `after` from an extension back to itself; empty when there is none."""
    ways = [[manifest.id]]
    seen: set[str] = set()
    for way in ways:
        for needed in wanted[way[-1]].after:
            if needed == manifest.id:
                return [*way, needed]
            if needed in wanted and needed not in seen:
                seen.add(needed)
                ways.append([*way, needed])
    return []
