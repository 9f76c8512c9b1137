"""What the commands beside `start` accept. Needs the standard library alone: --help works before the installation."""

from __future__ import annotations

import argparse
from pathlib import Path

from backend.commands.flags import OneLineParser, add_device_flags, add_extension_flags, add_model_flags
from backend.commands.picture_arguments import add_picture_arguments
from backend.recipe import StoredDtype
from backend.request import DEFAULT_REFINER_SWITCH, PredictionKind

_DTYPES = [dtype.value for dtype in StoredDtype]
_READINGS = ["own", "supermerger", "sd-mecha", "sdnext"]  # of merging/base_reading.py, which needs torch


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="./launch.sh", description="Commands of Emulsion.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    _add_generate(commands.add_parser("generate", help="make pictures without the page", allow_abbrev=False))
    _add_upscale(commands.add_parser("upscale", help="make pictures larger", allow_abbrev=False))
    _add_merge(commands.add_parser("merge", help="make a model of others", allow_abbrev=False))
    _add_info(commands.add_parser("info", help="tell what a model file is", allow_abbrev=False))
    _add_convert(commands.add_parser("convert", help="turn an old pickle file into safetensors", allow_abbrev=False))
    _add_doctor(commands.add_parser("doctor", help="check this installation", allow_abbrev=False))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make pictures without the page. What is left out is chosen to suit the checkpoint."
    parser.add_argument("prompt", help="what to show")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE",
        help="PNG file to write; several pictures become FILE-1.png, FILE-2.png ...",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write over files that exist")
    parser.add_argument("--json", action="store_true", help="tell the result as JSON")
    group = parser.add_argument_group("picture")
    group.add_argument("--negative", "--negative-prompt", default="", metavar="TEXT", help="what to keep away from")
    group.add_argument("--vae", metavar="FILE", help="VAE in place of the checkpoint's own, by path or name")
    group.add_argument(
        "--text-encoder", dest="text_encoders", action="append", default=[], metavar="FILE",
        help="text encoder in place of the checkpoint's own, by path or name; several times for several",
    )  # fmt: skip
    group.add_argument(
        "--lora", dest="loras", action="append", default=[], metavar="NAME[:X[:Y]]",
        help="LoRA that is added, by path or name, with its strength (1) and that for text encoders; several times for "
        "several. Tags in the prompt, <lora:NAME:X>, do it as well",
    )  # fmt: skip
    group.add_argument("--sampler", metavar="NAME", help="sampler; docs/samplers.md lists them")
    group.add_argument("--schedule", "--scheduler", metavar="NAME", help="schedule of noise levels")
    group.add_argument("--steps", type=int, metavar="N", help="sampling steps")
    group.add_argument("--size", type=_size, metavar="WxH", help="size in pixels, such as 512x768")
    group.add_argument("--width", type=int, metavar="PIXELS", help="width, a multiple of 8 (some models: of 16)")
    group.add_argument("--height", type=int, metavar="PIXELS", help="height, a multiple of 8 (some models: of 16)")
    group.add_argument("--guidance", "--cfg-scale", type=float, metavar="X", help="guidance scale; 1 switches it off")
    group.add_argument(
        "--distilled-guidance", "--distilled-cfg-scale", type=float, metavar="X",
        help="the guidance that FLUX.1 dev and LCM are told",
    )  # fmt: skip
    group.add_argument(
        "--guidance-rescale", type=float, metavar="X",
        help="how much of the contrast that guidance adds is taken back, 0 to 1",
    )  # fmt: skip
    group.add_argument(
        "--prediction", choices=[kind.value for kind in PredictionKind],
        help="what the network predicts, where its file does not say so",
    )  # fmt: skip
    group.add_argument("--shift", type=float, metavar="X", help="shift of the noise levels of SD 3 and FLUX.1")
    group.add_argument("--refiner", metavar="FILE", help="checkpoint that finishes the picture, by path or name")
    group.add_argument(
        "--refiner-switch", type=float, default=DEFAULT_REFINER_SWITCH, metavar="X",
        help=f"share of the steps after which the refiner takes over ({DEFAULT_REFINER_SWITCH:g})",
    )  # fmt: skip
    group.add_argument(
        "--refiner-switch-timestep", type=int, metavar="N", help="the timestep at which it does, in place of the share"
    )
    group.add_argument("--seed", type=int, default=-1, metavar="N", help="seed of the first picture; -1 draws one")
    group.add_argument("--batch-size", type=int, default=1, metavar="N", help="pictures that are made together (1)")
    group.add_argument("--batch-count", type=int, default=1, metavar="N", help="batches, one after the other (1)")
    group.add_argument("--clip-skip", type=int, metavar="N", help="CLIP layer to stop at, from the end: 1 is the last")
    group.add_argument("--emphasis", metavar="NAME", help="how weights in the prompt work")
    group.add_argument("--noise-source", metavar="NAME", help="where random numbers come from")
    group.add_argument(
        "--ema", action="store_true", help="the averaged (EMA) weights of a checkpoint that holds both kinds"
    )
    group.add_argument(
        "--exact-batches", action="store_true", default=None, help="every picture as if it were made alone, to the byte"
    )
    add_picture_arguments(parser)
    add_model_flags(parser)
    add_device_flags(parser)
    add_extension_flags(parser)


def _add_upscale(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make pictures larger, by networks in models/upscalers or by resampling."
    parser.add_argument("pictures", type=Path, nargs="*", metavar="PICTURE", help="PNG, JPEG or WebP files")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="folder for the PNG files that are made")
    parser.add_argument("--force", action="store_true", help="write over files that exist")
    parser.add_argument("--json", action="store_true", help="tell the result as JSON")
    parser.add_argument(
        "--list", dest="list_upscalers", action="store_true", help="print what there is to enlarge with"
    )
    group = parser.add_argument_group("how")
    group.add_argument("--by", type=float, default=4.0, metavar="X", help="how many times as large along a side (4)")
    group.add_argument("--size", type=_size, metavar="WxH", help="size in pixels in place of that, such as 2048x1536")
    group.add_argument("--width", type=int, metavar="PIXELS", help="width; the height follows from the picture")
    group.add_argument("--height", type=int, metavar="PIXELS", help="height; the width follows from the picture")
    group.add_argument(
        "--no-crop", action="store_true", help="with a width and a height: keep what hangs over that on two sides"
    )
    group.add_argument(
        "--upscaler", metavar="NAME", help="by name or path (the first network that there is, or else lanczos)"
    )
    group.add_argument("--second-upscaler", metavar="NAME", help="another one whose result is mixed in")
    group.add_argument("--second-visibility", type=float, default=0.5, metavar="X", help="how much of it, 0 to 1 (0.5)")
    add_model_flags(parser)
    add_device_flags(parser)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make a model of others and write it as a checkpoint, with little of it in memory at any time. "
        "docs/merging.md explains rules, blocks and recipes."
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models, by path or name, in the order of the rule")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="safetensors file to write")
    parser.add_argument("--force", action="store_true", help="write over a file that exists")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be merged, and write nothing")
    parser.add_argument("--json", action="store_true", help="tell the result as JSON")
    parser.add_argument("--list-rules", action="store_true", help="print the rules and their formulas")
    group = parser.add_argument_group("recipe")
    group.add_argument("--recipe", type=Path, metavar="FILE", help="a recipe (JSON) in place of models and options")
    group.add_argument("--save-recipe", type=Path, metavar="FILE", help="write the recipe as JSON")
    group.add_argument("--rule", metavar="NAME", help="how models are combined (lerp)")
    group.add_argument("--alpha", type=float, metavar="X", help="the rule's main number")
    group.add_argument(
        "--blocks", metavar="TEXT", help='alpha by block: "IN00=0.2,M00=0.8,OUT=0.3", 26 or 20 numbers, or a preset'
    )
    group.add_argument(
        "--blocks-of", choices=_READINGS, default=_READINGS[0], metavar="PROGRAM",
        help=f"whose idea of BASE a list of numbers follows: {', '.join(_READINGS)}",
    )  # fmt: skip
    group.add_argument(
        "-p", "--parameter", dest="parameters", action="append", default=[], metavar="NAME=TEXT",
        help='another number of the rule, or by block: beta=0.3, density="BASE=0.5,IN=0.2"; several times for several',
    )  # fmt: skip
    group.add_argument("--normalisation", default="none", metavar="NAME", help="one scale for all models before (none)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of rules that draw (0)")
    group.add_argument("--vae", metavar="FILE", help="autoencoder that the result gets, by path or name")
    group.add_argument(
        "--lora", dest="loras", action="append", default=[], metavar="FILE[:STRENGTH[:TEXT STRENGTH]]",
        help="LoRA that is added to the result, by path or name; several times for several",
    )  # fmt: skip
    group.add_argument("--ema", action="store_true", help="the averaged (EMA) weights of models that hold both kinds")
    group.add_argument(
        "--dtype", choices=_DTYPES, metavar="TYPE", help=f"what numbers are stored as: {', '.join(_DTYPES)}"
    )
    add_model_flags(parser)


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Tell what a model file is. Only its header is read, and its bytes for the hash; nothing in it runs."
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--no-hash", action="store_true", help="leave out the hashes, which need the whole file")
    parser.add_argument("--ckpt", type=Path, metavar="FILE", help="checkpoint that a LoRA is looked at beside")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Turn an old .ckpt, .pt or .bin file into safetensors, read in a process of its own with limits."
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="file to write (beside the old one)")
    parser.add_argument("--force", action="store_true", help="write over a file that exists")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = "Check Python, packages, device, memory, disk, models and the port, and say what to do."
    parser.add_argument("--port", type=int, default=None, metavar="N", help="port to look at (7860)")
    add_model_flags(parser)
    add_device_flags(parser)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.strip().isdigit() and height.strip().isdigit()):
        raise argparse.ArgumentTypeError(f'"{text[:40]}" is no size; write it as 512x768')
    return int(width), int(height)
