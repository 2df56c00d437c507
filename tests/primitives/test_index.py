"""The index of embeddings: what it finds, what it forgets, and what it makes of damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manyeyes.errors import IndexUnusable, InvalidRequest
from manyeyes.primitives import index as module
from manyeyes.primitives.index import VectorIndex, chunks_of


def clustered(n: int, dim: int, seed: int) -> np.ndarray[Any, Any]:
    centers = np.random.default_rng(99).normal(size=(40, dim))
    rng = np.random.default_rng(seed)
    return (centers[rng.integers(40, size=n)] + 0.5 * rng.normal(size=(n, dim))).astype(np.float32)


def names(n: int) -> list[str]:
    return [f"photos/{i}.jpg" for i in range(n)]


def built(vectors: np.ndarray[Any, Any], **options: Any) -> VectorIndex:
    return VectorIndex.build(chunks_of(names(len(vectors)), vectors, size=700), version="toy 1", **options)


@pytest.fixture(scope="module")
def large() -> tuple[np.ndarray[Any, Any], VectorIndex]:
    vectors = clustered(module.EXACT_UP_TO + 4_000, 64, seed=1)
    return vectors, built(vectors)


def nearest_by_hand(vectors: np.ndarray[Any, Any], query: np.ndarray[Any, Any], count: int) -> list[int]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: list[int] = np.argsort(-(unit @ query), kind="stable")[:count].tolist()
    return found


def test_few_vectors_are_compared_with_all_of_them() -> None:
    vectors = clustered(500, 16, seed=0)
    index = built(vectors)
    assert index.exact and len(index) == 500
    for query, found in zip(vectors[:20], index.search(vectors[:20], 5), strict=True):
        assert [hit.id for hit in found] == [names(500)[i] for i in nearest_by_hand(vectors, query, 5)]
        assert found[0].cosine == pytest.approx(1, abs=1e-3)


def test_many_vectors_are_found_by_looking_into_some_lists(
    large: tuple[np.ndarray[Any, Any], VectorIndex],
) -> None:
    vectors, index = large
    assert not index.exact
    queries = clustered(100, 64, seed=2)
    rows, cosines = index.nearest(queries, 10)
    hits = [
        len({*near} & {*nearest_by_hand(vectors, query, 10)})
        for near, query in zip(rows.tolist(), queries, strict=True)
    ]
    assert np.mean(hits) / 10 > 0.9
    exact = np.einsum(
        "ij,ij->i", vectors[rows[:, 0]] / np.linalg.norm(vectors[rows[:, 0]], axis=1, keepdims=True),
        queries / np.linalg.norm(queries, axis=1, keepdims=True),
    )  # fmt: skip
    assert np.abs(cosines[:, 0] - exact).max() < 0.03
    wide = index.nearest(queries, 10, effort=4)[0]
    wider = [
        len({*near} & {*nearest_by_hand(vectors, q, 10)})
        for near, q in zip(wide.tolist(), queries, strict=True)
    ]
    assert np.mean(wider) >= np.mean(hits)


def test_an_index_is_the_same_after_writing_and_reading(
    large: tuple[np.ndarray[Any, Any], VectorIndex], tmp_path: Path
) -> None:
    vectors, index = large
    index.save(tmp_path / "index")
    size = sum(file.stat().st_size for file in (tmp_path / "index").iterdir())
    assert size < vectors.nbytes * 0.6  # of 64 dimensions, beside which ids and centroids weigh much
    again = VectorIndex.open(tmp_path / "index", version="toy 1")
    assert len(again) == len(index)
    assert again.search(vectors[:30], 5) == index.search(vectors[:30], 5)


@pytest.mark.parametrize("n", [100, module.EXACT_UP_TO + 1_000])
def test_items_are_added_changed_and_forgotten(n: int, tmp_path: Path) -> None:
    vectors = clustered(n, 32, seed=3)
    index = built(vectors)
    assert index.update(names(n)[:50], vectors[:50]) == 0
    changed = -vectors[:2]
    assert index.update([names(n)[0], "new.jpg"], changed) == 2
    assert len(index) == n + 1
    index.save(tmp_path)
    index = VectorIndex.open(tmp_path)
    assert [found[0].id for found in index.search(changed, 1)] == [names(n)[0], "new.jpg"]
    assert names(n)[0] not in {hit.id for hit in index.search(vectors[:1], 5)[0]}
    assert index.remove_others(["new.jpg", names(n)[7]]) == n - 1
    assert len(index) == 2 and {hit.id for hit in index.search(changed[1:], 5)[0]} <= {"new.jpg", names(n)[7]}


def test_fewer_items_than_asked_for_are_told_as_they_are() -> None:
    index = built(np.eye(3, dtype=np.float32))
    assert len(index.search([[1, 0, 0]], 10)[0]) == 3
    rows, cosines = index.nearest([[1, 0, 0]], 5)
    assert rows[0].tolist()[3:] == [-1, -1] and cosines[0].tolist()[3:] == [-1, -1]


def test_ids_of_any_script_come_back() -> None:
    ids = ["ü/ñ.jpg", "写真 1.png", "", "a\nb"]
    index = VectorIndex.build([(ids, np.eye(4, dtype=np.float32))], version="v")
    assert [found[0].id for found in index.search(np.eye(4), 1)] == ids


def test_what_cannot_be_indexed_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="nothing to index"):
        VectorIndex.build([], version="v")
    with pytest.raises(InvalidRequest, match="comes twice"):
        VectorIndex.build([(["a", "a"], np.eye(2))], version="v")
    with pytest.raises(InvalidRequest, match="no direction"):
        VectorIndex.build([(["a"], np.zeros((1, 2)))], version="v")
    with pytest.raises(InvalidRequest, match="shape"):
        built(np.eye(3, dtype=np.float32)).search([[1, 0]], 1)


def test_an_index_of_another_model_is_not_searched(tmp_path: Path) -> None:
    built(np.eye(3, dtype=np.float32)).save(tmp_path)
    with pytest.raises(IndexUnusable, match="holds vectors of toy 1"):
        VectorIndex.open(tmp_path, version="toy 2")
    with pytest.raises(IndexUnusable, match="no index"):
        VectorIndex.open(tmp_path / "other")


@pytest.mark.parametrize("damage", ["vectors", "ids", "rows", "head", "format"])
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    built(clustered(50, 8, seed=0)).save(tmp_path)
    if damage == "format":
        head = json.loads((tmp_path / "index.json").read_text())
        (tmp_path / "index.json").write_text(json.dumps(head | {"format": 99}))
    else:
        (file,) = tmp_path.glob({"head": "index.json"}.get(damage, f"{damage}.*"))
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(IndexUnusable, match="build it again"):
        VectorIndex.open(tmp_path)


def test_a_new_index_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for n in (5, 9):
        built(clustered(n, 8, seed=0)).save(tmp_path)
    assert len(VectorIndex.open(tmp_path)) == 9
    assert len(list(tmp_path.iterdir())) == 4
