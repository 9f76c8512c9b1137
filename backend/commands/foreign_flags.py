"""Flags of other web UIs that have no meaning here: existing start scripts may keep them, and are told what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ForeignFlag:
    """A flag, what follows it on a command line, and why nothing happens."""

    name: str
    takes: Literal["nothing", "one value", "perhaps a value", "several values"]
    reason: str


_MEMORY = "memory is managed by itself; --memory-budget and --lowvram limit it"
_RESERVED = "what a device needs beside models is left free by itself; --memory-budget says what models may take"
_OFFLOAD = "models leave a memory when others need it; --idle-unload lets them leave when nothing is asked"
_ATTENTION = "the fastest exact attention is chosen by itself"
_PRECISION = "the data type that suits the device is chosen by itself; --no-half computes in float32"
_SPEED = "what makes the device fast is chosen by itself"
_LATER = "this version does not use such files yet"
_INSTALL = "launch.sh installs exactly what is needed, once"
_PAGE = "the page is built differently"
_SETTINGS = "settings lie in the data folder and are checked when they are read"
_SAFETY = "files are always checked, and never run code"
_CONSOLE = "the log tells what happens; --loglevel DEBUG tells more"
_SHARE = "pages on the internet are not offered; use --listen with --gradio-auth behind a tunnel of your own"
_LOADING = "a checkpoint is loaded, and its hash computed, when it is first used"
_SAME = "the same request gives the same picture by default"


def _switches(reason: str, *names: str) -> tuple[ForeignFlag, ...]:
    return tuple(ForeignFlag(name=name, takes="nothing", reason=reason) for name in names)


def _values(reason: str, *names: str) -> tuple[ForeignFlag, ...]:
    return tuple(ForeignFlag(name=name, takes="one value", reason=reason) for name in names)


# Of A1111, Forge and ComfyUI.
FOREIGN_FLAGS = (
    *_switches(
        _MEMORY,
        "--gpu-only", "--highvram", "--normalvram", "--lowram", "--always-gpu", "--always-high-vram",
        "--always-normal-vram", "--pin-shared-memory", "--cuda-stream", "--disable-model-loading-ram-optimization",
        "--disable-async-offload", "--disable-pinned-memory", "--mmap-torch-files", "--disable-mmap", "--cache-none",
        "--cache-classic", "--disable-dynamic-vram", "--enable-dynamic-vram",
    ),
    *_values(_MEMORY, "--cache-lru"),
    ForeignFlag(name="--cache-ram", takes="perhaps a value", reason=_MEMORY),
    ForeignFlag(name="--async-offload", takes="perhaps a value", reason=_MEMORY),
    *_values(_RESERVED, "--reserve-vram", "--vram-headroom"),
    *_switches(_OFFLOAD, "--always-offload-from-vram", "--disable-smart-memory", "--unload-gfpgan"),
    *_switches(
        _ATTENTION,
        "--xformers", "--force-enable-xformers", "--xformers-flash-attention", "--disable-xformers",
        "--opt-sdp-attention", "--opt-sdp-no-mem-attention", "--opt-split-attention", "--opt-split-attention-v1",
        "--opt-split-attention-invokeai", "--opt-sub-quad-attention", "--disable-opt-split-attention",
        "--attention-split", "--attention-quad", "--attention-pytorch", "--use-split-cross-attention",
        "--use-quad-cross-attention", "--use-pytorch-cross-attention", "--use-sage-attention",
        "--use-flash-attention",
    ),
    *_values(_ATTENTION, "--sub-quad-q-chunk-size", "--sub-quad-kv-chunk-size", "--sub-quad-chunk-threshold"),
    *_switches(
        _PRECISION,
        "--no-half-vae", "--upcast-sampling", "--force-upcast-attention", "--dont-upcast-attention",
        "--disable-attention-upcast", "--all-in-fp16", "--force-fp16", "--unet-in-bf16", "--unet-in-fp16",
        "--unet-in-fp8-e4m3fn", "--unet-in-fp8-e5m2", "--bf16-unet", "--fp16-unet", "--fp32-unet", "--fp64-unet",
        "--fp8_e4m3fn-unet", "--fp8_e5m2-unet", "--fp8_e8m0fnu-unet", "--vae-in-fp16", "--vae-in-fp32",
        "--vae-in-bf16", "--vae-in-cpu", "--fp16-vae", "--fp32-vae", "--bf16-vae", "--cpu-vae",
        "--clip-in-fp8-e4m3fn", "--clip-in-fp8-e5m2", "--clip-in-fp16", "--clip-in-fp32",
        "--fp8_e4m3fn-text-enc", "--fp8_e5m2-text-enc", "--fp16-text-enc", "--fp32-text-enc", "--bf16-text-enc",
        "--supports-fp8-compute", "--disable-nan-check",
    ),
    *_switches(
        _SPEED,
        "--opt-channelslast", "--force-channels-last", "--always-batch-cond-uncond", "--cuda-malloc",
        "--disable-cuda-malloc", "--use-ipex", "--disable-ipex-hijack", "--disable-ipex-optimize",
        "--force-non-blocking", "--disable-gpu-warning",
    ),
    ForeignFlag(name="--directml", takes="perhaps a value", reason="Windows runs Emulsion in WSL, with CUDA"),
    ForeignFlag(name="--oneapi-device-selector", takes="one value", reason=_SPEED),
    ForeignFlag(name="--fast", takes="several values", reason=_SPEED),
    *_switches(_SAME, "--deterministic", "--pytorch-deterministic", "--use-textbox-seed"),
    *_values(
        _LATER,
        "--textual-inversion-templates-dir",
        "--controlnet-dir", "--controlnet-preprocessor-models-dir",
        "--controlnet-annotator-models-path", "--bsrgan-models-path",
        "--scunet-models-path", "--dat-models-path",
        "--ldsr-models-path", "--codeformer-models-path", "--gfpgan-models-path", "--gfpgan-dir", "--gfpgan-model",
        "--clip-models-path", "--styles-file", "--localizations-dir", "--extra-model-paths-config",
        "--input-directory",
    ),
    *_values("choose the VAE on the page or with generate --vae", "--vae-path"),
    *_values("what a model is built like is read from its file", "--config"),
    *_switches(
        _INSTALL,
        "--skip-torch-cuda-test", "--skip-python-version-check", "--skip-version-check", "--skip-prepare-environment",
        "--reinstall-torch", "--reinstall-xformers", "--update-check", "--update-all-extensions", "--test-server",
        "--log-startup", "--do-not-download-clip", "--no-download-sd-model",
        "--quick-test-for-ci", "--windows-standalone-build",
    ),
    *_switches(_LOADING, "--skip-load-model-at-start", "--no-hashing"),
    *_switches(
        _PAGE,
        "--no-progressbar-hiding", "--hide-ui-dir-config", "--ui-debug-mode", "--gradio-debug", "--gradio-queue",
        "--no-gradio-queue", "--show-negative-prompt", "--no-prompt-history", "--deepdanbooru", "--multi-user",
        "--disable-api-nodes", "--disable-manager-ui", "--enable-manager",
    ),
    *_values(
        _PAGE,
        "--gradio-img2img-tool", "--gradio-inpaint-tool", "--preview-method", "--preview-size", "--max-batch-count",
        "--front-end-version", "--front-end-root", "--filenames-max-length",
    ),
    *_switches(_PAGE, "--unix-filenames-sanitization"),
    *_values(_SETTINGS, "--ui-config-file", "--ui-settings-file", "--freeze-specific-settings"),
    *_values(_SETTINGS, "--freeze-settings-in-sections"),
    *_switches("anyone who may use the page may change its settings", "--freeze-settings"),
    *_switches(_SAFETY, "--disable-safe-unpickle", "--allow-code", "--administrator", "--disable-tls-verify"),
    *_switches(
        "extensions are folders that you put there; the page installs none",
        "--enable-insecure-extension-access",
    ),
    *_values("only the output folder is served to the page", "--gradio-allowed-path"),
    *_switches(
        _CONSOLE,
        "--api-log", "--disable-console-progressbars", "--enable-console-prompts", "--log-stdout",
        "--dont-print-server",
    ),
    ForeignFlag(name="--verbose", takes="perhaps a value", reason=_CONSOLE),
    *_switches("every picture carries how it was made", "--disable-metadata"),
    *_switches("./launch.sh doctor tells about the machine", "--dump-sysinfo"),
    *_values("--data-dir moves everything that belongs to a user", "--user-directory", "--temp-directory"),
    *_values("files are known by their SHA-256", "--default-hashing-function"),
    *_switches(_SHARE, "--share"),
    *_values(_SHARE, "--ngrok", "--ngrok-region", "--ngrok-options"),
    *_switches("end the program with Ctrl-C or SIGTERM", "--add-stop-route", "--api-server-stop"),
    *_values("connections are kept open as long as the browser wants", "--timeout-keep-alive"),
    *_values("uploads are limited to what a picture can need", "--max-upload-size"),
    *_values("name every origin with --cors-allow-origins", "--cors-allow-origins-regex"),
)  # fmt: skip
