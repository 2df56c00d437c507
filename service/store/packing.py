"""Labels and votes as bytes: compressed JSON, and compressed safetensors. Nothing here is ever executed.

What a batch holds of votes: ``classes`` int8 (int16 above 127 classes), shape (n_items, n_lfs); ``scores`` float32 of
the same shape, absent where all votes are hard; ``embeddings`` float32, shape (n_items, dim), where the recipe names
any. The header of the safetensors holds item ids, names of classes and LFs, and what was wrong with which row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import zstandard
from safetensors.numpy import load, save

from manyeyes.errors import InvalidRequest, ItemError, by_code
from manyeyes.fitting import Collected
from manyeyes.types import Label, Votes, no_scores

_LEVEL: Final = 3
_HEAD: Final = "manyeyes"


def pack_labels(labels: Sequence[Label]) -> bytes:
    """Return labels as bytes, from which ``unpack_labels`` gives back equal ones."""
    rows = [label.to_dict() for label in labels]
    return zstandard.compress(json.dumps(rows, separators=(",", ":")).encode(), _LEVEL)


def unpack_labels(packed: bytes) -> list[Label]:
    """Return the labels in what ``pack_labels`` made."""
    return [Label.from_dict(row) for row in json.loads(zstandard.decompress(packed))]


def pack_votes(collected: Collected) -> bytes:
    """Return what labeling functions said as bytes, from which ``unpack_votes`` gives back the same."""
    votes = collected.votes
    arrays = {"classes": np.ascontiguousarray(votes.classes)}
    if not votes.is_hard:
        arrays["scores"] = np.ascontiguousarray(votes.scores, dtype=np.float32)
    if collected.embeddings is not None:
        arrays["embeddings"] = np.ascontiguousarray(collected.embeddings, dtype=np.float32)
    head = {
        "ids": collected.ids,
        "errors": {str(row): [error.code, str(error)] for row, error in collected.errors.items()},
        **_shape(votes),
    }
    return zstandard.compress(save(arrays, metadata={_HEAD: json.dumps(head)}), _LEVEL)


def unpack_votes(packed: Sequence[bytes]) -> Collected:
    """Return the votes of several batches, one after the other; there is at least one.

    Raises InvalidRequest if they are votes of other classes, LFs or sets, or with other embeddings.
    """
    first: dict[str, Any] | None = None
    ids: list[str] = []
    errors: dict[int, ItemError] = {}
    parts: list[dict[str, Any]] = []
    for one in packed:
        raw = zstandard.decompress(one)
        arrays, head = load(raw), _head(raw)
        shape = {name: head[name] for name in ("classes", "lfs", "shared", "sets")}
        width = arrays["embeddings"].shape[1] if "embeddings" in arrays else None
        shape["dimensions of embeddings"] = width
        first = first or shape
        if shape != first:
            other = next(name for name in shape if shape[name] != first[name])
            raise InvalidRequest(
                f"these batches do not go together: their {other} differ. Fit from batches of one version of a recipe"
            )
        for row, (code, message) in head["errors"].items():
            kind = by_code().get(code, ItemError)
            kind = kind if issubclass(kind, ItemError) else ItemError
            errors[len(ids) + int(row)] = kind(message)
        ids += head["ids"]
        parts.append(arrays)
    assert first is not None
    classes = np.concatenate([part["classes"] for part in parts])
    scores = no_scores(classes.shape)
    if any("scores" in part for part in parts):
        scores = np.concatenate([part.get("scores", no_scores(part["classes"].shape)) for part in parts])
    votes = Votes(
        classes=classes,
        scores=scores,
        class_names=tuple(first["classes"]),
        lf_names=tuple(first["lfs"]),
        shared=tuple(map(tuple, first["shared"])),
        sets=tuple(map(tuple, first["sets"])),
    )
    embedded = "embeddings" in parts[0]
    return Collected(
        votes=votes,
        errors=errors,
        ids=tuple(ids),
        embeddings=np.concatenate([part["embeddings"] for part in parts]) if embedded else None,
    )


def _shape(votes: Votes) -> dict[str, Any]:
    return {
        "classes": votes.class_names,
        "lfs": votes.lf_names,
        "shared": votes.shared,
        "sets": votes.sets,
    }


def _head(raw: bytes) -> dict[str, Any]:
    """Return what ``pack_votes`` wrote into the header of safetensors, which ``load`` leaves out."""
    size = int.from_bytes(raw[:8], "little")
    told: dict[str, Any] = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"][_HEAD])
    return told
