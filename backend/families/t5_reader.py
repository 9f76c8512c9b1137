"""The T5 text encoder of a model: a part that is fetched from the residency when a prompt is read."""

from __future__ import annotations

import dataclasses
from typing import cast

from backend.families.family import Machine, Prompt
from backend.families.parts import network_part, target_for
from backend.nn.t5 import T5Encoder
from backend.text.emphasis import Break, Segment
from backend.text.encoder_config import t5_config_from
from backend.text.encoder_layouts import T5
from backend.text.mentions import Names
from backend.text.t5_encoder import T5Encoding, compile_t5, encode_t5
from backend.text.t5_tokenizer import T5Tokenizer
from backend.weights.source import WeightSource


class T5Reader:
    """source: the encoder's weights under the names of its network. length: tokens of every prompt, with padding.

    ignores_padding: whether tokens attend to no padding. is_lower_case: whether capitals are read as small letters.
    Raises KeysDoNotMatch.
    """

    def __init__(
        self,
        source: WeightSource,
        machine: Machine,
        *,
        length: int,
        ignores_padding: bool = False,
        is_lower_case: bool = False,
    ) -> None:
        config = t5_config_from(source)
        self.width = config.width
        self._machine = machine
        self._length = length
        self._ignores_padding = ignores_padding
        self._is_lower_case = is_lower_case
        self._tokenizer = T5Tokenizer.load()
        target = target_for(machine, machine.policy.t5)
        tables = ("shared",)
        self.part = network_part("T5 text encoder", source, target, lambda: T5Encoder(config), tables=tables)

    def encode(self, prompt: Prompt) -> T5Encoding:
        """States [1, length, D]."""
        segments = prompt.emphasis.parse(prompt.text)
        if self._is_lower_case:
            segments = [_in_lower_case(segment) for segment in segments]
        vectors = prompt.vectors_for(T5, self.width)
        compiled = compile_t5(
            segments,
            self._tokenizer,
            min_length=self._length,
            max_length=self._length,
            num_vectors={name: len(found) for name, found in vectors.items()},
            names=Names(tuple(vectors)),
        )
        return encode_t5(
            cast(T5Encoder, self._machine.residency.get(self.part)),
            compiled,
            emphasis=prompt.emphasis,
            ignores_padding=self._ignores_padding,
            device=self._machine.device.torch_device,
            dtype=self._machine.policy.t5,
            vectors=vectors,
        )


def _in_lower_case(segment: Segment | Break) -> Segment | Break:
    return segment if isinstance(segment, Break) else dataclasses.replace(segment, text=segment.text.lower())
