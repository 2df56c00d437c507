"""Exports of real jobs: from a folder, and from and to a real S3 server."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import datasets
import pytest

from manyeyes.service.jobs.datasets.dataset import Dataset
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.run import run_job
from manyeyes.service.jobs.sinks.export import FORMATS, export
from manyeyes.service.jobs.sinks.target import MARKER
from tests.service.jobs import toy_jobs
from tests.service.jobs.faulty_s3 import FaultyS3
from tests.service.jobs.sinks.conftest import THINGS

SPLITS = {"train": 0.5, "validation": 0.25, "test": 0.25}


def test_a_finished_job_is_exported_in_every_format(tmp_path: Path) -> None:
    photos = toy_jobs.paint(tmp_path / "photos", 48, broken={7, 30})
    run_job(toy_jobs.request(photos, tmp_path / "out"))
    dataset = Dataset.open(tmp_path / "out")
    labels = {label.id: label.label for label in dataset.labels()}
    for format in FORMATS:
        options = {"splits": SPLITS, "near_duplicates": "off", "reasons": True}
        report = export(dataset, str(tmp_path / format), format=format, options=options)
        assert report.left_out["error"] == 2
        assert report.rows == 46 - report.left_out.get("abstained", 0), format
        assert (
            json.loads((tmp_path / format / MARKER).read_text())["dataset"]["manifest"] == dataset.manifest.id
        )
    rows = [
        json.loads(line)
        for split in SPLITS
        for line in (tmp_path / "jsonl" / f"{split}.jsonl").read_text().splitlines()
    ]
    assert {row["id"]: row["label"] for row in rows} == {
        row_id: label for row_id, label in labels.items() if label is not None
    }
    with pytest.raises(Exception, match="no export of manyeyes"):
        export(dataset, str(tmp_path / "out"), format="csv", options={"overwrite": True})
    export(dataset, str(tmp_path / "out" / "exports" / "csv"), format="csv")  # beside what was published


def test_from_a_bucket_into_a_bucket(data_s3: FaultyS3, tmp_path: Path) -> None:
    photos = toy_jobs.paint(tmp_path / "photos", 24)
    source = Storage.open("s3://data/exports/photos")
    for path in photos.iterdir():
        source.put(path.name, path.read_bytes())
    run_job(toy_jobs.request("s3://data/exports/photos", "s3://data/exports/labels"))
    dataset = Dataset.open("s3://data/exports/labels")
    report = export(dataset, "s3://data/exports/hf", format="huggingface", options={"near_duplicates": "off"})
    assert report.rows == 24 and report.out == "s3://data/exports/hf"
    there = Storage.open("s3://data/exports/hf")
    for meta in there.list(""):
        path = tmp_path / "hf" / meta.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(there.get(meta.path))
    loaded = datasets.load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded.num_rows == 24 and loaded[0]["image"].size == (8, 8)
    tasks = export(dataset, str(tmp_path / "tasks"), format="labelstudio")
    (first, *_) = json.loads((tmp_path / "tasks" / "tasks-00000.json").read_text())
    assert first["data"]["image"].startswith("s3://data/exports/photos/") and tasks.files == 2
    export(dataset, "s3://data/exports/hf", format="coco", options={"overwrite": True})
    assert sum(meta.path.startswith("images/train/") for meta in there.list("")) == 24
    assert not there.exists("README.md")


@pytest.mark.slow
def test_boxes_of_a_job_over_photographs(shared_data: Path, tmp_path: Path) -> None:
    """The detector saw them once, in the job; the export takes what was stored, and splits without looking again."""
    from pycocotools.coco import COCO

    photos = tmp_path / "photos"
    with zipfile.ZipFile(shared_data / "coco128.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:16]
        archive.extractall(photos, names)
    recipe = {**_document(THINGS), "default_class": "room"}
    run_job(toy_jobs.request(photos, tmp_path / "out", recipe=recipe))
    dataset = Dataset.open(tmp_path / "out")
    splits = {"train": 0.5, "validation": 0.5}
    options = {"splits": splits, "near_duplicates": "features"}
    report = export(dataset, str(tmp_path / "coco"), format="coco", options=options)
    assert report.boxes > 16 and report.rows == 16
    assert (
        sum(
            len(COCO(str(tmp_path / "coco" / "annotations" / f"{split}.json")).getAnnIds())
            for split in splits
        )
        == report.boxes
    )
    export(dataset, str(tmp_path / "yolo"), format="yolo", options=options)
    lines = [line for path in (tmp_path / "yolo").rglob("*.txt") for line in path.read_text().splitlines()]
    assert len(lines) == report.boxes


def _document(text: str) -> dict[str, object]:
    from manyeyes import Recipe

    return Recipe.parse(text).document()
