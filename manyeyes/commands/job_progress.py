"""How far a job is, on the error output: a bar where there is a terminal, now and then a line where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from manyeyes.commands import screen

if TYPE_CHECKING:
    from manyeyes.service.jobs.shapes import Progress

Show: TypeAlias = "Callable[[Progress], None]"

LINE_EVERY_S: Final = 10.0
_PASSES: Final = {"votes": "seeing and voting", "labels": "labeling"}


@contextmanager
def shown() -> Iterator[Show]:
    """Give a function that shows how far a job is; a bar is gone when the block ends."""
    console = screen.err()
    if not console.is_terminal:
        yield _lines()
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),  # so that the figures fit into 80 columns
        TextColumn("{task.fields[told]}"),
        console=console,
        transient=True,
    )
    with bars:
        task = bars.add_task("", total=None, told="")

        def show(progress: Progress) -> None:
            done, total = rows_done(progress)
            bars.update(
                task, description=what(progress), completed=done, total=total or None, told=figures(progress)
            )

        yield show


def what(progress: Progress) -> str:
    """Return in words what a job is doing."""
    if progress.status in ("in_progress", "finalizing"):
        return _PASSES[progress.pass_]
    if progress.status == "validating":
        return progress.message or "validating"
    return progress.status


def rows_done(progress: Progress) -> tuple[int, int]:
    """Return how many rows of the pass are done, and of how many."""
    if not progress.shards:
        return 0, 0
    return progress.n_rows * progress.shards_done // progress.shards, progress.n_rows


def figures(progress: Progress) -> str:
    """Return how far a job is in figures, as ``4,096 of 60,000 rows, 12 failed, 310 rows/s, 0:03:00 left``."""
    done, total = rows_done(progress)
    if not total:
        return f"{progress.n_rows:,} rows" if progress.n_rows else ""
    told = [f"{done:,} of {total:,} rows"]
    if progress.counts.failed:
        told.append(f"{progress.counts.failed:,} failed")
    if progress.rows_per_s:
        told.append(f"{progress.rows_per_s:,.0f} rows/s")
    if progress.eta_s is not None:
        told.append(f"{timedelta(seconds=round(progress.eta_s))} left")
    return ", ".join(told)


def _lines() -> Show:
    said: tuple[str, float] = ("", 0.0)

    def show(progress: Progress) -> None:
        nonlocal said
        doing, now = what(progress), time.monotonic()
        if doing == said[0] and now - said[1] < LINE_EVERY_S:
            return
        said = (doing, now)
        screen.say(": ".join(part for part in (doing, figures(progress)) if part))

    return show
