"""Suggested prompts and examples: sentences that the encoder finds near a class's items, and these items themselves."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.encoders import ENCODERS
from manyeyes.lfs.suggest_view import Document, Known, View
from manyeyes.primitives.base import Features

_PER_CLASS: Final = 3
"""Words that describe a class."""
_TELLING: Final = 0.7
"""The area under the ROC curve from which on a word tells a class."""
_TEMPLATES: Final = {"image": ["a photo of a {}", "a {}"], "text": ["{}", "a text about {}"]}
_EXAMPLES: Final = 200
Float = npt.NDArray[np.float64]


def propose_prompts(view: View, known: Known) -> list[Document]:
    """Return for each modality an LF that describes the classes in words scored on the known items."""
    found = []
    for on, feature in _encoders(view):
        block = view.features[feature]
        similar = _standardized(view, on, block)
        here = block.present[known.rows]
        rows, labels = known.rows[here], known.labels[here]
        prompts = {}
        for c, name in enumerate(view.classes):
            mine = labels == c
            if mine.sum() < 2 or (~mine).sum() < 2:
                prompts[name] = [name]
                continue
            told = _areas(similar[rows], mine)
            best = np.argsort(-told, kind="stable")[:_PER_CLASS]
            words = [view.words[i] for i in best.tolist() if told[i] >= _TELLING]
            prompts[name] = words or [name]
        found.append(
            {
                "name": "described" if on == "image" else "described_in_words",
                "kind": "prompt",
                "on": on,
                "threshold": usual_threshold(len(view.classes)),
                "templates": _TEMPLATES[on],
                "prompts": prompts,
            }
        )
    return found


def propose_names(view: View, _known: Known | None = None) -> list[Document]:
    """Return for each modality an LF that knows nothing but the names of the classes."""
    return [
        {
            "name": "named" if on == "image" else "named_in_words",
            "kind": "prompt",
            "on": on,
            "threshold": usual_threshold(len(view.classes)),
        }
        for on, _ in _encoders(view)
    ]


def propose_examples(view: View, known: Known) -> list[Document]:
    """Return for each modality an LF that holds the known items as examples of their classes."""
    found = []
    for on, feature in _encoders(view):
        block = view.features[feature]
        per_class = max(1, _EXAMPLES // len(view.classes))
        examples: dict[str, list[Any]] = {}
        for c, name in enumerate(view.classes):
            rows = known.rows[(known.labels == c) & block.present[known.rows]][:per_class]
            if len(rows):
                examples[name] = [_example(view, on, block, int(row)) for row in rows]
        if len(examples) > 1:
            name = "looks_like_examples" if on == "image" else "reads_like_examples"
            found.append({"name": name, "kind": "neighbors", "on": on, "examples": examples})
    return found


def usual_threshold(n_classes: int) -> float:
    """Return a threshold well above chance for a softmax over so many classes."""
    return round(min(0.6, 2 / n_classes), 2)


def _encoders(view: View) -> list[tuple[str, str]]:
    return [(on, feature) for on, feature in ENCODERS.items() if view.has(feature)]


def _example(view: View, on: str, block: Features, row: int) -> Any:
    """Return an item as an example: its text, the path of its image, or its embedding where it has no path."""
    item = view.features.items[row]
    if on == "text" and item.text and len(item.text) <= 10_000:
        return item.text
    path = (view.images or {}).get(row)
    if path is not None:
        return {"path": path}
    return {"embedding": [round(float(value), 5) for value in block["embedding"][row]]}


def _standardized(view: View, on: str, block: Features) -> Float:
    """Return each item's similarity to each word of the vocabulary, against what is usual for that word: float64.

    Shape (n_items, n_words). Some words are near to everything; what counts is where they are nearer than usual.
    """
    encoder = ENCODERS[on]
    said = [template.replace("{}", word) for word in view.words for template in _TEMPLATES[on][:1]]
    vectors = np.asarray(view.context.encode(encoder, said), dtype=np.float64)
    similar = block["embedding"].astype(np.float64) @ vectors.T
    usual = similar[block.present]
    return np.asarray((similar - usual.mean(axis=0)) / np.maximum(usual.std(axis=0), 1e-9))


def _areas(scores: Float, mine: npt.NDArray[np.bool_]) -> Float:
    """Return for each column the area under the ROC curve of some rows against the others: float64, shape (n_columns,).

    Source: Mann and Whitney 1947; the mean rank of the rows.
    """
    order = scores.argsort(axis=0)
    ranks = np.empty_like(scores)
    np.put_along_axis(ranks, order, np.arange(1.0, len(scores) + 1)[:, None], axis=0)
    n_in, n_out = int(mine.sum()), int((~mine).sum())
    return np.asarray((ranks[mine].sum(axis=0) - n_in * (n_in + 1) / 2) / (n_in * n_out))
