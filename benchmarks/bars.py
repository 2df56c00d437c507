"""How every benchmark tells its figures: a table for people, one JSON line a bar for programs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import ZipFile

from rich.console import Console
from rich.table import Table

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure against its goal, or a figure that is only told, with neither.

    peer: what it was measured side by side with, where there is one.
    """

    bar: str
    figure: float
    goal: float | None
    met: bool | None
    unit: str = ""
    peer: str | None = None


def at_least(bar: str, figure: float, goal: float, *, unit: str = "", peer: str | None = None) -> Bar:
    """Return a bar that is met from its goal upwards."""
    return Bar(bar, float(figure), float(goal), bool(figure >= goal), unit, peer)


def told(bar: str, figure: float, *, unit: str = "", peer: str | None = None) -> Bar:
    """Return a figure without a goal, which puts the others in proportion."""
    return Bar(bar, float(figure), None, None, unit, peer)


def at_most(bar: str, figure: float, goal: float, *, unit: str = "", peer: str | None = None) -> Bar:
    """Return a bar that is met up to its goal."""
    return Bar(bar, float(figure), float(goal), bool(figure <= goal), unit, peer)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the parser that every benchmark starts from: ``--json``, ``--quick`` and ``--data``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON line a bar instead of a table")
    parser.add_argument("--quick", action="store_true", help="less data, at most a minute")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the development data sets")
    return parser


def show(title: str, bars: list[Bar], *, as_json: bool) -> int:
    """Print the bars; return the exit code: 1 if one misses its goal, else 0."""
    if as_json:
        for bar in bars:
            print(json.dumps(asdict(bar)))
    else:
        table = Table(title=title)
        for column in ("bar", "figure", "goal", "met", "peer"):
            table.add_column(column, justify="right" if column in ("figure", "goal") else "left")
        for bar in bars:
            unit = f" {bar.unit}" if bar.unit else ""
            table.add_row(
                bar.bar,
                f"{bar.figure:,.4g}{unit}",
                "" if bar.goal is None else f"{bar.goal:,.4g}",
                {True: "yes", False: "NO", None: ""}[bar.met],
                bar.peer or "",
            )
        Console(width=140).print(table)
    return 1 if any(bar.met is False for bar in bars) else 0


def unpack(archive: Path, folder: Path, *, per_class: int | None = None) -> Path:
    """Extract the first ``per_class`` ``<class>/<name>`` members of each class into a folder; return it."""
    seen: dict[str, int] = {}
    with ZipFile(archive) as source:
        for name in sorted(source.namelist()):
            group = name.partition("/")[0]
            seen[group] = seen.get(group, 0) + 1
            if per_class is None or seen[group] <= per_class:
                source.extract(name, folder)
    return folder
