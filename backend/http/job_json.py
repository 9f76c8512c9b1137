"""A job as JSON: see docs/http-api.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from backend.engine.job import JobView, SavedImage
from backend.engine.job_request import kind_of


def job_json(job: JobView, output_dir: Path) -> dict[str, Any]:
    """The job with addresses for its pictures and its preview; pictures that are no longer there are left out."""
    preview = f"api/v1/jobs/{job.id}/preview.jpg?v={job.preview_version}" if job.preview_version else None
    return {
        "id": job.id,
        "state": job.state.value,
        "stage": job.stage,
        "step": job.step,
        "steps": job.steps,
        "seconds_per_step": job.seconds_per_step,
        "eta_seconds": job.eta_seconds,
        "preview": None if job.state.is_final else preview,
        "preview_version": job.preview_version,
        "images": [
            _image_json(image, output_dir)
            for image in job.images
            if image.path.is_relative_to(output_dir) and image.path.exists()
        ],
        "notices": list(job.notices),
        "adapters": [dict(adapter) for adapter in job.adapters],
        "error": job.error,
        "error_kind": job.error_kind,
        "seconds": job.seconds,
        "done_bytes": job.done_bytes,
        "all_bytes": job.all_bytes,
        "kind": kind_of(job.request),
        "request": job.request.to_mapping(),
    }


def _image_json(image: SavedImage, output_dir: Path) -> dict[str, Any]:
    path = quote(image.path.relative_to(output_dir).as_posix())
    before = image.before_hires
    return {
        "url": f"outputs/{path}",
        "thumbnail": f"outputs/thumb/{path}",
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
        "infotext": image.infotext,
        "before_hires": f"outputs/{quote(before.relative_to(output_dir).as_posix())}"
        if before is not None and before.exists()
        else None,
    }
