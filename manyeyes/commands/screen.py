"""What the terminal shows: results go to the standard output, everything said beside them to the error output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from manyeyes.errors import ManyeyesError

# A pipe has no width: without one, tables would be cut to 80 columns in a file.
_PIPE_WIDTH = 120


def out() -> Console:
    """Return the console of results."""
    return _console(stderr=False)


def err() -> Console:
    """Return the console of progress, remarks and errors."""
    return _console(stderr=True)


def say(message: str) -> None:
    """Say one sentence beside the results."""
    err().print(Text(message))


def show_error(error: ManyeyesError) -> None:
    """Show an error as one paragraph: its code, then what was wrong and what to do."""
    err().print(
        Text.assemble(("error ", "bold red"), (f"[{error.code}] ", "red"), str(error)), soft_wrap=True
    )


def table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[str] = ()
) -> Table:
    """Return a table; ``words`` names the columns beside the first that hold words and stand on the left."""
    made = Table(
        title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
    )
    for position, head in enumerate(heads):
        made.add_column(head, justify="left" if position == 0 or head in words else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


@contextmanager
def progress(what: str, *, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that takes the number done so far and moves a bar on the error output."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err(),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_PIPE_WIDTH)
