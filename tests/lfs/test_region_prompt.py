"""How the crops of an image act together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from manyeyes.errors import InvalidRecipe
from manyeyes.primitives.base import FeatureSet
from manyeyes.types import Item

PROMPTS = {"dress": "dress", "hat": "hat"}
DRESS, HAT, BETWEEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.9, 0.0)


def voted(tools: Any, images: Any, **fields: Any) -> list[tuple[str | None, float | None]]:
    """images: of each, crops as (label, direction); None is an item without an image."""
    found = [None if crops is None else [(label, 0, 0, 1, 1, 0.9) for label, _ in crops] for crops in images]
    block = tools.regions(found)
    rows = block.rows.copy()
    for row, direction in zip(rows, [d for crops in images for _, d in crops or ()], strict=True):
        row["embedding"] = np.array(direction) / np.linalg.norm(direction)
    lf = tools.make_lf(kind="region_prompt", **{"prompts": PROMPTS, **fields})
    lf.prepare(tools.Encoder({"dress": DRESS, "hat": HAT, "room": (0, 0, 1)}, logit_scale=5.0))
    features = FeatureSet([Item(str(i)) for i in range(len(images))], {"regions": replace(block, rows=rows)})
    scores = lf.vote(features).scores.tolist()
    names = tools.votes_of(lf, features)
    return [
        (name, None if name is None else round(score, 3)) for name, score in zip(names, scores, strict=True)
    ]


SURE, UNSURE = 0.993, 0.59
IMAGES = [
    [("person", BETWEEN), ("dog", HAT)],
    [("person", BETWEEN), ("person", BETWEEN), ("dog", HAT)],
    [("dog", DRESS)],
    [],
    None,
]


def test_the_surest_crop_decides(tools: Any) -> None:
    assert voted(tools, IMAGES) == [("hat", SURE), ("hat", SURE), ("dress", SURE), (None, None), (None, None)]


def test_most_crops_decide(tools: Any) -> None:
    seen = voted(tools, IMAGES, crops="most")
    assert [name for name, _ in seen] == ["hat", "dress", "dress", None, None]  # of equals the surer
    assert seen[1][1] == pytest.approx(UNSURE, abs=0.01)


def test_their_mean_decides(tools: Any) -> None:
    names = [name for name, _ in voted(tools, IMAGES, crops="mean")]
    assert names == ["hat", "hat", "dress", None, None]


def test_some_labels_only(tools: Any) -> None:
    seen = voted(tools, IMAGES, labels="person")
    assert [name for name, _ in seen] == ["dress", "dress", None, None, None]
    with pytest.raises(InvalidRecipe, match=r"'persn'.*did you mean 'person'"):
        voted(tools, IMAGES, labels=["persn"])


def test_a_crop_too_unsure_has_no_vote(tools: Any) -> None:
    assert voted(tools, IMAGES[:1], threshold=0.9, labels="person") == [(None, None)]
    assert voted(tools, [[("dog", (0, 0, 1))]], against="room") == [(None, None)]


def test_prompts_are_checked_as_elsewhere(tools: Any) -> None:
    with pytest.raises(ValueError, match="nothing against it"):
        tools.make_lf(kind="region_prompt", prompts={"hat": "hat"})
    with pytest.raises(ValueError, match="unknown class"):
        tools.make_lf(kind="region_prompt", prompts={"cap": "hat", "hat": "hat"})
    lf = tools.make_lf(kind="region_prompt", prompts={"hat": "hat", "dress": ["dress", "gown"]})
    assert list(lf.spec.prompts) == ["dress", "hat"]
    assert lf.spec.n_prompts == 3


def test_a_primitive_without_boxes_is_refused(tools: Any) -> None:
    lf = tools.make_lf(kind="region_prompt", prompts=PROMPTS, using="clip")
    lf.prepare(tools.Encoder({"dress": DRESS, "hat": HAT}, logit_scale=5.0))
    with pytest.raises(InvalidRecipe, match="kind: regions"):
        lf.vote(FeatureSet([Item("a")], {"clip": tools.embeddings([DRESS])}))
