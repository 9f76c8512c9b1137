"""Named values that can be looked up by name, label or alias."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from backend.errors import UnknownName


class Named(Protocol):
    """What an entry must say about itself: `name` is stored, `label` is shown, `aliases` are accepted."""

    @property
    def name(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...


Entry = TypeVar("Entry", bound=Named)


class Registry(Generic[Entry]):
    """Entries of one kind in the order of their registration.

    Look-up ignores case and takes spaces, hyphens and underscores for one another, because the names that people
    paste come from several programs.
    """

    def __init__(self, kind: str, entries: Iterable[Entry] = ()) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._keys: dict[str, str] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Register `entry`.

        Raises ValueError if its name, its label or an alias belongs to another entry.
        """
        keys = {_key(text) for text in (entry.name, entry.label, *entry.aliases)}
        for key in keys:
            if key in self._keys:
                raise ValueError(f'{self.kind} "{entry.name}": the name "{key}" belongs to "{self._keys[key]}"')
        self._entries[entry.name] = entry
        self._keys.update(dict.fromkeys(keys, entry.name))

    def remove(self, name: str) -> None:
        """Take the entry called `name` out again. Raises UnknownName."""
        entry = self[name]
        del self._entries[entry.name]
        self._keys = {key: owner for key, owner in self._keys.items() if owner != entry.name}

    def __getitem__(self, name: str) -> Entry:
        """Look an entry up by name, label or alias. Raises UnknownName, which lists what there is."""
        found = self._keys.get(_key(name))
        if found is None:
            raise UnknownName(self.kind, name, self.names())
        return self._entries[found]

    def __contains__(self, name: str) -> bool:
        return _key(name) in self._keys

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def names(self) -> list[str]:
        return list(self._entries)

    def labels(self) -> list[str]:
        return [entry.label for entry in self]


def _key(text: str) -> str:
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())
