"""Values of an axis as people type them: lists, quotes and ranges as A1111 has them."""

from __future__ import annotations

import pytest

from backend.engine.axis_values import MAX_VALUES, Value, ValueKind, values_of
from backend.errors import RequestError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1, 2,3", (1, 2, 3)),
        ("1-5", (1, 2, 3, 4, 5)),
        ("1-5 (+2)", (1, 3, 5)),
        ("1-6(2)", (1, 3, 5)),
        ("10-5 (-3)", (10, 7)),
        ("3-1", (3, 2, 1)),
        ("1-10 [5]", (1, 3, 5, 7, 10)),
        ("7, 1-3, 10-20 [2]", (7, 1, 2, 3, 10, 20)),
        ("-2-1", (-2, -1, 0, 1)),
        ("-1", (-1,)),
        ("5\n6", (5, 6)),
        (" 4 ,, ", (4,)),
    ],
)
def test_whole_numbers(text: str, values: tuple[int, ...]) -> None:
    assert values_of(text, ValueKind.WHOLE, "x") == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5, .25, 1", (0.5, 0.25, 1.0)),
        ("0-1 [5]", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("0-1 (+0.25)", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("0-1 (+0.3)", (0.0, 0.3, 0.6, 0.9)),
        ("1-3", (1.0, 2.0, 3.0)),
        ("0.1-0.5 (0.1)", (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("-1-1 [3]", (-1.0, 0.0, 1.0)),
    ],
)
def test_numbers(text: str, values: tuple[float, ...]) -> None:
    assert values_of(text, ValueKind.NUMBER, "x") == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ('cat, "dog, wet", owl', ValueKind.TEXT, ("cat", "dog, wet", "owl")),
        ('"say ""hi"" now", b', ValueKind.TEXT, ('say "hi" now', "b")),
        ("cat,, owl", ValueKind.TEXT, ("cat", "", "owl")),
        ("1-3", ValueKind.TEXT, ("1-3",)),
        ("euler,,  dpmpp_2m ", ValueKind.NAME, ("euler", "dpmpp_2m")),
        ("yes, FALSE,on,0", ValueKind.SWITCH, (True, False, True, False)),
    ],
)
def test_names_texts_and_switches(text: str, kind: ValueKind, values: tuple[Value, ...]) -> None:
    assert values_of(text, kind, "x") == values


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", ValueKind.WHOLE),
        (" , ", ValueKind.NAME),
        ("1.5", ValueKind.WHOLE),
        ("one", ValueKind.NUMBER),
        ("1-5 (0)", ValueKind.WHOLE),
        ("1-5 (-1)", ValueKind.WHOLE),
        ("1-5 [0]", ValueKind.NUMBER),
        (f"1-{MAX_VALUES + 1}", ValueKind.WHOLE),
        (f"0-1 [{MAX_VALUES + 1}]", ValueKind.NUMBER),
        (f"1-{MAX_VALUES}, 1", ValueKind.WHOLE),
        ("1-99999999999999999999", ValueKind.WHOLE),
        ("maybe", ValueKind.SWITCH),
    ],
)
def test_what_cannot_be_read_is_refused_in_the_name_of_the_axis(text: str, kind: ValueKind) -> None:
    with pytest.raises(RequestError) as raised:
        values_of(text, kind, "y.values")
    assert raised.value.field == "y.values"
