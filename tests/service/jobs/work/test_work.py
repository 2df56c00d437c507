"""One shard's work: the labels of a Labeler, every row once, and nothing seen, fetched or written twice."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from manyeyes import Labeler, Recipe
from manyeyes.errors import FetchFailed, ItemError, StorageFailed, WeightsMismatch
from manyeyes.primitives.toy import ToyImage
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.layout import job_folder
from manyeyes.service.jobs.manifests import fetch
from manyeyes.service.jobs.manifests.manifest import read_rows
from manyeyes.service.jobs.places.commits import Commits, to_json
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.work import seeing
from manyeyes.service.jobs.work import worker as work
from manyeyes.service.jobs.work.generations import add_generation
from manyeyes.service.jobs.work.worker import ShardWorker
from manyeyes.settings import home

Told = Callable[[Any], list[dict[str, Any]]]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids of the rows that were fetched, as they are."""
    ids: list[str] = []

    class Counting(fetch.Fetcher):
        def fetch(
            self, rows: Sequence[Row], *, attempts: int, stop: threading.Event | None = None
        ) -> Iterator[tuple[int, bytes | ItemError | None, int]]:
            ids.extend(row.id for row in rows)
            return super().fetch(rows, attempts=attempts, stop=stop)

    monkeypatch.setattr(work, "Fetcher", Counting)
    return ids


def test_a_job_gives_the_labels_of_a_labeler(
    photos: Any, begin: Any, items_of: Any, told: Told, paint: str
) -> None:
    folder = photos(30, damaged=[4, 21])
    run = begin(folder)
    run.votes()
    labels = run.finish()
    assert told(labels) == told(Labeler(Recipe.parse(paint)).label(items_of(folder)))
    assert [label.id for label in labels if label.status == "error"] == ["0004.png", "0021-blau.png"]
    assert {label.label for label in labels} == {"red", "green", "blue", None}


def test_a_job_and_the_service_give_the_same_labels(
    photos: Any, begin: Any, told: Told, url: str, recipes_dir: Path
) -> None:
    folder = photos(30, damaged=[4])
    recipe = (recipes_dir / "fitted.yaml").read_text()
    run = begin(folder, recipe, label_model=str(recipes_dir / "fitted.label_model"))
    run.votes()
    labels = run.finish()
    calls = []
    for path in sorted(folder.glob("*.png")):
        text, metadata = path.with_suffix(".txt"), path.with_suffix(".json")
        calls.append(
            {
                "id": path.name,
                "image": base64.b64encode(path.read_bytes()).decode(),
                "text": text.read_text() if text.exists() else None,
                "metadata": {"shelf": metadata.read_text()[11]} if metadata.exists() else {},
            }
        )
    answer = httpx.post(f"{url}/v1/label", json={"recipe": "fitted", "items": calls}, timeout=60).json()
    assert told(labels) == [
        {key: row[key] for key in told([label])[0]}
        for label, row in zip(labels, answer["labels"], strict=True)
    ]


def test_an_edited_recipe_fetches_and_computes_nothing(
    photos: Any, begin: Any, items_of: Any, told: Told, edited: str, fetched: list[str]
) -> None:
    folder = photos(30)
    expected = told(Labeler(Recipe.parse(edited)).label(items_of(folder)))
    run = begin(folder)
    run.votes()
    assert len(fetched) == 30
    fetched.clear()
    for path in folder.iterdir():
        path.unlink()
    again = run.again(edited)
    worker = ShardWorker(again.spec("votes"), storage=again.storage)
    outcomes = [worker.do(shard) for shard in again.manifest.shards]
    assert [one.state for one in outcomes] == ["committed"] * 4
    assert not fetched
    assert worker.labeler.counter.total == 0
    assert not any(one.commit.computed for one in outcomes)
    assert told(again.finish()) == expected


def test_a_new_primitive_is_computed_and_the_others_are_not(
    photos: Any, begin: Any, told: Told, items_of: Any, paint: str, fetched: list[str]
) -> None:
    folder = photos(20)
    run = begin(folder)
    run.votes()
    fetched.clear()
    more = paint + "  - {name: reads, kind: prompt, on: text, using: toy, prompts: {red: red, blue: blue}}\n"
    again = run.again(more)
    again.votes()
    assert not fetched, "texts are in the manifest"
    assert set(again.computed()) == {"toy.text"}
    assert told(again.finish()) == told(Labeler(Recipe.parse(more)).label(items_of(folder)))


def test_a_feature_of_pixels_that_is_new_fetches_each_row_once(
    photos: Any, begin: Any, told: Told, items_of: Any, paint: str, fetched: list[str]
) -> None:
    folder = photos(20, damaged=[3])
    run = begin(folder)
    run.votes()
    fetched.clear()
    more = paint + '  - {name: wide, kind: metadata, when: "width > 30", vote: blue}\n'
    again = run.again(more)
    again.votes()
    assert sorted(fetched) == sorted(path.name for path in folder.glob("*.png") if path.name != "0003.png")
    assert "toy" not in again.computed()
    assert told(again.finish()) == told(Labeler(Recipe.parse(more)).label(items_of(folder)))


def test_a_recipe_that_reads_no_image_fetches_none(
    photos: Any, begin: Any, told: Told, items_of: Any, fetched: list[str]
) -> None:
    words = """
name: words
classes: [red, blue]
lfs:
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], blue: [navy]}}
  - {name: file, kind: keyword, on: filename, any: [blau], whole_words: false, vote: blue}
"""
    folder = photos(12, damaged=[2])
    run = begin(folder, words)
    run.votes()
    assert not fetched
    assert told(run.finish()) == told(Labeler(Recipe.parse(words)).label(items_of(folder)))


def test_the_same_job_writes_the_same_bytes_whoever_does_it_and_however(
    photos: Any, begin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(40, damaged=[4, 21])
    run = begin(folder)
    run.votes()
    run.finish()
    monkeypatch.setattr(seeing, "CHUNK_ROWS", 3)
    monkeypatch.setenv("MANYEYES_HOME", str(tmp_path / "another home"))
    other = begin(folder, out=tmp_path / "other")
    assert other.job.id == run.job.id
    worker = ShardWorker(other.spec("votes"), storage=other.storage)
    threads = [threading.Thread(target=worker.do, args=[shard]) for shard in reversed(other.manifest.shards)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.finish()
    assert run.bytes_of("votes") == other.bytes_of("votes")
    assert run.bytes_of("labels") == other.bytes_of("labels")
    stored = [
        {meta.path: one.storage.get(meta.path) for meta in one.storage.list("_manyeyes/features")}
        for one in (run, other)
    ]
    assert stored[0] == stored[1]
    assert stored[0]


def test_the_loser_of_a_race_leaves_nothing(photos: Any, begin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(photos(8))
    first, second = (ShardWorker(run.spec("votes"), storage=run.storage) for _ in range(2))
    shard = run.manifest.shards[0]
    create = Commits.create

    def late(self: Commits, commit: Any) -> Any:
        monkeypatch.setattr(Commits, "create", create)
        monkeypatch.setattr(work.Leases, "acquire", lambda *_: work.Lease(run.storage, "x", "y", 60.0))
        assert second.do(shard).state == "committed"
        return create(self, commit)

    monkeypatch.setattr(Commits, "create", late)
    outcome = first.do(shard)
    assert outcome.state == "lost"
    assert outcome.commit == Commits(run.storage, run.job.id, "votes", 0).get(0)
    parts = [meta.path for meta in run.storage.list(job_folder(run.job.id) + "parts")]
    assert parts == [outcome.commit.files["votes"][0]]


def test_a_shard_that_is_done_or_that_another_has_is_left_to_it(photos: Any, begin: Any) -> None:
    run = begin(photos(16))
    worker, other = (ShardWorker(run.spec("votes"), storage=run.storage) for _ in range(2))
    first, second = run.manifest.shards
    done = worker.do(first)
    assert worker.do(first).state == other.do(first).state == "done before"
    assert other.do(first).commit == done.commit
    lease = other._leases.acquire(second.index)
    assert lease is not None
    with lease:
        assert worker.do(second).state == "busy"
    assert worker.do(second).state == "committed"


def test_stopping_gives_the_shard_back(photos: Any, begin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeing, "CHUNK_ROWS", 2)
    run = begin(photos(8))
    stop = threading.Event()
    seen: list[int] = []

    def on_rows(n: int, errors: Sequence[tuple[str, str, str]]) -> None:
        seen.append(n)
        stop.set()

    worker = ShardWorker(run.spec("votes"), storage=run.storage)
    assert worker.do(run.manifest.shards[0], stop=stop, on_rows=on_rows).state == "stopped"
    assert seen == [2]
    other = ShardWorker(run.spec("votes"), storage=run.storage)
    assert other.do(run.manifest.shards[0]).state == "committed"


def test_stopping_does_not_wait_for_a_bucket_that_is_down(
    photos: Any, begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()

    class Down(fetch.Fetcher):
        def fetch(
            self, rows: Sequence[Row], *, attempts: int, stop: threading.Event | None = None
        ) -> Iterator[tuple[int, bytes | ItemError | None, int]]:
            assert stop is not None
            asked.set()
            assert stop.wait(60), "whoever fetches is told"
            yield from ()

    asked = threading.Event()
    monkeypatch.setattr(work, "Fetcher", Down)
    run = begin(photos(8))
    worker = ShardWorker(run.spec("votes"), storage=run.storage)
    outcomes: list[work.Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(worker.do(run.manifest.shards[0], stop=stop)), daemon=True
    )
    thread.start()
    assert asked.wait(60)
    stop.set()
    thread.join(30)
    assert [one.state for one in outcomes] == ["stopped"]


def test_a_job_of_damaged_files_alone_has_a_row_for_each(
    photos: Any, begin: Any, told: Told, items_of: Any, paint: str
) -> None:
    folder = photos(9, damaged=range(9))
    run = begin(folder)
    assert sum(one.commit.counts.failed for one in run.votes()) == 9
    assert told(run.finish()) == told(Labeler(Recipe.parse(paint)).label(items_of(folder)))


def test_rows_are_told_of_as_they_are_known(photos: Any, begin: Any) -> None:
    run = begin(photos(8, damaged=[5]))
    told: list[tuple[int, Sequence[tuple[str, str, str]]]] = []
    worker = ShardWorker(run.spec("votes"), storage=run.storage)
    worker.do(run.manifest.shards[0], on_rows=lambda n, errors: told.append((n, errors)))
    assert sum(n for n, _ in told) == 8
    assert [(row, code) for _, errors in told for row, code, _ in errors] == [
        ("0005.png", "unsupported_format")
    ]


def test_a_worker_that_dies_before_its_commit_loses_no_computing(
    photos: Any, begin: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = begin(photos(8))
    worker = ShardWorker(run.spec("votes"), storage=run.storage)

    def fail(*_: Any, **__: Any) -> None:
        raise StorageFailed("the bucket is away")

    with monkeypatch.context() as patch:
        patch.setattr(seeing, "write_features", fail)
        outcome = worker.do(run.manifest.shards[0])
    assert (outcome.state, outcome.code, outcome.fatal) == ("error", "storage_failed", False)
    assert not list(run.storage.list("_manyeyes/features"))
    assert (home() / "cache").is_dir()
    again = ShardWorker(run.spec("votes"), storage=run.storage).do(run.manifest.shards[0])
    assert again.state == "committed"
    assert not again.commit.computed, "the cache that all share knows the features"


def test_only_failed_rows_are_tried_again(
    photos: Any, begin: Any, told: Told, items_of: Any, paint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(24, damaged=[4])
    run = begin(folder)
    asked: list[str] = []
    away = {"0001.png", "0009.png", "0010.png"}

    class Flaky(fetch.Fetcher):
        def fetch(
            self, rows: Sequence[Row], *, attempts: int, stop: threading.Event | None = None
        ) -> Iterator[tuple[int, bytes | ItemError | None, int]]:
            asked.extend(row.id for row in rows)
            for place, data, tries in super().fetch(rows, attempts=attempts, stop=stop):
                gone = rows[place].id in away
                yield (place, FetchFailed("status 503 (4 attempts)"), 4) if gone else (place, data, tries)

    monkeypatch.setattr(work, "Fetcher", Flaky)
    outcomes = run.votes()
    assert [dict(one.commit.counts.errors) for one in outcomes] == [
        {"fetch_failed": 1, "unsupported_format": 1},
        {"fetch_failed": 2},
        {},
    ]
    before = run.finish()
    assert [
        label.id for label in before if label.error is not None and label.error.code == "fetch_failed"
    ] == [
        "0001.png",
        "0009.png",
        "0010.png",
    ]
    away.clear()
    asked.clear()
    add_generation(run.storage, run.job.id, [0, 1], ["fetch_failed"])
    worker = ShardWorker(run.spec("votes", 1), storage=run.storage)
    done = [worker.do(run.manifest.shards[i]) for i in (0, 1)]
    assert [one.state for one in done] == ["committed"] * 2
    assert asked == ["0001.png", "0009.png", "0010.png"]
    assert [dict(one.commit.counts.errors) for one in done] == [{"unsupported_format": 1}, {}]
    assert told(run.finish(1)) == told(Labeler(Recipe.parse(paint)).label(items_of(folder)))


def test_how_often_a_row_was_fetched_stands_in_its_output(
    photos: Any, begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(fetch.Fetcher):
        def fetch(
            self, rows: Sequence[Row], *, attempts: int, stop: threading.Event | None = None
        ) -> Iterator[tuple[int, bytes | ItemError | None, int]]:
            for place, data, tries in super().fetch(rows, attempts=attempts, stop=stop):
                yield (place, FetchFailed("status 503"), attempts) if place == 2 else (place, data, tries)

    monkeypatch.setattr(work, "Fetcher", Away)
    run = begin(photos(8, damaged=[5]))
    run.votes()
    run.finish()
    (part,) = (one.commit.files["labels"][0] for one in run.outcomes if one.commit.files.get("labels"))
    table = pq.read_table(run.storage.local / part)
    assert table["attempts"].to_pylist() == [None, None, 4, None, None, 1, None, None]
    assert table["error_code"].to_pylist()[2] == "fetch_failed"


def test_rows_that_left_the_source_leave_the_output(
    photos: Any, begin: Any, told: Told, paint: str, items_of: Any
) -> None:
    folder = photos(16, damaged=[3])
    run = begin(folder)
    run.votes()
    first, second = run.manifest.shards
    left = replace(run.manifest, id="f" * 20, shards=(replace(first, skip=(1, 4)), second))
    run.storage.put(layout.manifest_file(left.id), to_json(left))
    fewer = replace(run, manifest=left).again(paint)
    outcomes = fewer.votes()
    assert [one.commit.counts.rows for one in outcomes] == [6, 8]
    assert not fewer.computed()
    items = [item for i, item in enumerate(items_of(folder)) if i not in (1, 4)]
    assert told(fewer.finish()) == told(Labeler(Recipe.parse(paint)).label(items))


def test_a_row_that_gets_lost_ends_the_shard_loudly(
    photos: Any, begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(photos(8))
    monkeypatch.setattr(work, "read_rows", lambda storage, shard: read_rows(storage, shard)[:-1])
    outcome = run.do("votes")[0]
    assert outcome.state == "error"
    assert "8 rows, and 7" in (outcome.message or "")
    assert not Commits(run.storage, run.job.id, "votes", 0).done()


def test_other_weights_than_the_job_was_begun_with_are_refused(
    photos: Any, begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(photos(8))
    monkeypatch.setattr(ToyImage, "version", property(lambda self: "toy/others 2"))
    with pytest.raises(WeightsMismatch, match="toy"):
        ShardWorker(run.spec("votes"), storage=run.storage)


PEEK = """
def peek(item):
    assert isinstance(item.image, str) and not isinstance(item.image, bytes), type(item.image)
    return "red" if item.image.endswith("0001.png") else None
"""


def test_a_function_sees_where_the_image_is_whether_it_was_fetched_or_not(
    photos: Any, begin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paint: str, edited: str
) -> None:
    (tmp_path / "peeking.py").write_text(PEEK)
    monkeypatch.syspath_prepend(str(tmp_path))
    with_python = paint + '  - {name: peeks, kind: python, function: "peeking:peek"}\n'
    run = begin(photos(8), with_python)
    assert [dict(one.commit.counts.errors) for one in run.votes()] == [{}]
    again = run.again(edited + '  - {name: peeks, kind: python, function: "peeking:peek"}\n')
    again.votes()
    assert not again.computed()
    for one in (run, again):
        votes = {label.id: label.reasons[-1].vote for label in one.finish()}
        assert votes == {key: "red" if key == "0001.png" else None for key in votes}


def test_what_nobody_could_look_at_is_looked_at_the_next_time(
    photos: Any, begin: Any, told: Told, items_of: Any, edited: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an endpoint's budget is spent: the row is labeled without it, and nothing says that it has no image."""
    folder = photos(8)
    run = begin(folder)
    with monkeypatch.context() as patch:
        patch.setattr(ToyImage, "compute", lambda self, batch: [None] * len(batch))
        assert [dict(one.commit.counts.errors) for one in run.votes()] == [{}]
    again = run.again(edited)
    again.votes()
    assert again.computed() == {"toy": 8}
    assert told(again.finish()) == told(Labeler(Recipe.parse(edited)).label(items_of(folder)))


STARTER = """
name: shapes
classes: [cat, ship]
lfs:
  - {name: looks, kind: prompt, prompts: {cat: a photo of a cat, ship: a photo of a ship}}
  - {name: sea, kind: prompt, threshold: 0.5, prompts: {ship: the sea, cat: a sofa}}
  - {name: reads, kind: prompt, on: text, prompts: {cat: a cat, ship: a ship}}
"""


@pytest.mark.slow
def test_a_job_with_a_real_model_gives_the_labels_of_a_labeler(
    tmp_path: Path, begin: Any, told: Told, items_of: Any
) -> None:
    rng = np.random.default_rng(3)
    folder = tmp_path / "noise"
    folder.mkdir()
    for i in range(50):
        low = rng.integers(0, 255, (4 + i % 5, 5, 3), dtype=np.uint8)
        Image.fromarray(low).resize((40 + i, 60), Image.Resampling.BICUBIC).save(folder / f"{i:02}.jpg")
        if i % 3 == 0:
            (folder / f"{i:02}.txt").write_text(f"photograph {i} of a cat on a ship")
    expected = Labeler(Recipe.parse(STARTER)).label(items_of(folder))
    run = begin(folder, STARTER, shard_rows=16)
    run.votes()
    assert told(run.finish()) == told(expected)
    # The cache knew the features; now from what the job stored, and nothing else.
    (tmp_path / "manyeyes-home").rename(tmp_path / "gone")
    again = run.again(STARTER.replace("the sea", "a sea"))
    again.votes()
    assert not again.computed()


KILLED = """
import sys, time
from manyeyes.primitives.toy import ToyImage
from manyeyes.service.jobs.work import worker as work
from manyeyes.service.jobs.manifests.manifest import read_manifest
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.work.worker import ShardWorker, WorkSpec

compute = ToyImage.compute

def slowly(self, batch):
    time.sleep(0.02 * len(batch))
    return compute(self, batch)

ToyImage.compute = slowly
storage = Storage.open(sys.argv[1])
worker = ShardWorker(WorkSpec(sys.argv[1], sys.argv[2], "votes"), storage=storage)
(shard,) = read_manifest(storage, sys.argv[3]).shards
print("begun", flush=True)
print(worker.do(shard, on_rows=lambda n, errors: print("rows", n, flush=True)))
"""


@pytest.mark.slow
def test_a_killed_shard_is_done_by_the_next_worker_from_what_was_seen(
    tmp_path: Path, begin: Any, told: Told, items_of: Any, paint: str
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(600):
        Image.new("RGB", (8, 8), (i % 250, i // 250 * 100, (i * 7) % 250)).save(folder / f"{i:04}.png")
    run = begin(folder, shard_rows=600)
    order = [sys.executable, "-c", KILLED, run.storage.uri, run.job.id, run.manifest.id]
    with subprocess.Popen(order, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "rows 256\n":
            assert line, "it ended before it was killed"
        process.kill()
    # The lease was of a process that is no more, which a worker on the same machine sees.
    (outcome,) = run.votes()
    assert 0 < outcome.commit.computed["toy"] <= 600 - 256
    assert told(run.finish()) == told(Labeler(Recipe.parse(paint)).label(items_of(folder)))
