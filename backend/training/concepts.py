"""What the small model learns to draw: things, colours, art styles and the captions that ask for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
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
COLOUR_ENDS = {"red": 14.0, "orange": 41.0, "yellow": 68.0, "green": 170.0, "blue": 255.0, "purple": 297.0, "pink": 346.0}

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

_TEMPLATES = ("{thing}", "{thing}", "a {thing}", "a picture of a {thing}", "{thing} on a white background")
_STYLED = ("{plain}, {style}", "{plain}, {style}", "{style} of a {thing}")


@dataclass(frozen=True)
class Subject:
    """One rendering's subject: which concept, in which style, and the colour that a caption may name."""

    concept: Concept
    style: Style
    colour: str | None
    is_recoloured: bool


def caption_of(subject: Subject, rng: random.Random, *, style_share: float = 0.7) -> str:
    """A caption such as people type: "blue heart, flat icon". A recoloured subject always names its colour."""
    thing = rng.choice(subject.concept.words)
    if subject.colour is not None and (subject.is_recoloured or rng.random() < 0.7):
        thing = f"{subject.colour} {thing}"
    plain = rng.choice(_TEMPLATES).format(thing=thing)
    if rng.random() >= style_share:
        return plain
    return rng.choice(_STYLED).format(plain=plain, thing=thing, style=subject.style.words)


def all_captions(subjects: Sequence[Subject]) -> list[str]:
    """Every caption that `caption_of` can give for `subjects`, sorted."""
    captions: set[str] = set()
    for subject in subjects:
        for words in subject.concept.words:
            things = [f"{subject.colour} {words}"] if subject.colour else []
            things += [] if subject.is_recoloured else [words]
            for thing in things:
                plains = [template.format(thing=thing) for template in _TEMPLATES]
                captions.update(plains)
                captions.update(
                    styled.format(plain=plain, thing=thing, style=subject.style.words)
                    for styled in _STYLED
                    for plain in plains
                )
    return sorted(captions)


class TrainingError(EmulsionError):
    """A training cannot start or go on."""
