"""The seed, and how many pictures."""

from __future__ import annotations

from backend.limits import MAX_IMAGES
from ui.binding import Fields
from ui.components.number_field import number_field
from ui.components.seed_field import seed_field


def batch_fields(form: str) -> Fields:
    return {
        "seed": seed_field(form),
        "batch_size": number_field(
            "batch_size", "Batch size", form=form, minimum=1, maximum=MAX_IMAGES, step=1, value=1
        ),
        "batch_count": number_field(
            "batch_count", "Batch count", form=form, minimum=1, maximum=MAX_IMAGES, step=1, value=1
        ),
    }
