"""What jobs are asked to do, and its form in the journal and in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from backend.engine.lora_request import LoraExtraction, LoraMerge, LoraResize, LoraToolRequest
from backend.engine.merge_request import MergeRequest
from backend.engine.upscale_request import UpscaleRequest
from backend.errors import RequestError
from backend.request import GenerationRequest

JobRequest: TypeAlias = GenerationRequest | MergeRequest | LoraToolRequest | UpscaleRequest
_OTHER_KINDS = {kind.kind: kind for kind in (MergeRequest, LoraMerge, LoraExtraction, LoraResize, UpscaleRequest)}
_GENERATION = "generation"


def kind_of(request: JobRequest) -> str:
    return _GENERATION if isinstance(request, GenerationRequest) else request.kind


def job_request_mapping(request: JobRequest) -> dict[str, Any]:
    """JSON values; `job_request_from` gives the same request back."""
    values = request.to_mapping()
    return values if isinstance(request, GenerationRequest) else {"kind": request.kind, **values}


def job_request_from(values: Mapping[str, Any]) -> JobRequest:
    """Raises RequestError."""
    kind = values.get("kind", _GENERATION)
    rest = {name: value for name, value in values.items() if name != "kind"}
    if kind == _GENERATION:
        return GenerationRequest.from_mapping(rest)
    if kind not in _OTHER_KINDS:
        raise RequestError("kind", f"must be one of {_GENERATION}, {', '.join(_OTHER_KINDS)}, not {kind!r:.60}")
    return _OTHER_KINDS[kind].from_mapping(rest)
