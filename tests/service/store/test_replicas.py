"""Several processes share one store: they start at once, write at once, and see what the others wrote."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from manyeyes.service.store.store import Store

pytestmark = pytest.mark.slow

REPLICA = """
import sys, threading
from manyeyes.service.store.records import New
from manyeyes.service.store.store import Store
from manyeyes.types import Label, Versions

url, who = sys.argv[1:]
sys.stdin.readline()  # all start at once
store = Store.open(url)
n_new = 0
for n in range(25):
    store.recipes.create("shared", f"{who} {n}", author=who)
    store.batches.add(
        key_id=who, recipe_name="r", versions=Versions("v"), labels=[Label(id=str(n), status="abstained")]
    )
    begun = store.idempotency.begin("k", str(n), body_digest="d", route="r")
    n_new += isinstance(begun, New)
store.close()
print(n_new)
"""


def test_replicas_start_and_write_at_once(store_url: str) -> None:
    n = 3
    replicas = [
        subprocess.Popen(
            [sys.executable, "-c", REPLICA, store_url, str(who)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for who in range(n)
    ]  # fmt: skip
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write("go\n")
        replica.stdin.flush()
    told = [replica.communicate(timeout=120) for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0] * n, [errors for _, errors in told]
    # Of the calls with one key of idempotency, one replica made each.
    assert sum(int(out) for out, _ in told) == 25
    with Store.open(store_url, upgrade=False) as store:
        versions = store.recipes.versions("shared", limit=1000)
        assert [one.number for one in versions] == list(range(25 * n, 0, -1))
        assert len(store.audit.list(1000, subject="recipe:shared")) == 25 * n
        assert Counter(batch.key_id for batch in store.batches.list(1000)) == {
            str(who): 25 for who in range(n)
        }
        assert store.status().rows["recipes"] == 1


def test_a_second_process_sees_a_change_at_once(store_url: str) -> None:
    with Store.open(store_url) as one, Store.open(store_url) as other:
        record, secret = one.keys.create("k", ["read"], author="a")
        assert other.keys.find(secret) == record
        other.keys.revoke(record.id, author="a")
        assert one.keys.find(secret) is None
