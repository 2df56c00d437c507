"""What is exported, where it goes, and what is refused before anything is written."""

from __future__ import annotations

import gc
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from manyeyes.errors import InvalidRequest, StorageFailed, StorageFull
from manyeyes.primitives.base import Features
from manyeyes.primitives.image import DTYPE as FACTS
from manyeyes.primitives.image import perceptual_hash
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sinks import target
from manyeyes.service.jobs.sinks.base import ExportOptions
from manyeyes.service.jobs.sinks.export import FORMATS, export
from manyeyes.service.jobs.sinks.target import MARKER
from manyeyes.types import Label
from tests.service.jobs.sinks.conftest import Made, jpeg, textured
from tests.service.jobs.sinks.test_lookalikes import copies

SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_equal_exports_have_equal_bytes(paint: Made, tmp_path: Path, format: str) -> None:
    options = {"splits": SPLITS, "reasons": True}
    first = export(paint, str(tmp_path / "one" / "out"), format=format, options=options)
    # However the job was cut into shards.
    again = export(
        replace(paint, shard_rows=3), str(tmp_path / "two" / "out"), format=format, options=options
    )
    assert first.digest == again.digest and replace(first, out=again.out) == again
    one, two = files_of(tmp_path / "one" / "out"), files_of(tmp_path / "two" / "out")
    assert one == two
    assert first.files == len(one) - 1 and first.bytes == sum(map(len, one.values())) - len(one[MARKER])
    assert os.listdir(tmp_path / "one") == ["out"]  # nothing else is left


def test_the_report_and_the_marker_say_what_is_there(paint: Made, tmp_path: Path) -> None:
    report = export(paint, str(tmp_path / "out"), format="coco", options={"splits": SPLITS})
    assert report.rows == 30 == sum(report.splits.values())
    assert report.classes["train"] == {"red": 6, "green": 6, "blue": 6}
    assert report.left_out == {"abstained": 4, "error": 2, "no_image": 1}
    assert report.examples["error"] == ["broken.jpg", "gone.jpg"]
    told = json.loads((tmp_path / "out" / MARKER).read_text())
    assert told["complete"] is True and told["digest"] == report.digest
    assert told["dataset"]["recipe_version"] == paint.versions.recipe
    assert told["options"]["splits"] == SPLITS and "overwrite" not in told["options"]
    named = {path: data for path, data in files_of(tmp_path / "out").items() if path != MARKER}
    assert report.files == len(named) and len(report.digest) == 64
    assert json.loads(json.dumps(report.to_dict()))["format"] == "coco"


def test_only_sure_labels(paint: Made, tmp_path: Path) -> None:
    least = sorted(label.confidence or 0 for _, label in paint.given if label.label)[20]
    report = export(paint, str(tmp_path / "out"), format="jsonl", options={"min_confidence": least})
    rows = [json.loads(line) for line in (tmp_path / "out" / "labels.jsonl").read_text("utf-8").splitlines()]
    assert rows and all(row["confidence"] >= least for row in rows)
    assert report.left_out["low_confidence"] + len(rows) == 31


@pytest.mark.parametrize("format", ["jsonl", "coco", "yolo", "webdataset", "huggingface", "labelstudio"])
def test_abstentions_are_in_or_out(boxed: Made, tmp_path: Path, format: str) -> None:
    names = [label.label if i else None for i, (_, label) in enumerate(boxed.given)]
    made = boxed.with_labels(names)
    assert export(made, str(tmp_path / "out"), format=format).left_out == {"abstained": 1}
    assert export(made, str(tmp_path / "in"), format=format, options={"abstained": True}).rows == 12


def test_names_stay_apart(paint: Made, tmp_path: Path) -> None:
    """Ids that differ by case, by ending, by what no file's name may hold, or look like names that are made up."""
    row, label = paint.given[1]
    ids = [
        "a/b.png",
        "A/B.png",
        "a_b.png",
        "a_b.jpg",
        "图片",
        "图画",
        "x",
        "x-0123456789abcdef",
        "../x",
        "con",
        "",
    ]
    given = [(replace(row, id=name), replace(label, id=name)) for name in ids]
    made = replace(paint, given=given)
    report = export(made, str(tmp_path / "out"), format="coco")
    names = [path.name for path in (tmp_path / "out" / "images" / "train").iterdir()]
    assert report.rows == len(names) == len({name.lower() for name in names}) == len(ids)
    told = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text("utf-8"))
    file_of = {image["item"]: image["file_name"] for image in told["images"]}
    assert sorted(file_of.values()) == sorted(names) and list(file_of) == ids
    assert file_of["con"] == "_con.png"
    assert file_of["x-0123456789abcdef"] != "x-0123456789abcdef.png"


def test_images_are_copied_byte_for_byte_and_end_in_what_they_are(paint: Made, tmp_path: Path) -> None:
    row, label = paint.given[1]
    made = replace(paint, given=[(replace(row, id="wrong.jpg"), label)])  # a PNG
    export(made, str(tmp_path / "out"), format="coco")
    assert (tmp_path / "out/images/train/wrong.png").read_bytes() == Path(row.uri or "").read_bytes()


def test_what_went_away_is_left_out_and_named(paint: Made, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(b"not an image any more")
    given = [*paint.given[:6]]
    given[0] = (replace(given[0][0], uri=str(tmp_path / "gone.jpg")), given[0][1])
    given[1] = (replace(given[1][0], uri=str(copy)), given[1][1])
    report = export(replace(paint, given=given), str(tmp_path / "out"), format="coco")
    assert report.left_out == {"source_not_found": 1, "unsupported_format": 1} and report.rows == 4
    assert report.examples["source_not_found"] == [given[0][0].id]
    with pytest.raises(InvalidRequest, match="still where they were"):
        export(replace(paint, given=given[:1]), str(tmp_path / "none"), format="coco")
    assert not (tmp_path / "none").exists()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("cocoa", {}, "did you mean 'coco'"),
    ("yolo", {"boxes": "detections"}, "stored no boxes"),
    ("coco", {"detector": "detektor"}, "gave no boxes"),
    ("coco", {"detector": "detector", "boxes": "label"}, "leave one out"),
    ("imagefolder", {"boxes": "detections"}, "no place for boxes"),
    ("coco", {"columns": ["id"]}, "no columns to choose"),
    ("parquet", {"columns": ["id", "lable"]}, "columns"),
    ("parquet", {"columns": []}, "columns"),
    ("parquet", {"min_confidance": 0.5}, "did you mean 'min_confidence'"),
    ("parquet", {"min_confidence": 1.0}, "low_confidence"),
    ("parquet", {"splits": {"train": 0.8, "test": 0.1}}, "sum to 1"),
    ("parquet", {"splits": {"../train": 1.0}}, "letters, digits"),
    ("parquet", {"splits": {"Train": 0.5, "train": 0.5}}, "case alone"),
    ("yolo", {"splits": {"val": 0.5, "validation": 0.5}}, "several splits"),
    ("imagefolder", {"splits": {"train": 0.97, "test": 0.03}}, "there is no image of"),
    ("parquet", {"splits": SPLITS, "near_duplicates": "features"}, "use near_duplicates: pixels"),
    ("labelstudio", {"images": "reference", "image_root": "x"}, "leave one out"),
]


@pytest.mark.parametrize(("format", "options", "told"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(
    paint: Made, tmp_path: Path, format: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        export(paint, str(tmp_path / "out"), format=format, options=options)
    assert list(tmp_path.iterdir()) == []


def test_missing_classes_are_fine_where_one_says_so(paint: Made, tmp_path: Path) -> None:
    options = {"splits": {"train": 0.97, "test": 0.03}, "allow_missing_classes": True}
    assert export(paint, str(tmp_path / "out"), format="imagefolder", options=options).rows == 30


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_an_error_in_the_middle_leaves_nothing_and_no_warning(
    paint: Made, tmp_path: Path, format: str, place: str
) -> None:
    class Failing(Made):
        passes = 0

        def rows(self) -> Iterator[tuple[Row, Label]]:
            self.passes += 1
            for i, pair in enumerate(self.given):
                if self.passes == 2 and i == 20:
                    raise StorageFailed("the bucket went away")
                yield pair

    made = Failing(paint.recipe, paint.versions, paint.given)
    out = str(tmp_path / "out") if place == "folder" else f"memory://exports-failing-{format}/a"
    with pytest.raises(StorageFailed, match="went away"):
        export(made, out, format=format)
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    if place == "bucket":
        assert json.loads(Storage.open(out).get(MARKER)) == {"complete": False}


class TestFolders:
    def test_what_is_not_ours_is_never_touched(self, paint: Made, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
        with pytest.raises(InvalidRequest, match="no export of manyeyes"):
            export(paint, str(out), format="csv", options={"overwrite": True})
        with pytest.raises(InvalidRequest, match="is a file"):
            export(paint, str(out / "thesis.tex"), format="csv", options={"overwrite": True})
        assert files_of(tmp_path) == {"out/thesis.tex": b"years of work"}

    def test_an_earlier_export_is_replaced_as_a_whole(self, paint: Made, tmp_path: Path) -> None:
        out = tmp_path / "a" / "out"
        export(paint, str(out), format="coco")
        with pytest.raises(InvalidRequest, match="set overwrite"):
            export(paint, str(out), format="csv")
        export(paint, str(out), format="csv", options={"overwrite": True})
        assert set(files_of(out)) == {"labels.csv", MARKER} and os.listdir(tmp_path / "a") == ["out"]
        (tmp_path / "empty").mkdir()
        export(paint, str(tmp_path / "empty"), format="csv")

    def test_it_is_there_as_a_whole_or_not_at_all(
        self, paint: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        export(paint, str(out), format="csv")
        before = files_of(tmp_path)
        real, calls = target._Folder.put, iter(range(1000))

        def put(self: Any, path: str, data: bytes) -> None:
            if next(calls) == 9:
                raise OSError(28, "No space left on device")
            real(self, path, data)

        monkeypatch.setattr(target._Folder, "put", put)
        with pytest.raises(StorageFull, match="make room"):
            export(paint, str(out), format="coco", options={"overwrite": True})
        assert files_of(tmp_path) == before

    def test_what_a_killed_export_left_is_cleared(self, paint: Made, tmp_path: Path) -> None:
        (tmp_path / ".out.part").mkdir()
        (tmp_path / ".out.part" / "half").write_text("…")
        export(paint, str(tmp_path / "out"), format="csv")
        assert os.listdir(tmp_path) == ["out"]

    def test_two_at_once(self, paint: Made, tmp_path: Path) -> None:
        first = target.Target(Storage.open(str(tmp_path / "out")), overwrite=False)
        with first, pytest.raises(InvalidRequest, match="another export"):
            export(paint, str(tmp_path / "out"), format="csv")
        assert export(paint, str(tmp_path / "out"), format="csv").rows == 31


class TestBuckets:
    @pytest.mark.parametrize("format", ["coco", "csv", "webdataset", "huggingface"])
    def test_objects_are_the_files_of_a_folder(self, paint: Made, tmp_path: Path, format: str) -> None:
        options = {"splits": SPLITS}
        uri = f"memory://exports-{format}/a"
        report = export(paint, uri, format=format, options=options)
        export(paint, str(tmp_path / "out"), format=format, options=options)
        place = Storage.open(uri)
        assert {meta.path: place.get(meta.path) for meta in place.list("")} == files_of(tmp_path / "out")
        assert report.out == uri

    def test_it_is_whole_once_its_marker_says_so(self, paint: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        uri = "memory://exports-halfway/a"
        place = Storage.open(uri)
        real = Storage.put

        def put(self: Storage, path: str, data: bytes, **how: Any) -> None:
            if "blue_IMG_11" in path:
                raise StorageFull("no room")
            real(self, path, data, **how)

        with monkeypatch.context() as patch:
            patch.setattr(Storage, "put", put)
            with pytest.raises(StorageFull):
                export(paint, uri, format="coco")
        assert json.loads(place.get(MARKER)) == {"complete": False}
        with pytest.raises(InvalidRequest, match="not finished"):
            export(paint, uri, format="csv")
        export(paint, uri, format="csv", options={"overwrite": True})
        assert [meta.path for meta in place.list("")] == ["labels.csv", MARKER]

    def test_what_is_not_ours_is_never_touched(self, paint: Made) -> None:
        place = Storage.open("memory://exports-others/a")
        place.put("thesis.tex", b"years of work")
        with pytest.raises(InvalidRequest, match="no export of manyeyes"):
            export(paint, place.uri, format="csv", options={"overwrite": True})
        assert [meta.path for meta in place.list("")] == ["thesis.tex"]


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory, coco128: Path, paint: Made
) -> tuple[Made, dict[str, str]]:
    """Return photographs, of some of which there are copies, under labels that differ; and id → whose copy it is."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(11)
    given: list[tuple[Row, Label]] = []
    owner = {}

    def add(name: str, data: bytes, whose: str) -> None:
        (folder / name).write_bytes(data)
        label = paint.recipe.classes[int(rng.choice(3, p=[0.6, 0.3, 0.1]))]
        owner[name] = whose
        given.append((Row(name, uri=str(folder / name)), Label(name, "labeled", label, 0.9, {label: 0.9})))

    paths = sorted(coco128.rglob("*.jpg"))
    for path in paths:
        add(path.name, path.read_bytes(), path.name)
    for path in paths[::5]:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        made = list(copies(image))
        for i in rng.choice(len(made), 3, replace=False):
            told, data = made[i]
            add(f"{path.stem} {told}.img", data, path.name)
    order = rng.permutation(len(given))
    return replace(paint, given=[given[i] for i in order], shard_rows=64), owner


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_copies_stay_together_and_the_fractions_hold(
    planted: tuple[Made, dict[str, str]], tmp_path: Path, seed: int
) -> None:
    made, owner = planted
    splits = {"train": 0.8, "validation": 0.1, "test": 0.1}
    report = export(made, str(tmp_path / "out"), format="jsonl", options={"splits": splits, "seed": seed})
    where: dict[str, set[str]] = {}
    for split in splits:
        for line in (tmp_path / "out" / f"{split}.jsonl").read_text().splitlines():
            where.setdefault(owner[json.loads(line)["id"]], set()).add(split)
    assert all(len(found) == 1 for found in where.values())
    n = len(made.given)
    assert report.groups == {"groups": 52, "rows": 4 * 52, "largest": 4}
    for split, fraction in splits.items():
        assert report.splits[split] == pytest.approx(fraction * n, abs=4)
        for name in ("red", "green"):
            of_class = sum(counts[name] for counts in report.classes.values())
            assert report.classes[split][name] == pytest.approx(fraction * of_class, abs=6)


@pytest.mark.slow
def test_without_looking_copies_would_be_divided(
    planted: tuple[Made, dict[str, str]], tmp_path: Path
) -> None:
    made, owner = planted
    options = {"splits": {"train": 0.5, "test": 0.5}, "near_duplicates": "off"}
    export(made, str(tmp_path / "out"), format="jsonl", options=options)
    sides: dict[str, set[str]] = {}
    for split in ("train", "test"):
        for line in (tmp_path / "out" / f"{split}.jsonl").read_text().splitlines():
            sides.setdefault(owner[json.loads(line)["id"]], set()).add(split)
    assert sum(len(found) > 1 for found in sides.values()) > 20


@pytest.mark.slow
def test_stored_hashes_keep_copies_together_without_fetching(
    planted: tuple[Made, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, owner = planted
    facts = np.zeros(len(made.given), dtype=FACTS)
    for i, (row, _) in enumerate(made.given):
        with Image.open(row.uri or "") as image:
            facts["phash"][i] = perceptual_hash(image.convert("L"))
    versions = replace(made.versions, primitives={"image": "image/facts 1"})
    stored = {"image": Features(facts, np.ones(len(facts), dtype=np.bool_))}
    made = replace(made, stored=stored, versions=versions)
    monkeypatch.setattr(Made, "fetcher", lambda self: pytest.fail("the images were about to be read"))
    options = {"splits": {"train": 0.5, "test": 0.5}, "near_duplicates": "features"}
    report = export(made, str(tmp_path / "out"), format="jsonl", options=options)
    assert report.groups is not None and 30 <= report.groups["groups"] <= 52  # crops escape a hash alone
    assert owner


def test_rows_of_one_product_and_equal_texts_stay_together(paint: Made, tmp_path: Path) -> None:
    given = []
    for i in range(60):
        row = Row(f"t{i}", text=f"{'  A Navy' if i % 2 else 'a navy'} coat{'!' * (i % 3)} no {i // 4}")
        row = replace(row, metadata=json.dumps({"shop": i % 30}))
        given.append((row, Label(row.id, "labeled", "blue", 0.9, {"blue": 0.9})))
    made = replace(paint, given=given)
    splits = {"train": 0.5, "test": 0.5}
    report = export(made, str(tmp_path / "texts"), format="csv", options={"splits": splits})
    assert report.groups == {"groups": 15, "rows": 60, "largest": 4} and report.splits["train"] in (28, 32)
    report = export(
        made, str(tmp_path / "shops"), format="csv", options={"splits": splits, "group_by": "shop"}
    )
    assert report.groups is not None and report.groups["largest"] > 4


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, paint: Made) -> None:
    """A hundred times the images of a megabyte, and the same memory."""
    import tracemalloc

    data = textured(np.random.default_rng(0), "red", (640, 480))
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)).save(
        stream, "BMP"
    )
    path = tmp_path / "large.bmp"
    path.write_bytes(stream.getvalue())
    assert path.stat().st_size > 2**20 and jpeg(data)

    class Many(Made):
        def rows(self) -> Iterator[tuple[Row, Label]]:
            for i in range(400):
                yield Row(f"{i}.bmp", uri=str(path)), Label(f"{i}.bmp", "labeled", "red", 0.9, {"red": 0.9})

    made = Many(paint.recipe, paint.versions, [])
    peaks = {}
    for format in ("webdataset", "huggingface", "coco"):
        tracemalloc.start()
        export(made, str(tmp_path / format), format=format)
        peaks[format] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    assert max(peaks.values()) < 150, peaks  # of 412 MB


def test_options_are_plain_values() -> None:
    options = ExportOptions(splits=SPLITS)
    assert ExportOptions.model_validate_json(options.model_dump_json()) == options
