"""How a connection to either database is made, so that what is committed is on disk and nothing waits for ever."""

from __future__ import annotations

import math
import sqlite3
import time
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

_LOOK_S: Final = 0.02


def make_engine(url: URL, *, timeout_s: float, connections: int, foreign_keys: bool = True) -> Engine:
    """Return the engine for a URL.

    timeout_s: for connecting, locks, statements and a free connection. foreign_keys: whether SQLite heeds them.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, timeout_s=timeout_s, connections=connections, foreign_keys=foreign_keys)
    return _postgresql(url, timeout_s=timeout_s, connections=connections)


def _sqlite(url: URL, *, timeout_s: float, connections: int, foreign_keys: bool) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": timeout_s, "check_same_thread": False},
        pool_size=connections,
        max_overflow=1,
        pool_timeout=timeout_s,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # Transactions begin where we say so, not where the driver guesses.
        for pragma in (
            "auto_vacuum = INCREMENTAL",  # Only counts before the first table is there, so it comes first.
            "journal_mode = WAL",
            "synchronous = FULL",  # What is acknowledged outlives a power cut, not only the process.
            f"foreign_keys = {'ON' if foreign_keys else 'OFF'}",
        ):
            _execute_patiently(connection, f"PRAGMA {pragma}", timeout_s)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later could find another writer's lock half-way, and cannot wait.
        writes = connection.get_execution_options().get("manyeyes_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _execute_patiently(connection: Any, statement: str, timeout_s: float) -> None:
    """Execute a statement, waiting for whoever has the file locked.

    SQLite's own time-out does not do that here: of two that turn a new file's journal into a WAL at the same time, one
    is told at once that the file is locked, lest they wait for each other.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        time.sleep(_LOOK_S)


def _postgresql(url: URL, *, timeout_s: float, connections: int) -> Engine:
    from manyeyes.service.store.bounded import bounded

    connection_class = bounded(timeout_s)
    timeout_ms = math.ceil(timeout_s * 1000)
    wanted: dict[str, Any] = {
        "connect_timeout": max(1, math.ceil(timeout_s / 2)),
        "application_name": "manyeyes",
        # A host that vanished without a word is noticed, too.
        "tcp_user_timeout": timeout_ms,
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
    }
    engine = create_engine(
        url,
        connect_args={name: value for name, value in wanted.items() if name not in url.query},
        pool_size=connections,
        max_overflow=1,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
        pool_recycle=1800,
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        return connection_class.connect(*arguments, **named)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # Not in the URL's options, which poolers in between refuse.
        connection.execute(
            f"SET statement_timeout = {timeout_ms}; SET lock_timeout = {timeout_ms};"
            f" SET idle_in_transaction_session_timeout = {10 * timeout_ms}; SET timezone = 'UTC';"
            # Without waiting for the disk, what is acknowledged could be lost.
            " SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.commit()

    return engine
