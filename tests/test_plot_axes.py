"""What axes change: fields, words of the prompt, lines, LoRAs; and what they refuse."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from backend.engine.asked_plot import plot_from
from backend.engine.axis_catalog import axis_kinds
from backend.engine.plot_cells import cell_request, in_order, places, single_changes, with_seeds
from backend.engine.plot_request import Axis, PlotRequest
from backend.errors import RequestError
from backend.init_image import Borders, InitImage, MaskInput
from backend.merging.rules import builtin as rules
from backend.registry import Registry
from backend.request import GenerationRequest
from backend.second_pass import HiresFix, Tiles

PICTURE = "ab" * 32
RULES = Registry("merge rule", rules.BUILTIN)
FULL = GenerationRequest(
    prompt="a cat, in snow, at night",
    negative_prompt="blurry cat",
    seed=5,
    init=InitImage(picture=PICTURE, mask=MaskInput(picture=PICTURE), borders=Borders(left=8)),
    hires=HiresFix(),
    tiles=Tiles(),
)
EXAMPLES: dict[str, list[Any]] = {
    "width": [64, 128],
    "height": [64, 128],
    "hires.width": [64, 128],
    "hires.height": [64, 128],
    "init.picture": [PICTURE, "cd" * 32],
    "init.mask.picture": [PICTURE, "cd" * 32],
    "init.resize": ["crop", "fill"],
    "init.mask.content": ["fill", "original"],
    "init.mask.area": ["whole", "masked"],
    "init.borders.fill": ["mirror", "edge_noise"],
    "tiles.method": ["multidiffusion", "separate"],
    "tiles.size": [256, 512],
    "tiles.overlap": [8, 16],
    "hires.scale": [1.5, 2.0],
    "prediction": ["v", "eps"],
}
USUAL: dict[str, list[Any]] = {
    "whole": [1, 2],
    "number": [0.25, 1.0],
    "switch": [True, False],
    "name": ["one", "two"],
    "text": ["a", "b"],
}


def field_of(request: object, name: str) -> Any:
    for part in name.split("."):
        request = getattr(request, part)
    return getattr(request, "value", request)


def is_field(name: str) -> bool:
    return name.partition(".")[0] in {field.name for field in dataclasses.fields(GenerationRequest)}


def cells(request: GenerationRequest, *axes: Axis, **others: Any) -> list[GenerationRequest]:
    plot = PlotRequest(request=request, axes=axes, **others)
    return [cell_request(plot, place, RULES) for place in places(plot.sizes)]


@pytest.mark.parametrize("name", [kind.name for kind in axis_kinds() if is_field(kind.name)])
def test_every_field_can_be_an_axis(name: str) -> None:
    values = EXAMPLES.get(name) or USUAL[axis_kinds()[name].values.value]
    axis = Axis.from_mapping({"kind": name, "values": values}, "x")
    assert [field_of(cell, name) for cell in cells(FULL, axis)] == values


def test_every_kind_of_value_in_a_request_is_an_axis_or_has_one_of_its_own() -> None:
    names = {kind.name.partition(".")[0] for kind in axis_kinds()}
    fields = {field.name for field in dataclasses.fields(GenerationRequest)}
    # The recipe has parameter, block and rule; adapters have "adapter"; the others are no single values.
    assert fields - names == {
        "recipe", "text_encoders", "adapters", "name_hashes", "skips_missing_adapters", "batch_size", "batch_count",
        "detailers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [("init.denoising_strength", 0.5), ("hires.scale", 2.0), ("tiles.size", 512)]
)
def test_a_field_of_a_part_that_is_not_used_is_refused(name: str, value: float) -> None:
    with pytest.raises(RequestError, match="no effect") as raised:
        cells(GenerationRequest(prompt="a cat"), Axis(kind=name, values=(value,)))
    assert raised.value.field == "x.values"


def test_a_value_that_a_field_cannot_have_is_refused_in_the_name_of_its_axis() -> None:
    with pytest.raises(RequestError, match=r'"0".*steps') as raised:
        cells(FULL, Axis(kind="seed", values=(1,)), Axis(kind="steps", values=(4, 0)))
    assert raised.value.field == "y.values"


def test_search_and_replace_works_in_both_prompts() -> None:
    made = cells(FULL, Axis(kind="prompt_replace", values=("cat", "dog", "")))
    assert [cell.prompt for cell in made] == [FULL.prompt, "a dog, in snow, at night", "a , in snow, at night"]
    assert [cell.negative_prompt for cell in made] == ["blurry cat", "blurry dog", "blurry "]
    with pytest.raises(RequestError, match="neither prompt"):
        cells(FULL, Axis(kind="prompt_replace", values=("horse", "dog")))


def test_an_axis_of_orders_has_every_order_of_the_parts() -> None:
    axis = Axis.from_mapping({"kind": "prompt_order", "values": "a cat, at night"}, "x")
    assert [cell.prompt for cell in cells(FULL, axis)] == [FULL.prompt, "at night, in snow, a cat"]
    three = Axis.from_mapping({"kind": "prompt_order", "values": ["cat", "snow", "night"]}, "x")
    assert len({cell.prompt for cell in cells(FULL, three)}) == 6
    again = Axis.from_mapping(three.to_mapping(), "x")
    assert again == three
    with pytest.raises(RequestError, match="not found"):
        cells(FULL, Axis(kind="prompt_order", values=("cat", "horse")))
    with pytest.raises(RequestError, match="orders"):
        Axis.from_mapping({"kind": "prompt_order", "values": list("abcdefgh")}, "x")


def test_a_part_of_the_prompt_with_a_comma_takes_its_place_as_a_whole() -> None:
    axis = Axis(kind="prompt_order", values=("a cat, in snow", "at night"))
    assert [cell.prompt for cell in cells(FULL, axis)] == [FULL.prompt, "at night, a cat, in snow"]


def test_sizes() -> None:
    made = cells(FULL, Axis.from_mapping({"kind": "size", "values": "512x768, 64 x 128"}, "x"))
    assert [(cell.width, cell.height) for cell in made] == [(512, 768), (64, 128)]
    with pytest.raises(RequestError, match="512x768"):
        cells(FULL, Axis(kind="size", values=("large",)))


def test_the_weight_of_a_lora_is_that_of_its_row_or_its_tag() -> None:
    request = GenerationRequest.from_mapping(
        {"prompt": "a cat <lora:folder/Fog:0.3:0.4:lbw=MIDD>, <lora:paint:1>", "adapters": ["fog"]}
    )
    made = cells(request, Axis(kind="adapter", target="fog", values=(0.5, 1.0)))
    assert [cell.adapters[0].use.strength for cell in made] == [0.5, 1.0]
    assert [cell.prompt for cell in made] == [
        "a cat <lora:folder/Fog:0.5:lbw=MIDD>, <lora:paint:1>",
        "a cat <lora:folder/Fog:1:lbw=MIDD>, <lora:paint:1>",
    ]
    assert len(cells(request, Axis(kind="adapter", target="paint", values=(1.0,)))) == 1
    with pytest.raises(RequestError, match="no LoRA named"):
        cells(request, Axis(kind="adapter", target="rain", values=(1.0,)))


def test_the_dearest_axis_changes_last() -> None:
    steps, words = Axis(kind="steps", values=(1, 2)), Axis(kind="prompt", values=("a", "b"))
    models = Axis(kind="checkpoint", values=("one", "two"))
    plot = PlotRequest(request=FULL, axes=(models, steps, words))
    found = [cell_request(plot, place, RULES) for place in in_order(plot)]
    assert [(cell.checkpoint, cell.prompt, cell.steps) for cell in found] == [
        (model, word, count) for model in ("one", "two") for word in "ab" for count in (1, 2)
    ]
    assert sorted(in_order(plot)) == sorted(places(plot.sizes))


def test_seeds_that_are_left_to_chance_are_drawn_once() -> None:
    numbers = iter(range(100, 200))
    axis = Axis(kind="seed", values=(-1, 7, -1))
    plot = PlotRequest(request=GenerationRequest(), axes=(axis,))
    drawn = with_seeds(plot, lambda: next(numbers))
    assert drawn.request.seed == 100
    assert [cell_request(drawn, place, RULES).seed for place in places(drawn.sizes)] == [101, 7, 102]


def test_every_picture_can_have_a_seed_of_its_own() -> None:
    axes = (Axis(kind="steps", values=(1, 2)), Axis(kind="guidance_scale", values=(1.0, 2.0)))
    assert [cell.seed for cell in cells(FULL, *axes, different_seeds=True)] == [5, 6, 7, 8]
    assert [cell.seed for cell in cells(FULL, *axes)] == [5, 5, 5, 5]


def test_a_matrix_is_every_combination_of_the_parts() -> None:
    plot = plot_from({"request": {"prompt": "a cat|in snow|at night", "seed": 1}, "matrix": {}})
    assert plot.sizes == (2, 2)
    assert [cell_request(plot, place, RULES).prompt for place in places(plot.sizes)] == [
        "a cat", "a cat, in snow", "a cat, at night", "a cat, in snow, at night"
    ]  # fmt: skip
    negative = {"negative_prompt": "bad|blurry", "seed": 1}
    plot = plot_from({"request": negative, "matrix": {"field": "negative_prompt", "at_start": True}})
    assert [cell_request(plot, place, RULES).negative_prompt for place in places(plot.sizes)] == ["bad", "blurry, bad"]
    with pytest.raises(RequestError, match="no parts"):
        plot_from({"request": {"prompt": "a cat"}, "matrix": {}})
    with pytest.raises(RequestError, match="at most"):
        plot_from({"request": {"prompt": "|".join("abcdefghijklmn")}, "matrix": {}})


def test_lines_are_prompts_or_flags() -> None:
    text = """a red house

    --prompt "a dog, wet" --negative_prompt "dry" --seed 9 --steps 7 --cfg_scale 4.5 --sampler_name "DPM++ 2M"
    --width 128 --height 64 --init.denoising_strength 0.25 --use_ema true --outpath_samples x
    --seed -1
    """
    plot = plot_from({"request": FULL.to_mapping(), "lines": text})
    first, second, third, fourth = (cell_request(plot, place, RULES) for place in places(plot.sizes))
    assert first.prompt == "a red house"
    assert (second.prompt, second.negative_prompt, second.seed) == ("a dog, wet", "dry", 9)
    assert (second.steps, second.guidance_scale, second.sampler) == (7, 4.5, "DPM++ 2M")
    assert (third.width, third.height, third.use_ema, third.prompt) == (128, 64, True, FULL.prompt)
    assert third.init is not None
    assert third.init.denoising_strength == 0.25
    assert fourth.seed == FULL.seed + 3


@pytest.mark.parametrize(("where", "prompt"), [("start", "red, a cat"), ("end", "a cat, red"), ("", "red")])
def test_the_words_of_lines_can_join_the_prompt(where: str, prompt: str) -> None:
    plot = plot_from({"request": {"prompt": "a cat", "seed": 1}, "lines": "red", "lines_at": where})
    assert cell_request(plot, (0,), RULES).prompt == prompt


@pytest.mark.parametrize(
    "line", ["--nonsense 1", "--steps", "--steps many", '--prompt "open', "--steps 5 6", "--steps 0", "--steps 1-3"]
)
def test_a_line_that_cannot_be_read_is_told_of(line: str) -> None:
    plot = plot_from({"request": {"prompt": "a cat", "seed": 1}, "lines": f"fine\n{line}"})
    with pytest.raises(RequestError) as raised:
        list(single_changes(plot, RULES))
    assert raised.value.field == "x.values"
    assert line.split()[0] in str(raised.value)


def test_plots_come_back_from_their_json_values() -> None:
    plot = PlotRequest(
        request=FULL.from_mapping({"prompt": "a"}),
        axes=(Axis(kind="seed", values=(1, 2)), Axis(kind="prompt_order", values=("a", "b"))),
        different_seeds=True,
    )
    assert PlotRequest.from_mapping(plot.to_mapping()) == plot
    by_letter = {"request": {"prompt": "a"}, "x": {"kind": "seed", "values": "1-2"}}
    assert PlotRequest.from_mapping(by_letter).axes == plot.axes[:1]


@pytest.mark.parametrize(
    ("axes", "field"),
    [
        ([{"kind": "seed", "values": [1]}, {"kind": "steps", "values": ["x"]}], "y.values"),
        ([{"kind": "seed", "values": "one"}], "x.values"),
        ([{"kind": "seed", "values": [1]}] * 3 + [{"kind": "nothing", "values": [1]}], "axes[3].kind"),
        ([{"kind": "adapter", "values": [1]}], "x.target"),
        ([{"kind": "use_ema", "values": [1]}], "x.values"),
        ([{"kind": "seed", "values": "1-60"}, {"kind": "steps", "values": "1-60"}], "y"),
        ([], "x"),
        ({}, "axes"),
        ([{"kind": "seed", "values": [1]}] * 7, "axes"),
    ],
)
def test_errors_name_the_axis(axes: Any, field: str) -> None:
    with pytest.raises(RequestError) as raised:
        PlotRequest.from_mapping({"request": {}, "axes": axes})
    assert raised.value.field == field
