"""A job's label model is the one that a Labeler fits on all of its rows, and memory does not grow with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manyeyes import Item, Labeler, Recipe
from manyeyes.errors import FetchFailed, InvalidRequest, NotFound, WeightsMismatch
from manyeyes.fitting import fit_label_model
from manyeyes.models.observed import sample
from manyeyes.service.jobs.layout import label_model_folder
from manyeyes.service.jobs.work.fitting import fit_on_votes, kept_votes, label_model_files, newest_votes
from manyeyes.service.jobs.work.parts import VotesPart
from manyeyes.types import ABSTAIN, Votes

Told = Callable[[Any], list[dict[str, Any]]]
CLASSES = ("red", "green", "blue")


def gold_csv(folder: Path, items: list[Item]) -> Path:
    """Write what half of the photographs show."""
    path = folder / "gold.csv"
    lines = [f"{item.id},{CLASSES[int(item.id[:4]) % 3]}" for item in items[::2]]
    path.write_text("\n".join(["id,label", *lines, "1.png,"]) + "\n")
    return path


@pytest.mark.parametrize("more", ["", "abstain_below: {precision: 0.6}\n", "class_balance: estimated\n"])
@pytest.mark.parametrize("with_gold", [False, True])
def test_the_fit_is_that_of_a_labeler_bit_for_bit(
    photos: Any, begin: Any, items_of: Any, told: Told, paint: str, tmp_path: Path, more: str, with_gold: bool
) -> None:
    if "precision" in more and not with_gold:
        pytest.skip("a precision takes known labels, as tests/test_fitting.py says")
    folder = photos(90, damaged=[4, 21, 60])
    items = items_of(folder)
    known = gold_csv(tmp_path, items) if with_gold else None
    recipe = paint + more
    run = begin(folder, recipe, shard_rows=16, gold=None if known is None else str(known))
    run.votes()
    version = fit_on_votes(run.job, run.storage, 0)
    gold = {item.id: CLASSES[int(item.id[:4]) % 3] for item in items[::2]} if with_gold else None
    labeler = Labeler(Recipe.parse(recipe)).fit(items, gold=gold)
    labels = labeler.label(items)
    assert version == labels.versions.label_model
    assert ("@" in version) == ("precision" in more)
    assert told(run.finish()) == told(labels)


def test_embeddings_of_all_rows_reach_the_label_model(
    photos: Any, begin: Any, items_of: Any, told: Told, paint: str
) -> None:
    recipe = paint + "label_model: {name: embedding_aware, embeddings: toy, base: majority}\n"
    folder = photos(60, damaged=[7])
    run = begin(folder, recipe, shard_rows=16)
    run.votes()
    labels = Labeler(Recipe.parse(recipe)).label(items_of(folder))
    assert labels.lent is not None
    assert told(run.finish()) == told(labels)


def parts_of(votes: Votes, size: int, broken: set[int]) -> Iterator[VotesPart]:
    for start in range(0, votes.n_items, size):
        rows = range(start, min(start + size, votes.n_items))
        wrong = {i: FetchFailed("away") for i, row in enumerate(rows) if row in broken}
        yield VotesPart(
            tuple(f"{row}" for row in rows),
            np.arange(len(rows), dtype=np.int32),
            votes.rows(slice(start, rows.stop)),
            wrong,
            dict.fromkeys(wrong, 4),
        )


def random_votes(n: int, n_lfs: int = 4) -> Votes:
    rng = np.random.default_rng(7)
    classes = rng.integers(-1, 3, (n, n_lfs)).astype(np.int8)
    scores = np.where(rng.random((n, n_lfs)) < 0.5, rng.random((n, n_lfs)), np.nan).astype(np.float32)
    return Votes(classes, scores, CLASSES, tuple(f"lf{j}" for j in range(n_lfs)))


def test_of_too_many_rows_an_even_share_is_kept() -> None:
    votes = random_votes(5_000)
    broken = set(range(0, 5_000, 13))
    sound = votes.rows(np.array([i not in broken for i in range(5_000)]))
    collected, gold = kept_votes(parts_of(votes, 700, broken), CLASSES, None, max_rows=600)
    expected = sample([sound], limit=600)
    assert 300 < collected.votes.n_items <= 600
    assert np.array_equal(collected.votes.classes, expected.classes)
    assert np.array_equal(collected.votes.scores, expected.scores, equal_nan=True)
    assert gold is None
    whole, _ = kept_votes(parts_of(votes, 700, broken), CLASSES, None, max_rows=5_000)
    assert np.array_equal(whole.votes.classes, sound.classes)


def test_every_row_that_is_known_is_kept() -> None:
    votes = random_votes(3_000)
    known = {f"{row}": "blue" for row in range(5, 3_000, 61)}
    collected, gold = kept_votes(parts_of(votes, 500, {5}), CLASSES, known, max_rows=200)
    assert gold is not None
    assert len(gold) == collected.votes.n_items
    assert int((gold == 2).sum()) == len(known) - 1, "row 5 has an error"
    assert 100 < int((gold == ABSTAIN).sum()) <= 200
    recipe = Recipe.parse(
        {
            "name": "a",
            "classes": list(CLASSES),
            "lfs": [{"name": f"lf{j}", "kind": "keyword", "any": ["x"], "vote": "red"} for j in range(4)],
        }
    )
    assert fit_label_model(recipe, collected, gold).version


def test_what_is_fitted_is_kept_once_and_the_same_for_all(photos: Any, begin: Any) -> None:
    run = begin(photos(30))
    with pytest.raises(NotFound, match="not fitted yet"):
        label_model_files(run.job, run.storage, 0)
    with pytest.raises(InvalidRequest, match=r"shard 0 .* no votes yet"):
        fit_on_votes(run.job, run.storage, 0)
    run.votes()
    version = fit_on_votes(run.job, run.storage, 0)
    folder = label_model_folder(run.job.id, 0)
    files = {meta.path: run.storage.get(meta.path) for meta in run.storage.list(folder)}
    assert fit_on_votes(run.job, run.storage, 0) == version
    run.storage.delete([folder + "chosen.json"])
    assert fit_on_votes(run.job, run.storage, 0) == version
    assert {meta.path: run.storage.get(meta.path) for meta in run.storage.list(folder)} == files
    model = next(path for path in files if path.endswith(".safetensors"))
    run.storage.put(model, files[model][:-1])
    with pytest.raises(WeightsMismatch, match="damaged"):
        label_model_files(run.job, run.storage, 0)


def test_known_labels_of_no_row_are_refused(photos: Any, begin: Any, tmp_path: Path) -> None:
    (tmp_path / "gold.csv").write_text("id,label\nsomewhere/else.png,red\n")
    run = begin(photos(8), gold=str(tmp_path / "gold.csv"))
    run.votes()
    with pytest.raises(InvalidRequest, match=r"none of the 1 gold labels.*somewhere/else\.png"):
        fit_on_votes(run.job, run.storage, 0)


def test_votes_that_are_not_what_was_committed_are_refused(photos: Any, begin: Any) -> None:
    run = begin(photos(8))
    (outcome,) = run.votes()
    path = outcome.commit.files["votes"][0]
    run.storage.put(path, run.storage.get(path)[:-1])
    with pytest.raises(OSError, match="not what was committed"):
        newest_votes(run.storage, run.job.id, run.manifest.shards[0], 0)


MEMORY = """
import resource, sys
from pathlib import Path
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.work.fitting import fit_on_votes
from manyeyes.service.jobs.work.job import write_job
from manyeyes.service.jobs.manifests.manifest import write_manifest
from manyeyes.service.jobs.shapes import JobRequest, Row, Source
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.work.worker import ShardWorker, WorkSpec

n, out = int(sys.argv[1]), sys.argv[2]
words = ["red", "blue", "a red and blue thing", "green and blue", "nothing", "crimson", "a navy wall"]
recipe = {
    "name": "words", "classes": ["red", "green", "blue"], "primitives": {"toy": {"kind": "toy"}},
    "lfs": [
        {"name": "reads", "kind": "prompt", "on": "text", "using": "toy",
         "prompts": {"red": "red", "green": "green", "blue": "blue"}},
        {"name": "r", "kind": "keyword", "any": ["red", "crimson"], "vote": "red"},
        {"name": "g", "kind": "keyword", "any": ["green"], "vote": "green"},
        {"name": "b", "kind": "keyword", "any": ["blue", "navy"], "vote": "blue"},
    ],
}
storage = Storage.open(out)
rows = (Row(f"{i:08d}", text=words[i * 7919 % 7] + f" {i % 1000}") for i in range(n))
manifest = write_manifest(rows, storage, uri="rows")
request = JobRequest(source=Source(uri="rows"), recipe=recipe, out=out)
job = write_job(storage, request, manifest)
done = 0
for pass_ in ("votes", "labels"):
    worker = ShardWorker(WorkSpec(out=out, job=job.id, pass_=pass_), storage=storage)
    for shard in manifest.shards:
        outcome = worker.do(shard)
        assert outcome.state == "committed", outcome
        done += outcome.commit.counts.labeled
    if pass_ == "votes":
        fit_on_votes(job, storage, 0)
assert done > n / 2
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_stays_as_it_is_from_ten_thousand_rows_on(tmp_path: Path) -> None:
    """Manifest, both passes and the fit between them, in one process; a million rows in benchmarks/batch.py."""
    peak = {}
    for n in (20_000, 200_000):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(n), str(tmp_path / str(n))],
            capture_output=True,
            text=True,
            check=True,
        )
        peak[n] = int(done.stdout.split()[1])
    assert peak[200_000] <= 1.1 * peak[20_000]
