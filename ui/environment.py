"""What Gradio reads from the environment, settled before it is imported."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from backend.engine.settings import Settings

logger = logging.getLogger(__name__)

# Gradio listens to these, too; none of them may open the page to others or send anything away.
_REFUSED = (
    "GRADIO_ALLOWED_PATHS",
    "GRADIO_MCP_SERVER",
    "GRADIO_NODE_SERVER_NAME",
    "GRADIO_ROOT_PATH",
    "GRADIO_SHARE",
    "GRADIO_SHARE_SERVER_ADDRESS",
    "GRADIO_SSR_MODE",
    "GRADIO_VIBE_MODE",
    "GRADIO_WATCH_DIRS",
)


def prepare_environment(settings: Settings) -> None:
    """Quiet Gradio and give it an empty folder for its temporary files. Call it before anything imports `gradio`."""
    for name in _REFUSED:
        os.environ.pop(name, None)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(_swept(settings.data_dir / "gradio-temp"))


def _swept(folder: Path) -> Path:
    """`folder`, there and empty: what an earlier run left in it can no longer be asked for."""
    try:
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        logger.warning("%s cannot be emptied (%s); delete it while Emulsion is not running.", folder, error.strerror)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
