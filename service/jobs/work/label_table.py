"""Labels as a table, made from arrays: what ``manyeyes.sinks`` writes row by row, and how often failed rows were tried.

``manyeyes.sinks.read_labels`` reads it. The sinks take labels from anywhere, one at a time; a job has a whole shard of
them as arrays, and with ten reasons a row, the loop over them would cost more than everything else of the second pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manyeyes.service.jobs.work.parts import METADATA_KEY, error_columns
from manyeyes.types import ABSTAIN, Labels

_LENT = pa.struct([("neighbors", pa.int32()), ("nearest", pa.float64()), ("votes", pa.float64())])
_REASON = pa.struct(
    [
        ("lf", pa.string()),
        ("vote", pa.string()),
        ("score", pa.float64()),
        ("moved", pa.float64()),
        ("lent", _LENT),
        ("at", pa.string()),
    ]
)


def label_table(labels: Labels, attempts: Mapping[int, int] | None = None) -> Any:
    """Return labels as a ``pyarrow.Table``. attempts: row → how often it was tried, of those with an error."""
    n, names = len(labels), labels.votes.class_names
    sound = np.ones(n, dtype=np.bool_)
    sound[sorted(labels.errors)] = False
    probs = labels.probs.astype(np.float64)
    chosen = labels.label.astype(np.int64)
    # The probabilities of a row with an error are NaN; nothing is read of them.
    top = np.where(sound, np.where(np.isnan(probs), -1.0, probs).argmax(axis=1) if n else 0, 0)
    shown = np.where(chosen == ABSTAIN, top, chosen)
    status = np.where(sound, np.where(chosen == ABSTAIN, 1, 0), 2)
    versions = labels.versions
    primitives = json.dumps(dict(versions.primitives), sort_keys=True)
    wrong = error_columns(labels.errors, attempts or {}, n)
    columns: dict[str, Any] = {
        "id": pa.array(labels.ids, pa.string()),
        "status": _named(("labeled", "abstained", "error"), status, np.ones(n, dtype=np.bool_)),
        "label": _named(names, chosen, sound & (chosen != ABSTAIN)),
        "confidence": _numbers(probs[np.arange(n), shown], sound),
        "runner_up": _named(names, labels.runner_up.astype(np.int64), sound),
        "prior": _numbers(labels.prior.astype(np.float64), sound),
        **{f"prob_{name}": _numbers(probs[:, k], sound) for k, name in enumerate(names)},
        "reasons": _reasons(labels, sound),
        "error_code": wrong["error_code"],
        "error_message": wrong["error_message"],
        "recipe_version": _repeated(versions.recipe, n),
        "primitive_versions": _repeated(primitives, n),
        "label_model_version": _repeated(versions.label_model, n),
        "attempts": wrong["attempts"],
    }
    told = {
        "classes": list(names),
        "recipe_version": versions.recipe,
        "primitive_versions": dict(versions.primitives),
        "label_model_version": versions.label_model,
    }
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(told, sort_keys=True)})


def _reasons(labels: Labels, sound: npt.NDArray[np.bool_]) -> Any:
    """Return the reasons as a list of structs; a row with an error has an empty one."""
    votes = labels.votes
    rows, n_lfs = np.flatnonzero(sound), votes.n_lfs
    said = votes.classes[rows].ravel().astype(np.int64)
    scores = votes.scores[rows].ravel().astype(np.float64)
    moved = labels.moved[rows].ravel().astype(np.float64)
    n = len(said)
    every = np.ones(n, dtype=np.bool_)
    reasons = pa.StructArray.from_arrays(
        [
            _named(votes.lf_names, np.tile(np.arange(n_lfs), len(rows)), every),
            _named(votes.value_names, said, said != ABSTAIN),
            _numbers(scores, ~np.isnan(scores)),
            pa.array(moved),
            _lent(labels, rows, n),
            pa.nulls(n, pa.string()),
        ],
        fields=list(_REASON),
    )
    offsets = np.concatenate([[0], np.cumsum(np.where(sound, n_lfs, 0))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), reasons, type=pa.list_(_REASON))


def _lent(labels: Labels, rows: npt.NDArray[np.intp], n: int) -> Any:
    if labels.lent is None:
        return pa.nulls(n, _LENT)
    lent = labels.lent.votes[rows].ravel()
    return pa.StructArray.from_arrays(
        [
            pa.array(labels.lent.neighbors[rows].ravel().astype(np.int32)),
            pa.array(labels.lent.nearest[rows].ravel().astype(np.float64)),
            pa.array(lent.astype(np.float64)),
        ],
        fields=list(_LENT),
        mask=pa.array(lent == 0),
    )


def _named(names: Sequence[str], index: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_]) -> Any:
    """Return a column of names from their indices, null where not valid."""
    which = pa.array(np.where(valid, index, 0).astype(np.int32), mask=~valid)
    return pa.DictionaryArray.from_arrays(which, pa.array(names, pa.string())).cast(pa.string())


def _numbers(values: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_]) -> Any:
    return pa.array(np.ascontiguousarray(values), mask=~valid)


def _repeated(text: str, n: int) -> Any:
    return pa.array([text], pa.string()).take(pa.array(np.zeros(n, dtype=np.int32)))
