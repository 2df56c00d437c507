"""Each format is opened by the program that it is made for."""

from __future__ import annotations

import csv
import gc
import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from manyeyes.models.torchvision_ops import ensure_torchvision
from manyeyes.service.jobs.sinks.export import export
from tests.service.jobs.sinks.conftest import Made

SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}


def expected(made: Made, **where: bool) -> dict[str, str]:
    """Return id → label of the rows that are exported. image: only those with an image."""
    return {
        row.id: label.label
        for row, label in made.given
        if label.label is not None and (row.uri is not None or not where.get("image"))
    }


def originals(made: Made) -> dict[str, bytes]:
    return {
        row.id: Path(row.uri).read_bytes() for row, label in made.given if row.uri and label.status != "error"
    }


def test_pandas_and_pyarrow_open_tables(paint: Made, tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    wanted = expected(paint)
    for format in ("parquet", "jsonl", "csv"):
        export(paint, str(tmp_path / format), format=format, options={"splits": SPLITS, "reasons": True})
    frames = {}
    for split in SPLITS:
        frame = frames[split] = pd.read_parquet(tmp_path / "parquet" / f"{split}.parquet")
        of_csv = pd.read_csv(tmp_path / "csv" / f"{split}.csv")
        of_json = pd.read_json(tmp_path / "jsonl" / f"{split}.jsonl", lines=True)
        assert frame["id"].tolist() == of_csv["id"].tolist() == of_json["id"].tolist()
        assert list(frame.columns) == list(of_csv.columns)
        assert frame["prob_red"].tolist() == of_csv["prob_red"].tolist()
        # pandas reads the last digit of numbers in JSON as it likes.
        assert frame["prob_red"].tolist() == pytest.approx([probs["red"] for probs in of_json["probs"]])
        assert [json.loads(cell) for cell in of_csv["metadata"]] == of_json["metadata"].tolist()
        lines = (tmp_path / "jsonl" / f"{split}.jsonl").read_text("utf-8").splitlines()
        assert [json.loads(cell) for cell in of_csv["reasons"]] == [
            json.loads(line)["reasons"] for line in lines
        ]
        # Numbers of rows with line breaks inside cells.
        assert frame["text"].fillna("").tolist() == of_csv["text"].fillna("").tolist()
        assert set(frame["split"]) == {split}
    whole = pd.concat(frames.values())
    assert dict(zip(whole["id"], whole["label"], strict=True)) == wanted
    told = pq.read_schema(tmp_path / "parquet" / "train.parquet").metadata[b"manyeyes"]
    assert json.loads(told)["recipe_version"] == paint.versions.recipe


def test_a_table_has_the_columns_that_were_chosen(paint: Made, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    options = {"columns": ["label", "id", "probs", "error_code", "label_model_version"], "abstained": True}
    report = export(paint, str(tmp_path / "t"), format="parquet", options=options)
    table = pq.read_table(tmp_path / "t" / "labels.parquet")
    assert table.column_names == [
        "label",
        "id",
        "prob_red",
        "prob_green",
        "prob_blue",
        "error_code",
        "label_model_version",
    ]
    assert report.rows == table.num_rows == 35 and table["label"].null_count == 4
    export(paint, str(tmp_path / "c"), format="csv", options=options)
    with (tmp_path / "c" / "labels.csv").open(newline="", encoding="utf-8") as stream:
        assert next(csv.reader(stream)) == table.column_names


def test_hugging_face_datasets_open_the_folder(
    paint: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    out = tmp_path / "hf"
    options = {"splits": SPLITS, "reasons": True, "shard_bytes": 20_000, "abstained": True}
    report = export(paint, str(out), format="huggingface", options=options)
    assert report.splits == {"train": 21, "validation": 7, "test": 7}
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == report.splits
    assert len(list((out / "data").glob("train-*"))) > 1
    features = loaded["train"].features
    assert isinstance(features["image"], datasets.Image)
    assert features["label"].names == ["red", "green", "blue"]
    rows, wanted, bytes_of = Counter[str](), expected(paint), originals(paint)
    for split in loaded.values():
        undecoded = split.cast_column("image", datasets.Image(decode=False))
        for row, raw in zip(split, undecoded, strict=True):
            rows[row["id"]] += 1
            label = features["label"].int2str(row["label"]) if row["label"] >= 0 else None
            assert label == wanted.get(row["id"])
            assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
            assert row["label"] == -1 or row["probabilities"][row["label"]] == pytest.approx(
                row["confidence"]
            )
            assert [reason["lf"] for reason in row["reasons"]] == ["looks", "says"]
            if row["image"] is None:
                assert row["id"] == "comments#1" and row["text"] == "a navy coat"
            else:
                assert raw["image"]["bytes"] == bytes_of[row["id"]]
                assert row["image"].size == (64, 48)
    assert set(rows.values()) == {1} and len(rows) == 35
    streamed = datasets.load_dataset(str(out), split="test", streaming=True)
    assert [row["id"] for row in streamed] == loaded["test"]["id"]


@pytest.mark.filterwarnings("ignore:.*unclosed file:ResourceWarning")  # it leaves its shards open
def test_webdataset_reads_the_shards(paint: Made, tmp_path: Path) -> None:
    import webdataset

    out = tmp_path / "wds"
    report = export(paint, str(out), format="webdataset", options={"splits": SPLITS, "shard_bytes": 30_000})
    assert all(path.stat().st_size < 60_000 for path in out.glob("*.tar"))
    classes = (out / "classes.txt").read_text().split()
    wanted, bytes_of, seen = expected(paint), originals(paint), {}
    for split, count in report.splits.items():
        shards = sorted(map(str, out.glob(f"{split}-*.tar")))
        samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode())
        assert len(samples) == count
        for sample in samples:
            told = sample["json"]
            seen[told["id"]] = classes[sample["cls"]]
            assert told["label"] == classes[sample["cls"]] and sum(told["probs"].values()) > 0.99
    assert seen == wanted and len(list(out.glob("train-*.tar"))) > 1
    raw = {}
    for sample in webdataset.WebDataset(sorted(map(str, out.glob("*.tar"))), shardshuffle=False):
        image = next((sample[end] for end in ("jpg", "png", "webp", "bmp") if end in sample), None)
        raw[json.loads(sample["json"])["id"]] = image
        assert image is not None or sample["txt"] == b"a navy coat"
    assert all(raw[row_id] == bytes_of.get(row_id) for row_id in wanted)
    decoded = webdataset.WebDataset(str(out / "test-000000.tar"), shardshuffle=False).decode("pil")
    assert all(sample["__key__"] for sample in decoded)
    del decoded
    gc.collect()


def test_torchvision_opens_class_folders(paint: Made, tmp_path: Path) -> None:
    ensure_torchvision()
    from torchvision.datasets import ImageFolder

    out = tmp_path / "folders"
    report = export(paint, str(out), format="imagefolder", options={"splits": SPLITS})
    wanted = expected(paint, image=True)
    told = {one["folder"]: one["class"] for one in json.loads((out / "classes.json").read_text())}
    total = 0
    for split, count in report.splits.items():
        dataset = ImageFolder(out / split)
        assert len(dataset) == count and dataset.classes == ["blue", "green", "red"]
        total += count
        for (image, number), (path, _) in zip(dataset, dataset.samples, strict=True):
            assert image.size == (64, 48) and told[dataset.classes[number]] == Path(path).parent.name
    assert total == len(wanted)
    copied = sorted(path.read_bytes() for path in out.rglob("*.*") if path.suffix != ".json")
    assert copied == sorted(data for row_id, data in originals(paint).items() if row_id in wanted)


@pytest.mark.parametrize("format", ["coco", "fiftyone"])
def test_pycocotools_opens_detections(boxed: Made, tmp_path: Path, format: str) -> None:
    from pycocotools.coco import COCO

    out = tmp_path / "coco"
    report = export(boxed, str(out), format=format, options={"min_score": 0.5, "reasons": True})
    file = out / ("annotations/train.json" if format == "coco" else "train/labels.json")
    coco = COCO(str(file))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == ["person", "bus", "potted plant"]
    assert len(coco.getImgIds()) == report.rows == 12
    assert len(coco.getAnnIds()) == report.boxes == 3 * (1 + 2 + 2)
    folder = out / ("images/train" if format == "coco" else "train/data")
    by_item = {one["item"]: one for one in coco.loadImgs(coco.getImgIds())}
    assert (by_item["03.jpg"]["width"], by_item["03.jpg"]["height"]) == (80, 60)
    assert (by_item["04.jpg"]["width"], by_item["04.jpg"]["height"]) == (60, 80)  # upright
    for item, entry in by_item.items():
        with Image.open(folder / entry["file_name"]) as image:
            image.load()
        assert entry["label"] == ("street" if int(item[:2]) % 2 else "room")
    first, second = coco.loadAnns(coco.getAnnIds(by_item["07.jpg"]["id"]))
    assert first["bbox"] == [0, 15, 40, 30] and first["area"] == 1200 and first["category_id"] == 2
    assert second["bbox"] == [8, 15, 40, 30] and second["score"] == pytest.approx(0.65)
    # What the detector found, held against itself: pycocotools' own evaluation agrees with every box.
    from pycocotools.cocoeval import COCOeval

    found = [
        {key: one[key] for key in ("image_id", "category_id", "bbox", "score")}
        for one in coco.loadAnns(coco.getAnnIds())
    ]
    evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_pycocotools_opens_labels_as_boxes_of_the_whole_image(paint: Made, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    export(paint, str(tmp_path / "coco"), format="coco", options={"splits": SPLITS, "soft_labels": False})
    seen = {}
    for split in SPLITS:
        coco = COCO(str(tmp_path / "coco" / "annotations" / f"{split}.json"))
        names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
        for one in coco.loadAnns(coco.getAnnIds()):
            (image,) = coco.loadImgs([one["image_id"]])
            assert one["bbox"] == [0, 0, image["width"], image["height"]] == [0, 0, 64, 48]
            assert names[one["category_id"]] == image["label"] and "probs" not in image
            seen[image["item"]] = image["label"]
    assert seen == expected(paint, image=True)


def ultralytics() -> Any:
    """Import it as the detector does: nothing is installed, nothing is sent."""
    from manyeyes.primitives import detector

    detector._ultralytics()
    import ultralytics

    return ultralytics


@pytest.mark.slow
def test_ultralytics_opens_boxes(boxed: Made, tmp_path: Path) -> None:
    ultralytics()
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    out = tmp_path / "yolo"
    splits = {"train": 0.5, "validation": 0.5}
    report = export(boxed, str(out), format="yolo", options={"splits": splits, "near_duplicates": "off"})
    shutil.move(out, tmp_path / "elsewhere")  # the data set can be moved
    data = check_det_dataset(str(tmp_path / "elsewhere" / "data.yaml"))
    assert data["names"] == {0: "person", 1: "bus", 2: "potted plant"}
    n_boxes = 0
    for split in ("train", "val"):
        dataset = build_yolo_dataset(get_cfg(overrides={"imgsz": 64}), data[split], 1, data, mode="val")
        assert len(dataset) == 6
        for told in dataset.labels:
            i = int(Path(told["im_file"]).stem)
            assert tuple(told["shape"]) == ((80, 60) if i == 4 else (60, 80))
            assert told["cls"].ravel().tolist() == [(i + j) % 3 for j in range(i % 4)]
            if i % 4:
                assert told["bboxes"][0].tolist() == pytest.approx([0.25, 0.5, 0.5, 0.5])
            n_boxes += len(told["cls"])
    assert n_boxes == report.boxes == 18


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*get_trial_id.*")  # it asks Ray, where there is one
def test_ultralytics_trains_on_class_folders(paint: Made, tmp_path: Path) -> None:
    library = ultralytics()
    from ultralytics.data.utils import check_cls_dataset

    out = tmp_path / "yolo"
    report = export(paint, str(out), format="yolo", options={"splits": SPLITS})
    data = check_cls_dataset(str(out))
    assert data["nc"] == 3 and data["names"] == {0: "blue", 1: "green", 2: "red"}
    assert data["val"] == out / "val" and data["test"] == out / "test"
    model = library.YOLO("yolo11n-cls.yaml")
    told = model.train(
        data=str(out), epochs=1, imgsz=32, batch=4, workers=0, device="cpu", project=str(tmp_path / "runs"),
        plots=False, verbose=False, amp=False,
    )  # fmt: skip
    assert 0 <= told.top1 <= 1 and report.splits["train"] == 18


@pytest.mark.slow
def test_what_the_starter_finds_is_what_ultralytics_validates(
    coco128: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from manyeyes import Recipe
    from manyeyes.primitives.detector import STARTER_FILE
    from manyeyes.service.jobs.shapes import Row
    from tests.service.jobs.sinks.conftest import THINGS, labeled

    library = ultralytics()
    paths = sorted(coco128.rglob("*.jpg"))[:24]
    rows = [Row(str(path.relative_to(coco128)), uri=str(path)) for path in paths]
    made = labeled(Recipe.parse(THINGS), rows, features=["detector"])
    report = export(made, str(tmp_path / "yolo"), format="yolo", options={"abstained": True})
    assert report.rows == 24 and report.boxes > 24
    model = library.YOLO(str(STARTER_FILE))
    found = model.val(
        data=str(tmp_path / "yolo" / "data.yaml"), conf=0.1, iou=0.5, batch=1, rect=True, workers=0,
        device="cpu", plots=False, verbose=False, project=str(tmp_path / "runs"),
    )  # fmt: skip
    capsys.readouterr()
    # The same detector on the same images: it says again what was exported, but for the size it sees them in.
    assert found.box.map50 > 0.8


FIFTYONE = """
import json, sys
import fiftyone as fo
told = {}
for split in sys.argv[2:]:
    dataset = fo.Dataset.from_dir(
        dataset_dir=f"{sys.argv[1]}/{split}",
        dataset_type=fo.types.COCODetectionDataset,
        label_field="found",
        extra_attrs=True,
    )
    (field,) = [name for name in dataset.get_field_schema() if name.startswith("found")]
    told[split] = {
        sample.filename: [
            (one.label, one.bounding_box, one.confidence)
            for one in (sample[field].detections if sample[field] else [])
        ]
        for sample in dataset
    }
    dataset.delete()
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.parametrize("boxes", ["detections", "label"])
def test_fiftyone_opens_every_split(boxed: Made, tmp_path: Path, boxes: str) -> None:
    """$MANYEYES_FIFTYONE is a Python that has FiftyOne; FIFTYONE_DATABASE_URI is its database, if it is not its own."""
    python = os.environ.get("MANYEYES_FIFTYONE")
    if not python:
        pytest.skip("no FiftyOne: set MANYEYES_FIFTYONE to the Python of an environment that has it")
    out = tmp_path / "fiftyone"
    splits = {"train": 0.5, "validation": 0.5}
    report = export(
        boxed,
        str(out),
        format="fiftyone",
        options={"splits": splits, "boxes": boxes, "near_duplicates": "off"},
    )
    done = subprocess.run(
        [python, "-c", FIFTYONE, str(out), *splits],
        env={**os.environ, "HOME": str(tmp_path / "home"), "FIFTYONE_DO_NOT_TRACK": "true"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert {split: len(samples) for split, samples in told.items()} == report.splits
    everything = {name: found for samples in told.values() for name, found in samples.items()}
    if boxes == "label":
        assert {name: found[0][0] for name, found in everything.items()} == expected(boxed)
        assert all(found[0][1] == [0, 0, 1, 1] for found in everything.values())
    else:
        assert everything["03.jpg"][0][:2] == ["person", pytest.approx([0, 0.25, 0.5, 0.5])]
        assert sum(map(len, everything.values())) == report.boxes == 18
        assert everything["03.jpg"][0][2] == pytest.approx(0.9)
