"""What all parts of the store do alike: pages of rows, texts that can be kept, and lines in the audit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Column, Connection, Row, Select, Table, insert
from sqlalchemy.dialects import postgresql, sqlite

from manyeyes.errors import InvalidRequest
from manyeyes.service.store import tables
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.records import Page

T = TypeVar("T")

MAX_PAGE: Final = 1000
_MAX_CHARS: Final = 10_000
_CURSOR: Final = re.compile(r"[0-9a-f]{32}")


def page(
    connection: Connection,
    query: Select[Any],
    id_column: Column[str],
    limit: int,
    cursor: str | None,
    make: Callable[[Row[Any]], T],
) -> Page[T]:
    """Return a page of what a query selects, by id, the newest first.

    cursor: the last id of the page before. Raises InvalidRequest for a limit or a cursor that is none.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit is a number from 1 to {MAX_PAGE:,}, got {limit}")
    if cursor is not None:
        if not _CURSOR.fullmatch(cursor):
            raise InvalidRequest(f"{cursor!r:.80} is no cursor; send next_cursor of the page before, or none")
        query = query.where(id_column < cursor)
    # One more than asked for says whether there is a next page.
    found = connection.execute(query.order_by(id_column.desc()).limit(limit + 1)).all()
    shown = found[:limit]
    more = len(found) > limit
    return Page(
        items=tuple(make(row) for row in shown),
        next_cursor=str(shown[-1]._mapping[id_column]) if more else None,
    )


def storable(what: str, value: str, *, max_chars: int = _MAX_CHARS) -> str:
    """Return a text that any database can keep. Raises InvalidRequest if it is too long, or holds NUL or half a pair.

    what: names it in the error.
    """
    if len(value) > max_chars:
        raise InvalidRequest(f"{what} has {len(value):,} characters; {max_chars:,} are allowed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} holds half of a surrogate pair, which is no character") from None
    if "\0" in value:
        raise InvalidRequest(f"{what} holds the character NUL, which cannot be kept")
    return value


def audited(
    connection: Connection,
    now: datetime,
    *,
    actor: str,
    action: str,
    subject: str,
    request_id: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add a line to the audit, in the transaction of the change itself; return the row."""
    row = {
        "id": new_id(),
        "created_at": now,
        "actor": storable("the author", actor),
        "action": storable("the action", action),
        "subject": storable("the subject", subject),
        "request_id": request_id if request_id is None else storable("the request id", request_id),
        "details": dict(details or {}),
    }
    connection.execute(insert(tables.audit).values(row))
    return row


def insert_unless_there(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Add a row; return False, and change nothing, if another with the same key or another unique value is there."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    added = dialect.insert(table).values(row).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(added).first() is not None
