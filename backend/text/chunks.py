"""A prompt as the chunks of 75 tokens that CLIP text encoders read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from backend.text.clip_tokenizer import BEGIN_TEXT, COMMA, END_TEXT, ClipTokenizer
from backend.text.emphasis import Break, Segment

CHUNK_TOKENS = 75
CHUNK_LENGTH = CHUNK_TOKENS + 2  # with the marks at both ends
COMMA_REACH = 20  # a chunk may end at a comma that lies at most this many tokens back


@dataclass(frozen=True)
class Chunk:
    """tokens: 77 ids with their marks, padded with the end mark. weights: 77 emphases."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class CompiledPrompt:
    """At least one chunk. num_tokens: as counted for the user; every chunk before the last counts 75."""

    chunks: tuple[Chunk, ...]
    num_tokens: int

    @property
    def capacity(self) -> int:
        """Tokens that fit before another chunk is needed."""
        return CHUNK_TOKENS * len(self.chunks)


def compile_chunks(segments: Sequence[Segment | Break], tokenizer: ClipTokenizer) -> CompiledPrompt:
    """Tokenise each segment by itself and fill chunks, as A1111 does.

    A full chunk ends at its last comma when that is near, so that a phrase is not torn; BREAK ends it at once.
    """
    chunks = _Chunks()
    for segment in segments:
        match segment:
            case Break():
                chunks.close()
            case Segment(text, weight):
                for token in tokenizer.encode(text):
                    chunks.add(token, weight)
    return chunks.finished()


@dataclass
class _Chunks:
    closed: list[Chunk] = field(default_factory=list[Chunk])
    tokens: list[int] = field(default_factory=list[int])
    weights: list[float] = field(default_factory=list[float])
    last_comma: int | None = None

    def add(self, token: int, weight: float) -> None:
        is_full = len(self.tokens) == CHUNK_TOKENS
        if token == COMMA and not is_full:
            self.last_comma = len(self.tokens)
        elif is_full:
            self._make_room(at_comma=token != COMMA)
        self.tokens.append(token)
        self.weights.append(weight)

    def _make_room(self, *, at_comma: bool) -> None:
        """Close the full chunk; what follows a near comma moves into the next one."""
        kept = CHUNK_TOKENS
        if at_comma and self.last_comma is not None and CHUNK_TOKENS - self.last_comma <= COMMA_REACH:
            kept = self.last_comma + 1
        moved = self.tokens[kept:], self.weights[kept:]
        del self.tokens[kept:], self.weights[kept:]
        self.close()
        self.tokens, self.weights = moved

    def close(self) -> None:
        padding = CHUNK_TOKENS - len(self.tokens)
        self.closed.append(
            Chunk(
                (BEGIN_TEXT, *self.tokens, *[END_TEXT] * (padding + 1)),
                (1.0, *self.weights, *[1.0] * (padding + 1)),
            )
        )
        self.tokens, self.weights, self.last_comma = [], [], None

    def finished(self) -> CompiledPrompt:
        before = CHUNK_TOKENS * len(self.closed)
        num_tokens = before + len(self.tokens)
        if self.tokens or not self.closed:
            self.close()
        return CompiledPrompt(tuple(self.closed), num_tokens)
