"""Requests: what is refused, and that a request survives being written down."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import RequestError
from backend.request import MAX_SEED, GenerationRequest

BAD = [
    ("prompt", 7),
    ("prompt", None),
    ("prompt", "x" * 65_537),
    ("prompt", "ä" * 32_769),
    ("negative_prompt", ["dog"]),
    ("checkpoint", 1),
    ("sampler", 1),
    ("steps", 0),
    ("steps", 1001),
    ("steps", 2.5),
    ("steps", True),
    ("steps", "20"),
    ("width", 0),
    ("width", 7),
    ("width", 100_000),
    ("width", 65),
    ("height", -64),
    ("height", 511),
    ("guidance_scale", math.nan),
    ("guidance_scale", math.inf),
    ("guidance_scale", -1),
    ("guidance_scale", 101.0),
    ("guidance_scale", "7"),
    ("guidance_scale", True),
    ("seed", -2),
    ("seed", MAX_SEED + 1),
    ("seed", None),
    ("seed", 1.0),
    ("batch_size", 0),
    ("batch_size", 65),
    ("batch_count", 0),
    ("clip_skip", 0),
    ("clip_skip", 13),
    ("use_ema", None),
    ("use_ema", "yes"),
    ("exact_batches", 1),
    ("no_such_field", 1),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_a_bad_value_is_refused_and_its_field_is_named(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"^{field}: ") as caught:
        GenerationRequest.from_mapping({field: value})
    assert caught.value.field == field
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("fields", [{"width": 8192, "height": 4096}, {"batch_size": 9, "batch_count": 8}])
def test_sizes_that_are_too_large_together_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(RequestError):
        GenerationRequest.from_mapping(fields)


def test_a_side_that_is_no_multiple_of_eight_names_its_neighbours() -> None:
    with pytest.raises(RequestError, match="use 512 or 520"):
        GenerationRequest(width=515)


def test_an_empty_request_is_complete() -> None:
    request = GenerationRequest()
    assert (request.prompt, request.seed, request.batch_size, request.steps) == ("", -1, 1, None)


VALID = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.text(max_size=200),
        "negative_prompt": st.text(max_size=50),
        "sampler": st.none() | st.text(max_size=20),
        "steps": st.none() | st.integers(1, 1000),
        "width": st.none() | st.integers(8, 512).map(lambda n: 8 * n),
        "height": st.none() | st.integers(8, 512).map(lambda n: 8 * n),
        "guidance_scale": st.none() | st.floats(0, 100),
        "seed": st.integers(-1, MAX_SEED),
        "batch_size": st.integers(1, 8),
        "batch_count": st.integers(1, 8),
        "use_ema": st.booleans(),
        "exact_batches": st.none() | st.booleans(),
    },
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(VALID)
def test_a_request_survives_being_written_down(fields: dict[str, object]) -> None:
    request = GenerationRequest.from_mapping(fields)
    assert GenerationRequest.from_mapping(request.to_mapping()) == request
