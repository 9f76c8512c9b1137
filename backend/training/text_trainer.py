"""Train the small text encoder before the U-Net: every state from the end mark on must tell what the caption asks for.

A text encoder that learns only through the U-Net costs a third of every step and tells captions apart late. This one is
told at once, in about a minute, and is frozen afterwards, so that the contexts of all captions are computed only once.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.clip_text import ClipText, ClipTextConfig
from backend.text.clip_tokenizer import BEGIN_TEXT, END_TEXT, ClipTokenizer
from backend.training.autoencoder_trainer import learning_rate_factor
from backend.training.concepts import COLOURS, CONCEPTS, STYLES, Caption

_log = logging.getLogger(__name__)

WIDTH, LAYERS, HEADS, LENGTH = 128, 4, 2, 77
_CLASSES = (len(CONCEPTS), len(COLOURS) + 1, len(STYLES) + 1)  # the last colour and the last style are "not said"


@dataclass(frozen=True, kw_only=True)
class TextTraining:
    steps: int = 400
    batch: int = 48
    learning_rate: float = 1e-3
    unknown_share: float = 0.3  # captions that get words from outside the vocabulary
    seed: int = 0


@dataclass(frozen=True)
class Vocabulary:
    """Rows of the token embedding: one for each token of the captions, and a last one, always zero, for all others."""

    token_ids: tuple[int, ...]

    @classmethod
    def of(cls, captions: Sequence[Caption]) -> Vocabulary:
        tokenizer = ClipTokenizer.load()
        used = {token for caption in captions for token in tokenizer.encode(caption.text)}
        return cls((BEGIN_TEXT, END_TEXT, *sorted(used)))

    def rows(self, text: str, rng: random.Random | None = None) -> list[int]:
        """The 77 rows of a text between its marks; with `rng`, one to four unknown words are put into it."""
        unknown = len(self.token_ids)
        known = {token: row for row, token in enumerate(self.token_ids)}
        body = [known.get(token, unknown) for token in ClipTokenizer.load().encode(text)]
        for _ in range(rng.randint(1, 4) if rng else 0):
            assert rng is not None
            body.insert(rng.randint(0, len(body)), unknown)
        return ([0, *body[: LENGTH - 2]] + [1] * LENGTH)[:LENGTH]


def new_text_encoder(vocabulary: Vocabulary) -> ClipText:
    """A network that starts as CLIP did: layers that write to the sum of all shrink with the number of them."""
    config = ClipTextConfig(
        vocabulary=len(vocabulary.token_ids) + 1,
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        mlp_width=4 * WIDTH,
        positions=LENGTH,
    )
    encoder = ClipText(config)
    inner = WIDTH**-0.5 * (2 * LAYERS) ** -0.5
    spreads = {"embedding": 0.02, "out_proj": WIDTH**-0.5, "fc1": (2 * WIDTH) ** -0.5, "_proj": inner, "fc2": inner}
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=next(std for end, std in spreads.items() if name.endswith(end)))
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return encoder


def train_text_encoder(captions: Sequence[Caption], vocabulary: Vocabulary, training: TextTraining) -> ClipText:
    """Train a text encoder to tell the concept, the colour and the style that captions name."""
    torch.manual_seed(training.seed)
    rng = random.Random(training.seed)
    encoder, heads = new_text_encoder(vocabulary), nn.Linear(WIDTH, sum(_CLASSES))
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, betas=(0.9, 0.98), weight_decay=1e-2)
    embedding = encoder.embeddings.token_embedding
    for step in range(training.steps):
        for group in optimizer.param_groups:
            factor = learning_rate_factor(step, training.steps, warm_up=50, decay_from=0.5)
            group["lr"] = training.learning_rate * factor
        with torch.no_grad():
            embedding.weight[-1] = 0
        batch = rng.choices(captions, k=training.batch)
        is_unknown = [rng.random() < training.unknown_share for _ in batch]
        rows = [vocabulary.rows(c.text, rng if unknown else None) for c, unknown in zip(batch, is_unknown, strict=True)]
        loss, right = _loss(encoder, heads, torch.tensor(rows), torch.tensor([_labels(caption) for caption in batch]))
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            _log.info("text step %d: loss %.4f, %.1f %% right", step + 1, float(loss.detach()), 100 * right)
    with torch.no_grad():
        embedding.weight[-1] = 0
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def contexts_of(encoder: ClipText, rows: Tensor, batch: int = 64) -> Tensor:
    """Contexts [N, 77, 128], in bfloat16, of N rows of tokens."""
    return torch.cat([encoder(part).states.bfloat16() for part in rows.split(batch)])


def _labels(caption: Caption) -> list[int]:
    return [
        CONCEPTS.index(caption.concept),
        list(COLOURS).index(caption.colour) if caption.colour else len(COLOURS),
        STYLES.index(caption.style) if caption.style else len(STYLES),
    ]


def _loss(encoder: ClipText, heads: nn.Module, rows: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    states = encoder(rows).states  # [B, 77, 128]
    index = rows.shape[1] - 1 - torch.arange(0, 60, 6)  # every sixth state, all behind the end mark of our captions
    index = torch.cat([index.expand(len(rows), -1), rows.eq(1).int().argmax(dim=1, keepdim=True)], dim=1)
    logits = heads(states.gather(1, index[..., None].expand(-1, -1, states.shape[-1])))
    loss, right = torch.zeros(()), torch.ones(index.shape, dtype=torch.bool)
    for part, label in zip(logits.split(_CLASSES, dim=-1), labels.unbind(1), strict=True):
        label = label[:, None].expand(index.shape)
        loss = loss + F.cross_entropy(part.flatten(0, 1), label.flatten())
        right &= part.argmax(dim=-1) == label
    return loss, float(right.float().mean())
