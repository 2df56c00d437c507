"""Who changed what, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyeyes.service.store.database import Database
from manyeyes.service.store.records import AuditRecord, Page


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
        """Keep who did what to what. Changes made through the store are kept already."""
        raise NotImplementedError

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
        raise NotImplementedError
