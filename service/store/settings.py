"""What the operator decides of the store."""

from __future__ import annotations

from pydantic import BaseModel, Field


class StoreSettings(BaseModel):
    """store_url: of a PostgreSQL database, ``postgresql://user:password@host/name``; None for SQLite in a file.

    store_timeout_s: how long the database may take to answer before a call is told that it does not.
    store_connections: to PostgreSQL, of one process.
    store_upgrade: whether a start makes or changes the tables where that is needed; else it refuses to start then.
    store_labels: whether labels are kept where a call does not say so.
    keep_days: how long labels and votes of calls are kept, where ``manyeyes store purge`` is not told otherwise; None
        for always.
    """

    store_url: str | None = Field(default=None, repr=False)  # It may hold a password.
    store_timeout_s: float = Field(default=5.0, ge=1.0)
    store_connections: int = Field(default=8, ge=2)
    store_upgrade: bool = True
    store_labels: bool = True
    keep_days: float | None = Field(default=None, gt=0)
