"""One HTML file that shows labels with their reasons: opened from a disk, sent by mail, no server and no network.

Pictures are shown as small JPEGs inside the file, so a report of a large run shows a sample, and says of how many.
"""

from __future__ import annotations

import base64
import colorsys
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from manyeyes.errors import ItemError, MissingDependency
from manyeyes.settings import Limits
from manyeyes.sinks import write_text
from manyeyes.types import Item, Label, Versions

if TYPE_CHECKING:
    import jinja2

SUFFIXES: Final = (".html", ".htm")
MAX_ITEMS: Final = 500
_THUMBNAIL_PX: Final = 384
_MAX_TEXT: Final = 400
_MAX_BARS: Final = 5
_MAX_ERRORS: Final = 200


@dataclass(frozen=True)
class Run:
    """What a report tells beside the labels.

    title, description, classes: of the recipe. versions: what made the labels. lf_heads, lfs: the table of the
    labeling functions as it is printed, one cell a string. notes: sentences for the foot of the page.
    """

    title: str
    classes: Sequence[str]
    versions: Versions
    description: str = ""
    lf_heads: Sequence[str] = ()
    lfs: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def write_report(
    path: str | os.PathLike[str],
    labels: Sequence[Label],
    *,
    run: Run,
    items: Mapping[str, Item],
    max_items: int = MAX_ITEMS,
    limits: Limits | None = None,
) -> Path:
    """Write the report of a run; return its path.

    labels: every row of the run, errors included. items: id → item, for those that may be shown with their picture or
    text; a row without one is shown by its id. max_items: how many rows get a card, spread evenly over the run.
    Raises InvalidRequest if the suffix is not .html or .htm or the place cannot be written, MissingDependency without
    jinja2.
    """
    return write_text(
        path, render(labels, run=run, items=items, max_items=max_items, limits=limits), suffixes=SUFFIXES
    )


def render(
    labels: Sequence[Label],
    *,
    run: Run,
    items: Mapping[str, Item],
    max_items: int = MAX_ITEMS,
    limits: Limits | None = None,
) -> str:
    """Return the report of a run as HTML; arguments as for ``write_report``."""
    from manyeyes import __version__

    environment = page_environment()
    hues = {name: _hue(i, len(run.classes)) for i, name in enumerate(run.classes)}
    counts, by_class, errors = _count(labels)
    most = max(by_class.values(), default=0)
    shown = [labels[i] for i in spread(len(labels), max_items)]
    return environment.get_template("report.html").render(
        title=run.title,
        description=run.description,
        counts={"total": len(labels)}
        | {status: counts[status] for status in ("labeled", "abstained", "error")},
        statuses=[status for status in ("labeled", "abstained", "error") if counts[status]],
        classes=[
            {
                "name": name,
                "hue": hues[name],
                "count": by_class[name],
                "width": _percent(by_class[name], most),
            }
            for name in run.classes
        ],
        cards=[_card(label, items.get(label.id), hues=hues, limits=limits or Limits()) for label in shown],
        lf_heads=run.lf_heads,
        lfs=run.lfs,
        errors=errors,
        versions=run.versions,
        notes=run.notes,
        program=__version__,
    )


def page_environment() -> jinja2.Environment:
    """Return what fills in the templates of pages and escapes what it puts in.

    Raises MissingDependency without jinja2.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependency("a report needs jinja2; run pip install 'manyeyes[serve]'") from error
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def spread(total: int, limit: int) -> list[int]:
    """Return at most ``limit`` row numbers spread evenly over ``total`` rows, in order.

    >>> spread(10, 4)
    [0, 2, 5, 7]
    >>> spread(3, 4)
    [0, 1, 2]
    """
    return list(range(total)) if total <= limit else [i * total // limit for i in range(limit)]


def thumbnail(item: Item, *, limits: Limits, size: int = _THUMBNAIL_PX) -> str | None:
    """Return an item's picture as the data URI of a JPEG with at most ``size`` pixels a side; None without one."""
    if item.image is None:
        return None
    from manyeyes.primitives.images import decode_image

    try:
        picture = decode_image(item.image, limits).pixels.copy()
    except ItemError:
        return None
    picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _card(label: Label, item: Item | None, *, hues: Mapping[str, str], limits: Limits) -> dict[str, Any]:
    text = (item.text or "").strip() if item is not None else ""
    short = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT].rstrip() + " …"
    ranked = sorted(label.probs.items(), key=lambda pair: -pair[1])
    shown = label.label or (ranked[0][0] if ranked else None)
    reasons = sorted(label.reasons, key=lambda reason: (reason.vote is None, -abs(reason.moved)))
    return {
        "id": label.id,
        "status": label.status,
        "label": label.label,
        "shown": shown,
        "hue": hues.get(shown, "") if shown is not None else "",
        "confidence": label.confidence,
        "percent": "" if label.confidence is None else shown_percent(label.confidence),
        "thumbnail": thumbnail(item, limits=limits) if item is not None and label.status != "error" else None,
        "alt": f"{label.id}, {label.label or label.status}",
        "text": short,
        "nothing": "cannot be shown" if label.status == "error" else "no picture kept for this report",
        "find": f"{label.id} {short}".lower(),
        "probs": [
            {"name": name, "hue": hues.get(name, ""), "width": round(100 * p, 1), "percent": shown_percent(p)}
            for name, p in ranked[:_MAX_BARS]
        ],
        "more": max(0, len(ranked) - _MAX_BARS),
        "n_lfs": len(reasons),
        "voted": sum(reason.vote is not None for reason in reasons),
        "silent": ", ".join(reason.lf for reason in reasons if reason.vote is None and not reason.moved),
        "reasons": [
            {
                "lf": reason.lf,
                "vote": reason.vote,
                "lent": "" if reason.lent is None else str(reason.lent),
                "at": "" if reason.at is None else f"strongest at {reason.at}",
                "score": "" if reason.score is None else f"{reason.score:.2f}",
                "moved": reason.moved,
                "moved_text": f"{reason.moved:+.2f}" if reason.moved else "0",
            }
            for reason in reasons
            if reason.vote is not None or reason.moved
        ],
        "by_default": label.by_default,
        "sum": told_sum(label),
        "error": None if label.error is None else {"code": label.error.code, "message": str(label.error)},
    }


def shown_percent(share: float) -> str:
    """Return a share in percent that is never rounded to certainty.

    >>> [shown_percent(share) for share in (0.0, 0.001, 0.5, 0.999, 1.0)]
    ['0%', '<1%', '50%', '>99%', '100%']
    """
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def told_sum(label: Label) -> str:
    """Return the sum behind a label in words: prior plus what was moved is the log-odds against the runner-up."""
    if label.prior is None or not label.probs:
        return ""
    top = max(label.probs, key=lambda name: label.probs[name])
    moved = sum(reason.moved for reason in label.reasons)
    return (
        f"prior {label.prior:+.2f} and moved {moved:+.2f} make {label.prior + moved:+.2f} nats of log-odds for"
        f" {top} against {label.runner_up}"
    )


def _count(labels: Iterable[Label]) -> tuple[Counter[str], Counter[str], list[dict[str, str]]]:
    counts: Counter[str] = Counter()
    by_class: Counter[str] = Counter()
    errors: list[dict[str, str]] = []
    for label in labels:
        counts[label.status] += 1
        if label.label is not None:
            by_class[label.label] += 1
        if label.error is not None and len(errors) < _MAX_ERRORS:
            errors.append({"id": label.id, "code": label.error.code, "message": str(label.error)})
    return counts, by_class, errors


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def _hue(index: int, total: int) -> str:
    """Return a colour for a class: hues evenly apart, of one lightness that reads on white and on black."""
    red, green, blue = colorsys.hls_to_rgb((0.58 + index / max(total, 1)) % 1, 0.52, 0.55)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
