"""``manyeyes key …``: make, list and end the keys that callers of the service bring."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.text import Text

from manyeyes.commands import screen
from manyeyes.commands.store import AUTHOR, open_store

app = typer.Typer(help="Work with the keys of the service.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.", show_default=False)],
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope", metavar="SCOPE", help="What it opens: label, read or admin; may be repeated."
        ),
    ] = ["label"],  # noqa: B006 (typer reads it, nobody changes it)
    days: Annotated[
        float | None,
        typer.Option("--days", metavar="DAYS", help="It ends after so many days; without it, never."),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option("--rate", metavar="N", min=1, help="So many calls a minute; without it, any number."),
    ] = None,
) -> None:
    """Make a key, and print its secret: it is shown this once."""
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with open_store() as store:
        record, secret = store.keys.create(
            name, scope, author=AUTHOR, expires_at=expires_at, rate_per_minute=rate
        )
    # The secret alone on the standard output, so that it can be piped to where it belongs.
    screen.out().print(Text(secret), soft_wrap=True)
    screen.say(f"key {record.id} ({name}); nobody can read the secret again, so keep it now")


@app.command("list")
def list_keys() -> None:
    """List all keys, the newest first; their secrets are not kept."""
    rows: list[tuple[str, ...]] = []
    with open_store() as store:
        cursor = None
        while True:
            page = store.keys.list(1000, cursor)
            for key in page:
                ended = "revoked" if key.revoked_at else "expired"
                rows.append(
                    (
                        key.id,
                        key.name,
                        ", ".join(sorted(key.scopes)),
                        "live" if key.is_live(datetime.now(UTC)) else ended,
                        _day(key.created_at),
                        _day(key.expires_at),
                        _day(key.last_used_at),
                        "–" if key.rate_per_minute is None else f"{key.rate_per_minute}/min",
                    )
                )
            cursor = page.next_cursor
            if cursor is None:
                break
    heads = ("id", "name", "scopes", "state", "made", "ends", "last used", "rate")
    screen.out().print(screen.table("", heads, rows, words=heads[1:-1]))


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="From `manyeyes key list`.", show_default=False)],
) -> None:
    """End a key for good, at once."""
    with open_store() as store:
        record = store.keys.revoke(id, author=AUTHOR)
    screen.out().print(Text(f"key {record.id} ({record.name}) opens nothing any more"))


def _day(time: datetime | None) -> str:
    return "–" if time is None else f"{time:%Y-%m-%d %H:%M}"
