"""Models that are made while they are used: recipes wherever a checkpoint is, and jobs that save them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from backend.engine import merge_jobs
from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.merge_request import MergeRequest
from backend.errors import RequestError, UnknownName, UnsupportedCheckpoint
from backend.events import BytesDone, Event
from backend.images.png_text import read_png_text
from backend.merging.made_source import MadeSource
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.recipe import CheckpointInput, FileRef, Override, Recipe, Weights, WithVae
from backend.request import GenerationRequest
from backend.weights.hashing import sha256_of
from backend.weights.safetensors_file import open_safetensors
from tests.merging_engine import TIMEOUT, half_of, merging_engine, picture_request, run
from tests.tiny_checkpoint import write_tiny_checkpoint
from ui.restore import recipe_of_file, restore


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with merging_engine(tmp_path) as engine:
        yield engine


def pixels(view: JobView) -> bytes:
    assert (view.state, view.error) == (JobState.DONE, "")
    return Image.open(view.images[0].path).tobytes()


def texts(view: JobView) -> dict[str, str]:
    return read_png_text(view.images[0].path.read_bytes())


def test_a_recipe_makes_pictures_without_being_saved(engine: Engine) -> None:
    made = pixels(run(engine, picture_request(recipe=half_of())))
    a, b = (pixels(run(engine, picture_request(checkpoint=name))) for name in "ab")
    assert len({made, a, b}) == 3
    assert pixels(run(engine, picture_request(recipe=half_of(alpha=0.0)))) == a
    assert pixels(run(engine, picture_request(recipe=half_of(alpha=1.0)))) == b


def test_a_picture_says_how_its_model_was_made_and_gives_the_recipe_back(engine: Engine, tmp_path: Path) -> None:
    view = run(engine, picture_request(recipe=half_of(name="between")))
    written = texts(view)
    infotext = read_infotext(written["parameters"])
    recipe = request_from_infotext(infotext).fields["recipe"]
    hashes = [sha256_of(tmp_path / "models" / "checkpoints" / f"{name}.safetensors") for name in "ab"]
    assert [file.sha256 for file in recipe.files()] == hashes
    assert infotext.parameters["Model"] == "between"
    assert infotext.parameters["Model hash"] == recipe.hash[:10]
    again = GenerationRequest.from_mapping(json.loads(written["emulsion"])["request"])
    assert again.recipe == recipe
    assert pixels(run(engine, again)) == pixels(view)


def test_a_recipe_without_a_name_is_called_by_its_rule_and_models(engine: Engine) -> None:
    view = run(engine, picture_request(recipe=half_of(alpha=0.25)))
    assert "Model: lerp(a + b; alpha 0.25)" in view.images[0].infotext


def test_a_changed_block_is_all_that_is_computed_anew(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: set[str] = set()
    for method in ("read", "read_into", "read_storage", "read_storage_into"):
        original = getattr(MadeSource, method)

        def counted(self: MadeSource, key: str, *out: object, original=original) -> object:
            computed.add(key)
            return original(self, key, *out)

        monkeypatch.setattr(MadeSource, method, counted)
    run(engine, picture_request(recipe=half_of()))
    assert len(computed) > 100
    computed.clear()
    weights = Weights(base=0.5, overrides=(Override(value=0.9, blocks=("OUT05",)),))
    view = run(engine, picture_request(recipe=half_of(alpha=weights)))
    assert computed
    assert all(key.startswith("model.diffusion_model.output_blocks.5.") for key in computed)
    engine.free_memory()
    assert pixels(run(engine, picture_request(recipe=half_of(alpha=weights)))) == pixels(view)


def test_a_stored_recipe_is_a_checkpoint(engine: Engine) -> None:
    engine.save_recipe("mixes/half", half_of())
    entry = engine.library.find_checkpoint("mixes/half")
    assert (entry.family, entry.problem) == ("sd1", "")
    assert "mixes/half" in [entry.name for entry in engine.library.checkpoints()]
    assert engine.describe_checkpoint("mixes/half").native_size == 64
    by_name = run(engine, picture_request(checkpoint="mixes/half"))
    assert pixels(by_name) == pixels(run(engine, picture_request(recipe=half_of())))
    assert isinstance(by_name.request, GenerationRequest)
    assert by_name.request.recipe is not None  # what is changed later changes nothing that is queued
    assert "Model: mixes/half" in by_name.images[0].infotext
    hashed = engine.library.find_checkpoint("mixes/half")
    assert hashed.sha256 is not None
    assert engine.library.find_checkpoint(hashed.title) == hashed
    assert engine.library.find_checkpoint(hashed.sha256[:10]) == hashed
    engine.change_preferences(checkpoint=hashed.title)
    assert pixels(run(engine, picture_request())) == pixels(by_name)


def test_a_recipe_finds_a_file_by_what_is_in_it(engine: Engine, tmp_path: Path) -> None:
    view = run(engine, picture_request(recipe=half_of()))
    (tmp_path / "models" / "checkpoints" / "b.safetensors").rename(
        tmp_path / "models" / "checkpoints" / "other.safetensors"
    )
    engine.library.refresh()
    with pytest.raises(UnknownName, match="b"):
        engine.submit(picture_request(recipe=half_of()))
    engine.library.hash(engine.library.find_checkpoint("other"))
    recipe = request_from_infotext(read_infotext(view.images[0].infotext)).fields["recipe"]
    assert pixels(run(engine, picture_request(recipe=recipe))) == pixels(view)


def test_a_dropped_picture_restores_the_recipe(engine: Engine) -> None:
    view = run(engine, picture_request(recipe=half_of(name="between")))
    restored = restore(engine, view.images[0].infotext)
    assert restored.notices == []
    recipe = restored.values["recipe"]
    assert recipe.name == "between"
    assert "checkpoint" not in restored.values
    assert pixels(run(engine, picture_request(recipe=recipe))) == pixels(view)
    engine.save_recipe("kept", recipe)
    restored = restore(engine, view.images[0].infotext)
    assert (restored.values["checkpoint"], restored.values["recipe"]) == ("kept", None)


def test_another_file_under_a_recipe_s_name_is_told(engine: Engine, tmp_path: Path) -> None:
    recipe = request_from_infotext(
        read_infotext(run(engine, picture_request(recipe=half_of())).images[0].infotext)
    ).fields["recipe"]
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "b.safetensors", seed=7)
    engine.library.refresh()
    engine.library.hash(engine.library.find_checkpoint("b"))
    view = run(engine, picture_request(recipe=recipe))
    assert any("another file" in notice for notice in view.notices)


def test_what_is_missing_for_a_stored_recipe_is_named(engine: Engine) -> None:
    folder = engine.settings.recipe_dirs[0]
    folder.mkdir(parents=True)
    (folder / "lost.json").write_text(json.dumps(half_of("a", "gone").to_mapping()))
    (folder / "broken.json").write_text("{")
    engine.library.refresh()
    problems = {entry.name: entry.problem for entry in engine.library.checkpoints()}
    assert "gone" in problems["lost"]
    assert "no JSON" in problems["broken"]
    with pytest.raises(UnknownName, match="gone"):
        engine.submit(picture_request(checkpoint="lost"))
    with pytest.raises(UnsupportedCheckpoint, match="no JSON"):
        engine.submit(picture_request(checkpoint="broken"))


def test_recipes_are_made_of_recipes(engine: Engine) -> None:
    engine.save_recipe("half", half_of())
    engine.save_recipe("a quarter", half_of("a", "half"))
    once = pixels(run(engine, picture_request(checkpoint="a quarter")))
    engine.library.refresh()
    assert engine.library.find_checkpoint("a quarter").problem == ""
    assert once != pixels(run(engine, picture_request(checkpoint="half")))
    folder = engine.settings.recipe_dirs[0]
    (folder / "circle.json").write_text(json.dumps(half_of("a", "circle").to_mapping()))
    engine.library.refresh()
    assert "circle" in engine.library.find_checkpoint("circle").problem


def test_what_cannot_be_merged_is_refused_at_once(engine: Engine) -> None:
    lost = WithVae(model=CheckpointInput(file=FileRef(name="a")), vae=FileRef(name="no such"))
    with pytest.raises(UnknownName, match="no such"):
        engine.submit(picture_request(recipe=Recipe(root=lost)))
    assert engine.jobs() == []


def test_a_merge_is_saved_and_can_be_used(engine: Engine, tmp_path: Path) -> None:
    events: list[Event] = []
    engine.subscribe(events.append)
    recipe = half_of()
    view = run(engine, MergeRequest(recipe=recipe, name="mixes/saved"))
    assert (view.state, view.error) == (JobState.DONE, "")
    assert view.done_bytes == view.all_bytes > 100_000
    assert any(isinstance(event, BytesDone) for event in events)
    assert pixels(run(engine, picture_request(checkpoint="mixes/saved"))) == pixels(
        run(engine, picture_request(recipe=recipe))
    )
    path = tmp_path / "models" / "checkpoints" / "mixes" / "saved.safetensors"
    assert "sd_merge_recipe" in open_safetensors(path).metadata
    found = recipe_of_file(path)
    assert found is not None
    assert found.root == engine.make(recipe).recipe.root
    with pytest.raises(RequestError, match="exists"):
        engine.submit(MergeRequest(recipe=recipe, name="mixes/saved"))
    assert run(engine, MergeRequest(recipe=half_of(alpha=0.1), name="mixes/saved", replace=True)).error == ""


def test_a_merge_survives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()
    save_model = merge_jobs.save_model

    def endless(*args: object, is_cancelled, **others: object) -> None:
        began.set()
        while not is_cancelled():
            pass
        save_model(*args, is_cancelled=is_cancelled, **others)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, merging_engine(tmp_path, persistent=True) as engine:
        patched.setattr(merge_jobs, "save_model", endless)
        job_id = engine.submit(MergeRequest(recipe=half_of(), name="saved"))
        assert began.wait(TIMEOUT)
    assert not (tmp_path / "models" / "checkpoints" / "saved.safetensors").exists()
    with merging_engine(tmp_path, persistent=True) as engine:
        assert engine.wait(job_id, TIMEOUT).state is JobState.DONE
        assert engine.library.find_checkpoint("saved").family == "sd1"


def test_recipes_that_were_used_are_remembered_once_each(tmp_path: Path) -> None:
    with merging_engine(tmp_path) as engine:
        for alpha in (0.25, 0.5, 0.25):
            run(engine, picture_request(recipe=half_of(alpha=alpha)))
        first = engine.history.newest_first()
    with merging_engine(tmp_path) as engine:
        again = engine.history.newest_first()
        assert [used.recipe for used in again] == [used.recipe for used in first]
        assert len(again) == 2


def test_a_picture_is_not_named_after_the_checkpoint_that_a_form_has_beside_its_recipe(engine) -> None:
    made = run(engine, picture_request(checkpoint="b", recipe=half_of()))
    infotext = made.images[0].infotext
    assert "Model: b," not in infotext
    assert "Model: lerp(a + b" in infotext.replace('"', "")
