"""Batch jobs in the store: claimed by one, told of by its holder alone, and no event lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from manyeyes.errors import NotFound, Overloaded, WrongState
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.job_records import JobRecord, News, OpenJob
from manyeyes.service.store.store import Store

DONE = {
    "job": "core",
    "status": "completed",
    "counts": {"rows": 3, "labeled": 2, "abstained": 0, "failed": 1},
}


def add(store: Store, author: str = "key-a", **more: Any) -> JobRecord:
    told: dict[str, Any] = {
        "recipe_name": "paint",
        "recipe_version": "v",
        "request": {"request": {"out": "s3://labels/a"}},
        "metadata": {"team": "x"},
        "max_open": 3,
    }
    return store.jobs.create(id=new_id(), author=author, **(told | more))


def seen(store: Store, id: str) -> OpenJob:
    (one,) = [job for job in store.jobs.open() if job.id == id]
    return one


def claimed(store: Store, job: JobRecord) -> str:
    claim = new_id()
    assert store.jobs.claim(seen(store, job.id), claim) is not None
    return claim


def test_a_key_sees_its_own_and_pages_go_on(store: Store) -> None:
    mine = [add(store) for _ in range(3)]
    other = add(store, "key-b")
    page = store.jobs.list(2, key_id="key-a")
    assert [job.id for job in page] == [mine[2].id, mine[1].id]
    assert [job.id for job in store.jobs.list(2, page.next_cursor, key_id="key-a")] == [mine[0].id]
    assert len(store.jobs.list(10)) == 4
    with pytest.raises(NotFound):
        store.jobs.get(other.id, key_id="key-a")
    with pytest.raises(NotFound):
        store.jobs.cancel(other.id, author="key-a", key_id="key-a")
    with pytest.raises(Overloaded, match="3 may be"):
        add(store)
    add(store, "key-b")


def test_one_of_many_claims_a_job(store: Store) -> None:
    job = add(store)
    as_seen = seen(store, job.id)
    won: list[str] = []

    def claim() -> None:
        name = new_id()
        if store.jobs.claim(as_seen, name) is not None:
            won.append(name)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.jobs.get(job.id).claim == won[0]


def test_one_that_beats_is_not_taken_over_and_one_that_is_silent_counts_as_a_crash(store: Store) -> None:
    job = add(store)
    first = claimed(store, job)
    as_seen = seen(store, job.id)
    assert store.jobs.beat([first]) == {first}
    assert store.jobs.claim(as_seen, new_id()) is None
    taken = store.jobs.claim(seen(store, job.id), second := new_id())
    assert taken is not None and taken.crashes == 1 and taken.claim == second
    assert store.jobs.beat([first]) == set()
    assert store.jobs.tell(job.id, first, News(status="completed")) is None
    assert store.jobs.get(job.id).status == "validating"


def test_events_have_numbers_without_gaps_and_times_follow_the_status(store: Store) -> None:
    job = add(store)
    claim = claimed(store, job)
    store.jobs.tell(job.id, claim, News(status="in_progress", progress=DONE, events=(("progress", DONE),)))
    store.jobs.tell(
        job.id, claim, News(status="in_progress", events=(("log", {"level": "info", "message": "m"}),))
    )
    ended = store.jobs.tell(job.id, claim, News(status="completed"))
    assert ended is not None and ended.claim is None and ended.completed_at is not None
    assert ended.in_progress_at is not None and ended.finalizing_at is None
    events = store.jobs.events(job.id)
    assert [(event.number, event.kind) for event in events] == [
        (1, "status"), (2, "progress"), (3, "status"), (4, "log"), (5, "status"),
    ]  # fmt: skip
    assert ended.n_events == 5
    assert [event.number for event in store.jobs.events(job.id, after=3)] == [4, 5]
    assert [event.number for event in store.jobs.events(job.id, kinds=("log",))] == [4]
    assert not store.jobs.open()
    with pytest.raises(NotFound):
        store.jobs.events("no-id")


def test_cancelling(store: Store) -> None:
    waits, runs = add(store), add(store)
    claim = claimed(store, runs)
    assert store.jobs.cancel(waits.id, author="key-a").status == "cancelled"
    assert store.jobs.cancel(runs.id, author="key-a").status == "cancelling"
    told = store.jobs.tell(runs.id, claim, News(status="in_progress", progress=DONE))
    assert told is not None and told.status == "cancelling" and told.progress == DONE
    assert store.jobs.cancel(runs.id, author="key-a").status == "cancelling"
    told = store.jobs.tell(runs.id, claim, News(status="cancelled"))
    assert told is not None and told.status == "cancelled" and told.cancelled_at is not None
    assert store.jobs.cancel(runs.id, author="key-a").status == "cancelled"
    actions = [line.action for line in store.audit.list(subject=f"job:{runs.id}")]
    assert actions == ["job.cancel", "job.create"]


def test_retrying(store: Store) -> None:
    job = add(store)
    with pytest.raises(WrongState, match="is validating"):
        store.jobs.retry(job.id, author="key-a")
    claim = claimed(store, job)
    store.jobs.tell(job.id, claim, News(status="completed", progress=DONE))
    again = store.jobs.retry(job.id, author="key-a")
    assert (again.status, again.wish, again.completed_at, again.claim) == ("validating", "retry", None, None)
    claim = claimed(store, job)
    whole = {**DONE, "counts": {**DONE["counts"], "failed": 0}}  # type: ignore[dict-item]
    store.jobs.tell(job.id, claim, News(wish="run", status="completed", progress=whole))
    with pytest.raises(WrongState, match="nothing to retry"):
        store.jobs.retry(job.id, author="key-a")
    other = add(store)
    claim = claimed(store, other)
    store.jobs.tell(
        other.id, claim, News(status="failed", errors=({"code": "storage_failed", "message": "m"},))
    )
    assert store.jobs.get(other.id).errors == ({"code": "storage_failed", "message": "m"},)
    gone_on = store.jobs.retry(other.id, author="key-a")
    assert (gone_on.wish, gone_on.errors) == ("resume", ())


def test_what_is_given_back_is_free_at_once(store: Store) -> None:
    job = add(store)
    claim = claimed(store, job)
    store.jobs.tell(job.id, claim, News(), release=True)
    taken = store.jobs.claim(seen(store, job.id), new_id())
    assert taken is not None and taken.crashes == 0
