"""Jobs in actors: the same bytes as on threads, also where actors are killed, and with decoders beside them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from manyeyes.errors import InvalidRequest, ServiceUnavailable
from manyeyes.service.fetching.buckets import Bucket, Buckets
from manyeyes.service.jobs.engines.base import open_engine
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.events import events_of
from manyeyes.service.jobs.run import cancel, find_job, run_job
from manyeyes.service.jobs.shapes import EngineSpec
from tests.service.jobs.faulty_s3 import faulty_s3
from tests.service.jobs.toy_jobs import (
    n_commits,
    paint,
    published,
    request,
    start,
    wait_for,
    with_function,
)

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SLOW = """
import time
def vote(item):
    time.sleep(0.02)
    return None
"""
DEADLY = """
import os
def vote(item):
    if item.id.endswith("00017.png"):
        os._exit(1)
    return None
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "functions"
    folder.mkdir()
    (folder / "slow_in_actors.py").write_text(SLOW)
    (folder / "deadly_in_actors.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    for name in ("slow_in_actors", "deadly_in_actors"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    assert not [one for one in _children() if "ray" in one.name()], "a cluster was left behind"


def _children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


def _actors(title: str = "ray::WorkerActor") -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        try:
            if one.cmdline() and one.cmdline()[0].startswith(title):
                found.append(one)
        except psutil.Error:
            continue
    return found


def test_the_bytes_are_those_of_threads(tmp_path: Path) -> None:
    source, told = paint(tmp_path / "photos", 150, broken=[3, 77]), []
    local, ray, fed = tmp_path / "local", tmp_path / "ray", tmp_path / "fed"
    run_job(request(source, local))
    done = run_job(request(source, ray, engine=EngineSpec(name="ray", workers=2)), on_progress=told.append)
    assert (done.status, done.counts.rows, done.counts.failed) == ("completed", 150, 2)
    assert published(ray) == published(local)
    assert told[-1] == done
    with_decoders = EngineSpec(name="ray", workers=1, decoders=1)
    assert run_job(request(source, fed, engine=with_decoders)).status == "completed"
    assert published(fed) == published(local)


@pytest.mark.timeout(300)
def test_killed_actors_change_no_byte(tmp_path: Path, functions: Path) -> None:
    source, recipe = paint(tmp_path / "photos", 300), with_function("slow_in_actors:vote")
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_job(request(source, whole, recipe=recipe, engine=EngineSpec(workers=8)))
    killed, rng, over = [], random.Random(5), threading.Event()

    def kill() -> None:
        while not over.wait(rng.uniform(0.2, 1.2)):
            victims = _actors("ray::WorkerActor.do" if rng.random() < 0.8 else "ray::WorkerActor")
            if victims and len(killed) < 6:
                victim = rng.choice(victims)
                victim.send_signal(signal.SIGKILL)
                killed.append(victim.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        engine = EngineSpec(name="ray", workers=2)
        done = run_job(request(source, out, recipe=recipe, engine=engine))
    finally:
        over.set()
        killer.join()
    assert len(killed) >= 3
    assert (done.status, done.counts.rows) == ("completed", 300)
    assert published(out) == published(whole)


def test_a_row_that_kills_its_actors_fails_the_job_clearly(tmp_path: Path, functions: Path) -> None:
    out = tmp_path / "out"
    asked = request(
        paint(tmp_path / "photos", 40),
        out,
        recipe=with_function("deadly_in_actors:vote"),
        engine=EngineSpec(name="ray", workers=1),
    )
    done = run_job(asked)
    assert done.status == "failed"
    assert "shard 1: 3 actors died over it" in (done.message or "")
    assert n_commits(out) == 3, "the others were done"
    storage = Storage.open(str(out))
    told = events_of(storage, find_job(storage).id)
    assert [event.more["shard"] for event in told if event.kind == "problem"] == [1, 1, 1]
    (functions / "deadly_in_actors.py").write_text("def vote(item):\n    return None\n")


def test_is_cancelled_within_seconds(tmp_path: Path, functions: Path) -> None:
    source, out = paint(tmp_path / "photos", 600), tmp_path / "out"
    recipe, engine = with_function("slow_in_actors:vote"), EngineSpec(name="ray", workers=2)
    ended = []
    running = threading.Thread(
        target=lambda: ended.append(run_job(request(source, out, recipe=recipe, engine=engine)))
    )
    running.start()
    wait_for(lambda: n_commits(out) >= 2, seconds=60)
    storage = Storage.open(str(out))
    began = time.monotonic()
    cancel(storage, find_job(storage).id)
    running.join(60)
    assert ended[0].status == "cancelled"
    assert time.monotonic() - began < 15
    before = n_commits(out)
    resumed = run_job(request(source, out, recipe=recipe, engine=EngineSpec(workers=8)))
    assert resumed.status == "completed" and before < 60, "threads go on with what actors left"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_within_seconds(tmp_path: Path, functions: Path, how: signal.Signals) -> None:
    source, out = paint(tmp_path / "photos", 600), tmp_path / "out"
    engine = EngineSpec(name="ray", workers=2)
    asked = request(source, out, recipe=with_function("slow_in_actors:vote"), engine=engine)
    running = start(asked, tmp_path / "first", path=functions)
    wait_for(lambda: n_commits(out) >= 2, seconds=60)
    began = time.monotonic()
    running.send_signal(how)
    told, _ = running.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert running.returncode == 0 and told.startswith("in_progress")
    assert n_commits(out) < 60


def test_a_killed_coordinator_leaves_nothing_but_what_was_done(tmp_path: Path, functions: Path) -> None:
    source, recipe = paint(tmp_path / "photos", 200), with_function("slow_in_actors:vote")
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_job(request(source, whole, recipe=recipe, engine=EngineSpec(workers=8)))
    asked = request(source, out, recipe=recipe, engine=EngineSpec(name="ray", workers=2))
    running = start(asked, tmp_path / "killed", path=functions)
    wait_for(lambda: n_commits(out) >= 3, seconds=60)
    assert _actors()
    running.kill()
    running.communicate(timeout=10)
    wait_for(lambda: not _actors(), seconds=20)  # Ray's own agents are there for another minute, and idle
    done = run_job(asked.model_copy(update={"engine": EngineSpec(workers=8)}))
    assert done.status == "completed"
    assert published(out) == published(whole)


def test_a_wholly_wrong_folder_fails_in_seconds(tmp_path: Path) -> None:
    source = paint(tmp_path / "photos", 3000, broken=range(3000))
    engine = EngineSpec(name="ray", workers=1)
    began = time.monotonic()
    done = run_job(request(source, tmp_path / "out", shard_rows=500, engine=engine))
    assert done.status == "failed" and "undecodable_image" in (done.message or "")
    assert time.monotonic() - began < 40, "of which the cluster takes most"


def test_reads_and_writes_an_operators_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors get the names of what opens the bucket, and read it from their environment."""
    with faulty_s3() as s3:
        s3.make_bucket("jobs")
        environment = s3.env()
        monkeypatch.setenv("JOBS_KEY", environment["AWS_ACCESS_KEY_ID"])
        monkeypatch.setenv("JOBS_SECRET", environment["AWS_SECRET_ACCESS_KEY"])
        bucket = Bucket(
            url="s3://jobs",
            region="us-east-1",
            endpoint=environment["AWS_ENDPOINT_URL"],
            credentials={"access_key_id": "JOBS_KEY", "secret_access_key": "JOBS_SECRET"},
            write=True,
        )
        buckets = Buckets({"jobs": bucket})
        photos = Storage.open("s3://jobs/photos", buckets=buckets)
        for path in paint(tmp_path / "photos", 40, broken=[3]).iterdir():
            photos.put(path.name, path.read_bytes())
        outs = ("s3://jobs/threads", "s3://jobs/actors")
        engines = (EngineSpec(), EngineSpec(name="ray", workers=1, decoders=1))
        found = []
        for out, engine in zip(outs, engines, strict=True):
            done = run_job(request("s3://jobs/photos", out, engine=engine), buckets=buckets)
            assert (done.status, done.counts.rows, done.counts.failed) == ("completed", 40, 1)
            place = Storage.open(out, buckets=buckets)
            found.append({meta.path: place.get(meta.path) for meta in place.list("labels")})
        assert found[0] == found[1] and len(found[0]) == 4


def test_says_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="memory"):
        open_engine(EngineSpec(name="ray"), Storage.open("memory://x"))
    asked = request(
        paint(tmp_path / "photos", 3), tmp_path / "out", engine=EngineSpec(name="ray", address="127.0.0.1:1")
    )
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        run_job(asked)
    assert time.monotonic() - began < 10


def test_actors_take_cores_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a process of its own, which keeps its core until it ends."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = (
        "import os, sys; from manyeyes.service.jobs.engines.actors import take_core;"
        "print(take_core(), len(os.sched_getaffinity(0)), flush=True); sys.stdin.read()"
    )
    n_cores = len(os.sched_getaffinity(0))
    actors = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(n_cores + 1)
    ]
    told = []
    for one in actors:
        assert one.stdout is not None
        told.append(one.stdout.readline().split())
    for one in actors:
        one.communicate("")
    taken = [core for core, n in told if core != "None"]
    assert len(set(taken)) == len(taken) == n_cores
    assert [n for core, n in told if core != "None"] == ["1"] * n_cores
    assert [n for core, n in told if core == "None"] == [str(n_cores)], "there is none left for the last"
