"""What the layers of a block do, for people who mix models. Tendencies that users report; no block does one thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Up to which share of the way through a group each sentence holds.
_IN = (
    (0.0, "Takes the noisy latents in: first edges and grain. Small, and so is its effect."),
    (0.34, "Fine structure: edges, textures and small details."),
    (0.67, "Middling structure: shapes of things, clothes, hands."),
    (0.9, "Large structure: bodies, poses and where they stand."),
    (1.0, "The largest structure: the composition of the whole picture."),
)
_MIDDLE = "Sees all of the picture at once: subject and composition. The strongest single block, so use small steps."
_OUT = (
    (0.17, "Large shapes on the way back up: subject, composition and background."),
    (0.4, "Faces and figures: features, expression and hair; also the manner of drawing. Strong."),
    (0.65, "Faces and clothes in detail, and the style of lines and shading."),
    (0.85, "Style at a small scale: shading, light and colour."),
    (1.0, "Colour, contrast and the finest details. Hardly changes shapes."),
)
_JOINT = (
    (0.2, "Text and picture meet first here: subject and layout."),
    (0.7, "Objects, faces and how they belong together."),
    (1.0, "Style, texture and finish; words matter less here."),
)
_DOUBLE = (
    (0.3, "Text and picture beside each other: subject and layout."),
    (0.7, "Objects and relations between them, still led by the text."),
    (1.0, "Hands what was understood over to the single blocks: objects and style."),
)
_SINGLE = (
    (0.3, "Text and picture as one sequence: shapes and faces."),
    (0.7, "Details, light and material."),
    (1.0, "Texture, colour and finish."),
)
_PLAIN = (
    (0.3, "Layout and large shapes."),
    (0.7, "Objects, faces and what the text says of them."),
    (1.0, "Texture, colour and finish."),
)
_BY_GROUP: Mapping[str, Sequence[tuple[float, str]]] = {
    "IN": _IN,
    "M": ((1.0, _MIDDLE),),
    "OUT": _OUT,
    "J": _JOINT,
    "D": _DOUBLE,
    "S": _SINGLE,
    "B": _PLAIN,
}
OUTSIDE: Mapping[str, str] = {
    "TE1": "Reads the prompt. Models that were trained on other words than the other one's need their own.",
    "TE2": "The second, larger reader of the prompt; it also gives the summary that steers the whole picture.",
    "T5": "Reads the prompt as a language model does: sentences, order and lettering. Seldom trained.",
    "VAE": "Makes the picture of latents: colours and fine grain. A mixture of two that differ much gets pale or grey.",
    "TIME": "Tells all blocks how noisy the picture still is. Keep it with the model whose prediction type you keep.",
    "LABEL": "Tells all blocks the size and crop of the picture, and what belongs beside it.",
    "FINAL": "The last layer, which says what is noise: overall colour and contrast.",
    "IMG_IN": "Takes the noisy latents in.",
    "TXT_IN": "Takes the text in from the encoder.",
    "VECTOR": "Takes in the summary of the prompt, which steers all blocks.",
    "GUIDANCE": "Tells all blocks how strictly to follow the prompt. Only models that were distilled to it have it.",
    "POS": "Where each patch lies in the picture. A table that is hardly ever trained.",
}


def hint_for(group: str, index: int, count: int) -> str:
    """Of block `index` of the `count` in its group."""
    share = index / max(count - 1, 1)
    return next(text for end, text in _BY_GROUP[group] if share <= end + 1e-9)
