"""Bring the tables of a database to where this version of manyeyes needs them, once, however many replicas start."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from manyeyes.errors import InvalidSettings
from manyeyes.service.store.database import Database

_LOCK: Final = 0x6D616E7965796573  # "manyeyes"; PostgreSQL's advisory locks are numbers.
_PATIENCE_S: Final = 300


def head() -> str:
    """Return the revision of the tables that this version needs."""
    return str(_scripts().get_current_head())


def current(database: Database) -> str | None:
    """Return the revision of the tables that are there; None where there are none. Raises StoreUnavailable."""
    return database.read(_revision)


def upgrade(database: Database) -> bool:
    """Make or change the tables where that is needed; return whether it was.

    All or nothing: it is one transaction, and whoever comes second waits for it and finds nothing left to do.
    Raises InvalidSettings for tables of a newer manyeyes, StoreUnavailable.
    """
    if is_current(database):
        return False
    # With a time-out of its own: changing large tables takes longer than a call may wait. Without foreign keys, since
    # SQLite writes a changed table anew, which would delete what refers to the old one.
    patient = Database(database.url, timeout_s=_PATIENCE_S, connections=1, foreign_keys=False)
    try:
        with patient.transaction(writes=True) as connection:
            if not patient.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            command.upgrade(_config(connection), "head")
    finally:
        patient.close()
    return True


def is_current(database: Database) -> bool:
    """Return whether the tables are those that this version needs. Raises InvalidSettings if they are newer."""
    found = current(database)
    if found is not None and found not in {script.revision for script in _scripts().walk_revisions()}:
        raise InvalidSettings(
            f"the tables of the store have revision {found!r}, which this version of manyeyes does not know: a newer"
            " one made them. Install that version, or restore a backup from before"
        )
    return found == head()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    folder = str(Path(__file__).resolve().parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
