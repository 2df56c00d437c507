"""How many labeled calls a second the store keeps, each acknowledged once it is on disk.

python -m benchmarks.store [--json] [--quick]

Threads stand for callers: each keeps the labels and the votes of four items, waits until that is acknowledged, and
goes on. Beside it the same with one commit a call, as a service without a group of its own would do; rounds take
turns, and figures are medians. PostgreSQL is measured where it is installed; it shares flushes between connections by
itself.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Table, insert

from benchmarks.bars import Bar, arguments, at_least, show, told
from benchmarks.postgres import NoPostgres, PostgresServer
from manyeyes.fitting import Collected
from manyeyes.service.store import migrate
from manyeyes.service.store.addresses import address, make_file
from manyeyes.service.store.database import Database
from manyeyes.service.store.store import Store
from manyeyes.types import Label, Reason, Versions, Votes, no_scores

N_ITEMS, N_LFS, CLASSES = 4, 10, ("dress", "hat", "bag", "shoes")
GOAL = 2.0
"""Calls a second at 32 callers, grouped, over one commit a call, in SQLite."""


class OneByOne(Database):
    """The same database with one commit a call."""

    def insert(self, table: Table, row: dict[str, Any]) -> None:
        with self.transaction(writes=True) as connection:
            connection.execute(insert(table).values(row))


def one_call() -> tuple[list[Label], Collected]:
    """Return the labels of a call, and what the LFs said."""
    reasons = tuple(Reason(f"lf_{j}", CLASSES[j % 4], 0.75, 0.5) for j in range(N_LFS))
    probs = dict.fromkeys(CLASSES, 0.25)
    labels = [
        Label(f"item-{i}", "labeled", "dress", 0.25, probs, "hat", 0.0, reasons) for i in range(N_ITEMS)
    ]
    votes = Votes(
        np.zeros((N_ITEMS, N_LFS), np.int8),
        no_scores((N_ITEMS, N_LFS)),
        CLASSES,
        tuple(f"lf_{j}" for j in range(N_LFS)),
    )
    return labels, Collected(votes=votes, errors={}, ids=tuple(label.id for label in labels))


def calls_a_second(store: Store, *, n_callers: int, seconds: float) -> tuple[float, list[float]]:
    """Return how many calls a second are acknowledged, and how long each took, in milliseconds."""
    labels, collected = one_call()
    taken: list[list[float]] = [[] for _ in range(n_callers)]
    start = threading.Barrier(n_callers + 1)
    stop = threading.Event()

    def call(mine: list[float]) -> None:
        start.wait()
        while not stop.is_set():
            begun = time.perf_counter()
            store.batches.add(
                key_id="k", recipe_name="r", versions=Versions("v"), labels=labels, collected=collected
            )
            mine.append(1000 * (time.perf_counter() - begun))

    threads = [threading.Thread(target=call, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    every = [one for mine in taken for one in mine]
    return len(every) / (time.perf_counter() - begun), every


def measure(name: str, url: str, *, n_callers: int, seconds: float, rounds: int) -> list[Bar]:
    """Return the bars of one database and so many callers."""
    stores = [Store(kind(address(url), timeout_s=30, connections=n_callers)) for kind in (Database, OneByOne)]
    speeds: list[list[float]] = [[], []]
    waits: list[list[float]] = [[], []]
    for _ in range(rounds):
        for which, store in enumerate(stores):
            speed, taken = calls_a_second(store, n_callers=n_callers, seconds=seconds)
            speeds[which].append(speed)
            waits[which] += taken
    for store in stores:
        store.close()
    grouped, alone = (statistics.median(some) for some in speeds)
    p99 = [float(np.percentile(some, 99)) for some in waits]
    where, peer = f"{name}, {n_callers} callers", "one commit a call"
    ratio = f"{where}: speed over one commit a call"
    return [
        told(f"{where}: calls kept", grouped, unit="/s"),
        told(f"{where}: calls kept", alone, unit="/s", peer=peer),
        told(f"{where}: p99", p99[0], unit="ms"),
        told(f"{where}: p99", p99[1], unit="ms", peer=peer),
        at_least(ratio, grouped / alone, GOAL, peer=peer)
        if name == "SQLite" and n_callers >= 32
        else told(ratio, grouped / alone, peer=peer),
    ]


@contextlib.contextmanager
def databases() -> Iterator[dict[str, str]]:
    """Give the URL of an empty store in each database that is here, by name."""
    with contextlib.ExitStack() as until:
        folder = until.enter_context(tempfile.TemporaryDirectory(prefix="manyeyes-store-"))
        urls = {"SQLite": f"sqlite:///{Path(folder) / 'service.db'}"}
        make_file(address(urls["SQLite"]))
        with contextlib.suppress(NoPostgres):
            urls["PostgreSQL"] = until.enter_context(PostgresServer()).make_database()
        for url in urls.values():
            database = Database(address(url))
            migrate.upgrade(database)
            database.close()
        yield urls


def main() -> int:
    """Measure; return the exit code."""
    args = arguments(__doc__).parse_args()
    seconds, rounds = (0.5, 3) if args.quick else (2.0, 5)
    bars: list[Bar] = []
    with databases() as urls:
        for name, url in urls.items():
            for n_callers in (1, 8, 32):
                bars += measure(name, url, n_callers=n_callers, seconds=seconds, rounds=rounds)
    return show("the store", bars, as_json=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
