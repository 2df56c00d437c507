"""A contact sheet of a prompt: what matches best, what is borderline, what matches least, in one HTML file.

Opened from a disk: no server, no network, no script; pictures are small JPEGs inside the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from manyeyes.prompting import PromptView
from manyeyes.report import SUFFIXES, page_environment, shown_percent, thumbnail
from manyeyes.settings import Limits
from manyeyes.sinks import write_text
from manyeyes.types import Item

_THUMBNAIL_PX: Final = 224
_MAX_TEXT: Final = 240
_BINS: Final = 40


def write_sheet(
    path: str | os.PathLike[str],
    view: PromptView,
    *,
    items: Mapping[str, Item],
    limits: Limits | None = None,
) -> Path:
    """Write the contact sheet of a prompt; return its path.

    items: id → item, for those that may be shown with their picture or text; others are shown by their ids.
    Raises InvalidRequest if the suffix is not .html or .htm or the place cannot be written, MissingDependency without
    jinja2.
    """
    return write_text(path, render_sheet(view, items=items, limits=limits), suffixes=SUFFIXES)


def render_sheet(view: PromptView, *, items: Mapping[str, Item], limits: Limits | None = None) -> str:
    """Return the contact sheet of a prompt as HTML; arguments as for ``write_sheet``."""
    from manyeyes import __version__

    def cards(rows: Sequence[int]) -> list[dict[str, Any]]:
        return [_card(view, row, items.get(view.ids[row]), limits or Limits()) for row in rows]

    return (
        page_environment()
        .get_template("prompt.html")
        .render(
            view=view,
            parts=[
                ("Top", "what matches best", cards(view.top)),
                (
                    "Borderline",
                    f"what lies nearest to the threshold, {view.threshold:.2f}",
                    cards(view.borderline),
                ),
                ("Bottom", "what matches least", cards(view.bottom)),
            ],
            n_compared=int((~np.isnan(view.scores)).sum()),
            n_voted=int((view.scores >= view.threshold).sum()),
            percent=shown_percent,
            histogram=_histogram(view),
            program=__version__,
        )
    )


def _card(view: PromptView, row: int, item: Item | None, limits: Limits) -> dict[str, Any]:
    text = (item.text or "").strip() if item is not None else ""
    score = float(view.scores[row])
    return {
        "id": view.ids[row],
        "score": f"{score:.3f}",
        "width": round(100 * score, 1),
        "votes": score >= view.threshold,
        "thumbnail": None if item is None else thumbnail(item, limits=limits, size=_THUMBNAIL_PX),
        "text": text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT].rstrip() + " …",
    }


def _histogram(view: PromptView) -> list[dict[str, Any]]:
    """Return how many items have which score; heights in percent of the highest, by square roots."""
    counts, edges = np.histogram(view.scores[~np.isnan(view.scores)], bins=_BINS, range=(0.0, 1.0))
    heights = np.sqrt(counts / max(int(counts.max(initial=0)), 1))
    return [
        {
            "height": round(100 * float(height), 1),
            "votes": low >= view.threshold,
            "title": f"{low:.3f} to {high:.3f}: {count:,}",
        }
        for height, count, low, high in zip(heights, counts, edges[:-1], edges[1:], strict=True)
    ]
