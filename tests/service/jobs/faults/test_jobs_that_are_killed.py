"""Whoever runs a job is killed, at any moment: it goes on, and what comes out is what would have come out."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from manyeyes.errors import NotFound
from manyeyes.service.jobs.datasets.dataset import Dataset
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import EngineSpec, JobRequest
from tests.service.jobs.faults.nursery import Nursery, When, check_completed, nursery
from tests.service.jobs.toy_jobs import labels, n_commits, paint, request, wait_for, with_function

N_ROWS = 80
BROKEN = (3, 77)
SEEN = """
import os, time
def vote(item):
    with open(os.environ["SEEN"], "a") as file:
        file.write(item.id + "\\n")
    time.sleep(0.01)
    return None
"""


@dataclass(frozen=True)
class Case:
    """A job. whole: what came of it without a fault. writes: how many it took."""

    source: Path
    whole: Path
    writes: int
    nursery: Nursery

    def request(self, out: Path) -> JobRequest:
        return request(self.source, out, engine=EngineSpec(workers=2))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("killed")
    source, whole = paint(folder / "photos", N_ROWS, broken=BROKEN), folder / "whole"
    with nursery(folder / "nursery") as crib:
        end = crib.run(request(source, whole, engine=EngineSpec(workers=2)))
        assert end.status == "completed", end
        yield Case(source, whole, end.told["writes"], crib)


def visible(out: Path) -> dict[str, str]:
    """Return what a reader of the folder sees: file → sha256. Hidden files and the job's own are none of it."""
    found = [path for path in out.rglob("*") if path.is_file()]
    names = {path: path.relative_to(out) for path in found}
    seen = [path for path in found if not any(part.startswith((".", "_")) for part in names[path].parts)]
    return {str(names[path]): hashlib.sha256(path.read_bytes()).hexdigest() for path in seen}


def check_readers(out: Path) -> None:
    """What is published is whole, whenever one looks; before, there is nothing."""
    try:
        dataset = Dataset.open(out)
    except NotFound:
        return
    assert len(list(dataset.labels())) == N_ROWS


def check_same(out: Path, whole: Path) -> None:
    """Each row once, byte for byte what an uninterrupted run writes, and nothing beside it."""
    assert visible(out) == visible(whole)
    assert [Path(row["id"]).name for row in labels(out)] == [f"{i:05d}.png" for i in range(N_ROWS)]
    dataset = Dataset.open(out)
    assert (len(dataset), dataset.counts.failed) == (N_ROWS, len(BROKEN))
    rows = list(dataset.rows())
    assert (
        [row.id for row, _ in rows] == [label.id for _, label in rows] == [row["id"] for row in labels(out)]
    )
    listed = [meta.path for meta in Storage.open(str(out)).list()]
    assert not any(part.startswith(".") for path in listed for part in path.split("/"))
    # What died half-way left parts that nobody will ever read: they are gone, too.
    assert n_parts(out) == n_parts(whole)


def n_parts(out: Path) -> int:
    """Return how many parts of votes and labels the job keeps."""
    return len(list(out.glob("_manyeyes/jobs/*/parts/*/*.parquet")))


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed % 4 else []) for seed in range(20)]
)
def test_at_a_random_write(case: Case, tmp_path: Path, seed: int) -> None:
    """One write of its life, from the first line of the manifest to the last event: before, half way, or after."""
    rng = random.Random(seed)
    # One of each stretch of its life, so that all are met.
    first = case.writes * seed // 20 + 1
    die_at, when = rng.randint(first, max(first, case.writes * (seed + 1) // 20)), rng.choice(get_args(When))
    asked, out = case.request(tmp_path / "out"), tmp_path / "out"
    assert case.nursery.run(asked, die_at=die_at, when=when).killed or die_at > case.writes - 12
    check_readers(out)
    end = case.nursery.run(asked)
    assert (end.status, end.told.get("rows")) == ("completed", N_ROWS)
    check_same(out, case.whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
def test_again_and_again(case: Case, tmp_path: Path, seed: int) -> None:
    """A job that never lives for more than twenty writes ends, too."""
    rng = random.Random(100 + seed)
    asked, out = case.request(tmp_path / "out"), tmp_path / "out"
    for _ in range(60):
        end = case.nursery.run(asked, die_at=rng.randint(4, 20), when=rng.choice(get_args(When)))
        check_readers(out)
        if not end.killed:
            break
    assert end.status == "completed"
    check_same(out, case.whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_at_a_random_time(case: Case, tmp_path: Path, seed: int) -> None:
    """From outside, wherever its threads are."""
    rng = random.Random(200 + seed)
    asked, out = case.request(tmp_path / "out"), tmp_path / "out"
    pid = case.nursery.start(asked)
    time.sleep(rng.uniform(0.02, 1.0))
    os.kill(pid, signal.SIGKILL)
    case.nursery.wait(pid)
    check_readers(out)
    check_completed(case.nursery.run(asked))
    check_same(out, case.whole)


def test_the_clock_of_the_wall_jumps(case: Case, tmp_path: Path) -> None:
    """By years, to and fro, in whoever begins the job and in whoever goes on."""
    asked, out = case.request(tmp_path / "out"), tmp_path / "out"
    assert case.nursery.run(asked, wall_jumps=True, die_at=case.writes // 2).killed
    end = case.nursery.run(asked, wall_jumps=True)
    assert end.status == "completed"
    check_same(out, case.whole)


@pytest.mark.slow
class TestSeveralCoordinators:
    @pytest.fixture
    def crib(self, tmp_path: Path) -> Iterator[Nursery]:
        functions = tmp_path / "functions"
        functions.mkdir()
        (functions / "seen_votes.py").write_text(SEEN)
        with nursery(tmp_path / "nursery", functions) as crib:
            yield crib

    def _request(self, case: Case, out: Path) -> JobRequest:
        recipe = with_function("seen_votes:vote")
        return request(case.source, out, recipe=recipe, engine=EngineSpec(workers=2))

    def test_started_at_once(self, case: Case, crib: Nursery, tmp_path: Path) -> None:
        """One output, both end well, and hardly anything is done twice."""
        seen = {"SEEN": str(tmp_path / "seen")}
        whole, out = tmp_path / "whole", tmp_path / "out"
        check_completed(crib.run(self._request(case, whole), env={"SEEN": os.devnull}))
        ends = [crib.wait(pid) for pid in [crib.start(self._request(case, out), env=seen) for _ in range(2)]]
        assert [end.status for end in ends] == ["completed"] * 2, ends
        assert len({end.told["job"] for end in ends}) == 1
        check_same(out, whole)
        voted = Path(seen["SEEN"]).read_text().split("\n")[:-1]
        assert len(set(voted)) == N_ROWS - len(BROKEN)
        assert len(voted) <= N_ROWS + 20, "no more than two shards are done twice"

    def test_one_dies(self, case: Case, crib: Nursery, tmp_path: Path) -> None:
        """The other does the rest, at once: it sees that the process is no more."""
        seen = {"SEEN": str(tmp_path / "seen")}
        whole, out = tmp_path / "whole", tmp_path / "out"
        check_completed(crib.run(self._request(case, whole), env={"SEEN": os.devnull}))
        pids = [crib.start(self._request(case, out), env=seen) for _ in range(2)]
        wait_for(lambda: n_commits(out) >= 2)
        os.kill(pids[0], signal.SIGKILL)
        began = time.monotonic()
        assert crib.wait(pids[0]).killed
        assert crib.wait(pids[1]).status == "completed"
        assert time.monotonic() - began < 20, "its leases end with it, not after a minute"
        check_same(out, whole)

    def test_one_is_paused_and_comes_back(self, case: Case, crib: Nursery, tmp_path: Path) -> None:
        """The other takes its shards over; when it wakes up, it finds all done, and does no harm."""
        seen = {"SEEN": str(tmp_path / "seen")}
        whole, out = tmp_path / "whole", tmp_path / "out"
        check_completed(crib.run(self._request(case, whole), env={"SEEN": os.devnull}))
        pids = [crib.start(self._request(case, out), env=seen, lease_s=1.0) for _ in range(2)]
        wait_for(lambda: n_commits(out) >= 2)
        os.kill(pids[0], signal.SIGSTOP)
        try:
            assert crib.wait(pids[1]).status == "completed"
            before = visible(out)
        finally:
            os.kill(pids[0], signal.SIGCONT)
        assert crib.wait(pids[0]).status == "completed"
        assert visible(out) == before
        check_same(out, whole)
