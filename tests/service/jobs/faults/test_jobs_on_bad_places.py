"""A job whose source and place fail on the way, and one whose disk is full: it ends well, or says what to do."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manyeyes.errors import StorageFailed
from manyeyes.service.jobs.datasets.dataset import Dataset
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.run import run_job
from manyeyes.service.jobs.shapes import EngineSpec, JobRequest
from tests.service.jobs.faults.conftest import WAIT_S
from tests.service.jobs.faults.nursery import Nursery, check_completed, nursery
from tests.service.jobs.faulty_s3 import FaultyS3, nothing, seeded
from tests.service.jobs.toy_jobs import paint, published, request, start, wait_for

N_ROWS = 60
BROKEN = (3, 47)
WORKERS = EngineSpec(workers=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("photos"), N_ROWS, broken=BROKEN)


@pytest.fixture(scope="module")
def crib(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("nursery")) as crib:
        yield crib


@pytest.fixture(scope="module")
def in_bucket(server: FaultyS3, photos: Path) -> str:
    """Return the photographs in a bucket that does not fail yet."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.env(straight=True).items():
            patch.setenv(name, value)
        place = Storage.open("s3://jobs/photos")
        for path in photos.iterdir():
            place.put(path.name, path.read_bytes())
    return place.uri


def visible(uri: str) -> dict[str, bytes]:
    """Return what a reader of the bucket sees: object → bytes; the job's own are none of it."""
    place = Storage.open(uri)
    paths = [meta.path for meta in place.list()]
    return {path: place.get(path) for path in paths if not path.startswith(("_", "."))}


def of_bucket(source: str, out: str) -> JobRequest:
    return request(source, out, engine=WORKERS)


@pytest.fixture(scope="module")
def whole(server: FaultyS3, in_bucket: str, crib: Nursery) -> dict[str, bytes]:
    """Return what comes out without a fault."""
    env = server.env(straight=True)
    end = crib.run(of_bucket(in_bucket, "s3://jobs/whole"), env=env)
    assert (end.status, end.told.get("rows")) == ("completed", N_ROWS), end
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        return visible("s3://jobs/whole")


@pytest.mark.slow
class TestBuckets:
    """Source and place are in one that returns 500s and 503s, is silent, breaks off, and loses its answers."""

    @pytest.mark.parametrize(("seed", "rate"), [(1, 0.15)])
    def test_both_fail_all_the_time(
        self, s3: FaultyS3, in_bucket: str, whole: dict[str, bytes], crib: Nursery, seed: int, rate: float
    ) -> None:
        out = f"s3://jobs/stormy-{seed}"
        s3.plan = seeded(seed, rate)
        env = {**s3.env(), "MANYEYES_STORAGE_TIMEOUT_S": str(WAIT_S)}
        end = crib.run(of_bucket(in_bucket, out), env=env)
        happened = dict(s3.happened)
        s3.plan = nothing
        assert (end.status, end.told.get("rows")) == ("completed", N_ROWS), end
        assert len(happened) >= 6 and sum(happened.values()) >= 20, happened
        assert visible(out) == whole
        dataset = Dataset.open(out)
        assert (len(list(dataset.labels())), dataset.counts.failed) == (N_ROWS, len(BROKEN))

    @pytest.mark.parametrize("seed", range(1))
    def test_and_the_job_is_killed_too(
        self, s3: FaultyS3, in_bucket: str, whole: dict[str, bytes], crib: Nursery, seed: int
    ) -> None:
        out, rng = f"s3://jobs/killed-{seed}", random.Random(seed)
        s3.plan = seeded(seed, 0.06, ("error", "slow_down", "reset", "half", "lost"))
        for _ in range(3):
            pid = crib.start(
                of_bucket(in_bucket, out), env=s3.env(), die_at=rng.randint(10, 60), when="after"
            )
            crib.wait(pid)
        end = crib.run(of_bucket(in_bucket, out), env=s3.env())
        s3.plan = nothing
        assert end.status == "completed", end
        assert visible(out) == whole

    def test_two_coordinators_in_a_storm(
        self, s3: FaultyS3, in_bucket: str, whole: dict[str, bytes], crib: Nursery
    ) -> None:
        out = "s3://jobs/two"
        s3.plan = seeded(3, 0.06, ("error", "slow_down", "reset", "half", "lost"))
        pids = [crib.start(of_bucket(in_bucket, out), env=s3.env()) for _ in range(2)]
        ends = [crib.wait(pid) for pid in pids]
        s3.plan = nothing
        assert [end.status for end in ends] == ["completed"] * 2, ends
        assert visible(out) == whole

    def test_an_outage_stops_it_and_it_goes_on(
        self, s3: FaultyS3, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that lasts longer than its patience: it says so, and the same call goes on."""
        monkeypatch.setattr("manyeyes.service.jobs.places.storage.PATIENCE_S", 0.5)
        monkeypatch.setattr(Storage.open.__func__, "__kwdefaults__", {"buckets": None, "patience_s": 0.5})
        asked = request(photos, "s3://jobs/outage", shard_rows=N_ROWS)

        def away(method: str, path: str, before: int) -> tuple[int, str] | None:
            late = "/parts/" in path and method == "PUT"
            return (503, "SlowDown") if late else None

        s3.plan = away
        failed = run_job(asked)
        assert failed.status == "failed"
        assert failed.message is not None and "503 SlowDown" in failed.message, failed.message
        s3.plan = nothing
        done = run_job(asked)
        assert (done.status, done.counts.rows) == ("completed", N_ROWS)


class TestWrongPlaces:
    """What is wrong from the beginning is told in seconds."""

    @pytest.mark.parametrize("which", ["source", "out"])
    def test_no_such_bucket(self, s3: FaultyS3, photos: Path, tmp_path: Path, which: str) -> None:
        source, out = (
            ("s3://nowhere/a", tmp_path / "out") if which == "source" else (photos, "s3://nowhere/a")
        )
        began = time.monotonic()
        with pytest.raises(StorageFailed, match="no such bucket"):
            run_job(request(source, out))
        assert time.monotonic() - began < 10

    @pytest.mark.parametrize("which", ["source", "out"])
    def test_nobody_answers(
        self, photos: Path, tmp_path: Path, which: str, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        source, out = ("s3://jobs/a", tmp_path / "out") if which == "source" else (photos, "s3://jobs/a")
        began = time.monotonic()
        with pytest.raises(StorageFailed, match="check the endpoint"):
            run_job(request(source, out))
        assert time.monotonic() - began < 15

    @pytest.mark.parametrize("which", ["source", "out"])
    def test_wrong_credentials(self, s3: FaultyS3, photos: Path, tmp_path: Path, which: str) -> None:
        s3.plan = lambda method, path, before: (403, "SignatureDoesNotMatch")
        source, out = ("s3://jobs/a", tmp_path / "out") if which == "source" else (photos, "s3://jobs/a")
        with pytest.raises(StorageFailed, match="credentials are wrong"):
            run_job(request(source, out))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 2 MB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this machine mounts no file system for a test: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


class TestFullDisks:
    @pytest.mark.parametrize(
        "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))]
    )
    def test_a_disk_that_is_full_on_the_way(
        self, small_disk: Path, photos: Path, tmp_path: Path, crib: Nursery, seed: int
    ) -> None:
        """It stops with a message; nothing half-written is read; once there is room, the same call goes on."""
        whole, out, ballast = tmp_path / "whole", small_disk / "out", small_disk / "ballast"
        check_completed(crib.run(request(photos, whole, engine=WORKERS)))
        room = random.Random(seed).randint(16, 160) * 2**10
        with ballast.open("wb") as file:
            file.write(b"\0" * (_free(small_disk) - room))
        end = crib.run(request(photos, out, engine=WORKERS))
        assert "completed" not in end.told.values(), "there was too much room to test anything"
        assert not end.killed
        assert "No space left" in end.told["message"] and "Make room there" in end.told["message"], end
        assert end.told.get("error", "storage_full") == "storage_full"
        assert _whole_or_not_at_all(out, whole)
        ballast.unlink()
        check_completed(crib.run(request(photos, out, engine=WORKERS)))
        assert published(out) == published(whole)

    def test_a_limit_of_the_size_of_files(self, photos: Path, tmp_path: Path, crib: Nursery) -> None:
        """The same where nothing can be mounted: no file may be larger than a part is."""
        whole, out = tmp_path / "whole", tmp_path / "out"
        check_completed(crib.run(request(photos, whole, engine=WORKERS)))
        end = crib.run(request(photos, out, engine=WORKERS), max_file_bytes=2000)
        assert "File too large" in end.told["message"] and "Make room there" in end.told["message"], end
        assert _whole_or_not_at_all(out, whole)
        check_completed(crib.run(request(photos, out, engine=WORKERS)))
        assert published(out) == published(whole)


def _free(folder: Path) -> int:
    told = os.statvfs(folder)
    return told.f_bavail * told.f_frsize


def _whole_or_not_at_all(out: Path, whole: Path) -> bool:
    """Whether each file that is read by name is what it is when there is room, as far as it is of those."""
    found = [path.relative_to(out) for path in out.rglob("*.parquet")]
    assert not (out / "manyeyes.json").exists()
    return all(
        (out / path).read_bytes() == (whole / path).read_bytes()
        for path in found
        if path.parts[0] != "_manyeyes"
    )


@pytest.mark.slow
def test_a_job_that_waits_for_a_bucket_can_be_stopped(s3: FaultyS3, photos: Path, tmp_path: Path) -> None:
    """Ctrl-C does not wait for the end of an outage."""
    s3.plan = lambda method, path, before: (503, "SlowDown") if "/commits/" in path else None
    running = start(request(photos, "s3://jobs/stopped", engine=WORKERS), tmp_path)
    try:
        wait_for(lambda: s3.happened.total() > 3)
        running.send_signal(signal.SIGINT)
        told, _ = running.communicate(timeout=25)
    finally:
        running.kill()
        running.communicate()
    assert told.startswith("in_progress")
