"""The database goes away and comes back: nobody waits long meanwhile, and nothing acknowledged is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.postgres import PostgresServer
from manyeyes.errors import StoreUnavailable
from manyeyes.service.store.settings import StoreSettings
from manyeyes.service.store.store import Store
from manyeyes.types import Label, Versions

pytestmark = pytest.mark.slow

TIMEOUT_S = 2.0


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """Return a server of the test's own, which it may stop."""
    with PostgresServer() as own:
        yield own


@pytest.fixture
def store(server: PostgresServer) -> Iterator[Store]:
    settings = StoreSettings(store_url=server.make_database(), store_timeout_s=TIMEOUT_S)
    with Store.open(settings=settings) as opened:
        yield opened


def keep(store: Store, name: str) -> str:
    label = Label(id=name, status="abstained")
    return store.batches.add(key_id="k", recipe_name="r", versions=Versions("v"), labels=[label]).id


def calls(store: Store) -> dict[str, Callable[[], Any]]:
    return {
        "ping": store.ping,
        "read": store.recipes.list,
        "write": lambda: store.recipes.create("r", str(time.monotonic_ns()), author="a"),
        "group": lambda: keep(store, "x"),
        "key": lambda: store.keys.find(f"me_{'0' * 32}_x"),
        "begin": lambda: store.idempotency.begin("k", "a", body_digest="d", route="r"),
    }


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_stopped_and_started_again(server: PostgresServer, store: Store, how: signal.Signals) -> None:
    kept = [keep(store, "before")]
    recipe = store.recipes.create("before", "text", author="a")
    server.stop(how)
    for name, call in calls(store).items():
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            call()
        assert time.monotonic() - started < TIMEOUT_S, name
    store.keys.touch("0" * 32)  # never raises
    server.start()
    # No restart of ours: the same store works again.
    kept.append(keep(store, "after"))
    assert store.recipes.get("before") == recipe
    assert [store.batches.label(f"{id}-0").label.id for id in kept] == ["before", "after"]


def test_under_load_nothing_acknowledged_is_lost(server: PostgresServer, store: Store) -> None:
    kept: dict[str, str] = {}
    texts: list[str] = []
    refused = [0]
    stop = threading.Event()

    def label(who: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            try:
                kept[keep(store, f"{who}/{n}")] = f"{who}/{n}"
            except StoreUnavailable:
                refused[0] += 1
                time.sleep(0.01)

    def edit() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            try:
                store.recipes.create("r", str(n), author="a")
                texts.append(str(n))
            except StoreUnavailable:
                refused[0] += 1
                time.sleep(0.01)

    threads = [threading.Thread(target=label, args=(who,)) for who in range(4)]
    threads.append(threading.Thread(target=edit))
    for thread in threads:
        thread.start()
    counts = []
    for how in (signal.SIGQUIT, signal.SIGINT):
        time.sleep(0.7)
        server.stop(how)
        time.sleep(0.5)
        counts.append(len(kept))
        server.start()
    time.sleep(0.7)
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert 0 < counts[0] < counts[1] < len(kept) and refused[0]
    for id, name in kept.items():
        assert store.batches.label(f"{id}-0").label.id == name
    there = {version.text for version in store.recipes.versions("r", limit=1000)}
    assert len(texts) < 1000 and set(texts) <= there


def test_a_server_that_stands_still(server: PostgresServer, store: Store) -> None:
    """Connections stay open and no answer comes: what the server's own time-outs cannot end."""
    assert keep(store, "x")
    server.freeze()
    try:
        for name, call in calls(store).items():
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                call()
            assert time.monotonic() - started < 3 * TIMEOUT_S, name
    finally:
        server.thaw()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert store.batches.label(f"{keep(store, 'y')}-0").label.id == "y"
            break
        except StoreUnavailable:
            assert time.monotonic() < deadline
    assert store.recipes.create("after", "text", author="a").number == 1


def test_nothing_listens_at_the_start() -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        Store.open("postgresql://nobody:s3cret@127.0.0.1:1/none")
    assert time.monotonic() - started < 5


def test_the_password_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    url = "postgresql://nobody:s3cret@127.0.0.1:1/none"
    settings = StoreSettings(store_url=url)
    with pytest.raises(StoreUnavailable) as caught:
        Store.open(settings=settings)
    assert "127.0.0.1" in caplog.text  # the operator is told which, the caller is not
    assert "127.0.0.1" not in str(caught.value)
    assert "s3cret" not in caplog.text + str(caught.value) + repr(settings)
