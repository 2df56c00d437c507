"""Parts are read back exactly, and the same contents are the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyeyes.errors import FetchFailed, ItemError, StorageFailed, UndecodableImage, UnsupportedFormat
from manyeyes.primitives.base import Features
from manyeyes.primitives.features import Layout
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Shard
from manyeyes.service.jobs.work.features import (
    ABSENT,
    BROKEN,
    PRESENT,
    UNKNOWN,
    FeatureRows,
    Seen,
    feature_key,
)
from manyeyes.service.jobs.work.parts import VotesPart, features_from_bytes, features_to_bytes
from manyeyes.service.jobs.work.stored import read_features, write_features
from manyeyes.types import ABSTAIN, Votes, vote_dtype

DENSE = Layout(
    np.dtype([("embedding", "<f4", (3,)), ("n", "<i2")]), ragged=False, info={"dim": 3, "names": ["a"]}
)
RAGGED = Layout(np.dtype([("box", "<f4", (4,)), ("score", "<f8")]), ragged=True, info={})
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def vote_parts(draw: Any) -> VotesPart:
    n, n_lfs, k = draw(st.integers(0, 12)), draw(st.integers(1, 5)), draw(st.sampled_from([2, 3, 200]))
    sets = draw(st.sampled_from([(), ((0, 1),)])) if k > 2 else ()
    kind = vote_dtype(k + len(sets))
    classes = draw(hnp.arrays(kind, (n, n_lfs), elements=st.integers(ABSTAIN, k + len(sets) - 1)))
    score = st.one_of(st.just(np.float32(np.nan)), st.floats(0, 1, width=32).map(np.float32))
    scores = draw(hnp.arrays(np.float32, (n, n_lfs), elements=score))
    scores[:, draw(st.lists(st.integers(0, n_lfs - 1)))] = np.nan
    dim = draw(st.sampled_from([None, 0, 1, 5]))
    embeddings = None
    if dim is not None:
        number = st.floats(width=32, allow_nan=True)
        embeddings = draw(hnp.arrays(np.float32, (n, dim), elements=number))
    errors: dict[int, ItemError] = {}
    if n:
        for row in draw(st.lists(st.integers(0, n - 1), unique=True)):
            errors[row] = draw(st.sampled_from([FetchFailed, UndecodableImage, ItemError]))(draw(TEXTS))
    return VotesPart(
        ids=tuple(draw(st.lists(TEXTS, min_size=n, max_size=n))),
        positions=np.sort(draw(hnp.arrays(np.int32, n, elements=st.integers(0, 10_000)))),
        votes=Votes(
            classes,
            scores,
            tuple(f"class {i}" for i in range(k)),
            tuple(f"lf.{j}" for j in range(n_lfs)),
            shared=tuple(("clip",) if j % 2 else () for j in range(n_lfs)),
            sets=sets,
        ),
        errors=errors,
        attempts={row: draw(st.integers(1, 20)) for row in errors},
        embeddings=embeddings,
    )


@relaxed
@given(vote_parts())
def test_votes_are_read_back_exactly(part: VotesPart) -> None:
    data = part.to_bytes()
    back = VotesPart.from_bytes(data)
    assert back.to_bytes() == data
    assert back.ids == part.ids
    assert back.positions.tobytes() == part.positions.tobytes()
    assert back.positions.dtype == np.int32
    assert back.votes.classes.dtype == part.votes.classes.dtype
    assert np.array_equal(back.votes.classes, part.votes.classes)
    assert np.array_equal(back.votes.scores, part.votes.scores, equal_nan=True)
    for name in ("class_names", "lf_names", "shared", "sets"):
        assert getattr(back.votes, name) == getattr(part.votes, name)
    assert _told(back.errors) == _told(part.errors)
    assert dict(back.attempts) == dict(part.attempts)
    if part.embeddings is None:
        assert back.embeddings is None
    else:
        assert back.embeddings is not None
        assert back.embeddings.shape == part.embeddings.shape
        assert back.embeddings.tobytes() == part.embeddings.tobytes()


@st.composite
def feature_rows(draw: Any) -> FeatureRows:
    layout = draw(st.sampled_from([DENSE, RAGGED]))
    n = draw(st.integers(0, 12))
    states = draw(hnp.arrays(np.int8, n, elements=st.sampled_from([UNKNOWN, PRESENT, ABSENT, BROKEN])))
    sizes = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 4)))
    counts = np.where(states == PRESENT, sizes if layout.ragged else 1, 0)
    total = int(counts.sum())
    raw = draw(st.binary(min_size=total * layout.dtype.itemsize, max_size=total * layout.dtype.itemsize))
    wrong: Mapping[int, ItemError] = {
        row: UnsupportedFormat(draw(TEXTS)) for row in np.flatnonzero(states == BROKEN).tolist()
    }
    return FeatureRows(layout, states, counts, np.frombuffer(raw, dtype=layout.dtype), wrong)


@relaxed
@given(feature_rows())
def test_features_are_read_back_exactly(rows: FeatureRows) -> None:
    data = features_to_bytes(rows, "clip 1")
    back = features_from_bytes(data, "clip 1")
    assert features_to_bytes(back, "clip 1") == data
    assert back.layout == rows.layout
    assert np.array_equal(back.state, rows.state)
    assert np.array_equal(back.counts, rows.counts)
    assert back.values.tobytes() == rows.values.tobytes()
    assert _told(back.errors) == _told(rows.errors)
    with pytest.raises(ValueError, match="clip 2"):
        features_from_bytes(data, "clip 2")


@relaxed
@given(st.data())
def test_merged_features_are_those_that_an_extractor_assembles(data: Any) -> None:
    """Rows come in pieces, in any order, some of them again; what comes out is what one call would have given."""
    layout = data.draw(st.sampled_from([DENSE, RAGGED]))
    n = data.draw(st.integers(1, 14))
    kinds = data.draw(
        st.lists(
            st.sampled_from(["there", "absent", "damaged", "away", "not looked at"]), min_size=n, max_size=n
        )
    )
    counts = st.integers(0, 3) if layout.ragged else st.just(1)
    sizes = counts.map(lambda count: count * layout.dtype.itemsize)
    content = sizes.flatmap(lambda size: st.binary(min_size=size, max_size=size))
    rows = {str(i).encode(): data.draw(content) for i in range(n) if kinds[i] == "there"}
    error = {"damaged": UndecodableImage("damaged"), "away": FetchFailed("away")}

    def block(positions: list[int]) -> tuple[Features, dict[int, ItemError]]:
        contents = [str(p).encode() if kinds[p] == "there" else None for p in positions]
        errors = {i: error[kinds[p]] for i, p in enumerate(positions) if kinds[p] in error}
        return layout.assemble(contents, rows), errors

    order = data.draw(st.permutations(range(n)))
    held = FeatureRows.empty(layout, n)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    for start, stop in zip([0, *cuts], [*cuts, n], strict=True):
        some = np.array(order[start:stop], dtype=np.int64)
        if len(some):
            held = held.with_seen(
                [
                    Seen(
                        some,
                        *block(some.tolist()),
                        readable=np.array([kinds[p] != "absent" for p in some]),
                        of_images=True,
                    )
                ]
            )
    wanted = {
        "there": PRESENT,
        "absent": ABSENT,
        "damaged": BROKEN,
        "away": UNKNOWN,
        "not looked at": UNKNOWN,
    }
    assert held.state.tolist() == [wanted[kind] for kind in kinds]
    assert set(held.errors) == {i for i, kind in enumerate(kinds) if kind == "damaged"}
    asked = np.array(data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))], dtype=np.int64)
    absent = np.array([kinds[p] in error for p in asked])
    got, expected = held.features(asked, absent), block(asked.tolist())[0]
    assert np.array_equal(got.present, expected.present)
    assert got.rows.tobytes() == expected.rows.tobytes()
    assert got.rows.dtype == expected.rows.dtype
    assert (got.offsets is None) == (expected.offsets is None)
    if expected.offsets is not None:
        assert got.offsets is not None
        assert got.offsets.tolist() == expected.offsets.tolist()
    assert got.info == expected.info


def test_what_is_damaged_is_said_to_be() -> None:
    votes = Votes.hard([[0, 1]], n_classes=2)
    data = VotesPart(("a",), np.zeros(1, np.int32), votes, {}, {}).to_bytes()
    with pytest.raises(StorageFailed, match="votes of shard 3 is damaged"):
        VotesPart.from_bytes(data[: len(data) // 2], where="votes of shard 3")
    flipped = bytearray(data)
    flipped[20] ^= 1
    with pytest.raises(StorageFailed, match="damaged"):
        VotesPart.from_bytes(bytes(flipped))


def test_stored_features_that_are_damaged_are_as_good_as_none() -> None:
    storage = Storage.open("memory://stored-features")
    rows = FeatureRows(
        DENSE, np.array([PRESENT], np.int8), np.ones(1, np.int64), np.zeros(1, dtype=DENSE.dtype)
    )
    shard = Shard(0, "x", "ab" * 32, 1)
    assert read_features(storage, shard, "clip 1") is None
    path, _ = write_features(storage, shard, "clip 1", rows)
    found = read_features(storage, shard, "clip 1")
    assert found is not None
    assert found.values.tobytes() == rows.values.tobytes()
    assert read_features(storage, Shard(0, "x", "cd" * 32, 1), "clip 1") is None
    assert read_features(storage, Shard(0, "x", "ab" * 32, 2), "clip 1") is None, "of another number of rows"
    whole = storage.get(path)
    storage.put(path, whole[:-9])
    assert read_features(storage, shard, "clip 1") is None
    storage.delete([path])
    assert read_features(storage, shard, "clip 1") is None


def test_a_feature_is_stored_under_what_it_reads() -> None:
    versions = {"text": "minilm 1", "text@filename": "minilm 1", "text@ocr": "minilm 1@ocr 2"}
    keys = {feature_key(feature, versions) for feature in versions}
    assert keys == {"minilm 1", "minilm 1 of filename", "minilm 1@ocr 2"}


def _told(errors: Mapping[int, ItemError]) -> dict[int, tuple[str, str]]:
    return {row: (error.code, str(error)) for row, error in errors.items()}
