"""The engine as its callers see it: jobs in, events and saved pictures out, whatever goes wrong on the way."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from backend.engine import generation_jobs, outputs
from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.settings import Settings
from backend.errors import FileError, NumericalError, OutputError, RequestError, ServerError, UnknownName
from backend.events import Event, ImageSaved, JobCancelled, JobDone, JobFailed, JobQueued, JobStarted, Progress
from backend.images.png_text import read_png_text
from backend.request import GenerationRequest
from backend.weights.atomic import atomic_file
from backend.weights.safetensors_file import write_safetensors
from tests.tiny_checkpoint import METADATA, tiny_tensors, write_tiny_checkpoint

TIMEOUT = 120


def settings_in(folder: Path) -> Settings:
    return Settings.for_root(folder, force_cpu=True, memory_budget=2**30)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "tiny.safetensors")
    return tmp_path


@pytest.fixture
def engine(root: Path) -> Iterator[Engine]:
    engine = Engine.open(settings_in(root))
    yield engine
    engine.close()


def request(**fields: object) -> GenerationRequest:
    return GenerationRequest.from_mapping({"prompt": "a cat", "steps": 2, "seed": 5, **fields})


def run(engine: Engine, **fields: object) -> JobView:
    return engine.wait(engine.submit(request(**fields)), TIMEOUT)


def test_a_request_becomes_a_saved_picture_that_says_how_it_was_made(engine: Engine, root: Path) -> None:
    view = run(engine, negative_prompt="dog")
    assert (view.state, view.error, len(view.images)) == (JobState.DONE, "", 1)
    path = view.images[0].path
    assert path.is_relative_to(root / "outputs")
    assert path.name == "00001-5.png"
    assert Image.open(path).size == (64, 64)
    texts = read_png_text(path.read_bytes())
    assert texts["parameters"] == view.images[0].infotext
    assert texts["parameters"].startswith(
        "a cat\nNegative prompt: dog\nSteps: 2, Sampler: DPM++ 2M, CFG scale: 7, Seed: 5"
    )
    again = GenerationRequest.from_mapping(json.loads(texts["emulsion"])["request"])
    repeated = engine.wait(engine.submit(again), TIMEOUT)
    assert Image.open(repeated.images[0].path).tobytes() == Image.open(path).tobytes()


def test_events_tell_the_story_in_order(engine: Engine) -> None:
    events: list[Event] = []
    engine.subscribe(events.append)
    run(engine, batch_count=2)
    kinds = [type(event) for event in events]
    assert kinds[0] is JobQueued
    assert kinds[1] is JobStarted
    assert kinds[-1] is JobDone
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3, 4]
    assert [event.seed for event in events if isinstance(event, ImageSaved)] == [5, 6]


def test_an_observer_that_fails_does_not_end_the_job(engine: Engine) -> None:
    calls: list[Event] = []

    def failing(event: Event) -> None:
        calls.append(event)
        raise ValueError("broken observer")

    engine.subscribe(failing)
    assert run(engine).state is JobState.DONE
    assert len(calls) == 1


def test_an_unsubscribed_observer_hears_nothing(engine: Engine) -> None:
    events: list[Event] = []
    engine.subscribe(events.append)()
    run(engine)
    assert events == []


def test_a_random_seed_is_drawn_once_and_recorded(engine: Engine) -> None:
    view = run(engine, seed=-1)
    assert view.request.seed == view.images[0].seed >= 0


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"sampler": "no such"}, UnknownName, "no such"),
        ({"schedule": "no such"}, UnknownName, "no such"),
        ({"checkpoint": "no such"}, UnknownName, "no such"),
        ({"vae": "no such"}, UnknownName, "no such"),
        ({"emphasis": "no such"}, UnknownName, "no such"),
    ],
)
def test_unknown_names_are_refused_at_once(
    engine: Engine, fields: dict[str, object], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        engine.submit(request(**fields))
    assert engine.jobs() == []


@pytest.mark.parametrize("prompt", ["", "word " * 13_000])
def test_prompts_of_any_length_run(engine: Engine, prompt: str) -> None:
    if prompt:
        assert engine.count_tokens(prompt).tokens == 13_000
        prompt = prompt[:3000]  # hundreds of chunks work, too, but take minutes
    assert run(engine, prompt=prompt).state is JobState.DONE


def test_waiting_jobs_run_in_their_order_and_can_be_cancelled(engine: Engine) -> None:
    order: list[str] = []
    engine.subscribe(lambda event: order.append(event.job_id) if isinstance(event, JobStarted) else None)
    first = engine.submit(request(steps=60, sampler="heun"))
    second, third = engine.submit(request()), engine.submit(request())
    engine.cancel(second)
    assert engine.job(second).state is JobState.CANCELLED
    engine.cancel(first)
    assert engine.wait(first, TIMEOUT).state is JobState.CANCELLED
    assert engine.wait(third, TIMEOUT).state is JobState.DONE
    assert order == [first, third]
    engine.cancel(third)
    assert engine.job(third).state is JobState.DONE


def test_cancelling_keeps_the_pictures_that_are_finished(engine: Engine) -> None:
    saved = threading.Event()
    engine.subscribe(lambda event: saved.set() if isinstance(event, ImageSaved) else None)
    job = engine.submit(request(steps=30, batch_count=20))
    assert saved.wait(TIMEOUT)
    engine.cancel_current()
    view = engine.wait(job, TIMEOUT)
    assert view.state is JobState.CANCELLED
    assert 1 <= len(view.images) < 20
    assert all(image.path.is_file() for image in view.images)


def test_an_unknown_job_is_told(engine: Engine) -> None:
    for call in (engine.job, engine.cancel, engine.wait):
        with pytest.raises(UnknownName, match="job"):
            call("no-such-job")


def test_what_is_queued_survives_the_end_of_the_program(root: Path) -> None:
    first = Engine.open(settings_in(root))
    running = first.submit(request(steps=200, sampler="heun", batch_count=3))
    waiting = first.submit(request(seed=9))
    first.close()
    second = Engine.open(settings_in(root))
    try:
        assert second.job(waiting).request.seed == 9
        second.cancel(running)
        assert second.wait(waiting, TIMEOUT).state is JobState.DONE
        assert second.job(running).state is JobState.CANCELLED
    finally:
        second.close()
    third = Engine.open(settings_in(root))
    try:
        assert [view.state for view in third.jobs()] == [JobState.CANCELLED, JobState.DONE]
        assert third.job(waiting).images[0].path.is_file()
    finally:
        third.close()


def test_two_programs_do_not_share_a_queue(engine: Engine, root: Path) -> None:
    with pytest.raises(ServerError, match="--data-dir"):
        Engine.open(settings_in(root))
    single = Engine.open(settings_in(root), persistent=False)
    single.close()


def test_a_damaged_journal_is_set_aside(root: Path) -> None:
    (root / "data").mkdir()
    (root / "data" / "jobs.sqlite").write_bytes(b"this is no database at all" * 100)
    engine = Engine.open(settings_in(root))
    assert run(engine).state is JobState.DONE
    engine.close()
    assert (root / "data" / "jobs.unreadable.sqlite").exists()


def test_an_output_folder_that_cannot_be_written_is_a_typed_failure(
    engine: Engine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    view = run(engine)
    assert (view.state, view.error_kind) == (JobState.FAILED, "NotWritable")
    assert str(root / "outputs") in view.error
    monkeypatch.undo()
    assert run(engine).state is JobState.DONE


def test_a_full_disk_fails_the_job_and_keeps_its_picture_elsewhere(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(engine)

    def full(path: Path, data: bytes, *, replace: bool = True) -> None:
        if path.is_relative_to(tmp_path / "outputs"):
            with atomic_file(tmp_path / "outputs" / "x", replace=replace):
                raise OSError(28, "No space left on device")
        path.write_bytes(data)

    rescue = tmp_path / "rescue"
    rescue.mkdir()
    monkeypatch.setattr(outputs, "write_atomically", full)
    monkeypatch.setattr(outputs.tempfile, "gettempdir", lambda: str(rescue))
    view = run(engine)
    assert (view.state, view.error_kind) == (JobState.FAILED, "DiskFull")
    kept = next(rescue.iterdir())
    assert kept.name in view.error
    assert Image.open(kept).size == (64, 64)
    monkeypatch.undo()
    assert done.images[0].path.is_file()
    assert run(engine).state is JobState.DONE


def test_running_out_of_memory_is_made_good_and_only_after_five_times_a_typed_failure(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.families import latent_space

    expected = Image.open(run(engine).images[0].path).tobytes()
    failures = 4
    decode = latent_space.decode_sliced

    def scarce(autoencoder: latent_space.Autoencoder, latents: torch.Tensor) -> torch.Tensor:
        nonlocal failures
        if failures:
            failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB.")
        return decode(autoencoder, latents)

    monkeypatch.setattr(latent_space, "decode_sliced", scarce)
    engine.change_preferences(preview_every=0)
    view = run(engine)
    assert (view.state, len(view.images)) == (JobState.DONE, 1)
    assert [notice for notice in view.notices if "memory" in notice] == list(view.notices)
    assert len(view.notices) == 1
    assert Image.open(view.images[0].path).tobytes() == expected
    failures = 5
    view = run(engine)
    assert (view.state, view.error_kind) == (JobState.FAILED, "OutOfMemory")
    assert "1.5 GiB more were needed" in view.error
    budget = engine.memory().budget
    assert run(engine).state is JobState.DONE
    assert engine.memory().budget > budget  # what was given up comes back with the next job


def test_a_refiner_finishes_the_picture_and_is_named_in_its_text(engine: Engine, root: Path) -> None:
    write_tiny_checkpoint(root / "models" / "checkpoints" / "other.safetensors", seed=3)
    engine.library.refresh()
    plain, refined = run(engine, steps=5), run(engine, steps=5, refiner="other", refiner_switch=0.6)
    assert refined.state is JobState.DONE
    assert plain.images[0].path.read_bytes() != refined.images[0].path.read_bytes()
    assert "Refiner: other, Refiner switch at: 0.6" in refined.images[0].infotext
    again = run(engine, **refined.request.to_mapping())
    assert Image.open(again.images[0].path).tobytes() == Image.open(refined.images[0].path).tobytes()


def test_a_refiner_that_is_not_there_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(UnknownName, match='"no such refiner"'):
        engine.submit(request(refiner="no such refiner"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("text.safetensors", b"hello, I am a text file and no model", "text file"),
        ("pickle.safetensors", b"\x80\x02}q\x00." + b"\0" * 100, "pickle"),
        ("old.ckpt", b"PK\x03\x04" + b"\0" * 100, "Convert"),
        ("empty.safetensors", b"", "empty"),
    ],
)
def test_bad_files_are_listed_with_their_problem_and_refused(root: Path, name: str, content: bytes, told: str) -> None:
    (root / "models" / "checkpoints" / name).write_bytes(content)
    engine = Engine.open(settings_in(root), persistent=False)
    try:
        entry = engine.library.find_checkpoint(name)
        assert told.casefold() in entry.problem.casefold()
        with pytest.raises(FileError, match=name):
            engine.submit(request(checkpoint=name))
        assert run(engine).state is JobState.DONE
    finally:
        engine.close()


def test_a_truncated_checkpoint_is_refused_and_a_vanished_one_fails_typed(engine: Engine, root: Path) -> None:
    folder = root / "models" / "checkpoints"
    data = (folder / "tiny.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(data[: len(data) // 2])
    write_tiny_checkpoint(folder / "gone.safetensors", seed=2)
    engine.library.refresh()
    with pytest.raises(FileError, match=r"cut\.safetensors: it is cut off"):
        engine.submit(request(checkpoint="cut"))
    blocker = engine.submit(request(steps=30, checkpoint="tiny"))
    waiting = engine.submit(request(checkpoint="gone"))
    (folder / "gone.safetensors").unlink()
    assert engine.wait(blocker, TIMEOUT).state is JobState.DONE
    view = engine.wait(waiting, TIMEOUT)
    assert (view.state, view.error_kind) == (JobState.FAILED, "BadCheckpoint")
    assert run(engine, checkpoint="tiny").state is JobState.DONE


def test_a_checkpoint_of_another_family_is_named(engine: Engine, root: Path) -> None:
    from safetensors.torch import save_file

    chroma = {"distilled_guidance_layer.in_proj.weight": torch.zeros(4, 4)}
    save_file(chroma, root / "models" / "checkpoints" / "chroma.safetensors")
    engine.library.refresh()
    assert engine.library.find_checkpoint("chroma").family == "chroma"
    with pytest.raises(FileError, match="Chroma"):
        engine.submit(request(checkpoint="chroma"))


def test_checkpoints_are_found_by_every_name_that_clients_send(engine: Engine) -> None:
    run(engine)
    entry = engine.library.checkpoints()[0]
    assert entry.sha256
    assert entry.title == f"tiny.safetensors [{entry.sha256[:10]}]"
    for name in ("tiny", "tiny.safetensors", entry.title, "TINY", entry.sha256, entry.sha256[:10], str(entry.path)):
        assert engine.library.find_checkpoint(name).path == entry.path
    view = run(engine, checkpoint=entry.title)
    assert f"Model hash: {entry.sha256[:10]}, Model: tiny" in view.images[0].infotext


def test_preferences_are_checked_saved_and_used(engine: Engine, root: Path) -> None:
    engine.change_preferences(clip_skip=2, noise_source="CPU", exact_batches=True)
    text = run(engine).images[0].infotext
    assert "Clip skip: 2" in text
    assert "RNG: CPU" in text
    for changes, error in (
        ({"no_such": 1}, RequestError),
        ({"clip_skip": 0}, RequestError),
        ({"exact_batches": "yes"}, RequestError),
        ({"noise_source": "no such"}, UnknownName),
        ({"checkpoint": "no such"}, UnknownName),
    ):
        with pytest.raises(error):
            engine.change_preferences(**changes)
    assert engine.preferences.clip_skip == 2
    assert json.loads((root / "data" / "preferences.json").read_text())["noise_source"] == "CPU"


def test_unreadable_preferences_are_set_aside(root: Path) -> None:
    (root / "data").mkdir()
    (root / "data" / "preferences.json").write_text('{"clip_skip": "two"}')
    engine = Engine.open(settings_in(root), persistent=False)
    assert engine.preferences.clip_skip is None
    engine.close()
    assert (root / "data" / "preferences.unreadable.json").exists()


def test_switching_checkpoints_stays_within_the_budget(root: Path) -> None:
    write_tiny_checkpoint(root / "models" / "checkpoints" / "other.safetensors", seed=1)
    engine = Engine.open(Settings.for_root(root, force_cpu=True, memory_budget=40 * 2**20), persistent=False)
    try:
        for name in ("tiny", "other", "tiny"):
            assert run(engine, checkpoint=name).state is JobState.DONE
            assert engine.memory().used <= engine.memory().budget
        engine.free_memory()
        assert engine.memory().used == 0
    finally:
        engine.close()


def test_a_model_that_does_not_fit_the_budget_is_a_typed_failure(root: Path) -> None:
    engine = Engine.open(Settings.for_root(root, force_cpu=True, memory_budget=2**19), persistent=False)
    try:
        view = run(engine)
        assert (view.state, view.error_kind) == (JobState.FAILED, "OutOfMemory")
        assert "--memory-budget" in view.error
    finally:
        engine.close()


def test_nan_weights_fail_the_job_and_the_next_one_runs(engine: Engine, root: Path) -> None:
    tensors = tiny_tensors()
    tensors["model.diffusion_model.out.2.bias"] = torch.full((4,), torch.nan, dtype=torch.float16)
    write_safetensors(root / "models" / "checkpoints" / "nan.safetensors", tensors, METADATA)
    engine.library.refresh()
    view = run(engine, checkpoint="nan")
    assert (view.state, view.error_kind) == (JobState.FAILED, "NumericalError")
    assert "nan.safetensors holds values that are not numbers" in view.error
    assert '"model.diffusion_model.out.2.bias"' in view.error
    assert run(engine, checkpoint="tiny").state is JobState.DONE


def test_a_damaged_checkpoint_that_is_taken_away_meanwhile_fails_its_job_and_no_other(
    engine: Engine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_checkpoint(root / "models" / "checkpoints" / "nan.safetensors", seed=1)
    engine.library.refresh()

    def damaged(*_arguments: object, **_options: object) -> Iterator[object]:
        path.unlink()
        engine.library.refresh()
        raise NumericalError("no numbers")

    with monkeypatch.context() as patched:
        patched.setattr(generation_jobs, "generate", damaged)
        view = run(engine, checkpoint="nan")
    assert (view.state, view.error_kind) == (JobState.FAILED, "UnknownName")
    assert run(engine, checkpoint="tiny").state is JobState.DONE


def test_without_any_checkpoint_the_remedy_is_told(tmp_path: Path) -> None:
    engine = Engine.open(settings_in(tmp_path), persistent=False)
    try:
        with pytest.raises(RequestError, match="put one into"):
            engine.submit(request())
    finally:
        engine.close()


def test_failures_reach_the_observers_with_their_kind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    engine.subscribe(events.append)
    monkeypatch.setattr(os, "access", lambda *_: False)
    job = run(engine)
    failed = [event for event in events if isinstance(event, JobFailed)]
    assert [(event.job_id, event.kind) for event in failed] == [(job.id, "NotWritable")]
    assert not any(isinstance(event, JobDone | JobCancelled) for event in events)


def test_averaged_weights_make_another_picture_and_are_recorded(engine: Engine, root: Path) -> None:
    tensors = tiny_tensors()
    averages = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): value * 0.5
        for key, value in tensors.items()
        if key.startswith("model.diffusion_model.")
    }
    write_safetensors(root / "models" / "checkpoints" / "both.safetensors", {**tensors, **averages}, METADATA)
    engine.library.refresh()
    plain, averaged = run(engine, checkpoint="both"), run(engine, checkpoint="both", use_ema=True)
    assert Image.open(plain.images[0].path).tobytes() != Image.open(averaged.images[0].path).tobytes()
    assert "EMA weights: True" in averaged.images[0].infotext
    refused = run(engine, checkpoint="tiny", use_ema=True)
    assert (refused.state, refused.error_kind) == (JobState.FAILED, "UnsupportedCheckpoint")


def test_the_checkpoint_of_the_command_line_wins_until_another_is_chosen(root: Path) -> None:
    write_tiny_checkpoint(root / "models" / "checkpoints" / "other.safetensors", seed=1)
    for wanted in ("tiny", "other"):
        engine = Engine.open(Settings.for_root(root, force_cpu=True, checkpoint=wanted), persistent=False)
        try:
            assert engine.checkpoint().name == wanted
            engine.change_preferences(checkpoint="tiny")
            assert engine.checkpoint().name == "tiny"
        finally:
            engine.close()


def test_a_journal_that_cannot_be_written_ends_no_job_and_stops_no_queue(engine: Engine) -> None:
    running = engine.submit(request(steps=40, batch_count=2))
    waiting = engine.submit(request(seed=8))
    journal = engine._journal._connection
    journal.execute("PRAGMA query_only = ON")  # every write fails, as on a full disk
    view, next_view = engine.wait(running, TIMEOUT), engine.wait(waiting, TIMEOUT)
    assert (view.state, len(view.images)) == (JobState.DONE, 2)
    assert next_view.state is JobState.DONE
    assert "journal cannot be written" in next_view.notices[0]
    with pytest.raises(OutputError, match="--data-dir"):
        engine.submit(request())
    journal.execute("PRAGMA query_only = OFF")
    assert run(engine).state is JobState.DONE


def test_a_checkpoint_that_vanishes_while_it_is_used_costs_its_hash_and_not_the_picture(
    engine: Engine, root: Path
) -> None:
    file = root / "models" / "checkpoints" / "tiny.safetensors"
    run(engine)  # its weights are in memory from now on
    engine.subscribe(lambda event: file.unlink(missing_ok=True) if isinstance(event, Progress) else None)
    view = run(engine)
    assert (view.state, len(view.images)) == (JobState.DONE, 1)
    assert "Model hash" not in view.images[0].infotext
    assert "Model: tiny" in view.images[0].infotext
    assert "could not be read again" in view.notices[0]


def test_compiled_blocks_make_the_picture_and_a_failure_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.nn import unet

    engine = Engine.open(settings_in(root), persistent=False)
    try:
        plain = run(engine)
        engine.change_preferences(compile_networks=True)

        def broken(*_arguments: object, **_options: object) -> torch.Tensor:
            raise torch._dynamo.exc.TorchDynamoException("no compiler")

        with monkeypatch.context() as patched:
            patched.setattr(unet.UNet, "forward", _once(broken, unet.UNet.forward))
            view = run(engine)
        assert view.state is JobState.DONE
        assert view.notices == ("The network could not be compiled and runs as it is: no compiler.",)
        assert Image.open(view.images[0].path).tobytes() == Image.open(plain.images[0].path).tobytes()
    finally:
        engine.close()


def _once(first: Callable[..., torch.Tensor], then: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    calls = iter([first])
    return lambda *arguments, **options: next(calls, then)(*arguments, **options)
