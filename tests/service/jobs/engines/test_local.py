"""Threads that share a worker: every shard once, errors tried again, and an end when one is asked for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from manyeyes.errors import InvalidRequest, ModelNotFound, StorageFailed
from manyeyes.service.jobs.engines.base import CRASHED, failed, open_engine
from manyeyes.service.jobs.engines.local import LocalEngine
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.events import events_of
from manyeyes.service.jobs.run import run_job
from manyeyes.service.jobs.shapes import EngineSpec, Shard
from manyeyes.service.jobs.work.worker import Outcome, ShardWorker, WorkSpec
from tests.service.jobs.toy_jobs import n_commits, paint, published, request


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Have shards fail as a whole, so many times: shard → how often it still does."""
    left: Counter[int] = Counter()
    do, lock = ShardWorker.do, threading.Lock()

    def fail_first(self: ShardWorker, shard: Shard, **how: Any) -> Outcome:
        with lock:
            left[shard.index] -= 1
            fails = left[shard.index] >= 0 and self.spec.pass_ == "votes"
        if fails:
            raise MemoryError(f"no room for shard {shard.index}")
        return do(self, shard, **how)

    monkeypatch.setattr(ShardWorker, "do", fail_first)
    monkeypatch.setattr("manyeyes.service.jobs.coordination.passes._RETRY_WAIT_S", 0.01)
    return left


def test_a_shard_that_fails_is_tried_again(tmp_path: Path, flaky: Counter[int]) -> None:
    source = paint(tmp_path / "photos", 50)
    run_job(request(source, tmp_path / "sound"))
    flaky[1], flaky[3] = 2, 1
    done = run_job(request(source, tmp_path / "out"))
    assert done.status == "completed"
    assert published(tmp_path / "out") == published(tmp_path / "sound")
    told = events_of(Storage.open(str(tmp_path / "out")), done.job)
    problems = [event for event in told if event.kind == "problem"]
    assert sorted(event.more["shard"] for event in problems) == [1, 1, 3]
    assert all("no room" in event.message and "tried again" in event.message for event in problems)


def test_one_that_always_fails_ends_the_job_clearly(tmp_path: Path, flaky: Counter[int]) -> None:
    flaky[2] = 100
    asked = request(paint(tmp_path / "photos", 50), tmp_path / "out")
    done = run_job(asked)
    assert done.status == "failed"
    assert "shard 2: MemoryError: no room for shard 2" in (done.message or "")
    assert n_commits(tmp_path / "out") == 4, "what could be done was done"
    flaky.clear()
    assert run_job(asked).status == "completed"


def test_what_would_end_every_shard_ends_the_job_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(paint(tmp_path / "photos", 500), tmp_path / "out")
    calls = []

    def no_model(_self: ShardWorker, shard: Shard, **_how: Any) -> Outcome:
        calls.append(shard.index)
        return Outcome(shard.index, "error", code="model_not_found", message="no weights here", fatal=True)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWorker, "do", no_model)
        done = run_job(asked)
    assert done.status == "failed" and "no weights here" in (done.message or "")
    assert len(calls) < 50
    assert run_job(asked).status == "completed"


def test_what_a_worker_raises_is_an_outcome() -> None:
    shard = Shard(7, "x", "y", 1)
    assert failed(shard, ModelNotFound("none")) == Outcome(7, "error", None, "model_not_found", "none", True)
    assert not failed(shard, StorageFailed("no answer")).fatal
    assert failed(shard, KeyError("x")) == Outcome(7, "error", None, CRASHED, "KeyError: 'x'")


def test_works_on_several_shards_at_once_and_on_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[int] = Counter()
    together, lock, most = 0, threading.Lock(), 0

    def note(_self: ShardWorker, shard: Shard, **_how: Any) -> Outcome:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
            seen[shard.index] += 1
        time.sleep(0.01)
        with lock:
            together -= 1
        return Outcome(shard.index, "busy")

    monkeypatch.setattr(ShardWorker, "do", note)
    monkeypatch.setattr(ShardWorker, "__init__", lambda *_, **__: None)
    told: list[int] = []
    with LocalEngine(EngineSpec(workers=4), Storage.open(str(tmp_path))) as engine:
        engine.run(
            (Shard(i, "x", "y", 1) for i in range(50)),
            WorkSpec(str(tmp_path), "j", "votes"),
            lambda shard, _outcome: told.append(shard.index),
            threading.Event(),
        )
    assert most == 4
    assert seen == Counter(range(50)) and sorted(told) == list(range(50))


def test_leaves_a_thread_behind_that_does_not_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, hangs = threading.Event(), threading.Event()

    def hang(_self: ShardWorker, shard: Shard, **_how: Any) -> Outcome:
        stop.set()
        hangs.wait(20)
        return Outcome(shard.index, "busy")

    monkeypatch.setattr(ShardWorker, "do", hang)
    monkeypatch.setattr(ShardWorker, "__init__", lambda *_, **__: None)
    monkeypatch.setattr("manyeyes.service.jobs.engines.local.PATIENCE_S", 0.3)
    told: list[int] = []
    began = time.monotonic()
    with LocalEngine(EngineSpec(workers=1), Storage.open(str(tmp_path))) as engine:
        engine.run(
            [Shard(0, "x", "y", 1)],
            WorkSpec(str(tmp_path), "j", "votes"),
            lambda shard, _outcome: told.append(shard.index),
            stop,
        )
    assert time.monotonic() - began < 5
    hangs.set()
    time.sleep(0.1)
    assert told == [], "nobody waits for it any more"


def test_refuses_what_only_a_cluster_has(tmp_path: Path) -> None:
    for spec in (EngineSpec(decoders=1), EngineSpec(gpus=1), EngineSpec(address="x:1")):
        with pytest.raises(InvalidRequest, match="of the engine ray"):
            open_engine(spec, Storage.open(str(tmp_path)))
