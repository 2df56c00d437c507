"""What every kind of LF promises, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manyeyes.lfs.base import LabelingFunction, VoteColumn
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.lines import rows_of_lines
from manyeyes.primitives.ocr import DTYPE as OCR
from manyeyes.registry import load, names
from manyeyes.types import ABSTAIN, Item

N_ITEMS = 37
PROMPTS = {"dress": "dress", "hat": "hat"}

# Kind → specs that vote on some of the items below and abstain on others; and one that says something else.
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "prompt": [
        {"prompts": PROMPTS, "threshold": 0.6},
        {"prompts": PROMPTS, "threshold": 0.6, "against": "room"},
        {"prompts": PROMPTS, "on": "text", "pool": "max"},
        {"prompts": PROMPTS, "on": "ocr"},
        {"prompts": PROMPTS, "on": "both", "not_like": {"dress": "room"}, "against": "room"},
        {
            "prompts": PROMPTS,
            "threshold": 0.6,
            "groups": {"worn": {"classes": ["dress", "hat"], "prompts": "room"}},
            "temperature": 0.05,
            "calibrated": {"image": {"scale": 20.0, "gain": {"hat": 1.2}, "bias": {"dress": 0.3}}},
        },
    ],
    "detect": [
        {"when": "count(person) >= 1 and area(person) > 0.05", "vote": "dress"},
        {
            "rules": [
                {"when": "near(person, dog)", "vote": "hat"},
                {"when": "score(hat) > 0.5", "vote": "dress"},
            ]
        },
        {
            "rules": [
                {"when": "near(person, dog)", "vote": {"not": "hat"}},
                {"when": "score(hat) > 0.5", "vote": ["hat", "dress"]},
            ]
        },
    ],
    "where": [
        {"when": "x(dress) < 0.4", "vote": "dress", "prompts": {"dress": "dress"}, "against": "room"},
        {
            "rules": [
                {"when": "count(hat) >= 2", "vote": {"not": "hat"}},
                {"when": "score(dress) > 0.99", "vote": "dress"},
            ],
            "prompts": {"dress": "dress", "hat": "hat"},
            "against": "room",
        },
    ],
    "region_prompt": [
        {"prompts": PROMPTS, "threshold": 0.6},
        {"prompts": PROMPTS, "threshold": 0.6, "crops": "most", "labels": ["dog", "hat"]},
        {"prompts": PROMPTS, "threshold": 0.6, "crops": "mean", "against": "room"},
    ],
    "keyword": [
        {"any": ["hat", "cap"], "vote": "hat"},
        {"any": ["hat", "cap"], "vote": {"not": ["dress"]}},
        {"votes": {"hat": ["hat"], "dress": ["gown"]}, "on": "metadata.title"},
        {"any": ["hat"], "vote": "hat", "on": "ocr"},
    ],
    "regex": [
        {"pattern": "h.t", "vote": "hat"},
        {"pattern": "h.t", "vote": ["hat", "dress"]},
        {"votes": {"hat": "h.t", "dress": "g.wn"}},
    ],
    "metadata": [
        {"when": "price < 10", "vote": "hat"},
        {"when": "price < 10", "vote": {"not": "hat"}},
        {"when": "width > 300 or title == 'gown'", "vote": "dress"},
    ],
    "nli": [
        {"model": "any", "on": "metadata.title", "threshold": 0.6, "hypotheses": {"dress": "d", "hat": "h"}},
        {
            "model": "any",
            "on": "metadata.title",
            "hypotheses": {"dress": "d", "hat": "h"},
            "template": "A {}.",
        },
    ],
    "dictionary": [
        {"words": {"hat": ["hat", "cap"], "dress": {"gown": 2}}},
        {"words": {"hat": ["hat"], "dress": ["a gown"]}, "on": "metadata.title", "least": 0.5},
    ],
    "neighbors": [
        {"examples": {"dress": {"embedding": [1, 0, 0]}, "hat": {"embedding": [0, 1, 0]}}, "cutoff": 0.7},
        {"examples": {"dress": "dress", "hat": ["hat", "room"]}, "on": "text", "cutoff": 0.6, "k": 1},
        {"examples": {"hat": "hat"}, "against": "room", "on": "text", "threshold": 0.3},
    ],
    "chat": [
        {"endpoint": "toy", "question": "Which?", "answers": {"gown": "dress", "cap": "hat"}},
        {"endpoint": "toy", "question": "Which?", "answers": {"a": {"not": "hat"}, "b": None}, "on": "both"},
        {"endpoint": "toy", "question": "Is it?", "answers": {"yes": "hat", "no": None}, "threshold": 0.4},
    ],
    "python": [
        {"function": "builtins:min", "reads": ["facts"]},
        {"function": "operator:attrgetter"},
        {"function": "operator:attrgetter", "sets": [{"not": "hat"}]},
    ],
}


ANSWERED = np.dtype([("answer", "<i2"), ("text", "S8"), ("logprob", "<f4"), ("masses", "<f4", (2,))])


@pytest.fixture(autouse=True)
def _an_endpoint(manyeyes_home: Path) -> None:
    manyeyes_home.mkdir()
    (manyeyes_home / "endpoints.yaml").write_text("toy: {base_url: 'http://127.0.0.1:9/v1', model: toy}\n")


@pytest.fixture(scope="module")
def features(tools: Any) -> FeatureSet:
    """Items of every sort: with and without image, text and metadata."""
    rng = np.random.default_rng(1)
    items, boxes, images, texts, facts = [], [], [], [], np.zeros(N_ITEMS, dtype=[("width", "<i4")])
    for i in range(N_ITEMS):
        text = [None, "a hat", "a gown", "a hat and a gown", ""][i % 5]
        metadata = {} if i % 3 == 0 else {"price": i, "title": text}
        items.append(Item(str(i), text=text, metadata=metadata))
        corners = np.sort(rng.uniform(size=(4, 2)), axis=1)
        found = [
            (
                str(label),
                corners[j, 0],
                corners[3 - j, 0],
                corners[j, 1],
                corners[3 - j, 1],
                float(rng.uniform()),
            )
            for j, label in enumerate(rng.choice(tools.LABELS, size=int(rng.integers(0, 4))))
        ]
        boxes.append(None if i % 4 == 0 else found)
        images.append(None if i % 4 == 0 else rng.normal(size=3))
        texts.append(None if text is None else rng.normal(size=3))
        facts[i] = (i * 20,)
    present = np.array([image is not None for image in images])
    answered = np.zeros(N_ITEMS, dtype=ANSWERED)
    answered["answer"] = np.arange(N_ITEMS) % 3 - 1
    answered["logprob"] = np.where(np.arange(N_ITEMS) % 2, np.nan, -0.5)
    answered["masses"] = rng.uniform(size=(N_ITEMS, 2))
    answered["masses"][::3] = np.nan
    entailed = np.zeros(N_ITEMS, dtype=[("entailment", "<f4", (2,))])
    entailed["entailment"] = rng.uniform(size=(N_ITEMS, 2))
    lines = [rows_of_lines(["a hat"] * (i % 3), OCR)[0] for i in range(N_ITEMS)]
    lines = [rows if here else rows[:0] for rows, here in zip(lines, present, strict=True)]
    ocr = np.concatenate(lines), present, np.cumsum([0, *map(len, lines)])
    blocks = {
        "lf:lf@metadata.title": type(tools.embeddings([[1]]))(entailed, present),
        "ocr": type(tools.embeddings([[1]]))(*ocr),
        "text@ocr": tools.embeddings(images),
        "lf:lf": type(tools.embeddings([[1]]))(answered, present, info={"answers": ["a", "b"]}),
        "detector": tools.boxes(boxes),
        "clip": tools.embeddings(images),
        "clip.map": tools.maps(images),
        "regions": tools.regions(boxes),
        "text": tools.embeddings(texts),
        "image": type(tools.embeddings([[1]]))(facts, present, info={"columns": ["width"]}),
        "facts": tools.embeddings(images),
    }
    return FeatureSet(items, blocks)


def build(tools: Any, kind: str, fields: dict[str, Any]) -> LabelingFunction:
    lf: LabelingFunction = tools.make_lf(kind=kind, **fields)
    lf.prepare(tools.Encoder({"dress": (1, 0, 0), "hat": (0, 1, 0), "room": (0, 0, 1)}, logit_scale=5.0))
    return lf


CASES = [(kind, fields) for kind, samples in SAMPLES.items() for fields in samples]
# `builtins:min` and `operator:attrgetter` are only there to be named: an own function is tested in test_python.py.
VOTING = [(kind, fields) for kind, fields in CASES if kind != "python"]


def same(a: VoteColumn, b: VoteColumn) -> bool:
    return np.array_equal(a.classes, b.classes) and np.array_equal(a.scores, b.scores, equal_nan=True)


def test_every_kind_is_held_to_the_contract() -> None:
    assert set(SAMPLES) == set(names("manyeyes.lfs"))


@pytest.mark.parametrize(("kind", "fields"), VOTING)
def test_votes_are_a_column(tools: Any, features: FeatureSet, kind: str, fields: dict[str, Any]) -> None:
    lf = build(tools, kind, fields)
    column = lf.vote(features)
    assert column.classes.shape == column.scores.shape == (N_ITEMS,)
    assert (column.classes.dtype, column.scores.dtype) == (np.int8, np.float32)
    voted = column.classes != ABSTAIN
    assert 0 < voted.sum() < N_ITEMS
    assert column.classes.min() == ABSTAIN and column.classes.max() < len(tools.CLASSES) + len(lf.sets)
    assert np.isnan(column.scores[~voted]).all()
    scores = column.scores[voted]
    assert ((scores >= 0) & (scores <= 1) | np.isnan(scores)).all()


@pytest.mark.parametrize(("kind", "fields"), VOTING)
def test_voting_again_gives_the_same(
    tools: Any, features: FeatureSet, kind: str, fields: dict[str, Any]
) -> None:
    lf = build(tools, kind, fields)
    assert same(lf.vote(features), lf.vote(features))
    assert same(lf.vote(features), build(tools, kind, fields).vote(features))


@pytest.mark.parametrize("size", [1, 5, N_ITEMS - 1])
@pytest.mark.parametrize(("kind", "fields"), VOTING)
def test_chunks_change_nothing(
    tools: Any, features: FeatureSet, kind: str, fields: dict[str, Any], size: int
) -> None:
    lf = build(tools, kind, fields)
    parts = [
        lf.vote(tools.slice_features(features, i, min(i + size, N_ITEMS))) for i in range(0, N_ITEMS, size)
    ]
    joined = VoteColumn(np.concatenate([p.classes for p in parts]), np.concatenate([p.scores for p in parts]))
    assert same(joined, lf.vote(features))


@pytest.mark.parametrize(("kind", "fields"), VOTING)
def test_no_items_no_votes(tools: Any, features: FeatureSet, kind: str, fields: dict[str, Any]) -> None:
    column = build(tools, kind, fields).vote(tools.slice_features(features, 0, 0))
    assert column.classes.shape == column.scores.shape == (0,)
    assert (column.classes.dtype, column.scores.dtype) == (np.int8, np.float32)


@pytest.mark.parametrize(("kind", "fields"), VOTING)
def test_an_item_that_lacks_everything_gets_no_vote(tools: Any, kind: str, fields: dict[str, Any]) -> None:
    nothing = FeatureSet(
        [Item("x")],
        {
            "lf:lf": type(tools.embeddings([[1]]))(np.zeros(1, dtype=ANSWERED), np.array([False])),
            "lf:lf@metadata.title": type(tools.embeddings([[1]]))(
                np.zeros(1, dtype=[("entailment", "<f4", (2,))]), np.array([False])
            ),
            "ocr": type(tools.embeddings([[1]]))(
                np.zeros(0, dtype=OCR), np.array([False]), np.zeros(2, dtype=np.int64)
            ),
            "text@ocr": tools.embeddings([None]),
            "detector": tools.boxes([None]),
            "clip": tools.embeddings([None]),
            "clip.map": tools.maps([None]),
            "regions": tools.regions([None]),
            "text": tools.embeddings([None]),
            "image": type(tools.embeddings([[1]]))(np.zeros(1, dtype=[("width", "<i4")]), np.array([False])),
        },
    )
    assert build(tools, kind, fields).vote(nothing).classes.tolist() == [ABSTAIN]


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_the_version_follows_the_spec_and_the_classes(tools: Any, kind: str, fields: dict[str, Any]) -> None:
    versions = {tools.make_lf(kind=kind, **sample).version for sample in SAMPLES[kind]}
    assert len(versions) == len(SAMPLES[kind])
    lf = tools.make_lf(kind=kind, **fields)
    assert lf.version == tools.make_lf(kind=kind, **fields).version
    assert lf.version != tools.make_lf(("dress", "hat", "shoes"), kind=kind, **fields).version


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_a_spec_goes_through_json_and_back(tools: Any, kind: str, fields: dict[str, Any]) -> None:
    spec = tools.make_lf(kind=kind, **fields).spec
    again = type(spec).model_validate_json(spec.model_dump_json(exclude_defaults=True))
    assert again == spec


@pytest.mark.parametrize("kind", list(SAMPLES))
def test_a_field_that_no_kind_has_is_refused(tools: Any, kind: str) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        tools.make_lf(kind=kind, **SAMPLES[kind][0], nonsense=1)


@pytest.mark.parametrize("kind", list(SAMPLES))
def test_the_registered_class_says_what_it_is(kind: str) -> None:
    registered = load("manyeyes.lfs", kind)
    assert registered.kind == kind
    assert registered.Spec.model_fields["kind"].default == kind
    assert registered.__doc__ and registered.Spec.__doc__
