"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations


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
