"""Processes that die, replicas that die, and replicas that stop: a job is always somebody's, and ends once."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from manyeyes.service.jobs.serving import claimed
from manyeyes.service.jobs.serving.service_jobs import ServiceJobs
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.settings import ServiceSettings
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.job_records import News
from manyeyes.service.store.store import Store


@pytest.fixture
def store(settings_of: Callable[..., ServiceSettings]) -> Iterator[Store]:
    with Store.open(settings_of().store_url) as opened:
        yield opened


@pytest.fixture
def replica(
    store: Store, settings_of: Callable[..., ServiceSettings], played: Callable[..., None]
) -> Iterator[Callable[..., ServiceJobs]]:
    """Return what starts a replica's jobs."""
    made: list[ServiceJobs] = []

    def make(**settings: Any) -> ServiceJobs:
        jobs = ServiceJobs(store, settings_of(**settings), Metrics())
        jobs.start()
        made.append(jobs)
        return jobs

    yield make
    for jobs in made:
        jobs.drain(10)


def add(store: Store) -> str:
    kept = {"request": {"out": "s3://labels/all/a"}, "trusted": True, "submitted": False}
    job = store.jobs.create(
        id=new_id(), author="k", recipe_name="p", recipe_version="v", request=kept, metadata={}, max_open=99
    )
    return job.id


def until(store: Store, id: str, *statuses: str, timeout_s: float = 20) -> Any:
    deadline = time.monotonic() + timeout_s
    while (job := store.jobs.get(id)).status not in statuses:
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


def starts(tmp_path: Path, n: int = 0, timeout_s: float = 20) -> list[dict[str, Any]]:
    """Return the starts of processes, once there are at least so many."""
    file, deadline = tmp_path / "starts.jsonl", time.monotonic() + timeout_s
    while True:
        told = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        if len(told) >= n:
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.02)


def test_so_many_run_at_once_the_oldest_first(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path
) -> None:
    played("shards", 1, "sleep", 0.3, "end", "completed")
    ids = [add(store) for _ in range(4)]
    replica(jobs_at_once=2)
    jobs = [until(store, id, "completed") for id in ids]
    began, ended = [job.in_progress_at for job in jobs], [job.completed_at for job in jobs]
    assert began[2] >= min(ended[:2]) and began[3] >= min(ended[:2])
    assert max(began[:2]) < min(ended[:2])
    assert len(starts(tmp_path)) == 4


def test_a_process_that_is_killed_is_started_again_and_its_job_goes_on(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path
) -> None:
    played("shards", 2, "wait")
    id = add(store)
    replica()
    (first,) = starts(tmp_path, 1)
    until(store, id, "in_progress")
    played("shards", 3, "end", "completed")
    os.kill(first["pid"], signal.SIGKILL)
    job = until(store, id, "completed")
    assert [start["task"]["job"] for start in starts(tmp_path)] == [None, "core0"]
    logged = [event.data["message"] for event in store.jobs.events(id, kinds=("log",))]
    assert logged == ["the job's process died (signal 9); it goes on where it was"]
    numbers = [event.number for event in store.jobs.events(id, limit=1000)]
    assert numbers == list(range(1, job.n_events + 1))
    assert [event.data["status"] for event in store.jobs.events(id, kinds=("status",))].count(
        "completed"
    ) == 1


def test_a_process_that_always_dies_ends_its_job(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(claimed, "MAX_CRASHES", 2)
    played("die", 7)
    id = add(store)
    replica()
    job = until(store, id, "failed")
    assert len(starts(tmp_path)) == 3
    assert job.errors[0]["code"] == "service_failed" and "died 3 times" in job.errors[0]["message"]


def test_one_that_dies_again_and_again_at_the_same_place_is_given_up(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(claimed, "MAX_CRASHES", 2)
    played("shards", 2, "sleep", 0.5, "kill")
    id = add(store)
    replica()
    until(store, id, "failed")
    # The first time it gets as far, and is not counted; then it gets no further.
    assert len(starts(tmp_path)) in (3, 4)


def test_a_cancel_is_heard_whatever_a_process_says_meanwhile(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path
) -> None:
    played("sleep", 1.5, "log", "late", "shards", 1, "wait")
    id = add(store)
    jobs = replica()
    starts(tmp_path, 1)
    store.jobs.cancel(id, author="k")
    claim = store.jobs.get(id).claim
    assert claim is not None
    store.jobs.tell(id, claim, News(wish="run"))  # as a retry says that it has begun
    assert store.jobs.get(id).wish == "cancel"
    jobs.nudge()
    until(store, id, "cancelled")


def test_one_that_gets_on_between_its_deaths_is_not_given_up(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(claimed, "MAX_CRASHES", 1)
    id = add(store)
    replica()
    for n in range(1, 5):
        played("shards", n, "sleep", 1, "kill")
        starts(tmp_path, n)
    played("end", "completed")
    until(store, id, "completed")


def test_a_replica_that_stops_gives_its_jobs_to_another_at_once(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path
) -> None:
    played("shards", 1, "wait")
    id = add(store)
    first = replica(jobs_lease_s=60)
    starts(tmp_path, 1)
    until(store, id, "in_progress")
    assert first.drain(10)
    assert store.jobs.get(id).claim is None and store.jobs.get(id).crashes == 0
    played("end", "completed")
    replica(jobs_lease_s=60)
    until(store, id, "completed", timeout_s=8)
    assert not psutil.pid_exists(starts(tmp_path)[0]["pid"])


def test_a_replica_that_is_silent_loses_its_job_and_stops_its_process(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path
) -> None:
    played("shards", 1, "wait")
    id = add(store)
    first = replica()
    starts(tmp_path, 1)
    until(store, id, "in_progress")
    step, first._step = first._step, lambda: None  # type: ignore[method-assign]
    played("shards", 2, "end", "completed")
    second = replica()
    job = until(store, id, "completed")
    assert job.crashes in (0, 1)
    first._step = step  # type: ignore[method-assign]
    first.nudge()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(starts(tmp_path)[0]["pid"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not first._mine and not second._mine
    assert store.jobs.get(id).status == "completed"


def test_a_replica_may_take_jobs_and_run_none(
    store: Store, replica: Callable[..., ServiceJobs], tmp_path: Path
) -> None:
    idle = replica(jobs_at_once=0)
    id = add(store)
    idle.nudge()
    time.sleep(1)
    assert not starts(tmp_path) and store.jobs.get(id).claim is None
    store.jobs.cancel(id, author="k")
    assert store.jobs.get(id).status == "cancelled"


def test_cancelling_what_runs_and_what_lost_its_replica(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path
) -> None:
    played("shards", 1, "wait")
    orphan = add(store)
    (seen,) = store.jobs.open()
    assert store.jobs.claim(seen, "a-replica-that-is-gone") is not None
    store.jobs.cancel(orphan, author="k")
    id = add(store)
    jobs = replica()
    until(store, id, "in_progress")
    store.jobs.cancel(id, author="k")
    jobs.nudge()
    until(store, id, "cancelled")
    until(store, orphan, "cancelled")
    assert len(starts(tmp_path)) == 1


def test_what_is_said_while_the_database_is_away_is_kept_once_it_is_back(
    store: Store, replica: Callable[..., ServiceJobs], played: Callable[..., None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from manyeyes.errors import StoreUnavailable

    played("sleep", 0.5, "log", "one", "log", "two", "shards", 3, "end", "completed")
    id = add(store)
    replica(jobs_lease_s=60)
    starts(tmp_path, 1)

    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        for name in ("tell", "open", "beat"):
            patch.setattr(store.jobs, name, away)
        time.sleep(2.5)
    until(store, id, "completed")
    assert [event.data["message"] for event in store.jobs.events(id, kinds=("log",))] == ["one", "two"]


def test_replicas_that_share_a_postgres_run_each_job_once(
    postgres_url: str,
    settings_of: Callable[..., ServiceSettings],
    played: Callable[..., None],
    tmp_path: Path,
) -> None:
    played("shards", 2, "sleep", 0.2, "end", "completed")
    settings = settings_of(store_url=postgres_url, jobs_lease_s=30)
    stores = [Store.open(postgres_url) for _ in range(2)]
    ids = [add(stores[0]) for _ in range(6)]
    replicas = [ServiceJobs(store, settings, Metrics()) for store in stores]
    for jobs in replicas:
        jobs.start()
    for id in ids:
        until(stores[1], id, "completed", timeout_s=40)
    for jobs, store in zip(replicas, stores, strict=True):
        assert jobs.drain(10)
        store.close()
    assert len(starts(tmp_path)) == len(ids)
