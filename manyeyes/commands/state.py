"""What the command line remembers between calls: where it last wrote labels."""

from __future__ import annotations

import json
import os
from pathlib import Path

from manyeyes.errors import InvalidRequest
from manyeyes.settings import home
from manyeyes.sinks import write_text


def remember(labels: Path) -> None:
    """Remember a file of labels as the one that was written last."""
    write_text(_file(), json.dumps({"labels": os.path.abspath(labels)}) + "\n", suffixes=(".json",))


def last_labels() -> Path:
    """Return the file of labels that was written last.

    Raises InvalidRequest if none was, or it is gone.
    """
    try:
        path = Path(json.loads(_file().read_text(encoding="utf-8"))["labels"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidRequest(
            "no labels have been written on this machine yet; run manyeyes label first, or name a file with --labels"
        ) from None
    if not path.is_file():
        raise InvalidRequest(
            f"the labels that were written last, {path}, are gone; name a file with --labels"
        )
    return path


def _file() -> Path:
    return home() / "state" / "last.json"
