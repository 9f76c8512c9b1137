"""What the user is told about LoRAs for few steps."""

import re

import pytest

from backend.adapters.aliases import specs_of
from backend.adapters.few_steps import hint_of
from backend.engine.catalog import Catalog
from tests.tiny_adapters import adapter, sd1_lora, sd1_source

NAMES = {
    "lcm-lora-sdv1-5.safetensors": ("an LCM LoRA", "4 to 8 steps"),
    "LCM_LoRA_Weights_SD15.safetensors": ("an LCM LoRA", "4 to 8 steps"),
    "sdxl_lightning_8step_lora.safetensors": ("SDXL-Lightning", "use 8 steps"),
    "Hyper-SDXL-4steps-lora.safetensors": ("Hyper-SD", "use 4 steps"),
    "Hyper-SD15-8steps-CFG-lora.safetensors": ("keeps guidance", "use 8 steps"),
    "Hyper-FLUX.1-dev-16steps-lora.safetensors": ("Hyper-SD for FLUX", "use 16 steps"),
    "FLUX.1-Turbo-Alpha.safetensors": ("Turbo for FLUX", "use 8 steps"),
    "sd_xl_turbo_lora_v1.safetensors": ("a Turbo LoRA", "1 to 4 steps"),
    "dmd2_sdxl_4step_lora.safetensors": ("a DMD2 LoRA", "use 4 steps"),
    "TCD-SD15-LoRA.safetensors": ("a TCD LoRA", "4 to 8 steps"),
}


@pytest.mark.parametrize("name", NAMES)
def test_published_names_are_known(name: str):
    hint = hint_of(name, {})
    for part in NAMES[name]:
        assert part in hint


@pytest.mark.parametrize(
    "name", ["calcmath.safetensors", "turbocharged_cars.safetensors", "cat.safetensors", "alcmene.safetensors"]
)
def test_other_names_say_nothing(name: str):
    assert hint_of(name, {}) == ""


def test_a_renamed_file_is_known_by_its_title():
    assert "LCM" in hint_of("fast.safetensors", {"modelspec.title": "lcm-lora-sdxl"})
    assert "DMD2" in hint_of("fast.safetensors", {"ss_output_name": "dmd2_sdxl_4step_lora"})


def test_what_is_named_can_be_picked():
    catalog = Catalog.builtin()
    known = {*catalog.samplers.names(), *catalog.schedules.names()}
    named = {word for name in NAMES for word in re.findall(r"`(\w+)`", hint_of(name, {}))}
    assert len(named) > 5
    assert named <= known


def test_the_report_says_it():
    report = adapter(sd1_lora(), {"ss_output_name": "lcm-lora"}).report(specs_of(sd1_source()), "sd1")
    assert any("LCM LoRA" in notice for notice in report.notices())
