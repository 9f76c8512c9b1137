"""What the command line decides. It never changes while the program runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Folders, and how the machine is used.

    root: folder of the program. checkpoint_dirs, vae_dirs, text_encoder_dirs, lora_dirs, recipe_dirs, embedding_dirs,
    hypernetwork_dirs, upscaler_dirs, preview_dirs: searched in this order, with their subfolders; a file among them
    stands for itself. What is made is saved into the first.
    data_dir: journal, hashes, preferences. checkpoint: name of the one to start with.
    memory_budget: bytes that the program may take of the machine, or with a GPU models of its memory; None leaves it to
    what is free.
    idle_unload_minutes, compile_networks: win over the preferences of these names until those are changed.
    """

    root: Path
    models_dir: Path
    checkpoint_dirs: tuple[Path, ...]
    vae_dirs: tuple[Path, ...]
    text_encoder_dirs: tuple[Path, ...]
    lora_dirs: tuple[Path, ...]
    recipe_dirs: tuple[Path, ...]
    embedding_dirs: tuple[Path, ...]
    hypernetwork_dirs: tuple[Path, ...]
    upscaler_dirs: tuple[Path, ...]
    preview_dirs: tuple[Path, ...]
    output_dir: Path
    data_dir: Path
    extensions_dir: Path
    checkpoint: str | None = None
    force_cpu: bool = False
    full_precision: bool = False
    low_memory: bool = False
    memory_budget: int | None = None
    idle_unload_minutes: float | None = None
    compile_networks: bool | None = None

    @property
    def pictures_dir(self) -> Path:
        """Where pictures that jobs begin with are stored."""
        return self.data_dir / "pictures"

    @classmethod
    def for_root(cls, root: Path, **changes: Any) -> Settings:
        """The usual folders below `root`, with `changes`; a changed models_dir moves the folders of models with it."""
        models_dir: Path = changes.pop("models_dir", root / "models")
        usual = cls(
            root=root,
            models_dir=models_dir,
            checkpoint_dirs=(models_dir / "checkpoints",),
            vae_dirs=(models_dir / "vae",),
            text_encoder_dirs=(models_dir / "text_encoders",),
            lora_dirs=(models_dir / "loras",),
            recipe_dirs=(models_dir / "recipes",),
            embedding_dirs=(models_dir / "embeddings",),
            hypernetwork_dirs=(models_dir / "hypernetworks",),
            upscaler_dirs=(models_dir / "upscalers",),
            preview_dirs=(models_dir / "vae_approx",),
            output_dir=root / "outputs",
            data_dir=root / "data",
            extensions_dir=root / "extensions",
        )
        return dataclasses.replace(usual, **changes)
