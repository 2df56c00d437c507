"""Holding a dataset to its word: nothing is found where nothing is wrong, and one changed byte anywhere is found."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from manyeyes.errors import NotFound
from manyeyes.primitives.toy import ToyImage
from manyeyes.service.jobs.datasets.provenance import read_published
from manyeyes.service.jobs.datasets.verify import Verification, verify
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.run import resume_job, retry_failed, run_job
from manyeyes.service.jobs.work.parts import table_bytes
from tests.service.jobs.faulty_s3 import faulty_s3
from tests.service.jobs.toy_jobs import RECIPE, paint, request, with_function


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch) -> Path:
    """Return a folder with 42 ``photos``, one of them damaged, and what a job made of them in ``out``."""
    folder = tmp_path_factory.mktemp("verify")
    monkeypatch_module.setenv("MANYEYES_HOME", str(folder / "home"))
    photos = paint(folder / "photos", 42, broken={7})
    gold = folder / "gold.csv"
    gold.write_text("id,label\n00000.png,red\n00001.png,green\n")
    run_job(request(photos, folder / "out", gold=str(gold)))
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the dataset that may be spoiled."""
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def kinds(found: Verification) -> set[str]:
    return {one.kind for one in found.findings}


def flip(path: Path, place: int | None = None) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    place = len(data) // 2 if place is None else place
    data[place] ^= 1
    path.write_bytes(bytes(data))


def test_finds_nothing_where_nothing_is_wrong(made: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = verify(made / "out", progress=lambda *step: told.append(step))
    assert found.findings == ()
    assert found.ok
    assert (found.rows, found.sampled, found.same) == (42, 42, 42)
    assert found.files > 25
    assert {what for what, _, _ in told} >= {"files", "manifest", "rows", "counts", "sample"}


def test_looks_and_leaves_no_trace(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted((made / "out").rglob("*"))}
    verify(made / "out")
    assert {path: path.stat().st_mtime_ns for path in sorted((made / "out").rglob("*"))} == before


def test_the_sample_is_as_large_as_asked(made: Path) -> None:
    assert verify(made / "out", sample=0).sampled == 0
    found = verify(made / "out", sample=5, seed=3)
    assert (found.sampled, found.same) == (5, 5)


FILES = (
    "manyeyes.json",
    "README.md",
    "card/classes.svg",
    "labels/part-00000003.parquet",
    "_manyeyes/manifests/*.json",
    "_manyeyes/manifests/rows/*.parquet",
    "_manyeyes/jobs/*/recipe.yaml",
    "_manyeyes/jobs/*/gold.csv",
    "_manyeyes/jobs/*/label_model/0/*/label_model.json",
    "_manyeyes/jobs/*/label_model/0/*/label_model.safetensors",
    "_manyeyes/jobs/*/label_model/0/chosen.json",
    "_manyeyes/jobs/*/published/0000.json",
    "_manyeyes/jobs/*/parts/votes-0/*.parquet",
    "_manyeyes/jobs/*/parts/labels-0/*.parquet",
    "_manyeyes/features/*/*.parquet",
    "_manyeyes/publications/00000001.json",
)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_is_found(out: Path, name: str) -> None:
    rng = random.Random(name)
    paths = sorted(out.glob(name))
    assert paths, name
    path = rng.choice(paths)
    whole = path.read_bytes()
    for place in {0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(3))}:
        flip(path, place)
        found = verify(out, sample=0)
        assert not found.ok, f"{path.name}, byte {place} of {len(whole)}"
        path.write_bytes(whole)
    assert verify(out, sample=0).ok


@pytest.mark.parametrize("field", ["manifest", "recipe", "versions", "label_model", "gold", "id"])
def test_what_decides_the_labels_cannot_be_changed_in_the_job(out: Path, field: str) -> None:
    (path,) = out.glob("_manyeyes/jobs/*/job.json")
    told = json.loads(path.read_bytes())
    if field == "recipe":
        told[field]["lfs"][0]["threshold"] = 0.123
    else:
        told[field] = {"toy": "x"} if field == "versions" else "0" * 20
    path.write_text(json.dumps(told))
    found = verify(out, sample=0)
    assert not found.ok
    assert kinds(found) <= {"provenance", "damaged", "missing"}


@pytest.mark.parametrize("name", [name for name in FILES if "chosen" not in name and "published" not in name])
def test_what_is_gone_is_found(out: Path, name: str) -> None:
    path = sorted(out.glob(name))[0]
    path.unlink()
    if name == "manyeyes.json":
        with pytest.raises(NotFound, match="no finished dataset"):
            verify(out)
        return
    found = verify(out, sample=0)
    assert not found.ok
    assert kinds(found) <= {"missing", "provenance"}


def test_labels_whose_job_was_removed_are_still_held_to_their_digests(out: Path) -> None:
    shutil.rmtree(out / "_manyeyes")
    found = verify(out)
    assert kinds(found) == {"missing", "provenance"}
    assert (found.files, found.sampled) != (0, 1)
    flip(out / "labels" / "part-00000000.parquet")
    assert "damaged" in kinds(verify(out))


def test_files_that_are_no_part_of_it_are_found(out: Path) -> None:
    shutil.copy(out / "labels" / "part-00000000.parquet", out / "labels" / "part-00000009.parquet")
    (one,) = verify(out, sample=0).findings
    assert (one.kind, one.where) == ("counts", "labels/part-00000009.parquet")


def test_a_page_of_ones_own_is_no_fault(out: Path) -> None:
    (out / "README.md").write_text("# My own words\n")
    assert verify(out, sample=0).ok


def forge(out: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the labels of a shard, and every digest and figure that would tell."""
    from manyeyes.service.jobs.datasets import describing
    from manyeyes.service.jobs.work.job import read_job

    storage = Storage.open(str(out))
    told = read_published(storage)
    (commit,) = out.glob("_manyeyes/jobs/*/commits/labels-0/00000001.json")
    said = json.loads(commit.read_bytes())
    part = out / said["files"]["labels"][0]
    data = table_bytes(change(pq.read_table(part)))
    part.write_bytes(data)
    said["files"]["labels"][1] = hashlib.sha256(data).hexdigest()
    commit.write_text(json.dumps(said, sort_keys=True, separators=(",", ":")))
    (out / "labels" / "part-00000001.parquet").write_bytes(data)
    again = describing.describe(storage, read_job(storage, told.job), 0).to_bytes()
    (out / "manyeyes.json").write_bytes(again)
    storage.put(f"_manyeyes/jobs/{told.job}/published/0000.json", again)


def set_column(name: str, value: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        cells = table[name].to_pylist()
        cells[3] = value(cells[3])
        index = table.column_names.index(name)
        return table.set_column(index, name, pa.array(cells, table.schema.field(name).type))

    return change


def last_bit(value: float) -> float:
    import numpy as np

    return float(np.nextafter(value, 2.0))


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("prob_red", last_bit),
        ("confidence", last_bit),
        ("label", lambda name: "red" if name != "red" else "blue"),
        ("prior", lambda value: -value),  # 0.0 becomes -0.0
        ("reasons", lambda why: [{**why[0], "moved": last_bit(why[0]["moved"])}, *why[1:]]),
    ],
)
def test_a_forged_label_is_found_by_making_it_again(
    out: Path, column: str, change: Callable[[Any], Any]
) -> None:
    forge(out, set_column(column, change))
    found = verify(out, sample=0)
    card = {one.where for one in found.findings}
    assert card <= {"README.md", "card/classes.svg", "card/confidence.svg"}, "the forger forgot the card"
    found = verify(out)
    (one,) = [one for one in found.findings if one.where not in card]
    assert (one.kind, one.where) == ("different", "00013.png")
    assert f"{column} was" in one.message
    assert (found.sampled, found.same) == (42, 41)


def test_a_row_that_stands_there_twice_is_found(out: Path) -> None:
    (commit,) = out.glob("_manyeyes/jobs/*/commits/labels-0/00000001.json")
    part = out / json.loads(commit.read_bytes())["files"]["labels"][0]
    table = pq.read_table(part)
    data = table_bytes(table.take([0, 1, 2, 2, 4, 5, 6, 7, 8, 9]))
    for path in (part, out / "labels" / "part-00000001.parquet"):
        path.write_bytes(data)
    told = read_published(Storage.open(str(out)))
    files = list(told.files)
    files[1] = replace(files[1], size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (out / "manyeyes.json").write_bytes(replace(told, files=tuple(files)).to_bytes())
    found = verify(out)
    assert {"counts", "provenance", "damaged"} <= kinds(found)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return paint(tmp_path / "photos", 12)


def test_a_source_that_changed_is_told_apart(photos: Path, tmp_path: Path) -> None:
    run_job(request(photos, tmp_path / "out"))
    Image.new("RGB", (9, 9), (1, 2, 3)).save(photos / "00004.png")
    (photos / "00008.png").unlink()
    found = verify(tmp_path / "out")
    assert {(one.kind, one.where) for one in found.findings} == {
        ("source", "00004.png"),
        ("source", "00008.png"),
    }
    messages = {one.where: one.message for one in found.findings}
    assert "(source_changed)" in messages["00004.png"]
    assert "there is no such file" in messages["00008.png"]
    assert (found.sampled, found.same) == (12, 10)


def test_a_model_of_another_version_is_told_apart(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyImage, "version", "toy/colors/image 2")
    found = verify(made / "out")
    (one,) = found.findings
    assert (one.kind, one.where) == ("version", "toy")
    assert "was toy/colors/image 1 when the job ran and is toy/colors/image 2 here" in one.message
    assert found.sampled == 0


def test_a_recipe_that_runs_code_wants_trust(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "own_votes.py").write_text(
        "import pathlib\ndef vote(item):\n    pathlib.Path(__file__).with_name('ran').touch()\n    return 'red'\n"
    )
    monkeypatch.syspath_prepend(str(functions))
    run_job(request(photos, tmp_path / "out", recipe=with_function("own_votes:vote")))
    (functions / "ran").unlink()
    found = verify(tmp_path / "out")
    (one,) = found.findings
    assert one.kind == "version"
    assert "runs code" in one.message
    assert "--trust-recipe" in one.message
    assert not (functions / "ran").exists()
    assert verify(tmp_path / "out", trusted=True).ok
    assert (functions / "ran").exists()


def test_rows_that_were_retried(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "out")
    job = read_published(Storage.open(str(tmp_path / "out"))).job
    assert retry_failed(Storage.open(str(tmp_path / "out")), job, every=True) is not None
    resume_job(str(tmp_path / "out"), job)
    found = verify(tmp_path / "out")
    assert found.ok, found.findings
    assert found.same == 42


@pytest.mark.parametrize(
    "label_model",
    [{"name": "majority"}, {"name": "score_aware"}, {"name": "embedding_aware", "embeddings": "toy"}],
)
def test_every_label_model_gives_the_same_bits(
    photos: Path, tmp_path: Path, label_model: Mapping[str, Any]
) -> None:
    recipe = {**RECIPE, "label_model": label_model, "abstain_below": 0.5}
    run_job(request(photos, tmp_path / "out", recipe=recipe, shard_rows=5))
    found = verify(tmp_path / "out")
    assert found.ok, found.findings
    assert found.same == 12


def test_in_a_bucket(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_s3() as server:
        server.make_bucket("jobs")
        for name, value in server.env(straight=True).items():
            monkeypatch.setenv(name, value)
        place = Storage.open("s3://jobs/photos")
        for path in photos.iterdir():
            place.put(path.name, path.read_bytes())
        run_job(request("s3://jobs/photos", "s3://jobs/labels"))
        assert verify("s3://jobs/labels").ok
        place.put("00003.png", (photos / "00004.png").read_bytes())
        (one,) = verify("s3://jobs/labels").findings
        assert (one.kind, one.where) == ("source", "00003.png")


@pytest.mark.slow
def test_real_models_give_the_same_bits_in_other_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skimage import data

    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        picture = Image.fromarray(getattr(data, name)())
        for i in range(4):
            picture.crop((i * 8, i * 4, picture.width - i * 16, picture.height)).save(
                folder / f"{name}-{i}.jpg"
            )
    recipe = {
        "name": "things",
        "classes": ["cat", "person", "cup"],
        "lfs": [
            {
                "name": "looks",
                "kind": "prompt",
                "prompts": {
                    "cat": "a photo of a cat",
                    "person": "a photo of a person",
                    "cup": "a cup of coffee",
                },
            },
            {"name": "seen", "kind": "detect", "when": "count(person) >= 1", "vote": "person"},
        ],
    }
    run_job(request(folder, tmp_path / "out", recipe=recipe, shard_rows=5))
    for sample in (16, 3):
        found = verify(tmp_path / "out", sample=sample, seed=sample)
        assert found.ok, found.findings
        assert found.same == sample
