"""Where the store is: URLs of databases, and the file that is used where none is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from manyeyes.errors import InvalidSettings, MissingDependency
from manyeyes.settings import home

FILE: Final = "service.db"
_POSTGRESQL: Final = ("postgres", "postgresql", "postgresql+psycopg")
_SHAPES: Final = "postgresql://user:password@host:5432/name, or sqlite:////absolute/path/to/service.db"


def address(url: str | None) -> URL:
    """Return the URL of a database as SQLAlchemy takes it; None is ``service.db`` in the home of manyeyes.

    Raises InvalidSettings for another database than PostgreSQL and SQLite in a file; MissingDependency without psycopg.
    """
    if url is None:
        return URL.create("sqlite", database=str(home() / FILE))
    try:
        read = make_url(url)
    except (ArgumentError, ValueError):
        # The URL itself stays out of the message: a slip in it may well show the password.
        raise InvalidSettings(f"MANYEYES_STORE_URL is no URL of a database; allowed: {_SHAPES}") from None
    if read.drivername in _POSTGRESQL:
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise MissingDependency(
                f"the store in PostgreSQL needs psycopg ({error}); pip install 'manyeyes[postgres]'"
            ) from error
        return read.set(drivername="postgresql+psycopg")
    if read.drivername == "sqlite" and read.database not in (None, "", ":memory:") and not read.query:
        return read
    raise InvalidSettings(
        f"MANYEYES_STORE_URL names {_told(read)}, which cannot be a store; allowed: {_SHAPES}"
    )


def make_file(url: URL) -> None:
    """Make the file of a SQLite store, for its owner alone, where it is not there. Raises InvalidSettings."""
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives the files that it lays beside this one the same permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise InvalidSettings(
            f"the store cannot be kept in {str(path)!r} ({error.strerror}); set MANYEYES_HOME to a folder that can be"
            " written, or MANYEYES_STORE_URL to a database"
        ) from error


def _told(url: URL) -> str:
    return "SQLite without a file of its own" if url.drivername == "sqlite" else repr(url.drivername)
