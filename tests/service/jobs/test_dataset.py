"""A finished dataset, as programs read it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manyeyes import Item, Labeler, Recipe
from manyeyes.errors import InvalidRequest, LabelNotFound, NotFound, StorageFailed
from manyeyes.service.jobs.datasets.dataset import Dataset
from manyeyes.service.jobs.datasets.verify import verify
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.run import run_job
from manyeyes.service.jobs.shapes import Progress, Source
from manyeyes.sinks import read_labels
from tests.service.jobs.faulty_s3 import faulty_s3
from tests.service.jobs.toy_jobs import RECIPE, paint, request


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch) -> Path:
    """Return a folder with 42 ``photos``, one of them damaged, and what a job made of them in ``out``."""
    folder = tmp_path_factory.mktemp("dataset")
    monkeypatch_module.setenv("MANYEYES_HOME", str(folder / "home"))
    photos = paint(folder / "photos", 42, broken={7})
    run_job(request(photos, folder / "out"))
    return folder


def told(dataset: Dataset) -> list[dict[str, Any]]:
    return [label.to_dict() for label in dataset.labels()]


def test_says_what_it_is(made: Path) -> None:
    dataset = Dataset.open(made / "out")
    assert len(dataset) == 42
    assert dataset.classes == ("red", "green", "blue")
    assert dataset.counts.failed == 1
    assert dataset.recipe == Recipe.parse(RECIPE)
    assert dataset.versions.recipe == dataset.recipe.version
    assert dataset.manifest.n_rows == 42
    assert repr(dataset) == f"Dataset({str(made / 'out')!r}, job {dataset.job}, 42 rows)"


def test_labels_are_those_of_a_labeler(made: Path) -> None:
    items = [Item(path.name, image=path) for path in sorted((made / "photos").iterdir())]
    by_itself = list(Labeler(Recipe.parse(RECIPE)).label(items))
    made_ones = list(Dataset.open(made / "out").labels())
    assert [label.id for label in made_ones] == [label.id for label in by_itself]
    assert [label.status for label in made_ones].count("error") == 1
    sound = [pair for pair in zip(made_ones, by_itself, strict=True) if pair[0].status != "error"]
    assert all(label == other for label, other in sound)


def test_rows_come_with_their_labels(made: Path) -> None:
    for row, label in Dataset.open(made / "out").rows():
        assert row.id == label.id
        assert row.uri == (made / "photos" / row.id).as_uri()


def test_tables_are_arrow_and_may_leave_columns_out(made: Path) -> None:
    dataset = Dataset.open(made / "out")
    assert [table.num_rows for table in dataset.tables()] == [10, 10, 10, 10, 2]
    assert next(dataset.tables(["id", "label"])).column_names == ["id", "label"]


def test_one_row_is_found(made: Path) -> None:
    dataset = Dataset.open(made / "out")
    row, label = dataset.find("00033.png")
    assert (row.id, label.id, label.status) == ("00033.png", "00033.png", "labeled")
    row, label = dataset.find("00007.png")
    assert label.error is not None
    assert label.error.code == "undecodable_image"
    with pytest.raises(LabelNotFound, match=r"no row of .* has the id '7'"):
        dataset.find("7")


def test_stored_features_come_in_the_order_of_the_rows(made: Path) -> None:
    dataset = Dataset.open(made / "out")
    blocks = dataset.features("toy")
    assert blocks is not None
    found = list(blocks)
    assert [len(block.present) for block in found] == [10, 10, 10, 10, 2]
    present = [bool(there) for block in found for there in block.present]
    assert present == [label.status != "error" for label in dataset.labels()]
    fresh = Labeler(Recipe.parse(RECIPE)).extractor.extract(
        [Item("x", image=made / "photos" / "00012.png")], ["toy"]
    )
    assert found[1]["embedding"][2].tolist() == fresh["toy"]["embedding"][0].tolist()
    assert dataset.features("clip") is None


def test_features_that_were_removed_are_not_there(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    removed = list((tmp_path / "out/_manyeyes/features").glob("*/*.json"))
    removed[0].unlink()
    blocks = dataset.features("toy")
    assert blocks is not None
    assert sum(len(block.present) for block in blocks) == 42
    shutil.rmtree(tmp_path / "out/_manyeyes/features")
    assert dataset.features("toy") is None


def test_bytes_are_fetched_from_the_source(made: Path) -> None:
    dataset = Dataset.open(made / "out")
    rows = [row for row, _ in dataset.rows()][:3]
    with dataset.fetcher() as fetcher:
        got = [data for _, data, _ in fetcher.fetch(rows, attempts=1)]
    assert got == [(made / "photos" / row.id).read_bytes() for row in rows]


def test_nothing_was_begun(tmp_path: Path) -> None:
    with pytest.raises(
        NotFound, match=r"no finished dataset in .*: no job was begun there; manyeyes job run"
    ):
        Dataset.open(tmp_path)


def test_a_job_that_is_under_way_says_how_far_it_is(tmp_path: Path) -> None:
    photos = paint(tmp_path / "photos", 40)
    stop = threading.Event()

    def end(progress: Progress) -> None:
        if progress.shards:
            stop.set()

    run_job(request(photos, tmp_path / "out", shard_rows=1), on_progress=end, stop=stop)
    with pytest.raises(NotFound, match=r"job [0-9a-f]{20} is .* of 40 shards done in the pass that makes"):
        Dataset.open(tmp_path / "out")


def test_a_damaged_commit_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "out")
    commit = tmp_path / "out" / "manyeyes.json"
    commit.write_bytes(commit.read_bytes()[:-10])
    with pytest.raises(InvalidRequest, match=r"'manyeyes\.json' of .* is damaged"):
        Dataset.open(tmp_path / "out")


def test_what_is_damaged_is_never_read(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "out")
    before = told(Dataset.open(tmp_path / "out"))
    part = tmp_path / "out" / "labels" / "part-00000002.parquet"
    data = bytearray(part.read_bytes())
    data[100] ^= 1
    part.write_bytes(bytes(data))
    # The job keeps what it published.
    dataset = Dataset.open(tmp_path / "out")
    assert told(dataset) == before
    assert dataset.find("00025.png")[1].to_dict() == before[25]
    shutil.rmtree(tmp_path / "out/_manyeyes/jobs")
    with pytest.raises(StorageFailed, match=r"part-00000002\.parquet.* is not what was published"):
        list(dataset.labels())


def test_labels_alone_are_enough_to_read_them(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out" / "labels", tmp_path / "labels")
    shutil.copy(made / "out" / "manyeyes.json", tmp_path)
    assert told(Dataset.open(tmp_path)) == told(Dataset.open(made / "out"))


def test_others_read_the_labels_without_us(made: Path) -> None:
    import pandas as pd
    import polars as pl
    import pyarrow.dataset as ds

    expected = [label.id for label in Dataset.open(made / "out").labels()]
    folder = made / "out" / "labels"
    assert pd.read_parquet(folder)["id"].tolist() == expected
    assert pl.read_parquet(folder / "*.parquet")["id"].to_list() == expected
    assert ds.dataset(folder).to_table(columns=["id"])["id"].to_pylist() == expected
    one = folder / "part-00000001.parquet"
    assert [label.id for label in read_labels(one)] == expected[10:20]


def test_a_hub_s_loader_finds_the_labels_by_the_card(made: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    found = load_dataset(str(made / "out"), split="train", cache_dir=str(tmp_path))
    assert found.num_rows == 42
    assert found["id"][0] == "00000.png"


def test_texts_alone(tmp_path: Path) -> None:
    table = tmp_path / "notes.jsonl"
    table.write_text('{"id": "a", "text": "crimson"}\n{"id": "b", "text": "navy"}\n{"id": "c", "text": ""}\n')
    recipe = {
        "name": "words",
        "classes": ["red", "blue"],
        "lfs": [{"name": "says", "kind": "keyword", "votes": {"red": ["crimson"], "blue": ["navy"]}}],
    }
    asked = request("", tmp_path / "out", recipe=recipe).model_copy(update={"source": Source(uri=str(table))})
    run_job(asked)
    found = {row.id: label.label for row, label in Dataset.open(tmp_path / "out").rows()}
    assert found == {"a": "red", "b": "blue", "c": None}
    assert verify(tmp_path / "out").findings == ()


def test_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = paint(tmp_path / "photos", 23)
    with faulty_s3() as server:
        server.make_bucket("jobs")
        for name, value in server.env(straight=True).items():
            monkeypatch.setenv(name, value)
        place = Storage.open("s3://jobs/photos")
        for path in photos.iterdir():
            place.put(path.name, path.read_bytes())
        run_job(request("s3://jobs/photos", "s3://jobs/labels"))
        dataset = Dataset.open("s3://jobs/labels")
        assert [row.uri for row, _ in dataset.rows()] == [f"s3://jobs/photos/{i:05d}.png" for i in range(23)]
        assert dataset.find("00021.png")[1].label is not None
        with pytest.raises(NotFound, match="no job was begun there"):
            Dataset.open("s3://jobs/nothing")
