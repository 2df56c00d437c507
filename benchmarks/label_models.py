"""The label models, measured: how often they are right, how sure they should be, how fast they are, beside others'.

python -m benchmarks.label_models [--json] [--quick] [--only PART …] [--markdown]

``--markdown`` prints the table of all tasks as it stands in the documentation, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks import lf_analysis
from benchmarks.bars import Bar, arguments, show
from benchmarks.label_calibration import N_DRAWS, calibration_bars
from benchmarks.label_speed import speed_bars
from benchmarks.label_suite import (
    SLOW_TASKS,
    Row,
    markdown,
    out_of_class_bars,
    scores_bars,
    suite,
    suite_bars,
    table,
    told_rows,
    youtube_bars,
)
from benchmarks.label_tasks import GENERATED, N_SEEDS, REAL, Source

WIDTH = 170


def rows_of(options: argparse.Namespace) -> list[Row]:
    """Measure every task; with ``--quick`` one draw of each, without those on which the peers are slow."""
    source = Source(options.data, options.cache)
    if not options.quick:
        return list(suite(source, n_seeds=N_SEEDS))
    quick = [name for name in (*REAL, *GENERATED) if name not in SLOW_TASKS]
    return list(suite(source, only=quick, n_seeds=1))


def _youtube(options: argparse.Namespace) -> list[Bar]:
    return youtube_bars(Source(options.data, options.cache))


def _suite(options: argparse.Namespace) -> list[Bar]:
    rows = rows_of(options)
    if not options.json:
        Console(width=WIDTH).print(table(rows))
    return [*(told_rows(rows) if options.json else []), *suite_bars(rows)]


def _scores(options: argparse.Namespace) -> list[Bar]:
    source = Source(options.data, options.cache)
    return scores_bars(source) + out_of_class_bars(source)


def _calibration(options: argparse.Namespace) -> list[Bar]:
    return calibration_bars(Source(options.data, options.cache), n_draws=2 if options.quick else N_DRAWS)


def _speed(options: argparse.Namespace) -> list[Bar]:
    return speed_bars(quick=options.quick)


def _analysis(options: argparse.Namespace) -> list[Bar]:
    # In a process of its own, since peak memory is one of its bars.
    command = [sys.executable, "-m", lf_analysis.__name__, "--json", *(["--quick"] if options.quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[1])
    return [Bar(**json.loads(line)) for line in done.stdout.splitlines()]


PARTS: dict[str, Callable[[argparse.Namespace], list[Bar]]] = {
    "youtube": _youtube,
    "suite": _suite,
    "scores": _scores,
    "calibration": _calibration,
    "speed": _speed,
    "analysis": _analysis,
}


def main() -> int:
    """Measure and print part by part; return the exit code."""
    parser = arguments("The label models beside others': tasks, scores, calibration, speed.")
    parser.add_argument("--cache", type=Path, help="folder of computed votes (default: in the manyeyes home)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    parser.add_argument(
        "--markdown", action="store_true", help="the table of all tasks, for the documentation"
    )
    options = parser.parse_args()
    if options.markdown:
        print(markdown(rows_of(options)))
        return 0
    return max(
        show(f"Label models: {part}", PARTS[part](options), as_json=options.json) for part in options.only
    )


if __name__ == "__main__":
    raise SystemExit(main())
