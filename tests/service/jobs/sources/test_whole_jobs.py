"""Whole jobs: the same photographs get the same labels, wherever they lie and however they are packed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from manyeyes.service.jobs.datasets.dataset import Dataset
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.run import run_job
from manyeyes.service.jobs.shapes import JobRequest, Source
from tests.service.jobs.faulty_s3 import FaultyS3
from tests.service.jobs.sources.test_archives import tarred, zipped

COLOURS = ("red", "green", "blue")
RECIPE = {
    "name": "paint",
    "classes": list(COLOURS),
    "primitives": {"toy": {}},
    "lfs": [
        {"name": "looks", "kind": "prompt", "using": "toy", "prompts": {one: one for one in COLOURS}},
        {"name": "shelf", "kind": "metadata", "when": "shelf == 'R'", "vote": "red"},
        {"name": "says", "kind": "keyword", "on": "text", "any": ["navy"], "vote": "blue"},
    ],
}


def photo(n: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8 + n, 8), COLOURS[n % 3]).save(stream, "PNG")
    return stream.getvalue()


def files() -> dict[str, bytes]:
    """Return 12 photographs, some with a text and metadata beside them, one that is damaged and one that is empty."""
    found = {f"{n:02}.png": photo(n) for n in range(12)}
    for n in range(0, 12, 4):
        found[f"{n:02}.json"] = b'{"shelf": "R"}'
        found[f"{n:02}.txt"] = b"a navy wall" if n else b"a wall"
    found["05.png"] = b"no photograph"
    found["07.png"] = b""
    return found


def table() -> pa.Table:
    packed = files()
    names = [f"{n:02}" for n in range(12)]
    return pa.table(
        {
            "id": names,
            "image": [packed[f"{name}.png"] for name in names],
            "text": [packed[f"{name}.txt"].decode() if f"{name}.txt" in packed else None for name in names],
            "shelf": ["R" if f"{name}.json" in packed else None for name in names],
        }
    )


def _folder(folder: Path) -> str:
    for name, data in files().items():
        (folder / name).write_bytes(data)
    return str(folder)


def _bucket(folder: Path) -> str:
    uri = f"s3://data/{folder.parent.name}/photos"
    storage = Storage.open(uri)
    for name, data in files().items():
        storage.put(name, data)
    return uri


def _written(name: str, data: Callable[[], bytes]) -> Callable[[Path], str]:
    def lay(folder: Path) -> str:
        (folder / name).write_bytes(data())
        return str(folder / name)

    return lay


def _webdataset(folder: Path) -> str:
    rows = sorted(files().items())
    for shard in range(3):
        some = {name: data for name, data in rows if int(name[:2]) // 4 == shard}
        (folder / f"s-{shard}.tar").write_bytes(tarred(some))
    return f"{folder}/s-{{0..2}}.tar"


def _parquet(folder: Path) -> str:
    pq.write_table(table(), folder / "t.parquet", row_group_size=5)
    return str(folder / "t.parquet")


def _csv(folder: Path) -> str:
    _folder(folder)
    rows = table().select(["id", "text", "shelf"]).to_pylist()
    lines = [f"{row['id']},{row['id']}.png,{row['text'] or ''},{row['shelf'] or ''}" for row in rows]
    (folder / "t.csv").write_text("\n".join(["id,image,text,shelf", *lines]) + "\n")
    return str(folder / "t.csv")


def _list(folder: Path) -> str:
    uri = _bucket(folder)
    (folder / "list.txt").write_text("".join(f"{uri}/{n:02}.png\n" for n in range(12)))
    return str(folder / "list.txt")


KINDS: dict[str, Callable[[Path], str]] = {
    "bucket": _bucket,
    "zip": _written("all.zip", lambda: zipped(files())),
    "tar": _written("all.tar", lambda: tarred(files())),
    "webdataset": _webdataset,
    "parquet": _parquet,
    "csv": _csv,
}


def labels_of(uri: str, out: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """Run a job; return of each row its bare name, its label, the code of its error, and its confidence."""
    done = run_job(JobRequest(source=Source(uri=uri), recipe=RECIPE, out=out, shard_rows=5))
    assert done.status == "completed", done.message
    dataset = Dataset.open(out)
    assert dataset.counts.rows == len(dataset)
    return [
        (Path(label.id).stem, label.label, label.error and label.error.code, f"{label.confidence}")
        for label in dataset.labels()
    ]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYEYES_HOME", str(tmp_path_factory.mktemp("home")))
        return labels_of(_folder(folder), str(tmp_path_factory.mktemp("out")))


@pytest.mark.parametrize("kind", list(KINDS))
def test_labels_are_the_same_wherever_photographs_lie(
    kind: str, expected: list[tuple[object, ...]], tmp_path: Path, data_s3: FaultyS3
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    assert len(expected) == 12
    assert [code for _, _, code, _ in expected].count(None) == 10
    assert {label for _, label, _, _ in expected if label} == set(COLOURS)
    assert labels_of(KINDS[kind](folder), str(tmp_path / "out")) == expected


def test_a_list_labels_what_it_names(tmp_path: Path, data_s3: FaultyS3) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    found = labels_of(_list(folder), str(tmp_path / "out"))
    assert [label for _, label, _, _ in found[:3]] == list(COLOURS)
    assert [code for _, _, code, _ in found].count(None) == 10


def test_metadata_may_come_from_a_table(
    expected: list[tuple[object, ...]], tmp_path: Path, data_s3: FaultyS3
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in files().items():
        if not name.endswith(".json"):
            (folder / name).write_bytes(data)
    (tmp_path / "shelves.csv").write_text("photo,shelf\n00,R\n04,R\n08,R\n")
    source = Source.model_validate(
        {"uri": str(folder), "join": {"table": str(tmp_path / "shelves.csv"), "key": "photo", "on": "stem"}}
    )
    done = run_job(JobRequest(source=source, recipe=RECIPE, out=str(tmp_path / "out"), shard_rows=5))
    assert done.status == "completed"
    assert [label.label for label in Dataset.open(str(tmp_path / "out")).labels()] == [
        one[1] for one in expected
    ]
