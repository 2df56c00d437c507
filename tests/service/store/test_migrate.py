"""The tables, from nothing to what this version needs."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from manyeyes.errors import InvalidSettings, MissingDependency, StoreUnavailable
from manyeyes.service.store import migrate
from manyeyes.service.store.addresses import address, make_file
from manyeyes.service.store.database import Database
from manyeyes.service.store.settings import StoreSettings, read_store_settings
from manyeyes.service.store.store import Store
from manyeyes.settings import home


def open_database(url: str) -> Database:
    found = address(url)
    if found.drivername == "sqlite":
        make_file(found)
    return Database(found)


def test_tables_are_made_once_and_match_what_the_code_says(store_url: str) -> None:
    database = open_database(store_url)
    try:
        assert migrate.current(database) is None and not migrate.is_current(database)
        assert migrate.upgrade(database)
        assert not migrate.upgrade(database)
        assert migrate.current(database) == migrate.head()
        with database.engine.connect() as connection:
            command.check(migrate._config(connection))
        # What Alembic does not compare.
        for table in ("label_models",):
            indexes = inspect(database.engine).get_indexes(table)
            (one,) = [index for index in indexes if index["name"] == "uq_label_models_active"]
            assert one["unique"]
    finally:
        database.close()


def test_up_and_down_and_up(store_url: str) -> None:
    database = open_database(store_url)
    try:
        migrate.upgrade(database)
        with database.transaction(writes=True) as connection:
            command.downgrade(migrate._config(connection), "base")
        assert set(inspect(database.engine).get_table_names()) == {"alembic_version"}
        assert migrate.upgrade(database)
    finally:
        database.close()


def test_many_that_start_at_once(store_url: str) -> None:
    failed: list[BaseException] = []

    def start() -> None:
        try:
            Store.open(store_url).close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_new_file_that_another_writes_to_is_waited_for(tmp_path: Path) -> None:
    # SQLite answers "locked" at once to whoever wants to make such a file's journal a WAL.
    other = sqlite3.connect(tmp_path / "service.db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE there (x)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO there VALUES (1)")
    later = threading.Timer(0.5, other.close)
    later.start()
    try:
        Store.open(f"sqlite:///{tmp_path / 'service.db'}").close()
    finally:
        later.join()


def test_a_failed_change_changes_nothing(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(store_url)

    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    try:
        with monkeypatch.context() as patched:
            patched.setattr("alembic.op.create_index", fail)
            with pytest.raises(RuntimeError):
                migrate.upgrade(database)
        assert inspect(database.engine).get_table_names() == []
        assert migrate.upgrade(database)
    finally:
        database.close()


def test_a_newer_store_is_left_alone(store_url: str) -> None:
    Store.open(store_url).close()
    database = open_database(store_url)
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    database.write(lambda connection: connection.execute(newer).rowcount)
    database.close()
    for upgrade in (True, False):
        with pytest.raises(InvalidSettings, match="newer"):
            Store.open(store_url, upgrade=upgrade)


def test_a_start_may_be_told_not_to_change_tables(store_url: str) -> None:
    settings = StoreSettings(store_url=store_url, store_upgrade=False)
    with pytest.raises(InvalidSettings, match="manyeyes store upgrade"):
        Store.open(settings=settings)
    Store.open(store_url, upgrade=True).close()
    Store.open(settings=settings).close()


def test_the_store_is_at_home_where_nothing_else_is_said(manyeyes_home: Path) -> None:
    with Store.open() as store:
        store.recipes.create("r", "text", author="a")
        assert store.status().address == f"sqlite:///{home()}/service.db"
    files = [path for path in manyeyes_home.iterdir() if path.name.startswith("service.db")]
    assert files and all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_what_is_acknowledged_is_on_disk(store: Store) -> None:
    with store.database.engine.connect() as connection:
        if store.database.is_sqlite:
            asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            told = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked]
            assert told == ["wal", 2, 1, 5000]
        else:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "5s"


@pytest.mark.parametrize(
    "url",
    [
        "", "no url", "mysql://u:s3cret@h/d", "sqlite://", "sqlite:///:memory:", "sqlite:///a.db?mode=ro",
        "s3cret:@/:/", "postgresql+asyncpg://u:s3cret@h/d",
    ],
)  # fmt: skip
def test_urls_of_nothing_that_could_be_a_store(url: str) -> None:
    with pytest.raises(InvalidSettings, match="postgresql://user:password@host") as caught:
        address(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_urls_of_postgresql(scheme: str) -> None:
    assert str(address(f"{scheme}://u@h/d")) == "postgresql+psycopg://u@h/d"


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingDependency, match=r"manyeyes\[postgres\]"):
        address("postgresql://u@h/d")


def test_a_file_that_cannot_be_or_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidSettings, match="cannot be kept"):
        Store.open(f"sqlite:///{tmp_path}/file/service.db")
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(StoreUnavailable):
        Store.open(f"sqlite:///{tmp_path}/text.db")


def test_settings_from_the_environment() -> None:
    read = read_store_settings(
        {
            "MANYEYES_STORE_URL": "postgresql://u:s3cret@h/d",
            "MANYEYES_KEEP_DAYS": "30",
            "MANYEYES_HOST": "0.0.0.0",
        }
    )
    assert (read.keep_days, read.store_upgrade) == (30.0, True)
    assert "s3cret" not in repr(read)
    assert read_store_settings({"MANYEYES_STORE_URL": " "}).store_url is None
    with pytest.raises(InvalidSettings, match="MANYEYES_KEEP_DAYS"):
        read_store_settings({"MANYEYES_KEEP_DAYS": "-1"})
