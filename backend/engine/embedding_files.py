"""Textual inversions in folders: what there is, and what of it a request's prompts mention."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.adapter_row import NameHash
from backend.adapters.lora_file import Adapter
from backend.engine.converted_pickles import PICKLES, ConvertedPickles
from backend.engine.embedding_pictures import PICTURES, embedding_in_picture, is_picture_with_embedding
from backend.errors import EmulsionError, FileError, UnknownName
from backend.families.family import ModelFiles
from backend.pipeline.planned_embeddings import PREFIX, PlannedEmbeddings
from backend.text.chunks import CompiledPrompt, compile_chunks
from backend.text.clip_tokenizer import ClipTokenizer
from backend.text.embeddings import TextualInversion, read_embedding
from backend.text.emphasis import Break, EmphasisMode, Segment
from backend.text.encoder_layouts import T5, TOKENS, chosen_encoder
from backend.text.mentions import Mention, Names, mentions_in
from backend.weights.pickle_conversion import converted_values

_WEIGHTS = (".safetensors", ".sft")
_T5_TOKENS = "shared.weight"
_MAX_BYTES = 64 << 20  # 75 vectors for every text encoder there is take 2 MB


@dataclass(frozen=True, kw_only=True)
class EmbeddingEntry:
    """name: by which prompts mention it: that of the file without its ending, with the folder where another has it."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class StoredEmbedding:
    """A file that was read. step, checkpoint, checkpoint_hash: of its training, None where the file does not say."""

    inversion: TextualInversion
    step: int | None = None
    checkpoint: str | None = None
    checkpoint_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A model as textual inversions see it.

    widths: of the text encoders that it has, by kind. kinds: those that its family can have. label: of the family.
    """

    widths: Mapping[str, int]
    kinds: tuple[str, ...]
    label: str


def reader_of(files: ModelFiles, kinds: Sequence[str], label: str) -> Reader:
    """kinds: of text encoders that the family can have. Looks at headers only."""
    widths: dict[str, int] = {}
    for kind in kinds:
        source = chosen_encoder(kind, checkpoint=files.checkpoint, separate=files.text_encoders)
        table = _T5_TOKENS if kind == T5 else TOKENS
        if source is not None and table in source.keys() and len(source.spec(table).shape) == 2:
            widths[kind] = source.spec(table).shape[1]
    return Reader(widths=widths, kinds=tuple(kinds), label=label)


class EmbeddingFiles:
    """Files below `folders`, of which one is read when a prompt mentions it. sha256: of a file; raises OSError."""

    def __init__(self, folders: Sequence[Path], pickles: ConvertedPickles, sha256: Callable[[Path], str]) -> None:
        self._folders = tuple(folders)
        self._pickles = pickles
        self._sha256 = sha256
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[str, StoredEmbedding]] = {}
        self._names: Names = Names()
        self._pictures: dict[Path, tuple[int, int, bool]] = {}

    def entries(self) -> list[EmbeddingEntry]:
        """What lies in the folders now, by name. Nothing is read but pictures without a file of weights beside them."""
        found: dict[str, EmbeddingEntry] = {}
        for folder in self._folders:
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
            weights = [path for path in paths if path.suffix.lower() in (*_WEIGHTS, *PICKLES)]
            stems = {path.with_suffix("") for path in weights}
            pictures = [
                path
                for path in paths
                if path.suffix.lower() in PICTURES
                and path.with_suffix("") not in stems
                and not path.stem.endswith(".preview")
                and self._is_one(path)
            ]
            # Files beside each other come before those in folders, as people mean the former by a bare name.
            for path in sorted([*weights, *pictures], key=lambda path: len(path.relative_to(folder).parts)):
                whole = path.relative_to(folder).with_suffix("").as_posix()
                name = path.stem if path.stem.casefold() not in found else whole
                found.setdefault(name.casefold(), EmbeddingEntry(name=name, path=path))
        return sorted(found.values(), key=lambda entry: entry.name.casefold())

    def find(self, name: str) -> EmbeddingEntry:
        """Raises UnknownName."""
        entries = self.entries()
        found = next((entry for entry in entries if entry.name.casefold() == name.strip().casefold()), None)
        if found is None:
            raise UnknownName("textual inversion", name, [entry.name for entry in entries])
        return found

    def read(self, entry: EmbeddingEntry) -> StoredEmbedding:
        """The vectors of a file, which are remembered until it changes. Raises FileError, OutputError."""
        try:
            if entry.path.stat().st_size > _MAX_BYTES:
                raise FileError(entry.path, "it is far too large for a textual inversion. Put LoRAs into models/loras.")
            sha256 = self._sha256(entry.path)
        except OSError as error:
            raise FileError(entry.path, f"it cannot be read ({error.strerror}).") from error
        with self._lock:
            known = self._read.get(entry.path)
        if known is not None and known[0] == sha256 and known[1].inversion.name == entry.name:
            return known[1]
        stored = self._stored(entry, sha256)
        with self._lock:
            self._read[entry.path] = sha256, stored
        return stored

    def names(self, others: Sequence[str] = ()) -> tuple[Names, dict[str, EmbeddingEntry]]:
        """All names, with `others`, and the files that they mean. With a folder, a name is found as well."""
        files: dict[str, EmbeddingEntry] = {}
        for entry in self.entries():
            files.setdefault(entry.name, entry)
            for folder in self._folders:
                if entry.path.is_relative_to(folder):
                    files.setdefault(entry.path.relative_to(folder).with_suffix("").as_posix(), entry)
        names = tuple(dict.fromkeys((*files, *others)))
        with self._lock:
            if self._names.names != names:  # hundreds of names take a moment
                self._names = Names(names)
            return self._names, files

    def with_hash(self, start: str) -> EmbeddingEntry | None:
        """The file whose SHA-256 begins so."""
        for entry in self.entries():
            try:
                if self._sha256(entry.path).startswith(start):
                    return entry
            except OSError:  # gone meanwhile
                continue
        return None

    def sha256(self, entry: EmbeddingEntry) -> str:
        """Raises OSError."""
        return self._sha256(entry.path)

    def _is_one(self, picture: Path) -> bool:
        """Whether a picture is a textual inversion; decoded only when it has changed."""
        try:
            status = picture.stat()
        except OSError:
            return False
        known = self._pictures.get(picture)
        if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
            known = (status.st_size, status.st_mtime_ns, is_picture_with_embedding(picture))
            self._pictures[picture] = known
        return known[2]

    def _stored(self, entry: EmbeddingEntry, sha256: str) -> StoredEmbedding:
        if entry.path.suffix.lower() in PICTURES:
            source = embedding_in_picture(entry.path)
        else:
            source = self._pickles.open(entry.path, sha256)
        said = converted_values(source.metadata) or dict(source.metadata)
        return StoredEmbedding(
            inversion=read_embedding(source, entry.name, file_hash=sha256),
            step=_number(said.get("step", said.get("ss_steps"))),
            checkpoint=_text(said.get("sd_checkpoint_name", said.get("ss_sd_model_name"))),
            checkpoint_hash=_text(said.get("sd_checkpoint", said.get("ss_sd_model_hash"))),
        )


@dataclass
class _Search:
    """The textual inversions of one request. Names that cannot be used are words, as in A1111."""

    files: EmbeddingFiles
    reader: Reader
    hashes: Mapping[str, str]
    bundled: Mapping[str, Adapter]
    skips_missing: bool
    passed_over: set[str] = field(default_factory=set[str])
    notices: list[str] = field(default_factory=list[str])

    def mentioned(self, segments: Sequence[Segment | Break]) -> tuple[TextualInversion, ...]:
        """Raises UnknownName and FileError for `embedding:name`; a bare name without a usable file is a word."""
        all_names, files = self.files.names((*self.bundled, *self.hashes))
        while True:
            left = tuple(name for name in all_names.names if name not in self.passed_over)
            names = all_names if len(left) == len(all_names.names) else Names(left)
            found: list[TextualInversion] = []
            before = len(self.passed_over)
            for mention in mentions_in(segments, names):
                if mention.name:
                    found += self._usable(mention, files)
                else:
                    self._tell_of_missing(mention, files)
            if len(self.passed_over) == before:  # shorter names can be behind one that was passed over
                return tuple(dict.fromkeys(found))

    def _usable(self, mention: Mention, files: Mapping[str, EmbeddingEntry]) -> Iterator[TextualInversion]:
        name = mention.name
        try:
            inversion = self._read(name, files)
        except (FileError, UnknownName) as error:
            if mention.is_explicit and not self.skips_missing:
                raise
            self._pass_over(name, f"The textual inversion {name} was not used. {error}")
            return
        if not inversion.is_read_by(self.reader.widths, self.reader.kinds):
            self._pass_over(
                name,
                f"The textual inversion {name} was not used: it was made for {inversion.made_for}, and the model is "
                f"{self.reader.label}.",
            )
            return
        yield inversion

    def _read(self, name: str, files: Mapping[str, EmbeddingEntry]) -> TextualInversion:
        """The file with the contents that were meant, whatever it is called here, or else that of this name."""
        entry, wanted = files.get(name), self.hashes.get(name)
        if wanted is not None and not (entry and self._has_hash(entry, wanted)):
            by_hash = self.files.with_hash(wanted)
            if by_hash is None and entry is not None:
                self._tell(f"The textual inversion {name} is another file than the one that was meant: its contents "
                           "differ.")  # fmt: skip
            entry = by_hash or entry
        if entry is not None:
            if name in self.bundled:
                self._tell(f"A LoRA carries a textual inversion {name}, too; that in {entry.path.name} was used.")
            return self.files.read(EmbeddingEntry(name=name, path=entry.path)).inversion
        if name in self.bundled:
            return read_embedding(self.bundled[name].source, name, prefix=f"bundle_emb.{name}.")
        raise UnknownName("textual inversion", name, [*files])

    def _has_hash(self, entry: EmbeddingEntry, wanted: str) -> bool:
        try:
            return self.files.sha256(entry).startswith(wanted)
        except OSError as error:
            raise FileError(entry.path, f"it cannot be read ({error.strerror}).") from error

    def _tell_of_missing(self, mention: Mention, files: Mapping[str, EmbeddingEntry]) -> None:
        called = mention.text.casefold()
        if any(called.startswith(name.casefold()) for name in self.passed_over):
            return  # it was told of already
        error = UnknownName("textual inversion", mention.text, [*files])
        if not self.skips_missing:
            raise error
        self._tell(f"The picture is made without {PREFIX}{mention.text}. {error}")

    def _pass_over(self, name: str, text: str) -> None:
        self.passed_over.add(name)
        self._tell(text)

    def _tell(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)


def plan_embeddings(
    prompt: str,
    negative_prompt: str,
    *,
    emphasis: EmphasisMode,
    files: EmbeddingFiles,
    reader: Callable[[], Reader],
    name_hashes: Sequence[NameHash] = (),
    adapters: Sequence[Adapter] = (),
    skips_missing: bool = False,
) -> PlannedEmbeddings:
    """What two prompts mention, tags taken out of them, and a model reads.

    name_hashes: of the request. adapters: LoRA files in use, which may carry textual inversions of their own.
    skips_missing: go on without an `embedding:name` that is not there. Raises UnknownName and FileError.
    """
    segments = emphasis.parse(prompt), emphasis.parse(negative_prompt)
    hashes = {known.name.removeprefix(PREFIX): known.hash for known in name_hashes if known.name.startswith(PREFIX)}
    bundled = {name: adapter for adapter in reversed(adapters) for name in adapter.embeddings}
    names, _ = files.names((*bundled, *hashes))
    if not any(mentions_in(side, names) for side in segments):
        return PlannedEmbeddings()
    search = _Search(files, reader(), hashes, bundled, skips_missing)
    positive, negative = (search.mentioned(side) for side in segments)
    return PlannedEmbeddings(prompt=positive, negative_prompt=negative, notices=tuple(search.notices))


def counted(segments: Sequence[Segment | Break], files: EmbeddingFiles, reader: Reader | None) -> CompiledPrompt:
    """A prompt in chunks, with as many tokens for textual inversions as they have vectors.

    reader: the model that reads it; None for any. What cannot be read is counted as words.
    """
    names, entries = files.names()
    tokenizer = ClipTokenizer.load()
    usable: dict[str, int] = {}
    unusable: set[str] = set()
    while True:
        known = names if not unusable else Names(tuple(name for name in names.names if name not in unusable))
        new = [found.name for found in mentions_in(segments, known) if found.name and found.name not in usable]
        if not new:
            return compile_chunks(segments, tokenizer, usable, known)
        for name in new:
            count = _num_vectors(files, entries[name], reader)
            if count:
                usable[name] = count
            else:
                unusable.add(name)


def _num_vectors(files: EmbeddingFiles, entry: EmbeddingEntry, reader: Reader | None) -> int:
    try:
        inversion = files.read(entry).inversion
    except EmulsionError:  # it is told when the prompt is used
        return 0
    return inversion.num_vectors if reader is None or inversion.is_read_by(reader.widths, reader.kinds) else 0


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value and value != "None" else None
