"""Loopback: how the strength goes from round to round, and what each round begins with."""

from __future__ import annotations

import math

import pytest

from backend.engine.loopback import Loopback, StrengthPath, round_request
from backend.engine.plot_request import PlotRequest
from backend.errors import RequestError
from backend.init_image import Borders, InitImage
from backend.request import GenerationRequest

FIRST, SECOND = "ab" * 32, "cd" * 32
REQUEST = GenerationRequest(seed=5, init=InitImage(picture=FIRST, denoising_strength=0.8))


@pytest.mark.parametrize("curve", StrengthPath)
def test_the_strength_goes_from_the_first_to_the_last(curve: StrengthPath) -> None:
    loop = Loopback(rounds=5, final_strength=0.2, curve=curve)
    strengths = [loop.strength(0.8, number) for number in range(5)]
    assert strengths[0] == pytest.approx(0.8)
    assert strengths[-1] == pytest.approx(0.2)
    assert strengths == sorted(strengths, reverse=True)


def test_curves_are_straight_fast_at_first_and_slow_at_first() -> None:
    middle = {curve: Loopback(rounds=3, final_strength=1.0, curve=curve).strength(0.0, 1) for curve in StrengthPath}
    half = math.sqrt(0.5)
    assert middle == {
        StrengthPath.LINEAR: pytest.approx(0.5),
        StrengthPath.AGGRESSIVE: pytest.approx(half),
        StrengthPath.LAZY: pytest.approx(1 - half),
    }


def test_without_a_last_strength_it_stays() -> None:
    assert [Loopback(rounds=3).strength(0.8, number) for number in range(3)] == [0.8, 0.8, 0.8]
    assert Loopback(rounds=1, final_strength=0.1).strength(0.8, 0) == 0.8


def test_a_round_begins_with_the_picture_before_and_has_the_next_seed() -> None:
    request = round_request(REQUEST, Loopback(rounds=3, final_strength=0.4), 1, SECOND)
    assert request.init is not None
    assert request.init.picture == SECOND
    assert request.init.denoising_strength == pytest.approx(0.6)
    assert request.seed == 6


def test_what_cannot_go_round_is_refused() -> None:
    with pytest.raises(RequestError) as raised:
        PlotRequest(request=GenerationRequest(seed=1), loopback=Loopback())
    assert raised.value.field == "init"
    growing = GenerationRequest(seed=1, init=InitImage(picture=FIRST, borders=Borders(left=8)))
    with pytest.raises(RequestError) as raised:
        PlotRequest(request=growing, loopback=Loopback())
    assert raised.value.field == "init.borders"


@pytest.mark.parametrize("loopback", [{"rounds": 0}, {"final_strength": 2}, {"curve": "steep"}, {"loops": 3}])
def test_loopback_is_checked(loopback: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=r"loopback\."):
        PlotRequest.from_mapping({"request": REQUEST.to_mapping(), "loopback": loopback})
