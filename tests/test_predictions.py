"""What a network predicts, when its user knows it better than its file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from backend.commands.__main__ import main
from backend.diffusion.prediction import EpsPrediction
from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.settings import Settings
from backend.errors import RequestError
from backend.families import sd1, sd2, sdxl
from backend.families.file_facts import FileFacts, with_prediction
from backend.images.png_text import read_png_text
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.request import GenerationRequest, PredictionKind
from backend.weights.source import InMemory
from tests.test_unet_facts import SD1, SD2, SDXL, checkpoint, opened
from tests.tiny_checkpoint import write_tiny_checkpoint

EPS, V, V_ZERO_SNR = PredictionKind.EPS, PredictionKind.V, PredictionKind.V_ZERO_SNR
MARKED = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
SAYS_V = {"modelspec.prediction_type": "v"}


def small(metadata: Mapping[str, str] = {}, **tensors: Tensor) -> InMemory:
    return InMemory({"weight": torch.zeros(1), **tensors}, metadata=metadata, origin=Path("model.safetensors"))


def said_of(source: InMemory, prediction: PredictionKind | None) -> PredictionKind:
    facts = FileFacts(with_prediction(source, prediction))
    return facts.prediction(is_velocity=facts.is_velocity)


@pytest.mark.parametrize(
    ("metadata", "tensors", "said", "told"),
    [
        ({}, {}, None, EPS),
        ({}, {}, V, V),
        ({}, {}, V_ZERO_SNR, V_ZERO_SNR),
        (SAYS_V, {}, None, V),
        (SAYS_V, {}, EPS, EPS),
        ({}, MARKED, None, V_ZERO_SNR),
        ({}, MARKED, EPS, EPS),
        ({}, MARKED, V, V_ZERO_SNR),  # "v" leaves it to the file how its noise levels end
        ({"emulsion.prediction_type": "v", "emulsion.zero_terminal_snr": "true"}, {}, EPS, EPS),
    ],
)
def test_what_its_user_says_counts_more_than_the_file(
    metadata: Mapping[str, str], tensors: Mapping[str, Tensor], said: PredictionKind | None, told: PredictionKind
) -> None:
    assert said_of(small(metadata, **tensors), said) is told


def test_the_model_is_built_as_its_user_says() -> None:
    source = checkpoint(SDXL)
    plain = opened(source)
    assert isinstance(plain.prediction, EpsPrediction)
    told = with_prediction(source, V_ZERO_SNR)
    assert sdxl.recognise(told)
    assert told.keys() == source.keys()
    description = sdxl.describe(told)
    assert description.prediction is V_ZERO_SNR
    assert sd2.predicts_velocity(with_prediction(checkpoint(SD2), V))
    assert sd2.describe(with_prediction(checkpoint(SD2), V)).native_size == 768


def test_models_with_zero_terminal_snr_get_rescaled_guidance_and_even_steps() -> None:
    large = sdxl.describe(checkpoint(SDXL, v_pred=torch.zeros(0), ztsnr=torch.zeros(0))).defaults
    assert (large.sampler, large.schedule, large.steps, large.guidance_rescale) == ("euler", "sgm_uniform", 28, 0.7)
    assert "rescaled guidance" in large.reason
    second = sd2.describe(checkpoint(SD2, v_pred=torch.zeros(0), ztsnr=torch.zeros(0))).defaults
    assert (second.schedule, second.guidance_rescale) == ("sgm_uniform", 0.7)
    plain = sdxl.describe(checkpoint(SDXL)).defaults
    assert (plain.steps, plain.guidance_rescale) == (30, 0)


def test_sd1_with_zero_terminal_snr_is_not_rescaled_and_does_not_say_so() -> None:
    first = sd1.describe(checkpoint(SD1, v_pred=torch.zeros(0), ztsnr=torch.zeros(0))).defaults
    assert (first.schedule, first.guidance_rescale) == ("sgm_uniform", 0)
    assert "rescaled" not in first.reason


def test_edm_models_leave_no_choice() -> None:
    source = checkpoint(SDXL, edm_mean=torch.zeros(1, 4, 1, 1), edm_std=torch.ones(1, 4, 1, 1))
    assert sdxl.describe(source).prediction is None


def test_a_request_takes_the_kind_or_its_text_and_no_other() -> None:
    request = GenerationRequest.from_mapping({"prompt": "a cat", "prediction": "v"})
    assert request.prediction is V
    mapping = json.loads(json.dumps(request.to_mapping()))
    assert mapping["prediction"] == "v"
    assert GenerationRequest.from_mapping(mapping) == request
    for bad in ("x0", 1, ["v"]):
        with pytest.raises(RequestError, match="prediction: must be one of eps, v, v_zero_snr"):
            GenerationRequest.from_mapping({"prompt": "a cat", "prediction": bad})


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "tiny.safetensors")
    engine = Engine.open(Settings.for_root(tmp_path, force_cpu=True, memory_budget=2**30), persistent=False)
    yield engine
    engine.close()


def run(engine: Engine, **fields: object) -> JobView:
    request = GenerationRequest.from_mapping({"prompt": "a cat", "steps": 2, "seed": 5, **fields})
    return engine.wait(engine.submit(request), 120)


def test_a_chosen_prediction_makes_the_picture_and_is_kept_with_it(engine: Engine) -> None:
    plain, view = run(engine), run(engine, prediction="v_zero_snr", guidance_rescale=0.3)
    assert view.state is JobState.DONE
    assert isinstance(view.request, GenerationRequest)
    assert (view.request.prediction, view.request.sampler) == (V_ZERO_SNR, "euler")
    picture = Image.open(view.images[0].path).tobytes()
    assert picture != Image.open(plain.images[0].path).tobytes()
    assert "CFG Rescale: 0.3" in view.images[0].infotext
    assert "Prediction: v_zero_snr" in view.images[0].infotext
    assert "Prediction" not in plain.images[0].infotext
    exact = json.loads(read_png_text(view.images[0].path.read_bytes())["emulsion"])
    assert exact["request"]["prediction"] == exact["model"]["prediction"] == "v_zero_snr"
    again = run(engine, **exact["request"])
    assert Image.open(again.images[0].path).tobytes() == picture
    restored = request_from_infotext(read_infotext(view.images[0].infotext)).fields
    assert (restored["prediction"], restored["guidance_rescale"]) == (V_ZERO_SNR, 0.3)
    assert request_from_infotext(read_infotext(plain.images[0].infotext)).fields["guidance_rescale"] == 0
    assert Image.open(run(engine).images[0].path).tobytes() == Image.open(plain.images[0].path).tobytes()


def test_what_is_left_open_follows_the_prediction(engine: Engine) -> None:
    facts = engine.describe_checkpoint("tiny", V_ZERO_SNR)
    assert facts.defaults.schedule == "sgm_uniform"
    assert engine.describe_checkpoint("tiny").description.prediction is EPS
    plan = engine.plan(GenerationRequest(prompt="a cat", seed=1, prediction=V_ZERO_SNR))
    assert (plan.schedule.name, plan.guidance_rescale) == ("sgm_uniform", 0)


def test_info_tells_the_prediction(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    path = engine.library.find_checkpoint("tiny").path
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["description"]["prediction"] == "eps"
