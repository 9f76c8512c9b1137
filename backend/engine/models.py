"""Checkpoints of the library as models that can be used, and what their headers say."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.diffusion.guidance import Conditioning
from backend.engine.adapted_model import AdaptableModel
from backend.engine.adapter_reports import AdapterReports, identity_of
from backend.engine.embedding_files import Reader, reader_of
from backend.engine.hypernetworks import contexts_of
from backend.engine.library import CheckpointEntry, TextEncoderEntry, VaeEntry
from backend.engine.made_models import MadeModels
from backend.errors import UnsupportedCheckpoint
from backend.families.autoencoder_files import has_autoencoder
from backend.families.family import Defaults, Description, Family, Machine, Model, ModelFiles, Prompt
from backend.families.file_facts import with_prediction
from backend.families.hypernetwork_files import HypernetworkUse
from backend.memory.device import free_host_bytes
from backend.pipeline.plan import GenerationPlan
from backend.pipeline.planned_hypernetworks import PlannedHypernetwork
from backend.recipe import AdapterUse
from backend.registry import Registry
from backend.request import PredictionKind
from backend.text.encoder_layouts import encoders_in
from backend.weights.finite import first_bad_tensor
from backend.weights.read_ahead import read_ahead
from backend.weights.source import WeightSource
from backend.weights.weight_file import open_weights

_KEPT_PROMPTS = 16  # at most 9 MB each (FLUX.1)
_KEPT = 4  # models without their weights: some tens of megabytes of names each


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a checkpoint's header says. family: registry name; title, usage_hint, licence: "" when it does not say."""

    name: str
    family: str
    family_label: str
    description: Description
    title: str
    usage_hint: str
    licence: str
    metadata: Mapping[str, str]

    @property
    def native_size(self) -> int:
        return self.description.native_size

    @property
    def defaults(self) -> Defaults:
        return self.description.defaults


@dataclass(frozen=True, kw_only=True)
class AddedAdapter:
    """A file, and how much of it is added to a model."""

    use: AdapterUse
    path: Path


def added_adapters(
    plan: GenerationPlan, *, for_refiner: bool = False, step: int = 0, num_steps: int = 1
) -> tuple[AddedAdapter, ...]:
    """What a plan adds to its first model, or to the refiner, in a step counted from 0."""
    return tuple(
        AddedAdapter(use=adapter.row.use_at(step, num_steps), path=adapter.report.path)
        for adapter in plan.adapters.acting
        if adapter.is_for_refiner == for_refiner
    )


def has_curves(plan: GenerationPlan, *, for_refiner: bool = False) -> bool:
    """Whether what a plan adds to its first model, or to the refiner, changes over the steps."""
    return any(one.row.curve is not None for one in plan.adapters.acting if one.is_for_refiner == for_refiner)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """identity: equal ones mean equal weights. paths: of the files that it reads."""

    source: WeightSource
    family: Family
    identity: str
    paths: tuple[Path, ...]


class Models:
    """Models by their files, or by what makes them. A file that changed on the disk is opened again."""

    def __init__(self, families: Registry[Family], machine: Machine, made: MadeModels) -> None:
        self._families = families
        self._made = made
        self._machine = machine
        self.reports = AdapterReports()
        self._models: OrderedDict[tuple[str, ...], Model] = OrderedDict()
        self._lock = threading.Lock()  # jobs are planned and looked at by several threads
        self._prompts: OrderedDict[tuple[Model, Prompt], Conditioning] = OrderedDict()

    def describe(self, entry: CheckpointEntry, prediction: PredictionKind | None = None) -> ModelFacts:
        """Facts from the header alone. prediction: what the user says of the file.

        Raises FileError, and of a recipe what making it raises.
        """
        opened = self._opened(entry)
        family, source = opened.family, with_prediction(opened.source, prediction)
        assert family.describe is not None
        metadata = source.metadata
        return ModelFacts(
            name=entry.name,
            family=family.name,
            family_label=family.label,
            description=family.describe(source),
            title=metadata.get("modelspec.title", ""),
            usage_hint=metadata.get("modelspec.usage_hint", ""),
            licence=metadata.get("modelspec.license", ""),
            metadata=metadata,
        )

    def open(
        self,
        entry: CheckpointEntry,
        vae: VaeEntry | None = None,
        text_encoders: Sequence[TextEncoderEntry] = (),
        *,
        use_ema: bool = False,
        prediction: PredictionKind | None = None,
        vae_of: CheckpointEntry | None = None,
        adapters: Sequence[AddedAdapter] = (),
        hypernetworks: Sequence[PlannedHypernetwork] = (),
        reads_ahead: bool = False,
    ) -> Model:
        """A model; its weights are read when they are first used. Raises FileError.

        adapters: in any order: what they add is summed up. hypernetworks: in the order in which they act.
        prediction: what the user says of the checkpoint. reads_ahead: have the system begin to read the files.
        vae_of: the checkpoint whose autoencoder completes one without its own, where there is no `vae`, either.
        """
        opened = self._opened(entry)
        family, checkpoint = opened.family, with_prediction(opened.source, prediction)
        assert family.load is not None
        external = open_weights(vae.path) if vae else None
        if external is None and vae_of is not None and not has_autoencoder(checkpoint):
            external = self._opened(vae_of).source
        encoders = {encoder.kind: open_weights(encoder.path) for encoder in text_encoders}
        # The identity of any tensor is that of its file: path, size and time of change.
        others = (external, *encoders.values())
        added = sorted(adapters, key=lambda adapter: (identity_of(adapter.path), repr(adapter.use)))
        choices = str(use_ema), str(prediction), *(f"{identity_of(one.path)} {one.use}" for one in added)
        choices = *choices, *(f"{one.sha256} {one.strength}" for one in hypernetworks)
        key = (opened.identity, *(source.identity("") for source in others if source), *choices)
        with self._lock:
            if key not in self._models:
                files = ModelFiles(
                    checkpoint=checkpoint,
                    vae=external,
                    text_encoders={kind: _text_encoder(source, kind) for kind, source in encoders.items()},
                    use_ema=use_ema,
                    hypernetworks=tuple(HypernetworkUse(file=one.file, strength=one.strength) for one in hypernetworks),
                )
                self._models[key] = family.load(self._with_adapters(files, family, added), self._machine)
            self._models.move_to_end(key)
            while len(self._models) > _KEPT:
                self._models.popitem(last=False)
            model = self._models[key]
        if reads_ahead:
            paths = [
                *(one.path for one in added),
                *(encoder.path for encoder in text_encoders),
                *opened.paths,
                *([vae.path] if vae else []),
            ]
            read_ahead(paths, free_host_bytes() // 2)
        return model

    def adaptable(
        self, entry: CheckpointEntry, text_encoders: Sequence[TextEncoderEntry] = (), *, use_ema: bool = False
    ) -> AdaptableModel:
        """A model as adapters see it. Raises FileError, and RequestError for a family that takes none."""
        opened = self._opened(entry)
        encoders = {encoder.kind: open_weights(encoder.path) for encoder in text_encoders}
        files = ModelFiles(
            checkpoint=opened.source,
            text_encoders={kind: _text_encoder(source, kind) for kind, source in encoders.items()},
            use_ema=use_ema,
        )
        identities = (opened.identity, *(source.identity("") for source in encoders.values()), str(use_ema))
        return AdaptableModel(files, opened.family, " ".join(identities))

    def contexts(self, entry: CheckpointEntry) -> frozenset[int]:
        """The widths of what a U-Net's attentions attend to, by its header alone. Raises FileError."""
        return contexts_of(self._opened(entry).source)

    def text_reader(self, entry: CheckpointEntry, text_encoders: Sequence[TextEncoderEntry] = ()) -> Reader:
        """A model as textual inversions see it, by headers alone. Raises FileError."""
        opened = self._opened(entry)
        encoders = {encoder.kind: open_weights(encoder.path) for encoder in text_encoders}
        files = ModelFiles(
            checkpoint=opened.source,
            text_encoders={kind: _text_encoder(source, kind) for kind, source in encoders.items()},
        )
        facts = self.describe(entry)
        return reader_of(files, facts.description.text_encoders, facts.family_label)

    def first_bad_weight(self, entries: Iterable[CheckpointEntry | VaeEntry | TextEncoderEntry]) -> str:
        """ "model.safetensors holds no numbers in <tensor>", or "" when all weights are finite. Reads everything.

        Raises FileError.
        """
        for path in dict.fromkeys(path for entry in entries for path in self._paths(entry)):
            key = first_bad_tensor(open_weights(path))
            if key is not None:
                return f'{path.name} holds values that are not numbers, first in "{key}"'
        return ""

    def forget(self) -> None:
        with self._lock:
            self._models.clear()
            self._prompts.clear()

    def encode_prompt(self, model: Model, prompt: Prompt) -> Conditioning:
        """The model's reading of a prompt, which is remembered: a large text encoder then stays where it is."""
        key = (model, prompt)
        with self._lock:
            known = self._prompts.get(key)
        encoded = model.encode_prompt(prompt) if known is None else known
        with self._lock:
            self._prompts[key] = encoded
            self._prompts.move_to_end(key)
            while len(self._prompts) > _KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        return encoded

    def notices(self, entry: CheckpointEntry) -> tuple[str, ...]:
        """What its user should know of how it is made."""
        return () if entry.recipe is None else self._made.make(entry.recipe).notices

    def _with_adapters(self, files: ModelFiles, family: Family, added: Sequence[AddedAdapter]) -> ModelFiles:
        if not added:
            return files
        assert family.describe is not None
        # What a network predicts is read off its weights where nothing else tells: before adapters change them.
        predicts = family.describe(files.checkpoint).prediction
        plain = dataclasses.replace(files, checkpoint=with_prediction(files.checkpoint, predicts))
        uses = [(one.use, self.reports.adapter(one.path)) for one in added]
        return AdaptableModel(plain, family, "").with_adapters(uses)

    def _paths(self, entry: CheckpointEntry | VaeEntry | TextEncoderEntry) -> tuple[Path, ...]:
        return self._opened(entry).paths if isinstance(entry, CheckpointEntry) else (entry.path,)

    def _opened(self, entry: CheckpointEntry) -> _Opened:
        if entry.recipe is not None:
            made = self._made.make(entry.recipe)
            return _Opened(
                source=made.model.source, family=made.model.family, identity=made.identity, paths=made.model.files
            )
        if entry.problem:
            raise UnsupportedCheckpoint(entry.path, entry.problem.removeprefix(f"{entry.path.name}: "))
        source = open_weights(entry.path)
        return _Opened(
            source=source, family=self._families[entry.family], identity=source.identity(""), paths=(entry.path,)
        )


def _text_encoder(file: WeightSource, kind: str) -> WeightSource:
    """The encoder in a file that was listed as of this kind, under the names of its network."""
    encoders = encoders_in(file)
    if kind not in encoders:
        raise UnsupportedCheckpoint(file.origin, "it changed on the disk and holds another text encoder now.")
    return encoders[kind]
