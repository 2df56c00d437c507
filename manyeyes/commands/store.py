"""``manyeyes store …``: make or change the tables of the service's store, look at it, remove what is old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from manyeyes.commands import screen
from manyeyes.errors import MissingDependency

if TYPE_CHECKING:
    from manyeyes.service.store.store import Store

app = typer.Typer(help="Look after the store of the service.", no_args_is_help=True)

AUTHOR = "cli"
"""Who did something, in the audit, where it was done here."""


def open_store(*, upgrade: bool | None = None) -> Store:
    """Return the store that the environment names. Raises what ``Store.open`` raises, and MissingDependency."""
    try:
        from manyeyes.service.store.settings import read_store_settings
        from manyeyes.service.store.store import Store
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"the store needs the package {error.name}, which is not installed; run pip install 'manyeyes[serve]'"
        ) from error
    return Store.open(settings=read_store_settings(), upgrade=upgrade)


@app.command()
def upgrade() -> None:
    """Make the tables of the store, or change them to those that this version needs."""
    with open_store(upgrade=True) as store:
        status = store.status()
    told = f"{status.address} has revision {status.revision}, which this version needs."
    screen.out().print(Text(told), soft_wrap=True)


@app.command()
def status() -> None:
    """Show where the store is, which tables it has, and how much they hold."""
    with open_store() as store:
        found = store.status()
    console = screen.out()
    console.print(Text(f"{found.address}: {found.database}, revision {found.revision}"), soft_wrap=True)
    rows = [(name, f"{n:,}") for name, n in sorted(found.rows.items())]
    console.print(screen.table("", ("table", "rows"), rows))


@app.command()
def purge(
    older_than_days: Annotated[
        float | None,
        typer.Option(
            "--older-than-days",
            metavar="DAYS",
            min=0,
            help="Remove labels and votes that are older; MANYEYES_KEEP_DAYS where it is not given.",
        ),
    ] = None,
) -> None:
    """Remove labels and votes that are old, and answers that are kept no longer. Recipes and the audit stay."""
    from manyeyes.service.store.settings import read_store_settings

    with open_store() as store:
        days = read_store_settings().keep_days if older_than_days is None else older_than_days
        n_answers = store.idempotency.purge()
        n_batches = 0
        if days is not None:
            n_batches = store.batches.purge(datetime.now(UTC) - timedelta(days=days), author=AUTHOR)
    screen.out().print(Text(f"removed {n_batches:,} batches and {n_answers:,} answers"))
    if days is None:
        screen.say("batches are kept for always: give --older-than-days, or set MANYEYES_KEEP_DAYS")
