"""One CLIP text encoder of a model: a part that is fetched from the residency when a prompt is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from backend.errors import UnsupportedCheckpoint
from backend.families.family import Machine, ModelFiles, Prompt
from backend.families.file_facts import FileFacts
from backend.families.parts import network_part, target_for
from backend.nn.clip_text import ClipText, ClipTextConfig
from backend.text.chunks import compile_chunks
from backend.text.clip_encoder import ClipEncoding, ClipReading, encode_clip
from backend.text.clip_tokenizer import ClipTokenizer
from backend.text.encoder_config import clip_config_from
from backend.text.encoder_layouts import CLIP_G, CLIP_H, CLIP_L, T5, chosen_encoder
from backend.text.mentions import Names
from backend.weights.source import WeightSource

_LABELS = {CLIP_L: "CLIP-L", CLIP_H: "OpenCLIP-H", CLIP_G: "OpenCLIP-G", T5: "T5-XXL"}
_TABLES = ("embeddings.token_embedding", "embeddings.position_embedding")


class ClipReader:
    """kind: "clip_l", "clip_h" or "clip_g". source: weights under the names of its network. Raises KeysDoNotMatch."""

    def __init__(
        self, kind: str, source: WeightSource, machine: Machine, reading: Callable[[ClipTextConfig], ClipReading]
    ) -> None:
        # A small encoder says in the metadata what shapes do not tell.
        config = clip_config_from(source, kind, heads=FileFacts(source).number("text_heads", 0) or None)
        self._reading = reading(config)
        self._kind, self._width = kind, config.width
        self._machine = machine
        self._tokenizer = ClipTokenizer.load()
        target = target_for(machine, machine.policy.text_encoder)
        label = f"{_LABELS[kind]} text encoder"
        self.part = network_part(label, source, target, lambda: ClipText(config), tables=_TABLES)

    def encode(self, prompt: Prompt) -> ClipEncoding:
        vectors = prompt.vectors_for(self._kind, self._width)
        num_vectors = {name: len(found) for name, found in vectors.items()}
        segments = prompt.emphasis.parse(prompt.text)
        return encode_clip(
            cast(ClipText, self._machine.residency.get(self.part)),
            compile_chunks(segments, self._tokenizer, num_vectors, Names(tuple(vectors))),
            self._reading,
            clip_skip=prompt.clip_skip,
            emphasis=prompt.emphasis,
            device=self._machine.device.torch_device,
            dtype=self._machine.policy.text_encoder,
            vectors=vectors,
        )


def text_encoder_of(kind: str, files: ModelFiles) -> WeightSource:
    """The one that was chosen, or else the one inside the checkpoint.

    Raises UnsupportedCheckpoint, which says what to do, when there is neither.
    """
    source = chosen_encoder(kind, checkpoint=files.checkpoint, separate=files.text_encoders)
    if source is None:
        raise UnsupportedCheckpoint(
            files.checkpoint.origin,
            f"it holds no {_LABELS[kind]} text encoder, without which it cannot read prompts. Put the encoder's file "
            "into models/text_encoders and choose it, or use a checkpoint that holds it.",
        )
    return source
