"""Who changed what, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, select

from manyeyes.service.store import tables
from manyeyes.service.store.database import Database
from manyeyes.service.store.records import AuditRecord, Page
from manyeyes.service.store.rows import audited, page, storable

_T = tables.audit


class Audit:
    """The audit log of a store: rows are added, and nothing here changes or removes one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        *,
        actor: str,
        action: str,
        subject: str,
        details: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> AuditRecord:
        """Keep who did what to what. Changes made through the store are kept already.

        Raises InvalidRequest if one of them cannot be kept.
        """
        now = self._database.now()
        return AuditRecord(
            **self._database.write(
                lambda connection: audited(
                    connection,
                    now,
                    actor=actor,
                    action=action,
                    subject=subject,
                    request_id=request_id,
                    details=details,
                )
            )
        )

    def list(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
    ) -> Page[AuditRecord]:
        """Return what was done, the newest first. Raises InvalidRequest for a wrong cursor."""
        query = select(_T)
        for column, wanted in ((_T.c.subject, subject), (_T.c.actor, actor), (_T.c.action, action)):
            if wanted is not None:
                query = query.where(column == storable(column.name, wanted))
        return self._database.read(
            lambda connection: page(connection, query, _T.c.id, limit, cursor, _record)
        )


def _record(row: Row[Any]) -> AuditRecord:
    return AuditRecord(**row._mapping)
