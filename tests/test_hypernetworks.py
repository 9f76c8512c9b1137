"""Hypernetworks: their files, what they change in a U-Net, and how prompts ask for them."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor, nn

from backend.adapter_row import NameHash
from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.engine.settings import Settings
from backend.errors import AdapterDoesNotFit, BadCheckpoint, FileError, NotSupported, PickleRefused, UnknownName
from backend.families.hypernetwork_files import HypernetworkFile, read_hypernetwork
from backend.http.hypernetworks import hypernetworks_router
from backend.http.sdapi.listings import listings_router
from backend.images.png_text import read_png_text
from backend.memory.layouts import Target
from backend.memory.residency import Part, Residency
from backend.nn.hypernetwork import ACTIVATIONS, ContextChange, Hypernetwork
from backend.nn.unet import CrossAttention, UNet
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.request import GenerationRequest
from backend.weights.pickle_conversion import VALUES, convert_pickle
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import InMemory
from tests.held_networks import held_network
from tests.tiny_checkpoint import UNET, write_tiny_checkpoint
from tests.tiny_families import write_tiny_family

Facts = dict[str, Any]


def sequence(width: int, facts: Facts, *, seed: int = 0) -> nn.Sequential:
    """What A1111 puts together for one width, with random weights."""
    torch.manual_seed(seed)
    structure = facts.get("layer_structure", [1, 2, 1])
    activations = {name.lower(): kind for name, kind in vars(nn.modules.activation).items() if isinstance(kind, type)}
    activations |= {"leakyrelu": nn.LeakyReLU, "swish": nn.Hardswish}
    name, last = facts.get("activation_func"), len(structure) - 2
    layers: list[nn.Module] = []
    for index in range(len(structure) - 1):
        layers.append(nn.Linear(int(width * structure[index]), int(width * structure[index + 1])))
        if name not in (None, "linear") and (index < last or facts.get("activate_output", True)):
            layers.append(activations[name]())
        if facts.get("is_layer_norm"):
            layers.append(nn.LayerNorm(int(width * structure[index + 1])))
        if index < last and facts.get("use_dropout"):
            layers.append(nn.Dropout(0.3))
    return nn.Sequential(*layers).eval().requires_grad_(False)


def state(width: int, facts: Facts, *, seed: int = 0) -> dict[str, Tensor]:
    return {f"linear.{key}": value for key, value in sequence(width, facts, seed=seed).state_dict().items()}


def content(*widths: int, **facts: Any) -> dict[Any, Any]:
    """What torch.save is given."""
    pairs = {width: (state(width, facts, seed=1), state(width, facts, seed=2)) for width in widths}
    return {**pairs, "name": "anime", "step": 5000, "sd_checkpoint_name": "model", **facts}


def as_source(saved: dict[Any, Any]) -> InMemory:
    tensors = {
        f"{width}.{branch}.{key}": tensor
        for width, pair in saved.items()
        if isinstance(width, int)
        for branch, weights in enumerate(pair)
        for key, tensor in weights.items()
    }
    values = {key: value for key, value in saved.items() if isinstance(key, str)}
    return InMemory(tensors, metadata={VALUES: json.dumps(values)}, origin=Path("anime.pt"))


def built(file: HypernetworkFile) -> Hypernetwork:
    network = held_network(lambda: Hypernetwork(file.config), file.source, Target(torch.device("cpu"), torch.float32))
    assert isinstance(network, Hypernetwork)
    return network


def changed(file: HypernetworkFile, context: Tensor, *strengths: float) -> tuple[Tensor, Tensor]:
    network = built(file)
    with torch.inference_mode():
        return ContextChange(nn.ModuleList([network] * len(strengths)), torch.tensor(strengths))(context)


# Files


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"layer_structure": [1, 2, 1], "activation_func": "linear"},
        {"layer_structure": [1, 2, 2, 1], "activation_func": "relu", "activate_output": False},
        {"layer_structure": [1, 1.5, 1.5, 1], "activation_func": "relu", "is_layer_norm": True, "use_dropout": True},
        {"layer_structure": [1, 4, 1], "activation_func": "prelu"},
        {"layer_structure": [1, 1], "activation_func": "mish", "activate_output": True},
    ],
)
def test_what_a_file_computes_is_what_a1111_computes(facts: Facts) -> None:
    context = torch.randn(2, 5, 8)
    keys, values = changed(read_hypernetwork(as_source(content(8, **facts))), context, 0.7)
    expected = [context + 0.7 * sequence(8, facts, seed=seed)(context) for seed in (1, 2)]
    assert torch.allclose(keys, expected[0], atol=1e-6)
    assert torch.allclose(values, expected[1], atol=1e-6)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_is_pytorchs(name: str) -> None:
    facts = {"activation_func": name}
    context = 3 * torch.randn(1, 7, 8)
    keys, _ = changed(read_hypernetwork(as_source(content(8, **facts))), context, 1.0)
    assert torch.allclose(keys, context + sequence(8, facts, seed=1)(context), atol=1e-5)


@pytest.mark.parametrize(("strength", "out"), [(1.0, [1.6, 1.9]), (0.5, [1.3, 1.95])])
def test_a_worked_example(strength: float, out: list[float]) -> None:
    weights = {"linear.0.weight": torch.tensor([[0.1, 0.0], [0.0, 0.2]]), "linear.0.bias": torch.tensor([0.5, -0.5])}
    file = read_hypernetwork(as_source({2: (weights, weights)}))
    keys, values = changed(file, torch.tensor([[[1.0, 2.0]]]), strength)
    assert torch.allclose(keys, torch.tensor([[out]]))
    assert torch.equal(keys, values)


def test_names_of_the_first_files_mean_the_same() -> None:
    new = content(8)
    old = {
        8: tuple(
            {key.replace("linear.0.", "linear1.").replace("linear.1.", "linear2."): value for key, value in one.items()}
            for one in new[8]
        )
    }
    context = torch.randn(1, 3, 8)
    assert torch.equal(
        changed(read_hypernetwork(as_source(old)), context, 1.0)[0],
        changed(read_hypernetwork(as_source(new)), context, 1.0)[0],
    )


def test_several_act_one_after_the_other() -> None:
    file, context = read_hypernetwork(as_source(content(8))), torch.randn(1, 3, 8)
    once, _ = changed(file, context, 0.5)
    twice, _ = changed(file, context, 0.5, 0.3)
    assert torch.allclose(twice, changed(file, once, 0.3)[0])


def test_a_context_of_another_width_stays_as_it_is() -> None:
    context = torch.randn(1, 3, 6)
    keys, values = changed(read_hypernetwork(as_source(content(8))), context, 1.0)
    assert keys is context
    assert values is context


def test_a_pickle_with_widths_as_names_goes_through_the_safe_conversion(tmp_path: Path) -> None:
    saved = content(8, 16, layer_structure=[1, 2, 1], activation_func="relu", activate_output=False)
    torch.save({key: tuple(map(OrderedDict, x)) if isinstance(key, int) else x for key, x in saved.items()},
               tmp_path / "anime.pt")  # fmt: skip
    file = read_hypernetwork(open_safetensors(convert_pickle(tmp_path / "anime.pt")))
    assert dict(file.config.widths) == {8: (16, 8), 16: (32, 16)}
    assert (file.config.activation, file.config.activates_output) == ("relu", False)
    assert (file.step, file.checkpoint) == (5000, "model")


def broken(**changes: Tensor | None) -> dict[Any, Any]:
    saved = content(8)
    weights = {**saved[8][0], **{key.replace("__", "."): value for key, value in changes.items() if value is not None}}
    return {**saved, 8: ({key: value for key, value in weights.items() if key not in _gone(changes)}, saved[8][1])}


def _gone(changes: dict[str, Tensor | None]) -> set[str]:
    return {key.replace("__", ".") for key, value in changes.items() if value is None}


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        (broken(linear__0__bias=torch.full((16,), float("nan"))), "not numbers"),
        (broken(linear__0__weight=torch.zeros(16, 9)), "does not follow 8"),
        (broken(linear__1__weight=None, linear__1__bias=None), "not as many"),
        (broken(linear__2__weight=torch.zeros(8), linear__2__bias=torch.zeros(8)), "followed by a norm"),
        (broken(linear__0__weight=torch.zeros(12, 8), linear__0__bias=torch.zeros(12),
                linear__1__weight=torch.zeros(8, 12)), "differ"),
        ({8: (content(8)[8][0],)}, "lacks the layers for keys or values"),
        (content(8, activation_func="softmax"), "depends on the other pictures"),
        (content(8) | {"activation_func": "no such"}, "is not known"),
        (content(8) | {"activation_func": "prelu"}, "do not go with"),
        ({8: ({"to_q.lora_up.weight": torch.zeros(8, 8)}, {})}, "no hypernetwork"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_what_is_wrong(saved: dict[Any, Any], says: str) -> None:
    with pytest.raises(FileError) as refused:
        read_hypernetwork(as_source(saved))
    assert says in str(refused.value)


# The U-Net


def linear_only(width: int, matrices: tuple[Tensor, Tensor]) -> dict[Any, Any]:
    return {
        width: tuple({"linear.0.weight": matrix, "linear.0.bias": torch.zeros(width)} for matrix in matrices),
        "activation_func": "linear",
    }


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(UNET).eval().requires_grad_(False)


@pytest.mark.parametrize("width", [16, 32])
def test_linear_ones_are_products_with_the_weights_of_all_attentions_of_their_width(unet: UNet, width: int) -> None:
    """ctx + s W ctx, times K: K (1 + s W). 16 is the width of the text and of two levels, 32 that of another."""
    torch.manual_seed(1)
    matrices = torch.randn(width, width) / 8, torch.randn(width, width) / 8
    file = read_hypernetwork(as_source(linear_only(width, matrices)))
    baked = UNet(UNET).eval().requires_grad_(False)
    baked.load_state_dict(unet.state_dict())
    touched = 0
    for module in baked.modules():
        if isinstance(module, CrossAttention) and module.to_k.weight.shape[1] == width:
            touched += 1
            for layer, matrix in zip((module.to_k, module.to_v), matrices, strict=True):
                layer.weight += 0.6 * layer.weight @ matrix
    assert touched
    with_file = UNet(UNET, [file.config]).eval().requires_grad_(False)
    own = {f"hypernetworks.0.{key}": file.source.read(key) for key in file.source.keys()}
    with_file.load_state_dict({**unet.state_dict(), **own})
    x, timesteps, context = torch.randn(2, 4, 8, 8), torch.tensor([10.0, 500.0]), torch.randn(2, 77, 16)
    strengths = torch.tensor([0.6])
    found = with_file(x, timesteps, context, strengths=strengths)
    assert torch.allclose(found, baked(x, timesteps, context), atol=1e-5)
    assert not torch.allclose(found, unet(x, timesteps, context), atol=1e-3)
    kept = with_file.keys_values(context, strengths)
    assert torch.equal(with_file(x, timesteps, kept, strengths=strengths), found)


def test_strength_0_is_no_hypernetwork_to_the_bit(unet: UNet) -> None:
    file = read_hypernetwork(as_source(content(16)))
    with_file = UNet(UNET, [file.config]).eval().requires_grad_(False)
    own = {f"hypernetworks.0.{key}": file.source.read(key) for key in file.source.keys()}
    with_file.load_state_dict({**unet.state_dict(), **own})
    x, timesteps, context = torch.randn(1, 4, 8, 8), torch.tensor([10.0]), torch.randn(1, 77, 16)
    expected = unet(x, timesteps, context)
    assert torch.equal(with_file(x, timesteps, context, strengths=torch.zeros(1)), expected)
    assert torch.equal(with_file(x, timesteps, context), expected)


def test_blocks_with_hypernetworks_can_be_compiled(unet: UNet) -> None:
    file = read_hypernetwork(as_source(content(16, activation_func="relu")))
    with_file = UNet(UNET, [file.config]).eval().requires_grad_(False)
    own = {f"hypernetworks.0.{key}": file.source.read(key) for key in file.source.keys()}
    with_file.load_state_dict({**unet.state_dict(), **own})
    x, timesteps, context = torch.randn(1, 4, 8, 8), torch.tensor([10.0]), torch.randn(1, 77, 16)
    plain = [with_file(x, timesteps, context, strengths=torch.tensor([s])) for s in (0.5, 0.8)]
    block = with_file.input_blocks[1][1].transformer_blocks[0]
    block.compile(backend="eager", fullgraph=True)
    for strength, expected in zip((0.5, 0.8), plain, strict=True):
        assert torch.allclose(with_file(x, timesteps, context, strengths=torch.tensor([strength])), expected)


@torch.inference_mode()
def test_layers_that_come_and_go_compute_the_same_bits_and_those_of_hypernetworks_stay(unet: UNet) -> None:
    file = read_hypernetwork(as_source(content(16, 32, activation_func="relu")))
    own = {f"hypernetworks.0.{key}": file.source.read(key) for key in file.source.keys()}
    part = Part(
        "unet", "U-Net", InMemory({**unet.state_dict(), **own}), Target(torch.device("cpu"), torch.float32),
        lambda: UNet(UNET, [file.config]), often=tuple(dict.fromkeys(key.rpartition(".")[0] for key in own)),
    )  # fmt: skip
    x, timesteps, context = torch.randn(1, 4, 8, 8), torch.tensor([10.0]), torch.randn(1, 77, 16)
    strengths = torch.tensor([0.7])
    whole = Residency(2**40)
    expected = whole.get(part)(x, timesteps, context, strengths=strengths)
    tight = Residency(whole.used() * 4 // 10, small=256)
    network = tight.get(part)
    for _step in range(3):
        assert torch.equal(network(x, timesteps, context, strengths=strengths), expected)
        assert tight.used() <= tight.budget
    assert tight.report()[0].streamed_bytes > 0
    assert not any(parameter.is_meta for parameter in network.hypernetworks.parameters())


# Jobs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "tiny.safetensors")
    (tmp_path / "models" / "hypernetworks" / "more").mkdir(parents=True)
    write_hypernetwork(tmp_path, "anime", content(16, 32, activation_func="relu"))
    return tmp_path


def write_hypernetwork(root: Path, name: str, saved: dict[Any, Any]) -> Path:
    """What a pickle is converted to."""
    source, path = as_source(saved), root / "models" / "hypernetworks" / f"{name}.safetensors"
    write_safetensors(path, {key: source.read(key) for key in source.keys()}, dict(source.metadata))
    return path


@pytest.fixture
def engine(root: Path) -> Iterator[Engine]:
    engine = Engine.open(Settings.for_root(root, force_cpu=True, memory_budget=2**30), persistent=False)
    yield engine
    engine.close()


def picture(engine: Engine, prompt: str, **fields: Any) -> tuple[bytes, GenerationRequest]:
    """Pixels, and the request that makes them again."""
    view = engine.wait(engine.submit(GenerationRequest(prompt=prompt, steps=2, seed=5, **fields)), 60)
    assert (view.state, view.error) == (JobState.DONE, "")
    texts = read_png_text(view.images[0].path.read_bytes())
    exact = GenerationRequest.from_mapping(json.loads(texts["emulsion"])["request"])
    return Image.open(view.images[0].path).tobytes(), exact


def test_a_tag_changes_the_picture_and_leaves_nothing_behind(engine: Engine) -> None:
    plain = picture(engine, "a cat")[0]
    full, half = picture(engine, "a cat<hypernet:anime:1>")[0], picture(engine, "a cat<hypernet:anime:0.5>")[0]
    assert len({plain, full, half}) == 3
    assert picture(engine, "a cat<hypernet:anime:0>")[0] == plain
    assert picture(engine, "a cat")[0] == plain
    assert picture(engine, "a cat<hypernet:anime>")[0] == full


def test_a_picture_says_which_file_it_was_made_with(engine: Engine, root: Path) -> None:
    path = root / "models" / "hypernetworks" / "anime.safetensors"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    pixels, exact = picture(engine, "a cat<hypernet:anime:1>")
    assert exact.name_hashes == (NameHash(name="hypernet:anime", hash=sha256),)
    path.rename(path.with_stem("renamed"))
    assert picture(engine, exact.prompt, name_hashes=exact.name_hashes)[0] == pixels
    assert picture(engine, f"a cat<hypernet:#{sha256[:12]}:1>")[0] == pixels


def test_one_that_is_not_there_is_refused_unless_it_may_be(engine: Engine) -> None:
    with pytest.raises(UnknownName, match="hypernetwork"):
        engine.submit(GenerationRequest(prompt="<hypernet:other:1>"))
    request = GenerationRequest(prompt="<hypernet:other:1>", seed=1, skips_missing_adapters=True)
    assert any("without hypernetwork other" in notice for notice in engine.plan(request).notices)


def test_one_for_another_model_is_refused_with_both_widths(engine: Engine, root: Path) -> None:
    write_hypernetwork(root, "sd1", content(768))
    with pytest.raises(AdapterDoesNotFit, match="made for SD 1") as refused:
        engine.submit(GenerationRequest(prompt="<hypernet:sd1:1>"))
    assert "widths 768; the model's are 16, 32" in str(refused.value)


def test_one_that_fits_in_part_is_told(engine: Engine, root: Path) -> None:
    write_hypernetwork(root, "more/sd2", content(16, 1024))
    plan = engine.plan(GenerationRequest(prompt="<hypernet:sd2:1>", seed=1))
    assert plan.notices == (
        "Hypernetwork more/sd2 was made for SD 2, and the model is Stable Diffusion 1.x; only its layers of width 16 "
        "act.",
    )


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit",)


def test_pickles_are_converted_and_damaged_files_and_pickles_with_code_are_refused(engine: Engine, root: Path) -> None:
    folder = root / "models" / "hypernetworks"
    torch.save(content(16, 32, activation_func="relu"), folder / "old.pt")
    (found,) = engine.plan(GenerationRequest(prompt="<hypernet:old:1>", seed=1)).hypernetworks.acting
    assert dict(found.file.config.widths) == {16: (32, 16), 32: (64, 32)}
    torch.save({**content(16), "name": Hostile()}, folder / "evil.pt")
    with pytest.raises(PickleRefused):
        engine.submit(GenerationRequest(prompt="<hypernet:evil:1>"))
    (folder / "short.safetensors").write_bytes((folder / "anime.safetensors").read_bytes()[:-100])
    with pytest.raises(BadCheckpoint):
        engine.submit(GenerationRequest(prompt="<hypernet:short:1>"))


def test_families_without_a_u_net_refuse_them_by_name(engine: Engine, root: Path) -> None:
    write_tiny_family("sd3", root / "models" / "checkpoints" / "three.safetensors")
    engine.library.refresh()
    with pytest.raises(NotSupported, match="<hypernet:anime:1>"):
        engine.submit(GenerationRequest(prompt="a<hypernet:anime:1>", checkpoint="three"))


# Elsewhere


def test_a1111s_clients_are_told_what_there_is(engine: Engine, root: Path) -> None:
    write_hypernetwork(root, "more/two", content(16))
    app = FastAPI()
    app.include_router(listings_router(engine))
    listed = TestClient(app).get("/hypernetworks").json()
    assert listed == [
        {"name": "anime", "path": "anime.safetensors"},
        {"name": "more/two", "path": "more/two.safetensors"},
    ]


def test_the_keys_of_old_pictures_become_a_tag() -> None:
    text = "a cat\nSteps: 20, Sampler: Euler, Seed: 1, Hypernet: anime(12ab34cd), Hypernet strength: 0.6"
    restored = request_from_infotext(read_infotext(text))
    assert restored.fields["prompt"] == "a cat<hypernet:anime:0.6>"
    assert restored.notices == []


def test_clients_are_told_what_there_is(engine: Engine, root: Path) -> None:
    write_hypernetwork(root, "more/paint", content(16, 32))
    app = FastAPI()
    app.include_router(hypernetworks_router(engine))
    assert TestClient(app).get("/api/v1/hypernetworks").json() == {
        "hypernetworks": [
            {"name": "anime", "file": "anime.safetensors"},
            {"name": "more/paint", "file": "paint.safetensors"},
        ]
    }
