"""What the small model learns to draw: things, colours, art styles and the captions that ask for them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from backend.errors import EmulsionError


@dataclass(frozen=True)
class Concept:
    """A thing to draw. `words` are what people call it; `icon` is its name in both icon sets."""

    icon: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Style:
    """An art style: the words that ask for it and the icon package that shows it."""

    words: str
    package: str


# Hues in degrees that things are recoloured to, and up to which hue a colour keeps its name (red goes round 360).
COLOURS = {"red": 0.0, "orange": 28.0, "yellow": 52.0, "green": 120.0, "blue": 215.0, "purple": 275.0, "pink": 325.0}
COLOUR_ENDS = {"red": 14, "orange": 41, "yellow": 68, "green": 170, "blue": 255, "purple": 297, "pink": 346}

STYLES = (Style("flat icon", "fluent-emoji-flat"), Style("cartoon", "noto"))

CONCEPTS = (
    Concept("red-apple", ("apple",)),
    Concept("pear", ("pear",)),
    Concept("red-heart", ("heart",)),
    Concept("star", ("star",)),
    Concept("sun", ("sun",)),
    Concept("crescent-moon", ("moon", "crescent moon")),
    Concept("cloud", ("cloud",)),
    Concept("cat-face", ("cat", "cat face")),
    Concept("dog-face", ("dog", "dog face")),
    Concept("frog", ("frog",)),
    Concept("pig-face", ("pig",)),
    Concept("panda", ("panda",)),
    Concept("smiling-face-with-smiling-eyes", ("smiley", "smiling face")),
    Concept("smiling-cat-with-heart-eyes", ("smiling cat with heart eyes",)),
    Concept("deciduous-tree", ("tree",)),
    Concept("house", ("house",)),
    Concept("automobile", ("car",)),
    Concept("tropical-fish", ("fish",)),
    Concept("sunflower", ("sunflower",)),
    Concept("tulip", ("tulip", "flower")),
    Concept("mushroom", ("mushroom",)),
    Concept("balloon", ("balloon",)),
    Concept("cherries", ("cherries", "cherry")),
    Concept("strawberry", ("strawberry",)),
    Concept("carrot", ("carrot",)),
    Concept("jack-o-lantern", ("pumpkin",)),
    Concept("crown", ("crown",)),
    Concept("umbrella", ("umbrella",)),
    Concept("rocket", ("rocket",)),
    Concept("bell", ("bell",)),
    Concept("lemon", ("lemon",)),
    Concept("banana", ("banana",)),
    Concept("grapes", ("grapes",)),
    Concept("t-shirt", ("shirt", "t-shirt")),
    Concept("gem-stone", ("gem", "diamond")),
    Concept("wrapped-gift", ("gift", "present")),
)

_TEMPLATES = (
    "{thing}",
    "{thing}",
    "{thing}",
    "{a} {thing}",
    "a picture of {a} {thing}",
    "a photo of {a} {thing}",
    "a drawing of {a} {thing}",
    "{thing} on a white background",
    "cute {thing}",
    "{thing} icon",
    "{thing} emoji",
    "one {thing}, simple",
)
_STYLED = ("{plain}, {style}", "{plain}, {style}", "{plain}, {style} style", "{style} of {a} {thing}")


@dataclass(frozen=True)
class Subject:
    """One rendering's subject: which concept, in which style, and the colour that a caption may name."""

    concept: Concept
    style: Style
    colour: str | None
    is_recoloured: bool


@dataclass(frozen=True)
class Caption:
    """What a person might type, and what it says: a caption need not name the colour or the style."""

    text: str
    concept: Concept
    colour: str | None
    style: Style | None


def caption_of(subject: Subject, rng: random.Random) -> Caption:
    """A caption such as "blue heart, flat icon". A recoloured subject always names its colour."""
    colour = subject.colour if subject.is_recoloured or rng.random() < 0.7 else None
    style = subject.style if rng.random() < 0.6 else None
    thing = rng.choice(subject.concept.words)
    thing = f"{colour} {thing}" if colour else thing
    article = "an" if thing[0] in "aeiou" else "a"
    text = rng.choice(_TEMPLATES).format(thing=thing, a=article)
    if style is not None:
        text = rng.choice(_STYLED).format(plain=text, thing=thing, a=article, style=style.words)
    return Caption(text, subject.concept, colour, style)


class TrainingError(EmulsionError):
    """A training cannot start or go on."""
