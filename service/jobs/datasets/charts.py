"""Pictures of the data card: a few bars in SVG, written by hand so that the same figures give the same bytes.

They hold no script, no font and no address. Each has a title and says in words what it shows, for those who cannot see.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 720
INK: Final = "#24292f"
FAINT: Final = "#57606a"
GRID: Final = "#d0d7de"
COLORS: Final = ("#2f6fbb", "#b9c3ce", "#d9822b")
"""Of the first, second and third thing that a chart shows: apart in lightness, too, for those who see few colours."""

_ROW: Final = 26
_NAMES: Final = 190
_MAX_NAME: Final = 27
_NOT_IN_XML: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def bars(
    title: str,
    rows: Sequence[tuple[str, Sequence[int]]],
    *,
    total: int,
    series: Sequence[str] = ("rows",),
) -> str:
    """Return horizontal bars, one a row of ``(name, counts)``.

    Counts of a row are parts of one bar, side by side; written beside it are their sum and its share of ``total``.
    """
    top = 52 if len(series) == 1 else 76
    height = top + _ROW * len(rows) + 16
    most = max([sum(counts) for _, counts in rows], default=0) or 1
    room = WIDTH - _NAMES - 150
    body = [_legend(series)] if len(series) > 1 else []
    for i, (name, counts) in enumerate(rows):
        y, x = top + _ROW * i, float(_NAMES)
        body.append(_text(_NAMES - 10, y + 15, _short(name), anchor="end"))
        for color, count in zip(COLORS, counts, strict=False):
            width = room * count / most
            body.append(_rect(x, y + 3, width, _ROW - 8, color))
            x += width
        whole = sum(counts)
        share = f"{whole / total:.1%}" if total else "–"
        body.append(_text(x + 8, y + 15, f"{whole:,} · {share}", fill=FAINT))
    described = "; ".join(
        f"{name}: " + ", ".join(f"{count:,} {what}" for what, count in zip(series, counts, strict=True))
        for name, counts in rows
    )
    return _svg(title, described, height, body)


def histogram(title: str, bins: Sequence[Sequence[int]], *, series: Sequence[str]) -> str:
    """Return columns over [0, 1], as wide each as there are bins; bins: for each of the series, its counts."""
    top, floor, left = 76, 276, 64
    room = WIDTH - left - 24
    sums = [sum(counts) for counts in zip(*bins, strict=True)]
    most = max(sums, default=0) or 1
    width = room / len(sums)
    body = [_legend(series)]
    for part in (0.0, 0.5, 1.0):
        y = floor - (floor - top) * part
        body.append(
            f'<line x1="{left}" x2="{WIDTH - 24}" y1="{y:.2f}" y2="{y:.2f}" stroke="{GRID}" stroke-width="1"/>'
        )
        if part == 0 or most * part == int(most * part):
            body.append(_text(left - 8, y + 4, f"{int(most * part):,}", anchor="end", fill=FAINT))
    for i in range(len(sums)):
        y = float(floor)
        for color, counts in zip(COLORS, bins, strict=False):
            height = (floor - top) * counts[i] / most
            y -= height
            body.append(_rect(left + i * width + 1, y, width - 2, height, color))
    body += [
        _text(left + room * tick / 5, floor + 18, f"{tick / 5:g}", anchor="middle", fill=FAINT)
        for tick in range(6)
    ]
    body.append(_text(left + room / 2, floor + 38, "confidence", anchor="middle", fill=FAINT))
    described = "; ".join(
        f"{what}: "
        + ", ".join(f"{count:,} from {i / len(counts):g}" for i, count in enumerate(counts) if count)
        for what, counts in zip(series, bins, strict=True)
    )
    return _svg(title, described, floor + 54, body)


def _svg(title: str, described: str, height: int, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13">\n'
        f"<title>{_clean(title)}</title>\n<desc>{_clean(described)}</desc>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        + _text(16, 28, title, size=16, weight=600)
        + "\n"
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _legend(series: Sequence[str]) -> str:
    parts, x = [], 16
    for color, name in zip(COLORS, series, strict=False):
        parts.append(_rect(x, 44, 12, 12, color) + _text(x + 18, 55, name, fill=FAINT))
        x += 34 + 8 * len(name)
    return "".join(parts)


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{fill}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    size: int = 13,
    weight: int = 400,
) -> str:
    plain = "" if (size, weight) == (13, 400) else f' font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" fill="{fill}"{plain}>{_clean(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1].rstrip() + "…"


def _clean(text: str) -> str:
    return escape(_NOT_IN_XML.sub(" ", text))
