"""Publishing: whoever reads sees one job, whole, whatever happens while another takes its place."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from manyeyes import Recipe
from manyeyes.errors import InvalidRequest, StorageFailed
from manyeyes.service.jobs.datasets.dataset import Dataset
from manyeyes.service.jobs.datasets.provenance import publish, read_published, settle
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.run import find_job, resume_job, retry_failed, run_job
from manyeyes.service.jobs.work.job import read_job
from tests.service.jobs.toy_jobs import RECIPE, labels, paint, published, request

EDITED: Mapping[str, Any] = {**RECIPE, "lfs": RECIPE["lfs"][:1], "label_model": "majority"}


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch) -> Path:
    """Return a folder with two jobs of one place: ``first`` holds the one, ``both`` the other on top of it."""
    folder = tmp_path_factory.mktemp("places")
    monkeypatch_module.setenv("MANYEYES_HOME", str(folder / "home"))
    photos = paint(folder / "photos", 42, broken={7})
    run_job(request(photos, folder / "first"))
    shutil.copytree(folder / "first", folder / "both")
    # Fewer and larger shards, so that the second job has fewer parts.
    run_job(request(photos, folder / "both", recipe=EDITED, shard_rows=30, update=False))
    return folder


@pytest.fixture
def place(places: Path, tmp_path: Path) -> tuple[Storage, str, str]:
    """Return a place where the first job is published and the second is only committed, and their ids."""
    both = tmp_path / "out"
    shutil.copytree(places / "both", both)
    for name in ("labels", "manyeyes.json", "card", "README.md"):
        left = both / name
        shutil.rmtree(left) if left.is_dir() else left.unlink()
        kept = places / "first" / name
        shutil.copytree(kept, left) if kept.is_dir() else shutil.copy(kept, left)
    storage = Storage.open(str(both))
    (storage.local / "_manyeyes/publications/00000002.json").unlink()  # type: ignore[operator]
    first, second = read_published(storage).job, find_job(storage).id
    assert first != second
    return storage, first, second


class Dies(Exception):
    """The process is gone."""


def dying(storage: Storage, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a storage fail for good after so many changes."""
    left, lock = [after], threading.Lock()

    def wrapped(name: str) -> Callable[..., Any]:
        real = getattr(Storage, name)

        def call(self: Storage, *args: Any, **kwargs: Any) -> Any:
            with lock:
                left[0] -= 1
                if left[0] < 0:
                    raise Dies
            return real(self, *args, **kwargs)

        return call

    for name in ("put", "create", "copy", "delete"):
        monkeypatch.setattr(Storage, name, wrapped(name))


def ids_and_labels(storage: Storage) -> tuple[str, list[tuple[str, str | None, float | None]]]:
    dataset = Dataset.open(storage)
    return dataset.job, [(label.id, label.label, label.confidence) for label in dataset.labels()]


def consistent(storage: Storage) -> bool:
    """Return whether the folder of labels holds just what is published."""
    told = read_published(storage)
    names = {file.path: file.sha256 for file in told.files}
    found = {meta.path: hashlib.sha256(storage.get(meta.path)).hexdigest() for meta in storage.list("labels")}
    return names == found


def test_what_is_published_tells_all_of_it(places: Path) -> None:
    told = read_published(Storage.open(str(places / "first")))
    rows = labels(places / "first")
    assert told.counts.rows == len(rows) == 42
    assert told.counts.failed == 1
    assert told.counts.errors == {"undecodable_image": 1}
    assert told.counts.labeled == sum(row["status"] == "labeled" for row in rows)
    for name, n in told.by_class.items():
        assert n == sum(row["label"] == name for row in rows)
    sure = [row["confidence"] for row in rows if row["status"] == "labeled"]
    assert told.confidence["labeled"][-1] == sum(value >= 0.95 for value in sure)
    assert sum(told.confidence["labeled"]) == len(sure)
    looks, clearly = told.lfs
    said = [[why["vote"] is not None for why in row["reasons"]] for row in rows if row["status"] != "error"]
    assert looks.votes == sum(one for one, _ in said)
    assert clearly.overlaps == sum(one and other for one, other in said)
    assert told.all_lfs.rows == 41
    assert Recipe.parse(told.recipe).version == told.versions.recipe == rows[0]["recipe_version"]
    assert json.loads(rows[0]["primitive_versions"]) == told.versions.primitives
    assert set(told.software) == {"manyeyes", "numpy", "pillow", "pyarrow", "python"}, "no model ran"
    assert [file.rows for file in told.files] == [10, 10, 10, 10, 2]
    for file in told.files:
        data = (places / "first" / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)


def test_the_same_job_elsewhere_publishes_the_same_bytes(places: Path, tmp_path: Path) -> None:
    run_job(request(places / "photos", tmp_path / "again"))
    assert published(tmp_path / "again") == published(places / "first")
    for name in ("README.md", "card/classes.svg", "card/confidence.svg", "card/functions.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (places / "first" / name).read_bytes()


def test_nothing_in_it_says_when_or_where(places: Path) -> None:
    told = (places / "first" / "manyeyes.json").read_text()
    assert str(places / "first") not in told
    assert datetime.now(UTC).strftime("%Y-%m") not in told


def test_publishing_again_changes_nothing(place: tuple[Storage, str, str]) -> None:
    storage, first, _ = place
    assert storage.local is not None
    before = published(storage.local)
    publish(storage, first, 0)
    publish(storage, first, 0)
    assert published(storage.local) == before
    assert len(list(storage.list("_manyeyes/publications"))) == 1


def test_another_job_takes_the_place_and_leaves_no_part(place: tuple[Storage, str, str]) -> None:
    storage, first, second = place
    assert read_published(storage).job == first
    publish(storage, second, 0)
    assert read_published(storage).job == second
    assert [meta.path for meta in storage.list("labels")] == [
        f"labels/part-0000000{i}.parquet" for i in range(2)
    ]
    assert consistent(storage)
    publish(storage, first, 0)  # who runs the first job again wants it back
    assert read_published(storage).job == first
    assert consistent(storage)


def test_files_of_others_stay(place: tuple[Storage, str, str]) -> None:
    storage, _, second = place
    for path in ("labels/notes.txt", "labels/part-1.parquet.bak", "exports/jsonl/x"):
        storage.put(path, b"mine")
    storage.put("README.md", b"# My own words\n")
    publish(storage, second, 0)
    for path in ("labels/notes.txt", "labels/part-1.parquet.bak", "exports/jsonl/x"):
        assert storage.get(path) == b"mine"
    assert storage.get("README.md") == b"# My own words\n"


def test_wherever_it_dies_readers_see_one_job_and_the_next_one_ends_it(
    place: tuple[Storage, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage, first, second = place
    reader = Dataset.open(storage)
    of_first = ids_and_labels(storage)
    seen: set[str] = set()
    ended = False
    for after in range(40):
        shutil.rmtree(tmp_path / "try", ignore_errors=True)
        shutil.copytree(storage.uri, tmp_path / "try")
        copy = Storage.open(str(tmp_path / "try"))
        with monkeypatch.context() as patch:
            dying(copy, after, patch)
            try:
                publish(copy, second, 0)
                ended = True
            except Dies:
                pass
        told = ids_and_labels(copy)
        assert told[0] in (first, second)
        assert len(told[1]) == 42
        if told[0] == first:
            assert told == of_first
        seen.add(told[0])
        # A reader that opened it before sees what it opened.
        before = Dataset(copy, reader.published)
        assert [(label.id, label.label, label.confidence) for label in before.labels()] == of_first[1]
        publish(copy, second, 0)
        assert read_published(copy).job == second
        assert consistent(copy)
        if ended:
            break
    assert ended
    assert seen == {first, second}


@pytest.mark.parametrize("turn", range(6))
def test_two_at_once_end_with_one_of_them_whole(place: tuple[Storage, str, str], turn: int) -> None:
    storage, first, second = place
    ready = threading.Barrier(3)
    failed: list[BaseException] = []

    def go(job: str) -> None:
        ready.wait()
        try:
            publish(storage, job, 0)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=go, args=(job,)) for job in (first, second, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert read_published(storage).job in (first, second)
    assert consistent(storage)


def test_an_interrupted_publication_is_ended_by_whoever_comes(
    place: tuple[Storage, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, _, second = place
    with monkeypatch.context() as patch:
        dying(storage, 4, patch)
        with pytest.raises(Dies):
            publish(storage, second, 0)
    assert settle(storage).job == second
    assert consistent(storage)


def test_an_earlier_try_does_not_take_the_place_of_a_later_one(places: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(places / "first", out)
    storage = Storage.open(str(out))
    job = read_published(storage).job
    assert retry_failed(storage, job, every=True) is not None
    assert resume_job(str(out), job).status == "completed"
    assert read_published(storage).generation == 1
    before = published(out)
    publish(storage, job, 0)  # a coordinator that slept through all of it
    assert published(out) == before


def test_an_unfinished_job_is_not_published(place: tuple[Storage, str, str]) -> None:
    storage, _, second = place
    kept = storage.local / f"_manyeyes/jobs/{second}"  # type: ignore[operator]
    (kept / "published/0000.json").unlink()
    (kept / "commits/labels-0/00000001.json").unlink()
    with pytest.raises(InvalidRequest, match="is not finished: 1 of 2 shards have no labels yet, as shard 1"):
        publish(storage, second, 0)
    assert consistent(storage)


def test_damaged_labels_are_not_published(place: tuple[Storage, str, str]) -> None:
    storage, _, second = place
    kept = storage.local / f"_manyeyes/jobs/{second}"  # type: ignore[operator]
    (kept / "published/0000.json").unlink()
    part = next((kept / "parts/labels-0").iterdir())
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises((InvalidRequest, StorageFailed), match="is damaged"):
        publish(storage, second, 0)
    assert consistent(storage)


def test_what_is_kept_of_a_publication_is_made_again_where_it_is_damaged(
    place: tuple[Storage, str, str],
) -> None:
    storage, _, second = place
    kept = f"_manyeyes/jobs/{second}/published/0000.json"
    before = storage.get(kept)
    storage.put(kept, before[:-5])
    publish(storage, second, 0)
    assert storage.get(kept) == before == storage.get("manyeyes.json")


def test_known_labels_are_counted(tmp_path: Path) -> None:
    photos = paint(tmp_path / "photos", 30)
    gold = tmp_path / "gold.csv"
    names = ("red", "green", "blue")
    gold.write_text("id,label\n" + "".join(f"{i:05d}.png,{names[(i + (i == 4)) % 3]}\n" for i in range(12)))
    run_job(request(photos, tmp_path / "out", gold=str(gold)))
    storage = Storage.open(str(tmp_path / "out"))
    told = read_published(storage)
    assert told.gold is not None
    assert (told.gold.known, told.gold.labeled) == (12, 12)
    assert told.gold.right < 12  # one of them is wrong on purpose
    assert told.gold.digest == read_job(storage, told.job).gold
    assert told.lfs[0].judged == 12
    assert "Of 12 rows whose label is known" in storage.get("README.md").decode()


def test_a_default_class_is_counted(tmp_path: Path) -> None:
    photos = paint(tmp_path / "photos", 9)
    recipe = {**RECIPE, "default_class": "red", "lfs": [{**RECIPE["lfs"][1], "threshold": 0.9999}]}
    run_job(request(photos, tmp_path / "out", recipe=recipe))
    told = Dataset.open(tmp_path / "out")
    assert told.published.by_default == sum(label.by_default for label in told.labels()) > 0


def test_who_reads_while_others_publish_sees_one_job_each_time(place: tuple[Storage, str, str]) -> None:
    storage, first, second = place
    whole: dict[str, list[tuple[str, str | None, float | None]]] = {}
    for job in (second, first):
        publish(storage, job, 0)
        whole[job] = ids_and_labels(storage)[1]
    assert whole[first] != whole[second]
    over = threading.Event()
    wrong: list[object] = []
    n_reads = [0]

    def read() -> None:
        while not over.is_set():
            try:
                job, told = ids_and_labels(storage)
                if told != whole[job]:
                    wrong.append(job)
                row = Dataset.open(storage).find("00041.png")
                n_reads[0] += row[1].id == "00041.png"
            except Exception as error:
                wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(20):
        publish(storage, (second, first)[turn % 2], 0)
    over.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert n_reads[0] > 5
