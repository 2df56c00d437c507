"""The program that every command belongs to, and what it does with an error."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from manyeyes.errors import ManyeyesError

USAGE_ERROR = 2


class _Group(TyperGroup):
    """Shows every error of ours as one paragraph, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ManyeyesError as error:
            from manyeyes.commands.screen import show_error

            show_error(error)
            raise typer.Exit(USAGE_ERROR) from error


app = typer.Typer(
    name="manyeyes",
    help="Label images and texts with programs instead of clicks: many weak eyes, one strong label.",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        from manyeyes import __version__

        typer.echo(f"manyeyes {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Label images and texts with programs instead of clicks: many weak eyes, one strong label."""
