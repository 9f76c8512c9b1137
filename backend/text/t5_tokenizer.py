"""The unigram tokenizer of T5, which SD 3, FLUX.1 and PixArt use beside or in place of CLIP's.

Vocabulary: Google's T5 (Apache License 2.0, see NOTICE), 32,000 pieces and 100 marks, in the format of the `tokenizers`
package.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from backend.errors import EmulsionError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING = 0
END = 1
T5_TOKENS = 32100


@dataclass(frozen=True)
class T5Token:
    """A token, and the position in the text of its first character that is no white space, if it has one."""

    id: int
    position: int


@dataclass(frozen=True)
class T5Tokenizer:
    """Text -> tokens, as transformers' T5Tokenizer gives them without special tokens."""

    _tokenizer: Tokenizer

    @classmethod
    def load(cls) -> T5Tokenizer:
        """The published vocabulary, from the copy that ships. Raises EmulsionError when the copy is damaged."""
        return _published()

    def encode(self, text: str) -> list[T5Token]:
        """Tokens of `text`, without an end mark and without a limit. White space counts only between words."""
        encoding = self._tokenizer.encode(text.rstrip(), add_special_tokens=False)
        return [T5Token(token, _first(text, *span)) for token, span in zip(encoding.ids, encoding.offsets, strict=True)]


def _first(text: str, start: int, end: int) -> int:
    return next((position for position in range(start, end) if not text[position].isspace()), start)


@lru_cache(maxsize=1)
def _published() -> T5Tokenizer:
    from tokenizers import Tokenizer  # only models with a T5 need it

    packed = files("backend.text").joinpath("assets/t5_tokenizer.json.gz").read_bytes()
    try:
        text = gzip.decompress(packed).decode("utf-8")
        is_whole = len(json.loads(text)["model"]["vocab"]) == T5_TOKENS
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        is_whole = False
        text = ""
    if not is_whole:
        raise EmulsionError("backend/text/assets/t5_tokenizer.json.gz is damaged; restore it from the repository")
    return T5Tokenizer(Tokenizer.from_str(text))
