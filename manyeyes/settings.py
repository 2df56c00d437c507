"""What the operator sets, through the environment: where things are kept, and how much one item may cost.

Nothing here comes from a recipe or a request.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def home() -> Path:
    """Return the folder for the cache, the state and the recipes: ``$MANYEYES_HOME``, else ``~/.cache/manyeyes``."""
    configured = os.environ.get("MANYEYES_HOME")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "manyeyes"


def downloads_allowed() -> bool:
    """Return whether weights may be fetched from a model hub: only with ``MANYEYES_ALLOW_DOWNLOADS=1``."""
    return os.environ.get("MANYEYES_ALLOW_DOWNLOADS", "").strip().lower() in ("1", "true", "yes", "on")


def runtime() -> str:
    """Return what runs models where a recipe does not say: ``$MANYEYES_RUNTIME``, else ``torch``. Not checked here."""
    return os.environ.get("MANYEYES_RUNTIME", "").strip().lower() or "torch"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one item may cost. max_bytes: of an image file; max_pixels: before decoding; max_text: characters."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000
    max_text: int = 100_000
