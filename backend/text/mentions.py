"""Where a prompt mentions textual inversions: by their bare names, or as `embedding:name`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from backend.text.clip_tokenizer import ClipTokenizer
from backend.text.emphasis import Break, Segment

_MARK = re.compile(r"(?<!\w)embedding:(?=[^\s,])")
_WORD = re.compile(r"[^\s,]+")
_ENDING = re.compile(r"\.(?:safetensors|pt|bin)\b", re.IGNORECASE)
_PART_OF_NAME = re.compile(r"[\w-]")


@dataclass(frozen=True, kw_only=True)
class Mention:
    """name: of a textual inversion, as it was given; "" where none is called as `text` says.

    is_explicit: whether it stands behind `embedding:`.
    """

    name: str
    text: str
    is_explicit: bool = False


@dataclass(frozen=True)
class Names:
    """Names of textual inversions, found as A1111 and ComfyUI find them.

    A bare name is found where its CLIP tokens are, so that capitals make no difference, and the longest of several
    counts. Behind `embedding:` a name ends where a word does.
    """

    names: tuple[str, ...] = ()
    _by_first_token: dict[int, list[tuple[list[int], str]]] = field(
        default_factory=dict[int, "list[tuple[list[int], str]]"], init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        tokenizer = ClipTokenizer.load()
        for name in self.names:
            tokens = tokenizer.encode(name)
            if tokens:
                self._by_first_token.setdefault(tokens[0], []).append((tokens, name))
        for found in self._by_first_token.values():
            found.sort(key=lambda entry: len(entry[0]), reverse=True)

    def at(self, tokens: Sequence[int], position: int) -> tuple[str, int] | None:
        """The name whose tokens begin at `position`, and how many they are."""
        for ids, name in self._by_first_token.get(tokens[position], ()):
            if tokens[position : position + len(ids)] == ids:
                return name, len(ids)
        return None

    def pieces(self, text: str, *, finds_bare_names: bool = False) -> Iterator[str | Mention]:
        """A text in pieces: mentions behind `embedding:`, and what lies between them.

        finds_bare_names: whether words that are names are mentions as well, for encoders with other tokens.
        """
        start = 0
        for mark in _MARK.finditer(text):
            if mark.start() < start:
                continue
            yield from self._plain(text[start : mark.start()], finds_bare_names)
            mention, start = self._behind(text, mark.end())
            yield mention
        yield from self._plain(text[start:], finds_bare_names)

    def _behind(self, text: str, start: int) -> tuple[Mention, int]:
        """The mention whose name begins at `start`, and where the text goes on."""
        for name in sorted(self.names, key=len, reverse=True):
            end = start + len(name)
            if text[start:end].replace("\\", "/").casefold() != name.casefold():
                continue
            ending = _ENDING.match(text, end)
            end = ending.end() if ending else end
            if not _PART_OF_NAME.match(text, end):
                return Mention(name=name, text=text[start:end], is_explicit=True), end
        word = _WORD.match(text, start)
        end = word.end() if word else start
        return Mention(name="", text=text[start:end], is_explicit=True), end

    def _plain(self, text: str, finds_bare_names: bool) -> Iterator[str | Mention]:
        if not finds_bare_names or not self.names:
            if text:
                yield text
            return
        longest_first = sorted(self.names, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first))
        by_name = {name.casefold(): name for name in reversed(longest_first)}
        start = 0
        for found in re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE):
            if found.start() > start:
                yield text[start : found.start()]
            name = by_name.get(found[0].casefold(), "")
            yield Mention(name=name, text=found[0]) if name else found[0]
            start = found.end()
        if start < len(text):
            yield text[start:]


NO_NAMES = Names()


def tokens_and_mentions(text: str, tokenizer: ClipTokenizer, names: Names) -> Iterator[int | Mention]:
    """A text as CLIP's tokens, with mentions in place of the tokens of names."""
    for piece in names.pieces(text):
        if isinstance(piece, Mention):
            yield piece
            continue
        tokens = tokenizer.encode(piece)
        position = 0
        while position < len(tokens):
            found = names.at(tokens, position)
            if found is None:
                yield tokens[position]
                position += 1
            else:
                yield Mention(name=found[0], text=found[0])
                position += found[1]


def mentions_in(segments: Iterable[Segment | Break], names: Names) -> tuple[Mention, ...]:
    """Every mention of a parsed prompt in its order, each once."""
    tokenizer = ClipTokenizer.load()
    found = (
        piece
        for segment in segments
        if isinstance(segment, Segment)
        for piece in tokens_and_mentions(segment.text, tokenizer, names)
        if isinstance(piece, Mention)
    )
    return tuple(dict.fromkeys(found))
