"""What is kept no longer goes by itself; a database that does not answer is tried again."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest

from manyeyes.errors import NotFound, StoreUnavailable
from manyeyes.service.operations.sweeping import sweep
from manyeyes.service.store.records import New
from manyeyes.service.store.store import Store
from manyeyes.types import Versions


def test_old_answers_and_labels_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(f"sqlite:///{tmp_path}/service.db") as store:
        clock = store.database.clock
        store.database.clock = lambda: clock() - timedelta(days=3)
        begun = store.idempotency.begin("k", "old", body_digest="d", route="r", keep_s=60)
        assert isinstance(begun, New)
        store.idempotency.finish(begun.token, status=200, headers={}, body=b"")
        old = store.batches.add(key_id="k", recipe_name="r", versions=Versions("v"), labels=[])
        store.database.clock = clock
        new = store.batches.add(key_id="k", recipe_name="r", versions=Versions("v"), labels=[])

        purge, failed = store.idempotency.purge, []

        def fail_once(before: datetime | None = None) -> int:
            if not failed:
                failed.append(True)
                raise StoreUnavailable("gone for a moment")
            return purge(before)

        monkeypatch.setattr(store.idempotency, "purge", fail_once)

        async def run() -> None:
            with anyio.move_on_after(1.0):
                await sweep(store, keep_days=1, every_s=0.05)

        anyio.run(run)
        assert failed
        with pytest.raises(NotFound):
            store.batches.get(old.id)
        assert store.batches.get(new.id) == new
        assert store.status().rows["idempotency"] == 0
