"""Hopeless jobs stop in seconds; jobs with many bad rows do not. Failed rows are tried again on request."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.errors import InvalidRequest
from manyeyes.service.jobs.coordination.breaker import Watched, spread, too_many
from manyeyes.service.jobs.layout import cancel_file
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.events import events_of
from manyeyes.service.jobs.run import find_job, progress_of, resume_job, retry_failed, run_job
from manyeyes.service.jobs.shapes import Breaker, Counts
from manyeyes.service.jobs.work.generations import latest_generation, read_generation
from tests.service.jobs.toy_jobs import labels, n_commits, paint, published, request, with_function

MOODY = """
from pathlib import Path
def vote(item):
    if not Path(__file__).with_name("mended").exists() and item.id.endswith(ENDINGS):
        raise RuntimeError("not today")
    return None
"""


@pytest.fixture
def moody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a function is that fails for each tenth item, until a file says that it was mended."""
    folder = tmp_path / "functions"
    folder.mkdir()
    (folder / "moody_votes.py").write_text(MOODY.replace("ENDINGS", '("7.png",)'))
    (folder / "hopeless_votes.py").write_text(MOODY.replace("ENDINGS", '(".png",)'))
    monkeypatch.syspath_prepend(str(folder))
    for name in ("moody_votes", "hopeless_votes", "slow_votes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def test_a_wholly_wrong_folder_fails_in_seconds(tmp_path: Path) -> None:
    source, out = paint(tmp_path / "photos", 3000, broken=range(3000)), tmp_path / "out"
    began = time.monotonic()
    done = run_job(request(source, out, shard_rows=500))
    assert time.monotonic() - began < 15
    assert done.status == "failed" and n_commits(out) < 6
    assert "the commonest error is undecodable_image" in (done.message or "")
    assert ".png'" in (done.message or ""), "one example"
    assert progress_of(Storage.open(str(out)), done.job).message == done.message


def test_a_recipe_that_fails_on_every_row_stops(tmp_path: Path, moody: Path) -> None:
    source, out = paint(tmp_path / "photos", 300), tmp_path / "out"
    asked = request(source, out, shard_rows=20, recipe=with_function("hopeless_votes:vote"))
    done = run_job(asked)
    assert done.status == "failed" and "not today" in (done.message or "")
    (moody / "mended").touch()
    again = run_job(asked)
    assert again.job == done.job
    if again.status == "failed":  # it stopped after all votes were there
        assert retry_failed(Storage.open(str(out)), done.job) is not None
        again = run_job(asked)
    assert again.status == "completed"


@pytest.mark.slow
def test_a_thousand_bad_ones_among_ten_thousand_are_rows(tmp_path: Path) -> None:
    """However they lie: here they come first, as the files of a damaged folder would."""
    source, out = paint(tmp_path / "photos", 10_000, broken=range(1000)), tmp_path / "out"
    done = run_job(request(source, out, shard_rows=500))
    assert done.status == "completed"
    assert (done.counts.rows, done.counts.failed) == (10_000, 1000)
    assert done.counts.labeled + done.counts.abstained == 9000
    rows = labels(out)
    assert len(rows) == 10_000 and len({row["id"] for row in rows}) == 10_000
    assert sum(row["error_code"] == "undecodable_image" for row in rows) == 1000


def test_few_rows_that_all_fail_are_hopeless_too(tmp_path: Path) -> None:
    done = run_job(request(paint(tmp_path / "photos", 5, broken=range(5)), tmp_path / "out"))
    assert done.status == "failed" and "5 of 5 rows failed" in (done.message or "")
    assert not (tmp_path / "out" / "manyeyes.json").exists()


def test_more_failures_may_be_allowed(tmp_path: Path) -> None:
    source = paint(tmp_path / "photos", 150, broken=range(100))
    assert run_job(request(source, tmp_path / "out")).status == "failed"
    done = run_job(request(source, tmp_path / "out", breaker=Breaker(max_error_rate=0.8)))
    assert (done.status, done.counts.failed) == ("completed", 100)


def test_failed_rows_are_tried_again(tmp_path: Path, moody: Path) -> None:
    source, recipe = paint(tmp_path / "photos", 60, broken=[2]), with_function("moody_votes:vote")
    out, sound = tmp_path / "out", tmp_path / "sound"
    asked = request(source, out, recipe=recipe)
    first = run_job(asked)
    assert first.counts.errors == {"primitive_failed": 6, "undecodable_image": 1}
    (moody / "mended").touch()
    storage = Storage.open(str(out))
    generation = retry_failed(storage, first.job)
    assert generation is not None and (generation.index, generation.shards) == (1, (0, 1, 2, 3, 4, 5))
    assert progress_of(storage, first.job).status == "in_progress"
    with pytest.raises(InvalidRequest, match="in_progress"):
        retry_failed(storage, first.job)
    done = resume_job(str(out))
    assert (done.status, done.counts.errors) == ("completed", {"undecodable_image": 1})
    assert progress_of(storage, first.job).counts == done.counts
    assert retry_failed(storage, first.job) is None, "what is left does not pass"
    # As if nothing had ever failed.
    run_job(request(source, sound, recipe=recipe))
    mine, theirs = published(out), published(sound)
    mine.pop("manyeyes.json"), theirs.pop("manyeyes.json")  # which tells of the retry
    assert mine == theirs


def test_every_failure_may_be_tried_again(tmp_path: Path) -> None:
    source, out = paint(tmp_path / "photos", 30, broken=[2, 25]), tmp_path / "out"
    job = run_job(request(source, out)).job
    storage = Storage.open(str(out))
    assert retry_failed(storage, job) is None
    generation = retry_failed(storage, job, every=True)
    assert generation is not None and generation.shards == (0, 2)
    assert latest_generation(storage, job) == 1 and read_generation(storage, job, 1) == generation
    done = resume_job(str(out))
    assert (done.status, done.counts.failed) == ("completed", 2), "they are still damaged"


def test_a_wish_to_stop_that_came_too_late_stops_no_retry(tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = run_job(request(paint(tmp_path / "photos", 30, broken=[2]), out)).job
    storage = Storage.open(str(out))
    storage.put(cancel_file(job), b"{}")
    assert resume_job(str(out)).status == "completed"
    assert retry_failed(storage, job, every=True) is not None
    assert resume_job(str(out)).status == "completed"


def test_tells_what_happened_with_numbers_that_never_repeat(tmp_path: Path, moody: Path) -> None:
    source, out = paint(tmp_path / "photos", 60), tmp_path / "out"
    asked = request(source, out, recipe=with_function("moody_votes:vote"))
    job = run_job(asked).job
    storage = Storage.open(str(out))
    first = events_of(storage, job)
    assert [event.status for event in first if event.status][:2] == ["validating", "in_progress"]
    assert first[-1].status == "completed"
    retry_failed(storage, job)
    (moody / "mended").touch()
    run_job(asked)
    more = events_of(storage, job, after=first[-1].id)
    assert [event.id for event in [*first, *more]] == list(range(1, len(first) + len(more) + 1))
    assert events_of(storage, job, after=more[-1].id) == []
    assert find_job(storage).id == job


@given(st.integers(0, 5000), st.integers(1, 300))
def test_places_are_spread(n: int, most: int) -> None:
    places = spread(n, most)
    assert len(places) == min(n, most) == len(set(places))
    assert all(0 <= place < n for place in places) and places == sorted(places)
    if n >= most:
        gaps = [b - a for a, b in zip([0, *places], [*places, n], strict=True)]
        assert max(gaps) <= n / most + 1


def test_a_wrong_suspicion_waits_for_more_rows() -> None:
    watched = Watched(Breaker(max_error_rate=0.5, min_rows=10))
    watched.saw(9, [(str(i), "empty_item", "zero bytes") for i in range(9)])
    assert not watched.is_suspicious
    watched.saw(1, [("9", "fetch_failed", "no answer")])
    assert watched.is_suspicious
    found = watched.hopeless(least=10)
    assert found is not None
    assert str(found) == (
        "10 of 10 rows failed; the commonest error is empty_item (9), such as '0': zero bytes"
    )
    watched.was_wrong()
    assert not watched.is_suspicious
    watched.saw(30, [(str(i), "empty_item", "zero bytes") for i in range(30)])
    assert watched.is_suspicious


def test_says_when_nothing_should_be_fitted() -> None:
    breaker = Breaker(max_error_rate=0.5, min_rows=100)
    assert not too_many(breaker, Counts())
    assert too_many(breaker, Counts(rows=1, failed=1))
    assert not too_many(breaker, Counts(rows=99, failed=98))
    assert not too_many(breaker, Counts(rows=100, failed=50))
    assert too_many(breaker, Counts(rows=100, failed=51))
