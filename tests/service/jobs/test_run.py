"""A job from its source to published labels: whole, twice, stopped, cancelled, killed, and by two at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from manyeyes.errors import (
    InvalidRecipe,
    InvalidRequest,
    ManyeyesError,
    MissingDependency,
    ModelNotFound,
    NotFound,
    UntrustedRecipe,
)
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.events import events_of
from manyeyes.service.jobs.run import cancel, find_job, progress_of, resume_job, run_job
from manyeyes.service.jobs.shapes import EngineSpec, Progress, Source
from tests.service.jobs.toy_jobs import (
    RECIPE,
    labels,
    n_commits,
    paint,
    published,
    request,
    start,
    wait_for,
    with_function,
)

SLOW = """
import time
def vote(item):
    time.sleep(0.02)
    return None
"""


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a function is that takes 20 ms an item: 0.2 s a shard."""
    folder = tmp_path / "functions"
    folder.mkdir()
    (folder / "slow_votes.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("moody_votes", "hopeless_votes", "slow_votes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def test_labels_each_row_once(tmp_path: Path) -> None:
    source = paint(tmp_path / "photos", 45)
    told: list[Progress] = []
    done = run_job(request(source, tmp_path / "out"), on_progress=told.append)
    assert (done.status, done.counts.rows, done.counts.labeled, done.n_rows) == ("completed", 45, 45, 45)
    assert (done.pass_, done.shards_done, done.shards) == ("labels", 5, 5)
    assert 0 < done.computed["toy"] <= 45
    rows = labels(tmp_path / "out")
    assert [Path(row["id"]).name for row in rows] == [f"{i:05d}.png" for i in range(45)]
    assert [row["label"] for row in rows] == ["red", "green", "blue"] * 15
    assert told[0].status == "validating" and told[-1] == done


def test_says_the_same_to_whoever_asks(tmp_path: Path) -> None:
    source = paint(tmp_path / "photos", 45, broken=[3, 30])
    done = run_job(request(source, tmp_path / "out"))
    asked = progress_of(Storage.open(str(tmp_path / "out")), done.job)
    for name in (
        "job",
        "status",
        "pass_",
        "shards_done",
        "shards",
        "counts",
        "computed",
        "message",
        "n_rows",
    ):
        assert getattr(asked, name) == getattr(done, name), name
    assert done.counts.errors == {"undecodable_image": 2}
    assert done.message == "45 rows: 43 labeled, 0 abstained, 2 failed (2 undecodable_image)"


def test_reads_the_same_without_its_notes(tmp_path: Path) -> None:
    """What a coordinator writes down of its sums saves readings, and is nothing to rely on."""
    out = tmp_path / "out"
    done = run_job(request(paint(tmp_path / "photos", 45, broken=[3]), out))
    storage = Storage.open(str(out))
    with_notes = progress_of(storage, done.job)
    notes = list(out.glob("_manyeyes/jobs/*/tallies/*.json"))
    assert len(notes) == 2
    notes[0].write_bytes(b"{}")
    notes[1].unlink()
    without = progress_of(storage, done.job)
    assert (without.counts, without.computed) == (with_notes.counts, with_notes.computed)


def test_a_finished_job_is_not_done_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = request(paint(tmp_path / "photos", 30), out)
    first = run_job(asked)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    told: list[Progress] = []
    again = run_job(asked, on_progress=told.append)
    assert (again.job, again.status, again.counts) == (first.job, "completed", first.counts)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    assert told[-1].status == "completed"


def test_publishes_again_what_another_job_had_replaced(tmp_path: Path) -> None:
    source, out = paint(tmp_path / "photos", 30), tmp_path / "out"
    run_job(request(source, out))
    first = published(out)
    edited = {**RECIPE, "lfs": [*RECIPE["lfs"][:1], {**RECIPE["lfs"][1], "threshold": 0.95}]}
    second = run_job(request(source, out, recipe=edited))
    assert second.computed == {}, "every primitive was stored"
    assert published(out) != first
    run_job(request(source, out))
    assert published(out) == first


def test_what_is_new_in_the_source_costs_what_is_new(tmp_path: Path) -> None:
    source, out = paint(tmp_path / "photos", 40), tmp_path / "out"
    first = run_job(request(source, out))
    paint(tmp_path / "more", 43, seed=1)
    for i in (40, 41, 42):
        (tmp_path / "more" / f"{i:05d}.png").rename(source / f"{i:05d}.png")
    (source / "00007.png").unlink()
    second = run_job(request(source, out))
    assert second.job != first.job and second.status == "completed"
    assert second.counts.rows == 42 and second.computed == {"toy": 3}
    assert sorted(Path(row["id"]).stem for row in labels(out)) == [f"{i:05d}" for i in range(43) if i != 7]
    assert run_job(request(source, out)).job == second.job


def test_an_edited_recipe_may_keep_the_rows_without_listing_them(tmp_path: Path) -> None:
    source, out = paint(tmp_path / "photos", 30), tmp_path / "out"
    asked = request(source, out)
    with pytest.raises(InvalidRequest, match="no earlier job"):
        run_job(asked.model_copy(update={"same_rows": True}))
    first = run_job(asked)
    edited = {**RECIPE, "lfs": [*RECIPE["lfs"][:1], {**RECIPE["lfs"][1], "threshold": 0.95}]}
    listed = run_job(request(source, tmp_path / "listed", recipe=edited))
    source.rename(tmp_path / "gone")  # nobody looks there
    again = request(source, out, recipe=edited).model_copy(update={"same_rows": True})
    second = run_job(again)
    assert (second.status, second.counts, second.computed) == ("completed", listed.counts, {})
    assert (second.job, first.job != second.job) == (listed.job, True)
    assert published(out) == published(tmp_path / "listed")
    other = again.model_copy(update={"source": Source(uri=str(tmp_path / "others"))})
    with pytest.raises(InvalidRequest, match="the same source as then"):
        run_job(other)


def test_goes_on_where_it_was_stopped(tmp_path: Path, slow: Path) -> None:
    source, recipe = paint(tmp_path / "photos", 120), with_function("slow_votes:vote")
    whole = tmp_path / "whole"
    run_job(request(source, whole, recipe=recipe))

    out, stop = tmp_path / "out", threading.Event()
    told: list[Progress] = []

    def watch(progress: Progress) -> None:
        told.append(progress)
        if progress.shards_done >= 3:
            stop.set()

    began = time.monotonic()
    left = run_job(
        request(source, out, recipe=recipe, engine=EngineSpec(workers=2)), on_progress=watch, stop=stop
    )
    assert time.monotonic() - began < 5
    assert left.status == "in_progress"
    done_before = n_commits(out)
    assert 3 <= done_before < 12
    assert not (out / "manyeyes.json").exists()
    (source / "00000.png").unlink()  # the rows of a job are those that were listed
    paint(source, 1)
    told.clear()
    done = run_job(request(source, out, recipe=recipe), on_progress=told.append)
    assert done.status == "completed"
    assert not any("listed" in (progress.message or "") for progress in told)
    assert [row["id"] for row in labels(out)] == [row["id"] for row in labels(whole)]


def test_a_call_that_is_stopped_while_it_lists_can_be_made_again(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    asked = request(paint(tmp_path / "photos", 5), tmp_path / "out")
    left = run_job(asked, stop=stop)
    assert (left.status, left.job) == ("validating", "")
    assert run_job(asked).status == "completed"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_at_once(tmp_path: Path, slow: Path, how: signal.Signals) -> None:
    source, out = paint(tmp_path / "photos", 300), tmp_path / "out"
    asked = request(source, out, recipe=with_function("slow_votes:vote"), engine=EngineSpec(workers=2))
    running = start(asked, tmp_path / "first", path=slow)
    wait_for(lambda: n_commits(out) >= 2)
    asked_at = time.monotonic()
    running.send_signal(how)
    told, _ = running.communicate(timeout=20)
    assert time.monotonic() - asked_at < 5
    assert running.returncode == 0 and told.startswith("in_progress")
    assert n_commits(out) < 30
    assert run_job(asked).status == "completed"


@pytest.mark.slow
def test_one_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path, slow: Path) -> None:
    source, recipe = paint(tmp_path / "photos", 120), with_function("slow_votes:vote")
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_job(request(source, whole, recipe=recipe))
    asked = request(source, out, recipe=recipe, engine=EngineSpec(workers=2))
    for n in (2, 6):
        running = start(asked, tmp_path / "killed", path=slow)
        wait_for(lambda n=n: n_commits(out) >= n)
        running.kill()
        running.communicate(timeout=10)
    began = time.monotonic()
    assert run_job(asked).status == "completed"
    assert time.monotonic() - began < 15, "the leases of a process that is dead bind nobody"
    assert published(out) == published(whole)


@pytest.mark.slow
def test_several_coordinators_share_the_shards(tmp_path: Path, slow: Path) -> None:
    source, recipe = paint(tmp_path / "photos", 200), with_function("slow_votes:vote")
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_job(request(source, whole, recipe=recipe))
    asked = request(source, out, recipe=recipe, engine=EngineSpec(workers=2))
    crew = [start(asked, tmp_path / f"c{i}", path=slow) for i in range(2)]
    told = [one.communicate(timeout=60)[0] for one in crew]
    assert [one.returncode for one in crew] == [0, 0]
    assert {line.split()[0] for line in told} == {"completed"} and len(set(told)) == 1
    assert published(out) == published(whole)
    storage = Storage.open(str(out))
    statuses = [event.status for event in events_of(storage, find_job(storage).id) if event.status]
    assert statuses.count("completed") == 1
    assert progress_of(storage, find_job(storage).id).counts.rows == 200


def test_is_cancelled_within_seconds_and_may_go_on(tmp_path: Path, slow: Path) -> None:
    source, out = paint(tmp_path / "photos", 300), tmp_path / "out"
    asked = request(source, out, recipe=with_function("slow_votes:vote"), engine=EngineSpec(workers=2))
    storage = Storage.open(str(out))
    ended: list[Progress] = []
    running = threading.Thread(target=lambda: ended.append(run_job(asked)))
    running.start()
    wait_for(lambda: n_commits(out) >= 2)
    job = find_job(storage).id
    asked_at = time.monotonic()
    assert cancel(storage, job)
    assert progress_of(storage, job).status in ("cancelling", "cancelled")
    running.join(10)
    assert time.monotonic() - asked_at < 4
    assert ended[0].status == "cancelled"
    assert progress_of(storage, job).status == "cancelled"
    assert not cancel(storage, job), "there is nothing to stop any more"
    assert run_job(asked).status == "completed"


def test_a_cancelled_job_that_nobody_ran_does_not_begin(tmp_path: Path, slow: Path) -> None:
    out, stop = tmp_path / "out", threading.Event()
    asked = request(
        paint(tmp_path / "photos", 100),
        out,
        recipe=with_function("slow_votes:vote"),
        engine=EngineSpec(workers=1),
    )

    def watch(progress: Progress) -> None:
        if progress.status == "in_progress":
            stop.set()

    run_job(asked, on_progress=watch, stop=stop)
    storage = Storage.open(str(out))
    cancel(storage, find_job(storage).id)
    assert run_job(asked).status == "cancelled"
    assert run_job(asked).status == "completed"


def test_can_be_taken_up_by_its_place_alone(tmp_path: Path, slow: Path) -> None:
    out, stop = tmp_path / "out", threading.Event()
    asked = request(
        paint(tmp_path / "photos", 60),
        out,
        recipe=with_function("slow_votes:vote"),
        engine=EngineSpec(workers=1),
    )

    def watch(progress: Progress) -> None:
        if progress.shards_done:
            stop.set()

    run_job(asked, on_progress=watch, stop=stop)
    done = resume_job(str(out))
    assert (done.status, done.counts.rows) == ("completed", 60)
    assert resume_job(str(out), done.job).counts == done.counts
    with pytest.raises(NotFound, match="no job 'nobody'"):
        resume_job(str(out), "nobody")
    with pytest.raises(NotFound, match="manyeyes job run"):
        resume_job(str(tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"recipe": {"name": "x", "classes": ["a"]}}, InvalidRecipe, "lfs"),
        (
            {"recipe": {**RECIPE, "primitives": {"toy": {"kind": "clip", "model": "nope"}}}},
            ManyeyesError,
            "nope",
        ),
        ({"source": Source(uri="{tmp}/nowhere")}, ManyeyesError, "nowhere"),
        ({"source": Source(uri="{tmp}/empty")}, InvalidRequest, "nothing that can be labeled"),
        ({"label_model": "{tmp}/none"}, ModelNotFound, "label_model.json"),
        ({"gold": "{tmp}/none.csv"}, InvalidRequest, "gold labels"),
        ({"engine": EngineSpec(decoders=2)}, InvalidRequest, "of the engine ray"),
    ],
)
def test_refuses_in_seconds_what_cannot_be(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "program.exe").write_bytes(b"nothing")

    def here(value: Any) -> Any:
        if isinstance(value, Source):
            return Source(uri=value.uri.replace("{tmp}", str(tmp_path)))
        return value.replace("{tmp}", str(tmp_path)) if isinstance(value, str) else value

    asked = request(paint(tmp_path / "photos", 3), tmp_path / "out")
    asked = asked.model_copy(update={name: here(value) for name, value in change.items()})
    began = time.monotonic()
    with pytest.raises(error, match=said):
        run_job(asked)
    assert time.monotonic() - began < 20, "most of it is importing what knows the models"
    assert not list((tmp_path / "out").glob("_manyeyes/jobs/*")), "no job was begun"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_refuses_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    with pytest.raises(ManyeyesError, match="write"):
        run_job(request(paint(tmp_path / "photos", 3), out))


def test_refuses_code_that_comes_over_http(tmp_path: Path, slow: Path) -> None:
    asked = request(paint(tmp_path / "photos", 3), tmp_path / "out", recipe=with_function("slow_votes:vote"))
    with pytest.raises(UntrustedRecipe):
        run_job(asked, trusted=False)


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependency, match="pip install"):
        run_job(request(paint(tmp_path / "photos", 3), tmp_path / "out", engine=EngineSpec(name="ray")))


def test_what_a_caller_raises_ends_the_call(tmp_path: Path, slow: Path) -> None:
    def watch(progress: Progress) -> None:
        if progress.status == "in_progress":
            raise ZeroDivisionError("of the caller's own")

    asked = request(
        paint(tmp_path / "photos", 100), tmp_path / "out", recipe=with_function("slow_votes:vote")
    )
    with pytest.raises(ZeroDivisionError):
        run_job(asked, on_progress=watch)
    assert run_job(asked).status == "completed"
