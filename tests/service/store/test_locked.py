"""SQLite in another's hands: a write waits no longer than it may, reads go on, and all is well afterwards."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from manyeyes.errors import StoreUnavailable
from manyeyes.service.store.records import RecipeVersion
from manyeyes.service.store.settings import StoreSettings
from manyeyes.service.store.store import Store


def test_another_process_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "service.db"
    settings = StoreSettings(store_url=f"sqlite:///{path}", store_timeout_s=1)
    with Store.open(settings=settings) as store:
        made = store.recipes.create("r", "1", author="a")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.recipes.create("r", "2", author="a")
        assert 0.9 < time.monotonic() - started < 4
        assert store.recipes.get("r") == made
        other.execute("ROLLBACK")
        other.close()
        assert store.recipes.create("r", "3", author="a").number == 2


def test_a_full_disk_keeps_what_was_acknowledged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store.open(f"sqlite:///{tmp_path}/service.db") as store:
        kept: list[RecipeVersion] = []

        def room(pages: int) -> None:
            # A limit of the connection that writes, which is the one that the pool hands out.
            store.database.write(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar_one())

        def fill() -> None:
            for n in range(100):
                kept.append(store.recipes.create("r", str(n) * 50_000, author="a"))  # noqa: PERF401 (each one counts)

        room(80)
        with pytest.raises(StoreUnavailable):
            fill()
        assert "full" in caplog.text and kept
        room(2**30)
        assert store.recipes.create("r", "after", author="a").number == len(kept) + 1
        assert [store.recipes.get("r", one.number).text for one in kept] == [one.text for one in kept]
