"""The flags of `start`: ours, and those that start scripts for other web UIs hold already."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from backend.commands.foreign_flags import FOREIGN_FLAGS, ForeignFlag
from backend.commands.server_options import DEFAULT_PORT, EVERYWHERE, LOOPBACK, Credentials, ServerOptions
from backend.engine.preferences import MAX_IDLE_MINUTES
from backend.engine.settings import Settings
from backend.errors import RequestError, ServerError
from backend.http.security import parse_credentials
from backend.memory.byte_sizes import parse_bytes

_NARGS = {"one value": 1, "perhaps a value": "?", "several values": "*"}
# Ours and ComfyUI's; A1111's and Forge's; ComfyUI's for files without text encoders and VAE.
_CHECKPOINT_FOLDERS = ("checkpoints", "Stable-diffusion", "diffusion_models", "unet")
_VAE_FOLDERS = ("vae", "VAE")
_LORA_FOLDERS = ("loras", "Lora")
_RECIPE_FOLDERS = ("recipes",)
_EMBEDDING_FOLDERS = ("embeddings",)
_HYPERNETWORK_FOLDERS = ("hypernetworks",)
# Ours; ComfyUI's; those of A1111 and Forge that may hold files of kinds that run here.
_UPSCALER_FOLDERS = ("upscalers", "upscale_models", "ESRGAN", "RealESRGAN", "SwinIR")
_PREVIEW_FOLDERS = ("vae_approx", "VAE-approx", "VAE-taesd")  # ours and ComfyUI's; those of A1111 and Forge
_TEXT_ENCODER_FOLDERS = ("text_encoders", "text_encoder", "clip")  # ours and ComfyUI's; Forge's; ComfyUI's old one


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """A command line that was understood. notes: what the user should know about flags that were passed over."""

    server: ServerOptions
    settings: Settings
    notes: tuple[str, ...] = ()


def read_flags(arguments: Sequence[str], *, root: Path, environment: Mapping[str, str] = os.environ) -> StartOptions:
    """Understand the flags of COMMANDLINE_ARGS and `arguments`, of which the later ones win.

    Ends the program, with one line that says why, for a value that cannot be used, and after --help.
    """
    parser = build_parser()
    try:
        given = shlex.split(environment.get("COMMANDLINE_ARGS", ""))
    except ValueError as error:
        parser.error(f"COMMANDLINE_ARGS cannot be read: {error}")
    values, unknown = parser.parse_known_args([*given, *arguments])
    try:
        return StartOptions(
            server=_server(values, environment),
            settings=read_settings(values, root),
            notes=(*values.notes, *_value_notes(values), *_unknown_notes(unknown, parser.format_help())),
        )
    except RequestError as error:
        parser.error(str(error))


def read_settings(values: argparse.Namespace, root: Path) -> Settings:
    """Settings of flags that `add_model_flags` and `add_device_flags` describe. Raises RequestError."""
    return dataclasses.replace(
        read_folders(values, root),
        force_cpu=values.cpu or "all" in values.use_cpu,
        full_precision=values.full_precision or values.precision == "full",
        low_memory=values.low_memory,
        memory_budget=values.memory_budget,
        idle_unload_minutes=values.idle_unload,
        compile_networks=values.compile or None,
    )


def read_folders(values: argparse.Namespace, root: Path) -> Settings:
    """Settings of flags that `add_model_flags` describes."""
    home: Path = values.data_dir or root
    models_dir: Path = values.models_dir or home / "models"
    others = [other / "models" for other in values.other_homes]
    checkpoint, file = named_file(values.ckpt)
    return Settings.for_root(
        root,
        models_dir=models_dir,
        checkpoint_dirs=_folders(models_dir, others, _CHECKPOINT_FOLDERS, [*values.ckpt_dirs, *file]),
        vae_dirs=_folders(models_dir, others, _VAE_FOLDERS, values.vae_dirs),
        text_encoder_dirs=_folders(models_dir, others, _TEXT_ENCODER_FOLDERS, values.text_encoder_dirs),
        lora_dirs=_folders(models_dir, others, _LORA_FOLDERS, values.lora_dirs),
        recipe_dirs=_folders(models_dir, others, _RECIPE_FOLDERS, values.recipe_dirs),
        embedding_dirs=_folders(
            models_dir,
            # A1111 and Forge have this one folder beside those of models.
            [*others, *values.other_homes],
            _EMBEDDING_FOLDERS,
            values.embedding_dirs,
        ),
        hypernetwork_dirs=_folders(models_dir, others, _HYPERNETWORK_FOLDERS, values.hypernetwork_dirs),
        upscaler_dirs=_folders(models_dir, others, _UPSCALER_FOLDERS, values.upscaler_dirs),
        preview_dirs=_folders(models_dir, others, _PREVIEW_FOLDERS, values.preview_dirs),
        output_dir=values.output_dir or home / "outputs",
        data_dir=home / "data",
        extensions_dir=home / "extensions",
        checkpoint=checkpoint,
    )


def build_parser() -> argparse.ArgumentParser:
    """The parser of `start`. Flags of other programs are in it, but not in its help."""
    parser = OneLineParser(
        prog="./launch.sh start",
        usage="./launch.sh start [OPTIONS]",
        description="Start the web page.",
        epilog="Flags of A1111, Forge and ComfyUI are accepted, too; docs/command-line.md lists them.",
        allow_abbrev=False,
    )
    parser.set_defaults(notes=())
    _add_server_flags(parser)
    _add_access_flags(parser)
    add_model_flags(parser)
    add_device_flags(parser)
    add_extension_flags(parser)
    _add_other_flags(parser)
    for flag in FOREIGN_FLAGS:
        parser.add_argument(flag.name, action=_PassOver, flag=flag, help=argparse.SUPPRESS)
    return parser


class OneLineParser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line instead of printing all flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. {self.prog} --help lists all options.\n")


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--port", type=_port, default=DEFAULT_PORT, metavar="N", help="port (7860); 0 takes a free one")
    group.add_argument(
        "--listen",
        nargs="?",
        const=EVERYWHERE,
        metavar="ADDRESS",
        help="serve other machines too, on every address or one",
    )
    group.add_argument("--server-name", metavar="ADDRESS", help="the address to listen on (127.0.0.1)")
    group.add_argument("--subpath", default="", metavar="PATH", help="path under which a proxy serves this program")
    group.add_argument("--tls-keyfile", type=_file, metavar="FILE", help="private key for https")
    group.add_argument("--tls-certfile", type=_file, metavar="FILE", help="certificate for https")
    group.add_argument("--api", action="store_true", help="accepted; the APIs are always served")
    group.add_argument("--nowebui", action="store_true", help="serve the APIs and no page")
    group.add_argument(
        "--no-browser", "--disable-auto-launch", action="store_true", help="do not open a browser window"
    )
    group.add_argument(
        "--autolaunch", "--auto-launch", "--inbrowser", action="store_true", help="open a browser window (the default)"
    )
    group.add_argument("--theme", choices=("system", "light", "dark"), default="system", help="colours of the page")


def _add_access_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who may use it")
    parser.set_defaults(allowed_hosts=[])
    pairs = "USER:PASSWORD,..."
    group.add_argument(
        "--gradio-auth", type=_credentials, default=(), metavar=pairs, help="ask for one of these names and passwords"
    )
    group.add_argument(
        "--api-auth", type=_credentials, default=(), metavar=pairs, help="the same: one password opens page and API"
    )
    group.add_argument(
        "--gradio-auth-path", type=_credentials_file, default=(), metavar="FILE", help="the same, read from a file"
    )
    group.add_argument("--token", metavar="TEXT", help="let in whoever knows this; --listen alone makes one up")
    group.add_argument(
        "--allowed-host", dest="allowed_hosts", action="append", metavar="NAME",
        help="a name under which a proxy or the local network reaches this server",
    )  # fmt: skip
    group.add_argument(
        "--cors-allow-origins", "--enable-cors-header", nargs="?", const="*", metavar="ORIGIN,...",
        help="web pages elsewhere that may call the API",
    )  # fmt: skip


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say where things lie."""
    group = parser.add_argument_group("folders and files")
    parser.set_defaults(ckpt_dirs=[], vae_dirs=[], text_encoder_dirs=[], lora_dirs=[], recipe_dirs=[], other_homes=[])
    parser.set_defaults(embedding_dirs=[], hypernetwork_dirs=[], upscaler_dirs=[], preview_dirs=[])
    group.add_argument(
        "--data-dir", "--base-directory", type=_folder, metavar="DIR",
        help="folder that holds models, outputs, data and extensions (the program's own)",
    )  # fmt: skip
    group.add_argument(
        "--models-dir", type=_folder, metavar="DIR", help="folder with checkpoints/, vae/, loras/ ... (models)"
    )
    group.add_argument(
        "--output-dir", "--output-directory", type=_folder, metavar="DIR", help="folder for pictures (outputs)"
    )
    group.add_argument("--ckpt", "--checkpoint", metavar="FILE", help="checkpoint to start with, by path or name")
    group.add_argument(
        "--ckpt-dir",
        dest="ckpt_dirs",
        type=_folder,
        action="append",
        metavar="DIR",
        help="one more folder of checkpoints",
    )
    group.add_argument(
        "--vae-dir", dest="vae_dirs", type=_folder, action="append", metavar="DIR", help="one more folder of VAEs"
    )
    group.add_argument(
        "--text-encoder-dir", dest="text_encoder_dirs", type=_folder, action="append", metavar="DIR",
        help="one more folder of text encoders",
    )  # fmt: skip
    group.add_argument(
        "--lora-dir", "--lyco-dir", dest="lora_dirs", type=_folder, action="append", metavar="DIR",
        help="one more folder of LoRAs",
    )  # fmt: skip
    group.add_argument(
        "--recipe-dir", dest="recipe_dirs", type=_folder, action="append", metavar="DIR",
        help="one more folder of recipes of merged models",
    )  # fmt: skip
    group.add_argument(
        "--embeddings-dir", "--embedding-dir", dest="embedding_dirs", type=_folder, action="append", metavar="DIR",
        help="one more folder of textual inversions",
    )  # fmt: skip
    group.add_argument(
        "--hypernetwork-dir", dest="hypernetwork_dirs", type=_folder, action="append", metavar="DIR",
        help="one more folder of hypernetworks",
    )  # fmt: skip
    group.add_argument(
        "--upscaler-dir", "--esrgan-models-path", "--realesrgan-models-path", "--swinir-models-path",
        dest="upscaler_dirs", type=_folder, action="append", metavar="DIR", help="one more folder of upscalers",
    )  # fmt: skip
    group.add_argument(
        "--vae-approx-dir", dest="preview_dirs", type=_folder, action="append", metavar="DIR",
        help="one more folder of TAESD files, which show pictures while they form",
    )  # fmt: skip
    group.add_argument(
        "--forge-ref-a1111-home", "--forge-ref-comfy-home", dest="other_homes", type=_folder, action="append",
        metavar="DIR", help="use the models of another program that is installed there",
    )  # fmt: skip


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say how the machine is used."""
    group = parser.add_argument_group("device and memory")
    group.add_argument("--cpu", "--always-cpu", action="store_true", help="use the processor even if there is a GPU")
    group.add_argument("--use-cpu", nargs="+", default=[], metavar="all", help="--use-cpu all is --cpu")
    group.add_argument(
        "--device-id", "--gpu-device-id", "--cuda-device", metavar="N", help="number of the GPU to use (0)"
    )
    group.add_argument(
        "--lowvram", "--medvram", "--medvram-sdxl", "--novram", "--always-low-vram", "--always-no-vram",
        dest="low_memory", action="store_true", help="hold as little of a model in memory as possible",
    )  # fmt: skip
    group.add_argument(
        "--memory-budget",
        type=_bytes,
        metavar="SIZE",
        help="the most memory to take, such as 3G or 800M: of the machine without a GPU, of the GPU with one",
    )
    group.add_argument(
        "--idle-unload", type=_minutes, metavar="MINUTES",
        help="let models leave the memory when nothing was asked for that long; 0 never",
    )  # fmt: skip
    group.add_argument(
        "--compile", action="store_true", help="compile the networks, which takes minutes once; meant for GPUs"
    )
    group.add_argument(
        "--no-half", "--all-in-fp32", "--force-fp32", dest="full_precision", action="store_true",
        help="compute in float32 throughout",
    )  # fmt: skip
    group.add_argument(
        "--precision", choices=("full", "autocast", "half"), default="autocast", help="--precision full is --no-half"
    )


def add_extension_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--safe-mode", "--disable-all-extensions", "--disable-extra-extensions", "--disable-all-custom-nodes",
        dest="safe_mode", action="store_true", help="start without extensions",
    )  # fmt: skip


def _add_other_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("other")
    group.add_argument(
        "--loglevel", type=str.upper, choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), default="INFO",
        help="how much is told (INFO)",
    )  # fmt: skip
    group.add_argument("--skip-install", action="store_true", help="start without looking whether all is installed")


def _server(values: argparse.Namespace, environment: Mapping[str, str]) -> ServerOptions:
    if (values.tls_keyfile is None) != (values.tls_certfile is None):
        raise RequestError("--tls-keyfile", "needs --tls-certfile, and the other way round")
    subpath = values.subpath.strip("/")
    return ServerOptions(
        host=values.server_name or values.listen or LOOPBACK,
        port=values.port,
        subpath=f"/{subpath}" if subpath else "",
        web_ui=not values.nowebui,
        credentials=(*values.gradio_auth, *values.api_auth, *values.gradio_auth_path),
        token=values.token,
        allowed_hosts=tuple(values.allowed_hosts),
        allowed_origins=tuple(origin for origin in (values.cors_allow_origins or "").split(",") if origin),
        tls_key=values.tls_keyfile,
        tls_certificate=values.tls_certfile,
        theme=values.theme,
        open_browser=not values.no_browser and not values.nowebui and _has_display(environment),
        safe_mode=values.safe_mode,
        log_level=values.loglevel,
        visible_device=values.device_id,
    )


def _has_display(environment: Mapping[str, str]) -> bool:
    if sys.platform in ("darwin", "win32"):
        return "SSH_CONNECTION" not in environment
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def _folders(models_dir: Path, others: Sequence[Path], names: Sequence[str], more: Sequence[Path]) -> tuple[Path, ...]:
    """The folder of ours below `models_dir`, those of other programs that are there, and `more`; none twice."""
    candidates = [folder / name for folder in (models_dir, *others) for name in names]
    found = [folder for folder in candidates[1:] if folder.is_dir() and not _is_same(folder, candidates[0])]
    return tuple(dict.fromkeys([candidates[0], *found, *more]))


def _is_same(folder: Path, other: Path) -> bool:
    """Whether both are one folder: "vae" and "VAE" are on some disks."""
    return other.is_dir() and folder.samefile(other)


def named_file(asked: str | None) -> tuple[str | None, list[Path]]:
    """What a flag for a model asks for, as the library knows it; and the file, when it is a path to one."""
    if asked is None or not Path(asked).expanduser().is_file():
        return asked, []
    path = _folder(asked)
    return path.as_posix(), [path]


class _PassOver(argparse.Action):
    """Accept a flag of another program, with its values, and note why nothing comes of it."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, flag: ForeignFlag, help: str) -> None:
        nargs = _NARGS.get(flag.takes, 0)
        super().__init__(option_strings, argparse.SUPPRESS, nargs=nargs, default=argparse.SUPPRESS, help=help)
        self._flag = flag

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        namespace.notes = (*namespace.notes, f"{self._flag.name} is accepted and changes nothing: {self._flag.reason}.")


def _value_notes(values: argparse.Namespace) -> list[str]:
    if values.use_cpu and "all" not in values.use_cpu:
        return [f"--use-cpu {' '.join(values.use_cpu)[:80]} changes nothing: a model runs in one place; write all."]
    return []


def _unknown_notes(unknown: Sequence[str], help_text: str) -> list[str]:
    """One line for each unknown flag, with the most similar one of `help_text`; words behind it are its values."""
    known = set(re.findall(r"--[a-z0-9-]+", help_text))
    notes: list[str] = []
    for word in unknown:
        if word.startswith("-"):
            name = word.partition("=")[0]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            hint = f" Did you mean {near[0]}?" if near else ""
            notes.append(f"There is no flag {name[:80]}; it is passed over.{hint}")
        elif not notes:
            notes.append(f'"{word[:80]}" is passed over: start takes flags only.')
    return notes


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f'"{text}" is no port; write a number from 1 to 65535')
    return int(text)


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _file(text: str) -> Path:
    if not (path := _folder(text)).is_file():
        raise argparse.ArgumentTypeError(f"{path} is no file")
    return path


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(error.problem) from error


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes <= MAX_IDLE_MINUTES:
        raise argparse.ArgumentTypeError(f'"{text[:40]}" is no time; write minutes from 0 to {MAX_IDLE_MINUTES}')
    return minutes


def _credentials(text: str) -> Credentials:
    try:
        return parse_credentials(text)
    except ServerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _credentials_file(text: str) -> Credentials:
    try:
        return _credentials(",".join(_file(text).read_text("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {error}") from error
