"""A prompt as the chunks of 75 tokens that CLIP text encoders read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.text.clip_tokenizer import BEGIN_TEXT, COMMA, END_TEXT, ClipTokenizer
from backend.text.emphasis import Break, Segment
from backend.text.mentions import NO_NAMES, Mention, Names, tokens_and_mentions

CHUNK_TOKENS = 75
CHUNK_LENGTH = CHUNK_TOKENS + 2  # with the marks at both ends
COMMA_REACH = 20  # a chunk may end at a comma that lies at most this many tokens back
_PLACEHOLDER = 0  # the token where a vector is put


@dataclass(frozen=True)
class Chunk:
    """tokens: 77 ids with their marks, padded with the end mark. weights: 77 emphases.

    mentions: (position, name) of textual inversions, whose vectors stand from that position on.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    mentions: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class CompiledPrompt:
    """At least one chunk. num_tokens: as counted for the user; every chunk before the last counts 75."""

    chunks: tuple[Chunk, ...]
    num_tokens: int

    @property
    def capacity(self) -> int:
        """Tokens that fit before another chunk is needed."""
        return CHUNK_TOKENS * len(self.chunks)


def compile_chunks(
    segments: Sequence[Segment | Break],
    tokenizer: ClipTokenizer,
    num_vectors: Mapping[str, int] | None = None,
    names: Names = NO_NAMES,
) -> CompiledPrompt:
    """Tokenise each segment by itself and fill chunks, as A1111 does.

    A full chunk ends at its last comma when that is near, so that a phrase is not torn; BREAK ends it at once.
    num_vectors: of textual inversions by `names`. Each vector counts as a token, and those of one stay together.
    """
    chunks, counts = _Chunks(), num_vectors or {}
    for segment in segments:
        match segment:
            case Break():
                chunks.close()
            case Segment(text, weight):
                for piece in tokens_and_mentions(text, tokenizer, names):
                    if isinstance(piece, Mention):
                        chunks.add_vectors(piece.name, counts.get(piece.name, 0), weight)
                    else:
                        chunks.add(piece, weight)
    return chunks.finished()


@dataclass
class _Chunks:
    closed: list[Chunk] = field(default_factory=list[Chunk])
    tokens: list[int] = field(default_factory=list[int])
    weights: list[float] = field(default_factory=list[float])
    mentions: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    last_comma: int | None = None

    def add(self, token: int, weight: float) -> None:
        is_full = len(self.tokens) == CHUNK_TOKENS
        if token == COMMA and not is_full:
            self.last_comma = len(self.tokens)
        elif is_full:
            self._make_room(at_comma=token != COMMA)
        self.tokens.append(token)
        self.weights.append(weight)

    def add_vectors(self, name: str, count: int, weight: float) -> None:
        """Vectors in one chunk: where they do not fit any more, in the next one."""
        if not count:  # a name that this encoder has no vectors for
            return
        if len(self.tokens) == CHUNK_TOKENS:
            self._make_room(at_comma=True)
        if len(self.tokens) + count > CHUNK_TOKENS:
            self.close()
        self.mentions.append((len(self.tokens) + 1, name))
        self.tokens += [_PLACEHOLDER] * count
        self.weights += [weight] * count

    def _make_room(self, *, at_comma: bool) -> None:
        """Close the full chunk; what follows a near comma moves into the next one."""
        kept = CHUNK_TOKENS
        if at_comma and self.last_comma is not None and CHUNK_TOKENS - self.last_comma <= COMMA_REACH:
            kept = self.last_comma + 1
        moved = self.tokens[kept:], self.weights[kept:]
        moved_mentions = [(position - kept, name) for position, name in self.mentions if position > kept]
        self.mentions = [mention for mention in self.mentions if mention[0] <= kept]
        del self.tokens[kept:], self.weights[kept:]
        self.close()
        self.tokens, self.weights = moved
        self.mentions = moved_mentions

    def close(self) -> None:
        padding = CHUNK_TOKENS - len(self.tokens)
        self.closed.append(
            Chunk(
                (BEGIN_TEXT, *self.tokens, *[END_TEXT] * (padding + 1)),
                (1.0, *self.weights, *[1.0] * (padding + 1)),
                tuple(self.mentions),
            )
        )
        self.tokens, self.weights, self.mentions, self.last_comma = [], [], [], None

    def finished(self) -> CompiledPrompt:
        before = CHUNK_TOKENS * len(self.closed)
        num_tokens = before + len(self.tokens)
        if self.tokens or not self.closed:
            self.close()
        return CompiledPrompt(tuple(self.closed), num_tokens)
