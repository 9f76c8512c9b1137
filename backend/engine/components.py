"""Which VAE and text encoders complete a checkpoint that does not hold them itself, and which ones replace its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.engine.library import CheckpointEntry, Library, TextEncoderEntry, VaeEntry
from backend.errors import RequestError
from backend.families.family import Description
from backend.pipeline.plan import ModelName

ENCODER_LABELS = {"clip_l": "CLIP-L", "clip_h": "OpenCLIP-H", "clip_g": "OpenCLIP-G", "t5": "T5-XXL"}


@dataclass(frozen=True, kw_only=True)
class Components:
    """The files of a model. vae: None for the checkpoint's own."""

    checkpoint: CheckpointEntry
    vae: VaeEntry | None
    text_encoders: tuple[TextEncoderEntry, ...]


@dataclass(frozen=True, kw_only=True)
class ChosenEncoders:
    """used: one of each kind. unused: those that were asked for and that the model cannot read; notices tell so."""

    used: tuple[TextEncoderEntry, ...]
    unused: tuple[TextEncoderEntry, ...] = ()
    notices: tuple[str, ...] = ()


def find_components(name: ModelName, library: Library) -> Components:
    """Raises UnknownName."""
    return Components(
        checkpoint=library.entry_of(name.checkpoint, name.recipe),
        vae=library.find_vae(name.vae) if name.vae else None,
        text_encoders=tuple(library.find_text_encoder(encoder) for encoder in name.text_encoders),
    )


def choose_vae(
    wanted: str | None, entry: CheckpointEntry, description: Description, library: Library
) -> VaeEntry | None:
    """The VAE that was asked for, or the only one that fits a checkpoint without its own; None for its own.

    Raises UnknownName, and RequestError for one with other latents, and when a VAE is needed and none, or more than
    one, fits.
    """
    if wanted:
        chosen = library.find_vae(wanted)
        if chosen.latent_channels not in (0, description.latent_channels):
            raise RequestError(
                "vae",
                f"{chosen.name} has {chosen.latent_channels} latent channels; {entry.path.name} needs "
                f"{description.latent_channels}. Choose another VAE, or none",
            )
        return chosen
    if description.has_vae:
        return None
    fitting = [vae for vae in library.vaes() if vae.latent_channels == description.latent_channels]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise RequestError(
            "vae",
            f"{entry.path.name} holds no autoencoder, and no VAE with {description.latent_channels} latent channels "
            "lies in models/vae. Put the one of this model there and refresh the list",
        )
    names = ", ".join(vae.name for vae in fitting)
    raise RequestError("vae", f"{entry.path.name} holds no autoencoder; choose the VAE of this model ({names})")


def choose_text_encoders(
    wanted: Sequence[str], entry: CheckpointEntry, description: Description, library: Library
) -> ChosenEncoders:
    """Those that were asked for, and files for what is still missing, one of each kind.

    Without any that were asked for, kinds that the model can use but does not need are completed, too. One that the
    model cannot use is passed over: a choice on the page outlives a change of the checkpoint.
    Raises UnknownName, and RequestError for two of one kind, and for one that is needed and not there.
    """
    asked = _one_of_each_kind(wanted, library)
    chosen = {kind: encoder for kind, encoder in asked.items() if kind in description.text_encoders}
    unused = tuple(encoder for kind, encoder in asked.items() if kind not in chosen)
    completed = description.needed if chosen else (*description.needed, *description.text_encoders)
    for kind in completed:
        if kind in chosen or kind in description.embedded:
            continue
        found = next((encoder for encoder in library.text_encoders() if encoder.kind == kind), None)
        if found is not None:
            chosen[kind] = found
        elif kind in description.needed:
            raise RequestError(
                "text_encoders",
                f"{entry.path.name} needs a {ENCODER_LABELS[kind]} text encoder and holds none. Put one into "
                "models/text_encoders and refresh the list",
            )
    if not chosen and not description.embedded and description.text_encoders:
        usable = ", ".join(ENCODER_LABELS[kind] for kind in description.text_encoders)
        raise RequestError(
            "text_encoders",
            f"{entry.path.name} holds no text encoder. Put one that it reads ({usable}) into models/text_encoders and "
            "refresh the list",
        )
    return ChosenEncoders(
        used=tuple(chosen.values()),
        unused=unused,
        notices=tuple(_why_unused(encoder, entry, description) for encoder in unused),
    )


def find_text_encoders(description: Description, library: Library) -> tuple[TextEncoderEntry, ...]:
    """Files for what a checkpoint does not hold, as far as there are any."""
    lacking = [kind for kind in description.text_encoders if kind not in description.embedded]
    found = (next((one for one in library.text_encoders() if one.kind == kind), None) for kind in lacking)
    return tuple(encoder for encoder in found if encoder is not None)


def encoders_for_refiner(
    base: ModelName, entry: CheckpointEntry, description: Description, library: Library
) -> tuple[TextEncoderEntry, ...]:
    """What a refiner reads with where its file holds no encoder: the first model's files come before others.

    Raises UnknownName, and RequestError for one that is needed and not there.
    """
    lacking = set(description.text_encoders) - set(description.embedded)
    shared = [name for name in base.text_encoders if library.find_text_encoder(name).kind in lacking]
    return choose_text_encoders(shared, entry, description, library).used


def _one_of_each_kind(names: Sequence[str], library: Library) -> dict[str, TextEncoderEntry]:
    chosen: dict[str, TextEncoderEntry] = {}
    for name in names:
        encoder = library.find_text_encoder(name)
        if encoder.kind in chosen:
            raise RequestError(
                "text_encoders",
                f"{chosen[encoder.kind].name} and {encoder.name} are both {ENCODER_LABELS[encoder.kind]}; choose one",
            )
        chosen[encoder.kind] = encoder
    return chosen


def _why_unused(encoder: TextEncoderEntry, entry: CheckpointEntry, description: Description) -> str:
    usable = ", ".join(ENCODER_LABELS[kind] for kind in description.text_encoders)
    return (
        f"The text encoder {encoder.name} is {ENCODER_LABELS[encoder.kind]}; {entry.path.name} reads {usable}, so it "
        "was not used."
    )
