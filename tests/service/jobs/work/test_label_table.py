"""The table that is made from arrays is the one that the sinks write row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyeyes.errors import FetchFailed, ItemError
from manyeyes.service.jobs.work.label_table import label_table
from manyeyes.service.jobs.work.parts import table_bytes
from manyeyes.sinks import read_labels, read_versions, write_labels
from manyeyes.types import ABSTAIN, Labels, LentVotes, Versions, Votes


@st.composite
def some_labels(draw: Any) -> Labels:
    n, n_lfs, k = draw(st.integers(0, 8)), draw(st.integers(1, 4)), draw(st.integers(2, 4))
    sets = ((0, 1),) if k > 2 else ()
    unit = st.floats(0, 1, width=32).map(np.float32)
    number = st.floats(-50, 50, width=32).map(np.float32)
    probs = draw(hnp.arrays(np.float32, (n, k), elements=unit))
    label = draw(hnp.arrays(np.int16, n, elements=st.integers(ABSTAIN, k - 1)))
    errors: dict[int, ItemError] = {}
    for row in draw(st.lists(st.integers(0, max(n - 1, 0)), unique=True)) if n else []:
        errors[row] = FetchFailed(f"row {row} is away ✗")
        probs[row], label[row] = np.nan, ABSTAIN
    shape = (n, n_lfs)
    lent = None
    if draw(st.booleans()):
        lent = LentVotes(
            draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 9))),
            draw(hnp.arrays(np.float32, shape, elements=unit)),
            draw(hnp.arrays(np.float32, shape, elements=st.one_of(st.just(np.float32(0)), unit))),
        )
    return Labels(
        ids=tuple(f"id/{i} é" for i in range(n)),
        votes=Votes(
            draw(hnp.arrays(np.int8, shape, elements=st.integers(ABSTAIN, k + len(sets) - 1))),
            draw(hnp.arrays(np.float32, shape, elements=st.one_of(st.just(np.float32(np.nan)), unit))),
            tuple(f"class {i}" for i in range(k)),
            tuple(f"lf_{j}" for j in range(n_lfs)),
            sets=sets,
        ),
        probs=probs,
        label=label,
        runner_up=draw(hnp.arrays(np.int16, n, elements=st.integers(0, k - 1))),
        prior=draw(hnp.arrays(np.float32, n, elements=number)),
        moved=draw(hnp.arrays(np.float32, shape, elements=number)),
        errors=dict(sorted(errors.items())),
        versions=Versions("r1", {"clip": "clip 1"}, "auto:1"),
        lent=lent,
    )


@settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(labels=some_labels())
def test_it_is_the_table_of_the_sinks(labels: Labels, tmp_path: Path) -> None:
    classes = labels.votes.class_names
    theirs, ours = tmp_path / "theirs.parquet", tmp_path / "ours.parquet"
    write_labels(theirs, labels, classes=classes, versions=labels.versions)
    data = table_bytes(label_table(labels, dict.fromkeys(labels.errors, 3)))
    ours.write_bytes(data)
    expected, table = pq.read_table(theirs), pq.read_table(ours)
    assert table.drop_columns(["attempts"]).schema.equals(expected.schema)
    assert json.loads(table.schema.metadata[b"manyeyes"]) == json.loads(expected.schema.metadata[b"manyeyes"])
    # As text, for NaN does not equal itself.
    assert repr(table.drop_columns(["attempts"]).to_pylist()) == repr(expected.to_pylist())
    assert [label.to_dict() for label in read_labels(ours)] == [label.to_dict() for label in labels]
    assert table["attempts"].to_pylist() == [3 if i in labels.errors else None for i in range(len(labels))]
    if len(labels):
        assert read_versions(ours) == labels.versions
    assert table_bytes(label_table(labels, dict.fromkeys(labels.errors, 3))) == data
