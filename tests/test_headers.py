"""Published files are recognised by their headers, and those that run have exactly the weights of our networks."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backend.errors import EmulsionError, UnsupportedCheckpoint
from backend.families.autoencoder_files import autoencoder_in
from backend.families.builtin import BUILTIN
from backend.families.family import Family, Machine, ModelFiles, PictureUse, identify
from backend.families.recognition import recognised
from backend.families.unet_files import unet_in
from backend.families.unet_shapes import autoencoder_config_from, unet_config_from
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.leaves import leaves_of, on_meta
from backend.memory.matching_keys import check_keys
from backend.memory.part import Part
from backend.nn.autoencoder import Autoencoder
from backend.nn.clip_text import ClipText
from backend.nn.t5 import T5Encoder
from backend.text.encoder_config import clip_config_from, t5_config_from
from backend.text.encoder_layouts import T5, encoders_in
from backend.weights.safetensors_header import DTYPES
from backend.weights.scaled_fp8 import with_scaled_fp8
from backend.weights.source import InMemory, PlainStorage, TensorSpec
from tests.published_headers import EXCERPTS, FOLDER, HEADERS

FILES = {path.name.removesuffix(".json.gz"): path for path in sorted(FOLDER.glob("*.json.gz"))}

FAMILIES = {
    "sd1": (
        "sd15", "sd15-inpainting", "instruct-pix2pix", "sd15-unet-ldm", "bk-sdm-base-unet", "bk-sdm-small-unet",
        "bk-sdm-tiny-unet", "lcm-dreamshaper-unet",
    ),
    "sd2": ("sd20-base", "sd21-768", "sd2-inpainting"),
    "sdxl": (
        "sdxl-base", "sdxl-inpainting", "sdxl-instruct-pix2pix", "playground-v25", "cosxl", "noobai-vpred",
        "sdxl-lightning-4step", "ssd-1b", "segmind-vega-unet", "koala-700m-unet",
    ),
    "sdxl-refiner": ("sdxl-refiner",),
    "sd3": ("sd3-medium", "sd3-medium-with-encoders", "sd35-medium", "sd35-large"),
    "flux": ("flux-dev", "flux-schnell", "flux-fill", "flux-dev-scaled-fp8"),
    "pixart": ("pixart-alpha-1024", "pixart-sigma-1024", "pixart-sigma-diffusers"),
}  # fmt: skip
KINDS = {
    "vae": ("vae-ft-mse", "sdxl-vae-diffusers", "flux-vae"),
    "text-encoder": ("clip-l", "clip-g", "t5-xxl"),
    "clip-vision": ("clip-vision",),
    "lora": ("lora-sd15",),
    "controlnet": ("controlnet-ldm", "controlnet-diffusers", "flux-controlnet"),
    "ip-adapter": ("ip-adapter",),
    "t2i-adapter": ("t2i-adapter",),
    "embedding": ("embedding-sd1", "embedding-sdxl"),
    "upscaler": ("esrgan",),
    "upscaler-old": ("esrgan-old",),
    "sd2-depth": ("sd2-depth",),
    "sd2-unclip": ("sd21-unclip-h",),
    "sd-x4-upscaler": ("sd-x4-upscaler",),
    "kolors": ("kolors-unet",),
    "hunyuan-dit": ("hunyuan-dit", "hunyuan-dit-original"),
    "aura-flow": ("aura-flow", "aura-flow-original"),
    "lumina": ("lumina2", "lumina2-original", "z-image-original"),
    "wan": ("wan", "wan-original"),
    "hunyuan-video": ("hunyuan-video", "hunyuan-video-original"),
    "ltx-video": ("ltx-video", "ltx-video-original"),
    "qwen-image": ("qwen-image",),
    "sana": ("sana",),
    "chroma": ("chroma-original",),
    "flux2": ("flux2-original",),
    "dit": ("dit", "dit-original"),
    "svd": ("svd", "svd-original"),
    "animatediff": ("animatediff-motion",),
    "stable-cascade": ("stable-cascade-original",),
    "kandinsky": ("kandinsky3",),
    "sd3-diffusers": ("sd3-diffusers",),
    "flux-diffusers": ("flux-diffusers",),
    "language-model": ("llama-text-encoder",),
    "video-vae": ("video-vae",),
    "taesd": ("taesd",),
    "other-video": ("cogvideox",),
    "diffusers-unet": ("unet-without-text",),
    "diffusers-transformer": ("other-mmdit",),
}
UNKNOWN = ("inception",)
VALUES = {"edm_vpred.sigma_min": 0.002, "edm_vpred.sigma_max": 120.0}


class HeaderOnly(PlainStorage):
    """A source without data: only tensors of a few numbers can be read, and are `VALUES` or ones."""

    def __init__(self, name: str, *, without: str = "") -> None:
        content = json.loads(gzip.decompress(FILES[name].read_bytes()))
        self._tensors = {key: value for key, value in content["tensors"].items() if not without or without not in key}
        self.metadata: dict[str, str] = content["metadata"]
        self.origin = Path(f"{name}.safetensors")

    def keys(self) -> Sequence[str]:
        return tuple(self._tensors)

    def spec(self, key: str) -> TensorSpec:
        dtype, shape = self._tensors[key]
        return TensorSpec(tuple(shape), DTYPES[dtype])

    def read(self, key: str) -> Tensor:
        spec = self.spec(key)
        assert spec.num_elements < 2000, f"{key} was read to recognise a file"
        return torch.full(spec.shape, VALUES.get(key, 1.0)).to(spec.dtype)

    def read_into(self, key: str, out: Tensor) -> None:
        out.copy_(self.read(key))

    def identity(self, key: str) -> str:
        return f"{self.origin}:{key}"


class OnMeta:
    """A residency that builds networks without memory and compares all names and shapes with those of the file."""

    def __init__(self) -> None:
        self.built: list[nn.Module] = []

    def get(self, part: Part, working_bytes: int = 0) -> nn.Module:
        module = on_meta(part)
        leaves_of(module, part)
        self.built.append(module)
        return module


def machine(residency: OnMeta) -> Machine:
    device = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=True, has_float16=False)
    full = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)
    return Machine(device=device, policy=full, residency=residency)  # pyright: ignore[reportArgumentType]


def family_of(name: str) -> Family | None:
    return identify(HeaderOnly(name), BUILTIN)


def rows(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(kind, name) for kind, names in table.items() for name in names]


def test_there_is_a_row_for_every_header_and_a_header_for_every_row() -> None:
    named = [name for _, name in rows(FAMILIES | KINDS)] + list(UNKNOWN)
    assert sorted(named) == sorted(FILES) == sorted(HEADERS)
    assert {family.name for family in BUILTIN if family.load} == set(FAMILIES)
    assert {family.name for family in BUILTIN if not family.load} == set(KINDS)


@pytest.mark.parametrize(("family", "name"), rows(FAMILIES | KINDS), ids=lambda value: value)
def test_files_are_recognised_by_their_headers(family: str, name: str) -> None:
    found = recognised(HeaderOnly(name), BUILTIN)
    assert found.name == family
    assert (found.load is not None) == (family in FAMILIES)


@pytest.mark.parametrize(("family", "name"), rows(FAMILIES), ids=lambda value: value)
def test_no_file_is_two_families(family: str, name: str) -> None:
    assert [f.name for f in BUILTIN if f.load and f.recognise(HeaderOnly(name))] == [family]


@pytest.mark.parametrize(("kind", "name"), rows(KINDS), ids=lambda value: value)
def test_no_family_that_runs_takes_another_kind(kind: str, name: str) -> None:
    assert [f.name for f in BUILTIN if f.load and f.recognise(HeaderOnly(name))] == []


@pytest.mark.parametrize("name", [name for _, name in rows(FAMILIES)])
def test_networks_have_exactly_the_weights_of_the_file(name: str) -> None:
    source = with_scaled_fp8(HeaderOnly(name))
    family = recognised(source, BUILTIN)
    assert family.describe is not None
    assert family.load is not None
    description = family.describe(source)
    assert description.defaults.reason
    assert set(description.embedded) <= set(description.text_encoders)
    files = ModelFiles(
        checkpoint=source,
        vae=None if description.has_vae else HeaderOnly(autoencoder_for(description.latent_channels)),
        text_encoders=separate_encoders(sorted({*description.text_encoders} - {*description.embedded})),
    )
    residency = OnMeta()
    family.load(files, machine(residency)).network([999.0])
    assert len(residency.built) == 1


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("sd15-inpainting", PictureUse.INPAINTING),
        ("sd2-inpainting", PictureUse.INPAINTING),
        ("sdxl-inpainting", PictureUse.INPAINTING),
        ("flux-fill", PictureUse.INPAINTING),
        ("instruct-pix2pix", PictureUse.EDITING),
        ("sdxl-instruct-pix2pix", PictureUse.EDITING),
        ("sd15", PictureUse.NONE),
        ("flux-dev", PictureUse.NONE),
    ],
)
def test_a_header_says_what_a_network_does_with_a_picture(name: str, use: PictureUse) -> None:
    source = HeaderOnly(name)
    family = recognised(source, BUILTIN)
    assert family.describe is not None
    assert family.describe(source).picture_use is use


def autoencoder_for(latent_channels: int) -> str:
    return {4: "vae-ft-mse", 16: "flux-vae"}[latent_channels]


def separate_encoders(kinds: Sequence[str]) -> dict[str, HeaderOnly]:
    names = {"clip_l": "clip-l", "clip_g": "clip-g", "t5": "t5-xxl"}
    return {kind: HeaderOnly(names[kind]) for kind in kinds}


WITH_AUTOENCODER = [name for _, name in rows(FAMILIES | {"vae": KINDS["vae"]}) if autoencoder_in(HeaderOnly(name))]
WITH_ENCODERS = {
    "sd15": {"clip_l"},
    "sd21-768": {"clip_h"},
    "sdxl-base": {"clip_l", "clip_g"},
    "sdxl-refiner": {"clip_g"},
    "sd35-medium": {"clip_l", "clip_g"},
    "sd3-medium-with-encoders": {"clip_l", "clip_g", "t5"},
    "clip-l": {"clip_l"},
    "clip-g": {"clip_g"},
    "t5-xxl": {"t5"},
}


@pytest.mark.parametrize("name", WITH_AUTOENCODER)
def test_autoencoders_have_exactly_the_weights_of_the_file(name: str) -> None:
    source = autoencoder_in(HeaderOnly(name))
    assert source is not None
    with torch.device("meta"):
        network = Autoencoder(autoencoder_config_from(source, norm_groups=32))
    check_keys({key: value.shape for key, value in network.state_dict().items()}, source, "autoencoder")
    assert network.config.downscale == 8


@pytest.mark.parametrize(("name", "kinds"), WITH_ENCODERS.items(), ids=list(WITH_ENCODERS))
def test_text_encoders_have_exactly_the_weights_of_the_file(name: str, kinds: set[str]) -> None:
    encoders = encoders_in(HeaderOnly(name))
    assert set(encoders) == kinds
    for kind, source in encoders.items():
        with torch.device("meta"):
            network = T5Encoder(t5_config_from(source)) if kind == T5 else ClipText(clip_config_from(source, kind))
        check_keys({key: value.shape for key, value in network.state_dict().items()}, source, kind)


def unet_facts(name: str) -> tuple[object, ...]:
    config = unet_config_from(unet_in(HeaderOnly(name)), num_heads=8, head_dim=None, norm_groups=32)
    return (config.num_res_blocks, config.input_depths or config.transformer_depth, config.output_depths,
            config.middle_res_blocks, config.middle_depth)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("sdxl-base", (2, (0, 2, 10), None, 2, 10)),
        ("sdxl-refiner", (2, (0, 4, 4, 0), None, 2, 4)),
        ("ssd-1b", (2, (0, 0, 2, 2, 4, 4), (4, 4, 10, 2, 1, 1, 0, 0, 0), 1, 0)),
        ("segmind-vega-unet", (2, (0, 1, 2), None, 1, 0)),
        ("koala-700m-unet", (1, (0, 2, 5), None, 0, 0)),
        ("bk-sdm-base-unet", (1, (1, 1, 1, 0), None, 2, 1)),
        ("bk-sdm-small-unet", (1, (1, 1, 1, 0), None, 0, 0)),
        ("bk-sdm-tiny-unet", (1, (1, 1, 1), None, 0, 0)),
    ],
)
def test_the_blocks_of_published_u_nets_are_read_off_their_names(name: str, facts: tuple[object, ...]) -> None:
    assert unet_facts(name) == facts


def parameters(name: str, part: str) -> int:
    source = HeaderOnly(name)
    return sum(source.spec(key).num_elements for key in source.keys() if key.startswith(part))


@pytest.mark.parametrize(
    ("name", "part", "published"),
    [
        ("sd15", "model.diffusion_model.", 859_520_964),
        ("sd21-768", "model.diffusion_model.", 865_910_724),
        ("sdxl-base", "model.diffusion_model.", 2_567_463_684),
        ("sdxl-refiner", "model.diffusion_model.", 2_259_526_660),
        ("sd15", "first_stage_model.", 83_653_863),
        ("flux-dev", "", 11_901_408_320),
        ("t5-xxl", "", 4_762_310_656),
    ],
)
def test_headers_have_the_published_number_of_parameters(name: str, part: str, published: int) -> None:
    assert parameters(name, part) == published


@pytest.mark.parametrize("name", [*EXCERPTS, "sd15", "sdxl-base", "sd35-medium", "flux-dev", "pixart-alpha-1024"])
def test_headers_are_those_that_the_script_writes(name: str) -> None:
    assert json.loads(gzip.decompress(FILES[name].read_bytes())) == json.loads(
        gzip.decompress(HEADERS[name]().encoded())
    )


# What a user is told


@pytest.mark.parametrize("family", [family for family in BUILTIN if not family.load], ids=lambda family: family.name)
def test_advice_says_what_to_do(family: Family) -> None:
    assert family.advice.endswith(".")
    assert any(word in family.advice for word in ("Use ", "use ", "choose ", "Move ", "Keep ", "Emulsion"))


def test_a_file_of_no_known_kind_is_described() -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r'holds 2 tensors.*"Conv2d_1a_3x3\.conv" \(1\).*single-file'):
        recognised(HeaderOnly("inception"), BUILTIN)
    with pytest.raises(UnsupportedCheckpoint, match="no tensors"):
        recognised(InMemory({}), BUILTIN)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("sd15", "sd3-medium"), "a U-Net.*and also an MMDiT"),
        (("flux-dev", "pixart-alpha-1024"), "a FLUX.*and also a PixArt"),
        (("sd15", "sdxl-base"), "text encoder of SD 1.x and also the text encoders of SDXL"),
    ],
)
def test_a_mixture_of_two_models_is_refused_by_both_names(names: tuple[str, str], said: str) -> None:
    tensors = {key: torch.empty(source.spec(key).shape, dtype=source.spec(key).dtype, device="meta")
               for source in map(HeaderOnly, names) for key in source.keys()}  # fmt: skip
    with pytest.raises(UnsupportedCheckpoint, match=said):
        recognised(InMemory(tensors), BUILTIN)


@pytest.mark.parametrize("name", ["sd15", "sd21-768", "sdxl-base", "sdxl-refiner"])
@pytest.mark.parametrize(("lost", "said"), [("first_stage_model.", "models/vae"), ("cond", "models/text_encoders")])
def test_a_part_that_is_missing_is_named_with_the_folder_it_goes_to(name: str, lost: str, said: str) -> None:
    source = HeaderOnly(name, without=lost)
    family = recognised(source, BUILTIN)
    assert family.load is not None
    with pytest.raises(EmulsionError, match=said):
        family.load(ModelFiles(checkpoint=source), machine(OnMeta()))
