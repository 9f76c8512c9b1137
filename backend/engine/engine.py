"""The application: the one object that page, HTTP, command line and extensions talk to."""

from __future__ import annotations

import dataclasses
import random
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from backend.adapters.report import AdapterReport
from backend.diffusion.latent_upscaling import LatentUpscaler
from backend.engine.adapted_model import AdaptableModel
from backend.engine.adapter_rows import ResolvedAdapters, adapter_notices, plan_adapters, resolve_adapters
from backend.engine.batch_items import BatchItems
from backend.engine.batch_request import BatchRequest
from backend.engine.board import Board
from backend.engine.board_store import BoardStore
from backend.engine.boards import Boards, JobQueue
from backend.engine.catalog import Catalog
from backend.engine.components import (
    ChosenEncoders,
    choose_text_encoders,
    choose_vae,
    encoders_for_refiner,
    find_components,
    find_text_encoders,
)
from backend.engine.converted_pickles import ConvertedPickles
from backend.engine.embedding_files import EmbeddingFiles, Reader, counted, plan_embeddings
from backend.engine.fit import FitReport, fit_report
from backend.engine.generation_jobs import GenerationJobs
from backend.engine.hypernetworks import HypernetworkFiles, plan_hypernetworks
from backend.engine.idle import IdleUnloader
from backend.engine.job import JobState, JobView
from backend.engine.job_report import JobReport
from backend.engine.job_request import JobRequest
from backend.engine.job_table import KEPT_FINISHED, MAX_QUEUED, JobTable
from backend.engine.journal import MAX_ATTEMPTS, Journal
from backend.engine.library import CheckpointEntry, Library
from backend.engine.lora_jobs import LoraJobs
from backend.engine.machine import machine_for
from backend.engine.made_models import MadeModels, MadeRecipe
from backend.engine.merge_jobs import MergeJobs
from backend.engine.merge_request import MergeRequest
from backend.engine.models import ModelFacts, Models
from backend.engine.outputs import Outputs
from backend.engine.picture_store import PictureStore, StoreSize, hashes_in
from backend.engine.plot_cells import with_seeds
from backend.engine.plot_request import PlotRequest
from backend.engine.preferences import Preferences, changed, load_preferences, save_preferences
from backend.engine.publisher import Observer, Publisher
from backend.engine.recipe_history import RecipeHistory
from backend.engine.recipe_summary import summary
from backend.engine.runner import JobRunner
from backend.engine.second_plans import detail_request, hires_request
from backend.engine.settings import Settings
from backend.engine.stored_recipes import StoredRecipes
from backend.engine.upscale_jobs import UpscaleJobs
from backend.engine.upscale_request import UpscaleRequest
from backend.engine.upscalers import Upscalers
from backend.errors import EmulsionError, RequestError, UnknownName
from backend.events import JobCancelled, JobQueued
from backend.families.family import Description
from backend.images.outpainting import size_for
from backend.init_image import InitImage, InpaintArea
from backend.limits import MIN_SIDE
from backend.memory.device import DeviceFacts
from backend.memory.peak_watch import StagePeak
from backend.memory.residency import Held
from backend.merging.made_model import MadeModel
from backend.pipeline.metadata import request_of
from backend.pipeline.picture_notices import picture_notices
from backend.pipeline.plan import Choices, DetailPass, GenerationPlan, ModelName, SecondPass, Standing, resolve
from backend.pipeline.planned_adapters import PlannedAdapters
from backend.recipe import CheckpointInput, FileRef, Recipe
from backend.request import RANDOM_SEED, GenerationRequest, PredictionKind
from backend.text.embeddings import TextualInversion
from backend.text.emphasis import parse_emphasis
from backend.text.network_tags import read_tags
from backend.weights.hashing import HashCache

_KEPT_FREE = 50  # places in the queue that boards leave to others
_LARGEST_DRAWN_SEED = 2**32 - 2  # what other programs draw from, so that their users' seeds look alike


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """limit: tokens that fit before the prompt needs another chunk of 75."""

    tokens: int
    limit: int


@dataclass(frozen=True, kw_only=True)
class MemoryReport:
    """Bytes of memory.

    budget: for weights and what networks compute with; used: by weights, where networks compute. host_budget: for
    layers on the host that are ready to be copied to a GPU. held: what is where, the least recently used first.
    peaks: of the last job, stage by stage. free: on the device, right now. device: its name.
    """

    budget: int
    used: int
    host_budget: int
    held: tuple[Held, ...]
    peaks: tuple[StagePeak, ...]
    free: int
    device: str


class Engine:
    """Jobs go in as requests and come out as events; one worker thread runs them one after the other."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        library: Library,
        journal: Journal,
        publisher: Publisher,
        boards: BoardStore,
    ) -> None:
        self.settings = settings
        self.catalog = catalog
        self.library = library
        self._journal = journal
        self._publisher = publisher
        self._jobs = JobTable()
        self._preferences = load_preferences(self._preferences_file)
        self._preferences = dataclasses.replace(self._preferences, **_said_by(settings))
        self._preferences_lock = threading.Lock()
        self._machine = machine = machine_for(
            settings,
            wants_compiling=lambda: self.preferences.compile_networks,
            on_compiler_failure=self._tell_of_compiler_failure,
        )
        self.pictures = PictureStore(settings.pictures_dir)
        pickles = ConvertedPickles(settings.data_dir / "converted")
        self.embeddings = EmbeddingFiles(settings.embedding_dirs, pickles, library.hash_of)
        self.hypernetworks = HypernetworkFiles(settings.hypernetwork_dirs, pickles, library.hash_of)
        self.upscalers = Upscalers(
            settings.upscaler_dirs, pickles, machine, sha256=library.hash_of, known_hash=library.known_hash
        )
        self._made = MadeModels(library, catalog.for_merging)
        self._models = Models(catalog.families, machine, self._made)
        self._runner = JobRunner(self._jobs, journal, publisher, machine.device, self._work)
        outputs = Outputs(settings.output_dir)
        self._generation_jobs = GenerationJobs(
            library, self._models, machine, outputs, self.plan, lambda: self.preferences,
            self._runner.save_image, self.pictures.open, self.upscalers.enlarge, self._detected,
        )  # fmt: skip
        self.recipes = StoredRecipes(library, settings.recipe_dirs[0])
        self.history = RecipeHistory(settings.data_dir / "recipe-history.jsonl")
        self._merge_jobs = MergeJobs(library, self._made, settings.checkpoint_dirs[0], library.refresh)
        self._lora_jobs = LoraJobs(library, self._made, settings.lora_dirs[0], library.refresh)
        self._upscale_jobs = UpscaleJobs(self.upscalers, self.pictures, machine, outputs, self._runner.save_image)
        self._idle = IdleUnloader(
            lambda: self.preferences.idle_unload_minutes,
            lambda: self._jobs.running() is not None or self._jobs.num_queued() > 0,
            self.free_memory,
        )
        self._take_up_journal()
        self.boards = Boards(
            boards,
            JobQueue(
                submit=lambda request: self._queue(request).id,
                check=self._planned,
                room=lambda: MAX_QUEUED - _KEPT_FREE - self._jobs.num_queued(),
                job=self.job,
                cancel=self.cancel,
                save_grid=outputs.save,
                keep_picture=self._keep_picture,
            ),
            catalog.rules,
            BatchItems(catalog, self._keep_picture, self.pictures.data),
        )
        publisher.subscribe(self.boards.hear)
        self._worker = threading.Thread(target=self._runner.run_until_closed, name="worker", daemon=True)

    @classmethod
    def open(cls, settings: Settings, *, persistent: bool = True, start: bool = True) -> Engine:
        """Put the parts together and start working off what is queued.

        persistent: keep the queue in the data folder, which only one program at a time can do.
        start: False leaves the first job waiting for `start()`, so that extensions can register what it may use.
        Raises ServerError.
        """
        catalog = Catalog.builtin()
        hashes = HashCache(settings.data_dir / "hashes.json")
        library = Library(
            settings.checkpoint_dirs, settings.vae_dirs, settings.text_encoder_dirs, list(catalog.families), hashes,
            lora_dirs=settings.lora_dirs, recipe_dirs=settings.recipe_dirs,
            lora_facts=settings.data_dir / "lora-facts.json",
        )  # fmt: skip
        journal = Journal.open(settings.data_dir / "jobs.sqlite") if persistent else Journal.in_memory()
        boards = BoardStore.open(settings.data_dir / "boards.sqlite") if persistent else BoardStore.in_memory()
        if persistent:
            boards.take_in(settings.data_dir / "plots")
        engine = cls(settings, catalog, library, journal, Publisher(), boards)
        if start:
            engine.start()
        return engine

    def start(self) -> None:
        """Begin to work off the queue. Once only."""
        self.boards.take_up()
        self._worker.start()
        self._idle.start()

    @property
    def device(self) -> DeviceFacts:
        return self._machine.device

    def submit(self, request: JobRequest) -> str:
        """Queue a request and return the job's id.

        Everything that can be refused is refused here: RequestError, UnknownName, FileError, UnsupportedMerge, and
        OutputError when the journal cannot be written.
        """
        view = self._queue(request)
        if isinstance(view.request, GenerationRequest | MergeRequest) and view.request.recipe is not None:
            self.history.add(view.request.recipe)
        return view.id

    def _queue(self, request: JobRequest) -> JobView:
        if self._jobs.num_queued() >= MAX_QUEUED:
            raise RequestError("queue", f"{MAX_QUEUED} jobs are waiting; cancel some, or wait")
        view = self._view(request)
        self._journal.add(view)
        with self._jobs.held():  # so that the worker cannot start it before its queuing is told
            self._jobs.add(view)
            self._publisher.publish(JobQueued(job_id=view.id))
        return view

    def submit_plot(self, plot: PlotRequest) -> Board:
        """Queue the pictures of a plot, all with one seed. Raises RequestError, which names the axis, or as `submit`.

        What only fails together with values of other axes fails as a cell.
        """
        plot = dataclasses.replace(plot, request=self._settled(plot.request))
        board = self.boards.submit_plot(with_seeds(plot, _drawn_seed))
        if plot.request.recipe is not None:
            self.history.add(plot.request.recipe)  # once, and not with the numbers of every cell
        return board

    def submit_batch(self, batch: BatchRequest) -> Board:
        """Queue a picture for each item of a folder, or for each uploaded picture, all with one seed.

        An item that is broken fails alone. Raises as `submit` does.
        """
        return self.boards.submit_batch(dataclasses.replace(batch, request=self._settled(batch.request)))

    def _settled(self, request: GenerationRequest) -> GenerationRequest:
        """With one seed, and with the model that it means now. Raises as `submit` does."""
        request = _with_seed(request)
        if request.recipe is not None:
            return request
        entry = self.checkpoint(request.checkpoint)
        return dataclasses.replace(request, checkpoint=entry.name, recipe=entry.recipe)

    def _planned(self, request: GenerationRequest) -> GenerationPlan:
        return self.plan(_with_seed(request))

    def _keep_picture(self, data: bytes, name: str) -> str:
        return self.pictures.add(data, name).sha256

    def cancel(self, job_id: str) -> None:
        """End a queued or running job; no effect on one that has ended. Raises UnknownName."""
        view = self._jobs.cancel(job_id)
        if view.state is JobState.QUEUED and self._jobs.end_if_queued(job_id):
            try:
                self._journal.save(self._jobs.get(job_id))
            finally:
                self._publisher.publish(JobCancelled(job_id=job_id))

    def cancel_current(self) -> None:
        """End the running job, if there is one."""
        if (view := self._jobs.running()) is not None:
            self.cancel(view.id)

    def job(self, job_id: str) -> JobView:
        """Raises UnknownName."""
        return self._jobs.get(job_id)

    def jobs(self) -> list[JobView]:
        """Unfinished jobs and the last finished ones, the newest last."""
        return self._jobs.all()

    def current(self) -> JobView | None:
        return self._jobs.running()

    def preview(self, job_id: str) -> bytes | None:
        """The newest live preview of the job that runs or ran last, a JPEG."""
        return self._runner.preview(job_id)

    def wait(self, job_id: str, timeout: float | None = None) -> JobView:
        """The job once it has ended, or as it is after `timeout` seconds. Raises UnknownName."""
        return self._jobs.wait(job_id, timeout)

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with every event, from the worker's threads; returns the way to stop that."""
        return self._publisher.subscribe(observer)

    @property
    def preferences(self) -> Preferences:
        with self._preferences_lock:
            return self._preferences

    def change_preferences(self, **changes: Any) -> Preferences:
        """Check, save and use changed preferences. Raises RequestError, UnknownName, OutputError."""
        with self._preferences_lock:
            preferences = changed(self._preferences, changes)
            if preferences.checkpoint is not None:
                self.library.find_checkpoint(preferences.checkpoint)
            if preferences.vae is not None:
                self.library.find_vae(preferences.vae)
            _ = self.catalog.emphasis_modes[preferences.emphasis], self.catalog.noise_sources[preferences.noise_source]
            save_preferences(self._preferences_file, preferences)
            self._preferences = preferences
            return preferences

    def checkpoint(self, name: str | None = None) -> CheckpointEntry:
        """The checkpoint called `name`, or the one that requests get which name none.

        Raises UnknownName, and RequestError when there is no checkpoint at all.
        """
        if wanted := name or self.preferences.checkpoint:
            return self.library.find_checkpoint(wanted)
        entries = self.library.checkpoints()
        if not entries:
            folder = self.settings.checkpoint_dirs[0]
            raise RequestError("checkpoint", f"there is none; put one into {folder} and refresh the list")
        return next((entry for entry in entries if not entry.problem), entries[0])

    def describe_checkpoint(self, name: str | None = None, prediction: PredictionKind | None = None) -> ModelFacts:
        """What a checkpoint's header says, or its user of it. Raises FileError, UnknownName, RequestError."""
        return self._models.describe(self.checkpoint(name), prediction)

    def make(self, recipe: Recipe) -> MadeRecipe:
        """The model that a recipe makes, of which nothing is computed yet.

        Raises UnsupportedMerge, RequestError, UnknownName, FileError.
        """
        return self._made.make(recipe)

    def made_checkpoint(self, name: str) -> MadeModel:
        """A checkpoint as merging sees it: in the single-file layout of its family. Raises as `make` does."""
        return self.make(Recipe(root=CheckpointInput(file=FileRef(name=name)))).model

    def save_recipe(self, name: str, recipe: Recipe) -> CheckpointEntry:
        """Keep a recipe under a name, which can be chosen like a checkpoint. Raises as `make` does, and OutputError."""
        made = self.make(recipe)
        entry = self.recipes.save(name, made.recipe)
        self.history.add(made.recipe)
        return entry

    def count_tokens(self, text: str) -> TokenCount:
        """How long a prompt is for CLIP, without its tags."""
        compiled = counted(parse_emphasis(read_tags(text).words), self.embeddings, self._current_reader())
        return TokenCount(tokens=compiled.num_tokens, limit=compiled.capacity)

    def is_read_now(self, inversion: TextualInversion) -> bool:
        """Whether the model that requests get which name none reads a textual inversion; without a model, yes."""
        reader = self._current_reader()
        return reader is None or inversion.is_read_by(reader.widths, reader.kinds)

    def plan(self, request: GenerationRequest) -> GenerationPlan:
        """What a request whose seed is drawn would compute.

        Raises RequestError, UnknownName, UnknownPicture, FileError.
        """
        self.pictures.require(request.pictures)
        if request.init is not None and request.init.upscaler is not None:
            self.upscalers.find(request.init.upscaler)
        plan = self._plan_first(request)
        description = self._models.describe(self._entry(request), request.prediction).description
        notices = [*plan.notices, *picture_notices(description.picture_use, request.init)]
        if request.hires is not None:
            by, size = self._latent_upscaler(request.hires.upscaler), self._first_size(request, plan)
            step = plan.size_step
            if request.hires.checkpoint is not None:
                step = self._models.describe(self.checkpoint(request.hires.checkpoint)).description.size_step
            again = self._plan_first(hires_request(request, plan, request.hires, size, step))
            notices += again.notices
            plan = dataclasses.replace(plan, hires=SecondPass(hires=request.hires, plan=again, latent_upscaler=by))
        details: list[DetailPass] = []
        for detailer in request.detailers:
            if not detailer.is_on:
                continue
            if detailer.detector is not None:
                _ = self.catalog.detectors[detailer.detector]
            planned = self._plan_first(detail_request(request, plan, detailer, description.native_size))
            notices += planned.notices
            details.append(DetailPass(detailer=detailer, plan=planned))
        return dataclasses.replace(plan, details=tuple(details), notices=tuple(dict.fromkeys(notices)))

    def _plan_first(self, request: GenerationRequest) -> GenerationPlan:
        """The first pass alone."""
        preferences = self.preferences
        entry = self._entry(request)
        # A request that names a checkpoint but no VAE gets the checkpoint's own, so that it is complete by itself.
        vae = request.vae or (preferences.vae if request.checkpoint is None and request.recipe is None else None)
        description = self._models.describe(entry, request.prediction).description
        encoders = choose_text_encoders(request.text_encoders, entry, description, self.library)
        model = self._complete(entry, description, vae, request, encoders)
        refiner = self._refiner(request, model)
        resolved = resolve_adapters(request, self.library)
        adapters = self._planned_adapters(request, resolved, model, refiner)
        plan = resolve(
            request,
            model=model,
            refiner=refiner,
            description=description,
            adapters=adapters,
            init_size=self._init_size(request, description),
            notices=(*encoders.notices, *resolved.notices, *adapter_notices(adapters)),
            choices=Choices(
                samplers=self.catalog.samplers,
                schedules=self.catalog.schedules,
                emphasis_modes=self.catalog.emphasis_modes,
                noise_sources=self.catalog.noise_sources,
            ),
            standing=Standing(
                clip_skip=preferences.clip_skip,
                emphasis=preferences.emphasis,
                noise_source=preferences.noise_source,
                exact_batches=preferences.exact_batches,
            ),
        )
        return self._with_embeddings(self._with_hypernetworks(plan, request, entry), request)

    def adapter_report(self, name: str, checkpoint: str | None = None) -> AdapterReport:
        """A LoRA of the library beside a checkpoint, or beside the one that requests get which name none.

        Raises UnknownName, AmbiguousName, FileError, RequestError. Whether it fits is for `require_fit` to say.
        """
        entry = self.checkpoint(checkpoint)
        description = self._models.describe(entry).description
        encoders = find_text_encoders(description, self.library)
        return self._models.reports.report(self.library.find_lora(name).path, self._models.adaptable(entry, encoders))

    def remove_unused_pictures(self) -> StoreSize:
        """Forget stored pictures that no job and no plot names, but for those of the last hour. Raises OutputError."""
        requests = [view.request.to_mapping() for view in self.jobs()]
        requests += [board.request.to_mapping() for board in self.boards.all()]
        return self.pictures.remove_unused(hashes_in(requests))

    def memory(self) -> MemoryReport:
        residency = self._machine.residency
        return MemoryReport(
            budget=residency.budget,
            used=residency.used(),
            host_budget=residency.host_budget,
            held=residency.report(),
            peaks=self._runner.peaks(),
            free=self.device.free_bytes(),
            device=self.device.name,
        )

    def will_it_fit(self, request: GenerationRequest) -> FitReport:
        """Whether a request would fit, from headers alone. Raises RequestError, UnknownName, FileError."""
        if request.seed == RANDOM_SEED:
            request = dataclasses.replace(request, seed=0)
        plan = self.plan(request)
        return fit_report(plan, self._generation_jobs.opened, self._machine.residency.budget)

    def free_memory(self) -> None:
        """Let go of all weights; a running job keeps what it uses until it ends."""
        self._models.forget()
        self._machine.residency.drop_all()

    def close(self, timeout: float = 60) -> None:
        """Stop at the next step, or after `timeout` seconds in the middle of it.

        What is queued or was running waits in the journal for the next start.
        """
        self._jobs.close()
        self._idle.close()
        if self._worker.ident is not None:  # it was started
            self._worker.join(timeout)
        if self._worker.is_alive() and (view := self._jobs.running()) is not None:
            self._journal.put_back(view.id)
        self._journal.close()
        self.boards.close()
        self.library.close()

    @property
    def _preferences_file(self) -> Path:
        return self.settings.data_dir / "preferences.json"

    def _init_size(self, request: GenerationRequest, description: Description) -> tuple[int, int] | None:
        """The size of the picture to begin with, with its borders; None where the model's own size is the usual one."""
        if request.init is None or _is_of_area(request.init):
            return None
        step = description.size_step
        width, height = (max(MIN_SIDE, round(side / step) * step) for side in self._stored_size(request.init, step))
        return width, height

    def _first_size(self, request: GenerationRequest, plan: GenerationPlan) -> tuple[int, int]:
        """Width and height of the picture that the first pass makes: that of the stored one where only its masked area
        is made."""
        if request.init is not None and _is_of_area(request.init):
            return self._stored_size(request.init, 1)
        return plan.width, plan.height

    def _stored_size(self, init: InitImage, step: int) -> tuple[int, int]:
        """With borders, which are widened to multiples of `step`."""
        picture = self.pictures.describe(init.picture)
        size = picture.width, picture.height
        return size if init.borders is None else size_for(size, init.borders, step)

    def _latent_upscaler(self, name: str) -> LatentUpscaler | None:
        """None for what enlarges pictures. Raises UnknownName."""
        latent = self.catalog.latent_upscalers
        if name in latent:
            return latent[name]
        try:
            self.upscalers.find(name)
        except UnknownName as error:
            raise UnknownName(error.kind, error.name, [*latent.names(), *error.known]) from error
        return None

    def _detected(self, name: str, picture: Image.Image) -> Sequence[Image.Image]:
        return self.catalog.detectors[name].find(picture)

    def _tell_of_compiler_failure(self, problem: str) -> None:
        if (view := self._jobs.running()) is not None:
            self._runner.notice(view.id, f"The network could not be compiled and runs as it is: {problem}.")

    def _entry(self, request: GenerationRequest) -> CheckpointEntry:
        recipe = request.recipe
        if recipe is None:
            return self.checkpoint(request.checkpoint)
        # What a form has beside the recipe as its checkpoint did not make the picture, and must not be named in it.
        return self.library.made_entry(recipe, recipe.name or summary(recipe))

    def _complete(
        self,
        entry: CheckpointEntry,
        description: Description,
        vae: str | None,
        request: GenerationRequest,
        encoders: ChosenEncoders,
    ) -> ModelName:
        """The checkpoint with the files that it is used with."""
        chosen = choose_vae(vae, entry, description, self.library)
        return ModelName(
            checkpoint=entry.name,
            recipe=entry.recipe,
            vae=chosen.name if chosen else None,
            use_ema=request.use_ema,
            prediction=request.prediction if description.prediction else None,
            text_encoders=tuple(encoder.name for encoder in encoders.used),
            unused_text_encoders=tuple(encoder.name for encoder in encoders.unused),
        )

    def _planned_adapters(
        self, request: GenerationRequest, resolved: ResolvedAdapters, model: ModelName, refiner: ModelName | None
    ) -> PlannedAdapters:
        names = [name for name in (model, refiner) if name is not None] if resolved.wanted else []
        return plan_adapters(
            resolved,
            skips_missing=request.skips_missing_adapters,
            models=[self._adaptable(name) for name in names],
            reports=self._models.reports,
        )

    def _adaptable(self, name: ModelName) -> AdaptableModel:
        files = find_components(name, self.library)
        return self._models.adaptable(files.checkpoint, files.text_encoders, use_ema=name.use_ema)

    def _with_hypernetworks(
        self, plan: GenerationPlan, request: GenerationRequest, entry: CheckpointEntry
    ) -> GenerationPlan:
        hypernetworks = plan_hypernetworks(
            read_tags(request.prompt).tags,
            self.hypernetworks,
            family=self.catalog.families[entry.family],
            contexts=lambda: self._models.contexts(entry),
            name_hashes=request.name_hashes,
            skips_missing=request.skips_missing_adapters,
        )
        return dataclasses.replace(plan, hypernetworks=hypernetworks, notices=(*plan.notices, *hypernetworks.notices))

    def _with_embeddings(self, plan: GenerationPlan, request: GenerationRequest) -> GenerationPlan:
        files, acting = find_components(plan.model, self.library), plan.adapters.acting
        embeddings = plan_embeddings(
            plan.words,
            plan.negative_words if plan.guidance_scale != 1 else "",
            emphasis=plan.emphasis,
            files=self.embeddings,
            reader=lambda: self._models.text_reader(files.checkpoint, files.text_encoders),
            name_hashes=request.name_hashes,
            adapters=[self._models.reports.adapter(one.report.path) for one in acting if one.report.embeddings],
            skips_missing=request.skips_missing_adapters,
        )
        return dataclasses.replace(plan, embeddings=embeddings, notices=(*plan.notices, *embeddings.notices))

    def _current_reader(self) -> Reader | None:
        """The model that requests get which name none, as textual inversions see it; None where there is none."""
        try:
            entry = self.checkpoint()
            encoders = find_text_encoders(self._models.describe(entry).description, self.library)
            return self._models.text_reader(entry, encoders)
        except EmulsionError:
            return None

    def _refiner(self, request: GenerationRequest, base: ModelName) -> ModelName | None:
        """The second model. It decodes nothing, so what it lacks of an autoencoder is the first one's."""
        if request.refiner is None:
            return None
        entry = self.checkpoint(request.refiner)
        description = self._models.describe(entry).description  # refuses what cannot be used
        encoders = encoders_for_refiner(base, entry, description, self.library)
        return ModelName(
            checkpoint=entry.name,
            vae=None if description.has_vae else base.vae,
            text_encoders=tuple(encoder.name for encoder in encoders),
        )

    def _notices(self, request: JobRequest) -> tuple[str, ...]:
        """What is to be told of a request as it came: the queued one has this library's names and hashes."""
        notices: tuple[str, ...] = ()
        if isinstance(request, GenerationRequest | MergeRequest) and request.recipe is not None:
            notices += self.make(request.recipe).notices
        if isinstance(request, GenerationRequest):
            notices += resolve_adapters(request, self.library).replaced
        return notices

    def _work(self, view: JobView, report: JobReport) -> None:
        match view.request:
            case GenerationRequest():
                self._generation_jobs.run(view, view.request, report)
            case MergeRequest():
                self._merge_jobs.run(view.request, report)
            case UpscaleRequest():
                self._upscale_jobs.run(view, view.request, report)
            case _:
                self._lora_jobs.run(view.request, report)

    def _view(self, request: JobRequest) -> JobView:
        """A job to be queued, with nothing left open."""
        new = JobView(id=secrets.token_hex(8), state=JobState.QUEUED, request=request, notices=self._notices(request))
        match request:
            case GenerationRequest():
                plan = self.plan(_with_seed(request))
                facts = tuple(adapter.facts() for adapter in plan.adapters.acting)
                return dataclasses.replace(new, request=_pinned(plan), adapters=facts)
            case UpscaleRequest():
                return dataclasses.replace(new, request=self._upscale_jobs.checked(request))
            case MergeRequest():
                self._merge_jobs.check(request)
            case _:
                self._lora_jobs.check(request)
        return new

    def _take_up_journal(self) -> None:
        """Show what the last run of the program did, and queue what it left unfinished."""
        for entry in self._journal.entries(KEPT_FINISHED):
            view = entry.view
            if view.state is JobState.RUNNING and entry.attempts >= MAX_ATTEMPTS:
                view = dataclasses.replace(
                    view,
                    state=JobState.FAILED,
                    error_kind="Interrupted",
                    error="The program ended twice while this job ran. Queue it again to try once more.",
                )
                self._journal.save(view)
            elif not view.state.is_final:
                view = dataclasses.replace(view, state=JobState.QUEUED)
            self._jobs.add(view)


def _is_of_area(init: InitImage) -> bool:
    """Whether only the surroundings of a mask are made, at a size of their own."""
    return init.mask is not None and init.mask.area is InpaintArea.MASKED


def _pinned(plan: GenerationPlan) -> GenerationRequest:
    """The request with nothing left open, so that what is changed later does not change what is queued."""
    return dataclasses.replace(request_of(plan, plan.seed), batch_size=plan.batch_size, batch_count=plan.batch_count)


def _with_seed(request: GenerationRequest) -> GenerationRequest:
    """The request with a seed that is drawn if none was chosen."""
    if request.seed != RANDOM_SEED:
        return request
    return dataclasses.replace(request, seed=_drawn_seed())


def _drawn_seed() -> int:
    return random.SystemRandom().randint(0, _LARGEST_DRAWN_SEED)


def _said_by(settings: Settings) -> dict[str, Any]:
    """Preferences that the command line has set: it wins, until another value is chosen."""
    said = {
        "checkpoint": settings.checkpoint,
        "idle_unload_minutes": settings.idle_unload_minutes,
        "compile_networks": settings.compile_networks,
    }
    return {name: value for name, value in said.items() if value is not None}
