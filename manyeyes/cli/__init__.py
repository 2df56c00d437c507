"""The command line: reads arguments and hands them to manyeyes/commands, where the work is.

Exit codes: 0 done; 1 not one item could be labeled, or what was asked about is not as it should be; 2 the call, the
recipe or a file cannot be used as it is; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

# Each adds its commands to the program; --help shows them in this order.
# isort: off
from manyeyes.cli import labels
from manyeyes.cli import prompts
from manyeyes.cli import jobs
from manyeyes.cli import looking

# isort: on
from manyeyes.cli.app import USAGE_ERROR, app
from manyeyes.commands import key, store

__all__ = ["USAGE_ERROR", "app", "jobs", "labels", "looking", "main", "prompts"]

app.add_typer(key.app, name="key")
app.add_typer(store.app, name="store")


def main() -> None:
    """Run the command line; the entry point of the ``manyeyes`` program."""
    app()
