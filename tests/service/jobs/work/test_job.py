"""What a job is: known by what decides its labels, whole in its folder, and refused before anything is written."""

from __future__ import annotations

import importlib
import json
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manyeyes import Item, Labeler, Recipe
from manyeyes.errors import (
    InvalidRecipe,
    InvalidRequest,
    ManyeyesError,
    ModelNotFound,
    NotFound,
    UntrustedRecipe,
)
from manyeyes.service.jobs.layout import job_file, job_folder
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import EngineSpec, JobRequest, Source
from manyeyes.service.jobs.work.gold import gold_bytes, parse_gold, read_gold
from manyeyes.service.jobs.work.job import Job, read_job, write_job
from manyeyes.service.jobs.work.worker import ShardWorker, WorkSpec

MANIFEST = "0123456789abcdef0123"
PYTHON = """
name: own
classes: [red, blue]
lfs:
  - {name: mine, kind: python, function: "job_rules:mine"}
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "out"))


@pytest.fixture
def request_of(storage: Storage, paint: str) -> Callable[..., JobRequest]:
    def make(recipe: Any = paint, **more: Any) -> JobRequest:
        document = Recipe.parse(recipe).document() if isinstance(recipe, str) else recipe
        told = {"source": Source(uri="s3://photos"), "recipe": document, "out": storage.uri} | more
        return JobRequest(**told)

    return make


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a module with a labeling function of somebody's own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_rules()
    path = tmp_path / "job_rules.py"
    path.write_text("def mine(item):\n    return 'red'\n")
    return path


def forget_rules() -> None:
    """Have the module read again, as another process would."""
    sys.modules.pop("job_rules", None)
    importlib.invalidate_caches()
    linecache.clearcache()


def test_the_same_call_finds_the_same_job(storage: Storage, request_of: Any) -> None:
    first = write_job(storage, request_of(), MANIFEST)
    assert len(first.id) == 20
    other = write_job(storage, request_of(engine=EngineSpec(workers=3), attempts=9), MANIFEST)
    assert other == first, "how it is worked on changes no label"
    assert read_job(storage, first.id) == first
    assert Job.from_json(first.to_json()) == first
    assert json.loads(storage.get(job_file(first.id)))["recipe_version"] == first.recipe.version


def test_whatever_decides_labels_makes_it_another_job(
    storage: Storage, request_of: Any, edited: str, tmp_path: Path, rules: Path
) -> None:
    (tmp_path / "gold.csv").write_text("id,label\na.png,red\n")
    labeler = Labeler(Recipe.parse(request_of().recipe))
    labeler.fit([Item(str(i), text="crimson") for i in range(5)]).save_label_model(tmp_path / "fitted")
    jobs = [
        write_job(storage, request_of(), MANIFEST),
        write_job(storage, request_of(), "f" * 20),
        write_job(storage, request_of(edited), MANIFEST),
        write_job(storage, request_of(gold=str(tmp_path / "gold.csv")), MANIFEST),
        write_job(storage, request_of(label_model=str(tmp_path / "fitted")), MANIFEST),
        write_job(storage, request_of(PYTHON), MANIFEST),
    ]
    rules.write_text("def mine(item):\n    return 'blue' and 'red'\n")
    forget_rules()
    jobs.append(write_job(storage, request_of(PYTHON), MANIFEST))
    assert len({job.id for job in jobs}) == len(jobs)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"recipe": {"name": "a", "classes": ["x"], "lfs": []}}, InvalidRecipe),
        ({"recipe": PYTHON.replace("job_rules", "no_such_rules")}, InvalidRecipe),
        ({"label_model": "nowhere"}, ModelNotFound),
        ({"gold": "nowhere/gold.csv"}, InvalidRequest),
        ({"source": Source(uri="https://me:secret@example.org/list.txt")}, InvalidRequest),
        ({"recipe": "abstain"}, InvalidRequest),
        ({"gold": "wrong"}, InvalidRequest),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    storage: Storage,
    request_of: Any,
    tmp_path: Path,
    paint: str,
    more: dict[str, Any],
    error: type[Exception],
) -> None:
    if more.get("recipe") == "abstain":
        more = {"recipe": paint + "abstain_below: {precision: 0.9}\n"}
    if more.get("gold") == "wrong":
        (tmp_path / "gold.csv").write_text("id,label\na,purple\n")
        more = {"gold": str(tmp_path / "gold.csv")}
    with pytest.raises(error) as raised:
        write_job(storage, request_of(**more), MANIFEST)
    assert isinstance(raised.value, ManyeyesError)
    assert "secret" not in str(raised.value)
    assert not list(storage.list(""))


def test_code_runs_for_the_shell_and_for_nobody_outside(
    storage: Storage, request_of: Any, rules: Path, begin: Any, photos: Any
) -> None:
    with pytest.raises(UntrustedRecipe, match="runs code"):
        write_job(storage, request_of(PYTHON), MANIFEST, trusted=False)
    assert not list(storage.list(""))
    run = begin(photos(4), PYTHON)
    assert [one.state for one in run.do("votes")] == ["committed"]
    # Not even where somebody writes into the job's folder what was refused.
    told = json.loads(run.job.to_json()) | {"trusted": False}
    run.storage.put(job_file(run.job.id), json.dumps(told).encode())
    with pytest.raises(UntrustedRecipe):
        ShardWorker(WorkSpec(run.storage.uri, run.job.id, "votes"), storage=run.storage)


def test_a_worker_with_other_code_is_refused(begin: Any, photos: Any, rules: Path) -> None:
    run = begin(photos(4), PYTHON)
    rules.write_text("def mine(item):\n    return 'blue'\n")
    forget_rules()
    with pytest.raises(InvalidRecipe, match="function of LF 'mine' is not the one"):
        ShardWorker(run.spec("votes"), storage=run.storage)


def test_a_label_model_that_was_given_is_the_job_s_own(
    begin: Any, photos: Any, items_of: Any, told: Any, paint: str, tmp_path: Path
) -> None:
    folder = photos(24)
    items = items_of(folder)
    labeler = Labeler(Recipe.parse(paint)).fit(items[:12])
    labeler.save_label_model(tmp_path / "fitted")
    run = begin(folder, label_model=str(tmp_path / "fitted"))
    for path in (tmp_path / "fitted").iterdir():
        path.unlink()
    run.votes()
    assert told(run.finish()) == told(labeler.label(items))
    assert run.job.label_model == labeler.label_model.version


def test_known_labels_are_the_same_from_every_table(
    tmp_path: Path, storage: Storage, request_of: Any
) -> None:
    gold = {"b.png": "red", "a,b.png": "blue", "7": "green"}
    csv, lines, table = tmp_path / "g.csv", tmp_path / "g.jsonl", tmp_path / "g.parquet"
    csv.write_text('\ufefflabel,id,by\nred,b.png,me\nblue,"a,b.png",me\ngreen,7,me\n,c.png,me\n')
    rows = [{"id": 7 if key == "7" else key, "label": label} for key, label in gold.items()]
    lines.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "c.png", "label": None}]))
    pq.write_table(pa.table({"id": list(gold), "label": list(gold.values())}), table)
    jobs = set()
    for path in (csv, lines, table):
        assert read_gold(str(path)) == gold
        jobs.add(write_job(storage, request_of(gold=str(path)), MANIFEST).id)
    assert len(jobs) == 1
    kept = storage.get(job_folder(jobs.pop()) + "gold.csv")
    assert kept == gold_bytes(gold)
    assert parse_gold(kept, name="gold.csv", where="gold") == gold


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("g.csv", b"id,class\na,red\n"),
        ("g.csv", b"id,label\na,red\na,blue\n"),
        ("g.jsonl", b"[1]\n"),
        ("g.jsonl", b"{\n"),
        ("g.parquet", b"PAR1"),
        ("g.txt", b"id,label\n"),
    ],
)
def test_what_is_no_table_of_known_labels_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_gold(data, name=name, where=name)


def test_a_job_that_is_not_there_is_said_to_be(storage: Storage) -> None:
    with pytest.raises(NotFound, match="no job 'abc'"):
        read_job(storage, "abc")
    storage.put(job_file("abc"), b"{}")
    with pytest.raises(InvalidRequest, match="damaged"):
        read_job(storage, "abc")
