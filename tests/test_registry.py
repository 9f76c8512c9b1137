"""Entries are found by every name that people write, and no two entries share one."""

from dataclasses import dataclass

import pytest

from backend.errors import UnknownName
from backend.registry import Registry


@dataclass(frozen=True)
class Thing:
    name: str
    label: str
    aliases: tuple[str, ...] = ()


@pytest.fixture
def registry() -> Registry[Thing]:
    return Registry("thing", [Thing("dpmpp_2m", "DPM++ 2M", ("k_dpmpp_2m",)), Thing("euler", "Euler")])


@pytest.mark.parametrize("name", ["dpmpp_2m", "DPMPP 2M", "dpm++ 2m", "DPM++-2M", " k dpmpp 2m ", "K_DPMPP_2M"])
def test_case_spaces_hyphens_and_underscores_do_not_matter(registry: Registry[Thing], name: str) -> None:
    assert registry[name].name == "dpmpp_2m"
    assert name in registry


def test_an_unknown_name_lists_what_there_is(registry: Registry[Thing]) -> None:
    with pytest.raises(UnknownName, match=r'no thing named "heun"\. Known: dpmpp_2m, euler\.'):
        registry["heun"]
    assert "heun" not in registry


@pytest.mark.parametrize("thing", [Thing("euler", "Other"), Thing("other", "EULER"), Thing("other", "O", ("Euler",))])
def test_a_name_belongs_to_one_entry(registry: Registry[Thing], thing: Thing) -> None:
    with pytest.raises(ValueError, match="belongs to"):
        registry.add(thing)
    assert registry.names() == ["dpmpp_2m", "euler"]


def test_a_removed_entry_is_gone_under_all_its_names(registry: Registry[Thing]) -> None:
    registry.remove("DPM++ 2M")
    assert registry.labels() == ["Euler"]
    assert "k_dpmpp_2m" not in registry
    registry.add(Thing("dpmpp_2m", "DPM++ 2M"))
    assert [entry.name for entry in registry] == ["euler", "dpmpp_2m"]
    assert len(registry) == 2
