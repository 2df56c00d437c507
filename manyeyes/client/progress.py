"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manyeyes.client.job_records import JobState


class Bar:
    """Shows how many items are labeled, of how many where that is known, and how many have errors."""

    def __init__(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("labeled"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[errors]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("labeled", total=total, errors="")
        self._started = False

    def advance(self, *, n_errors: int) -> None:
        """One more item has its label."""
        if not self._started:
            self._progress.start()
            self._started = True
        self._progress.update(self._task, advance=1, errors=f"{n_errors:,} errors" if n_errors else "")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


class JobBar:
    """Shows how many rows of a job are done, of how many, what it is at, and how many have errors."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[errors]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("validating", total=None, errors="", left="")
        self._progress.start()

    def show(self, state: JobState) -> None:
        """Show a job as it is now."""
        counts, progress = state.request_counts, state.progress
        left_s = None if progress is None or state.is_final else progress.eta_s
        self._progress.update(
            self._task,
            description=state.status.replace("_", " "),
            total=counts.total or None,
            completed=counts.completed + counts.failed,
            errors=f"{counts.failed:,} errors" if counts.failed else "",
            left=f"{left_s:,.0f} s left" if left_s else "",
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()
