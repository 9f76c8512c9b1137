"""The byte-pair tokenizer of CLIP, which every Stable Diffusion text encoder uses.

Vocabulary: OpenAI CLIP (MIT licence, see NOTICE): 256 bytes, the same at the end of a word, 48,894 merges, two marks.
"""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heapify, heappop, heappush
from importlib.resources import files
from itertools import pairwise

from backend.errors import EmulsionError

BEGIN_TEXT = 49406
END_TEXT = 49407
COMMA = 267

_END_OF_WORD = "</w>"
_MARKS = {"<|startoftext|>": BEGIN_TEXT, "<|endoftext|>": END_TEXT}
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_MERGES = 48_894
# Unicode's White_Space; Python's str.isspace() also holds four control characters to be spaces.
_SPACES = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
)


@dataclass(frozen=True)
class ClipTokenizer:
    """Text -> token ids, as transformers' CLIPTokenizer gives them without special tokens.

    vocabulary: piece -> id; ranks: pair of pieces -> order of its merge.
    """

    vocabulary: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]
    _words: dict[str, tuple[int, ...]] = field(default_factory=dict[str, "tuple[int, ...]"], repr=False, compare=False)

    @classmethod
    def load(cls) -> ClipTokenizer:
        """The published vocabulary, from the copy that ships. Raises EmulsionError when the copy is damaged."""
        return _published()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without marks at its ends and without a limit."""
        return [token for word in split_words(normalise(text)) for token in self._encode_word(word)]

    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in _MARKS:
            return (_MARKS[word],)
        known = self._words.get(word)
        if known is None:
            known = tuple(self.vocabulary[piece] for piece in self._merge(_as_symbols(word)))
            if len(self._words) < 50_000:  # a cache of words; prompts repeat themselves
                self._words[word] = known
        return known

    def _merge(self, pieces: list[str]) -> list[str]:
        """Join pairs, the one with the lowest rank first and the leftmost among equals, until no pair has a rank.

        A heap of the mergeable pairs keeps this at n log n for words of any length.
        """
        following = [*range(1, len(pieces)), -1]
        preceding = [*range(-1, len(pieces) - 1)]
        waiting = [(self.ranks[pair], index) for index, pair in enumerate(pairwise(pieces)) if pair in self.ranks]
        heapify(waiting)
        while waiting:
            rank, index = heappop(waiting)
            right = following[index]
            if right < 0 or self.ranks.get((pieces[index], pieces[right])) != rank:
                continue  # one of the two was joined to something else meanwhile
            pieces[index] += pieces[right]
            pieces[right] = ""
            following[index], following[right] = following[right], -1
            if following[index] >= 0:
                preceding[following[index]] = index
            for left in (preceding[index], index):
                right = following[left] if left >= 0 else -1
                if right >= 0 and (pair := (pieces[left], pieces[right])) in self.ranks:
                    heappush(waiting, (self.ranks[pair], left))
        return [piece for piece in pieces if piece]


def normalise(text: str) -> str:
    """Composed (NFC), lower-cased, with every run of white space turned into one space."""
    composed = unicodedata.normalize("NFC", text)
    return " ".join(_runs_between_spaces(composed)).lower()


def split_words(text: str) -> Iterator[str]:
    """Marks, English contractions, runs of letters, single digits and runs of everything else; spaces are dropped."""
    position = 0
    while position < len(text):
        if text[position] in _SPACES:
            position += 1
            continue
        word = _word_at(text, position)
        yield word
        position += len(word)


def _word_at(text: str, position: int) -> str:
    for fixed in (*_MARKS, *_CONTRACTIONS):
        if text.startswith(fixed, position):
            return fixed
    kind = _kind(text[position])
    if kind == "number":
        return text[position]
    end = position + 1
    while end < len(text) and _kind(text[end]) == kind:
        end += 1
    return text[position:end]


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    if character in _SPACES:
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")


def _runs_between_spaces(text: str) -> Iterator[str]:
    """Pieces of `text` between runs of white space; the first or last is empty where the text starts or ends so."""
    start, in_space = 0, False
    for index, character in enumerate(text):
        if character in _SPACES:
            if not in_space:
                yield text[start:index]
            in_space = True
            start = index + 1
        else:
            in_space = False
    yield text[start:]


def _as_symbols(word: str) -> list[str]:
    """The word's UTF-8 bytes as the vocabulary spells them, the last one marked as the end of the word."""
    alphabet = _byte_alphabet()
    symbols = [alphabet[byte] for byte in word.encode("utf-8", "surrogatepass")]
    return [*symbols[:-1], symbols[-1] + _END_OF_WORD]


@lru_cache(maxsize=1)
def _byte_alphabet() -> tuple[str, ...]:
    """One printable character for each byte (Radford et al. 2019): itself where it is one, else 256 onwards."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return tuple(chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256))


@lru_cache(maxsize=1)
def _published() -> ClipTokenizer:
    packed = files("backend.text").joinpath("assets/clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()[1 : _MERGES + 1]
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    if len(merges) != _MERGES:
        raise EmulsionError("backend/text/assets/clip_merges.txt.gz is damaged; restore it from the repository")
    alphabet = _byte_alphabet()
    # The vocabulary lists the bytes that are characters themselves before the others.
    bytes_in_order = sorted(alphabet, key=lambda symbol: (ord(symbol) > 255, ord(symbol)))
    pieces = [*bytes_in_order, *(symbol + _END_OF_WORD for symbol in bytes_in_order), *(a + b for a, b in merges)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)} | _MARKS
    return ClipTokenizer(vocabulary, {pair: rank for rank, pair in enumerate(merges)})
