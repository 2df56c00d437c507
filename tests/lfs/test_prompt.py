"""Prompts against vectors whose angles one can see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from manyeyes.primitives.base import FeatureSet
from manyeyes.types import Item

DRESS, HAT, SHIRT, ROOM = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)
DIRECTIONS = {
    "dress": DRESS,
    "gown": (0.8, 0, 0, 0.6),
    "hat": HAT,
    "a hat": HAT,
    "t-shirt": SHIRT,
    "a room": ROOM,
}
PROMPTS = {"dress": ["dress"], "hat": ["hat"]}


def vote(
    tools: Any, vectors: list[Any], *, encoder: Any = None, **fields: Any
) -> tuple[list[str | None], list[float]]:
    lf = tools.make_lf(kind="prompt", **{"prompts": PROMPTS, "threshold": 0.0, **fields})
    lf.prepare(encoder or tools.Encoder(DIRECTIONS, logit_scale=10.0))
    features = FeatureSet(
        [Item(str(i)) for i in range(len(vectors))], {lf.reads[0]: tools.embeddings(vectors)}
    )
    column = lf.vote(features)
    return tools.votes_of(lf, features), column.scores.tolist()


def softmax(*logits: float) -> np.ndarray[Any, Any]:
    exponentials = np.exp(np.array(logits))
    return np.asarray(exponentials / exponentials.sum())


def test_the_nearest_class_with_its_probability(tools: Any) -> None:
    votes, scores = vote(tools, [DRESS, HAT, (0.6, 0.8, 0, 0), None])
    assert votes == ["dress", "hat", "hat", None]
    assert scores[0] == pytest.approx(softmax(10, 0)[0])
    assert scores[2] == pytest.approx(softmax(6, 8)[1])
    assert np.isnan(scores[3])


def test_below_the_threshold_it_abstains(tools: Any) -> None:
    vectors = [(0.6, 0.8, 0, 0), HAT]
    p = float(softmax(6, 8)[1])
    assert vote(tools, vectors, threshold=p - 0.001)[0] == ["hat", "hat"]
    votes, scores = vote(tools, vectors, threshold=p + 0.001)
    assert votes == [None, "hat"]
    assert np.isnan(scores[0])


def test_the_background_wins_where_it_is_nearer(tools: Any) -> None:
    votes, scores = vote(tools, [DRESS, ROOM, (0.7, 0, 0, 0.72)], against=["a room"])
    assert votes == ["dress", None, None]
    assert scores[0] == pytest.approx(softmax(10, 0, 0)[0])


def test_one_class_against_a_background(tools: Any) -> None:
    votes, _ = vote(tools, [DRESS, ROOM], prompts={"dress": "dress"}, against="a room")
    assert votes == ["dress", None]


def test_mean_is_an_ensemble_and_max_is_the_nearest(tools: Any) -> None:
    prompts = {"dress": ["dress", "gown"], "hat": ["hat"]}
    mean = np.array([1.8, 0, 0, 0.6]) / np.linalg.norm([1.8, 0, 0, 0.6])
    _, scores = vote(tools, [ROOM], prompts=prompts, pool="mean")
    assert scores[0] == pytest.approx(softmax(10 * mean[3], 0)[0])
    _, scores = vote(tools, [ROOM], prompts=prompts, pool="max")
    assert scores[0] == pytest.approx(softmax(6, 0)[0])


def test_temperature_is_the_encoders_unless_it_is_told(tools: Any) -> None:
    assert vote(tools, [DRESS], temperature=0.5)[1][0] == pytest.approx(softmax(2, 0)[0])
    silent = tools.Encoder(DIRECTIONS)
    assert vote(tools, [DRESS], encoder=silent)[1][0] == pytest.approx(softmax(20, 0)[0])


def test_templates_hold_every_prompt(tools: Any) -> None:
    encoder = tools.Encoder(
        {"a dress": DRESS, "one dress": DRESS, "a hat": HAT, "one hat": HAT, "a room": ROOM}
    )
    vote(tools, [DRESS], encoder=encoder, templates=["a {}", "one {}"], against=["a room"])
    asked = [text for _, text in encoder.asked]
    assert asked == ["a dress", "one dress", "a hat", "one hat", "a room"]


def test_without_prompts_the_class_names_speak(tools: Any) -> None:
    lf = tools.make_lf(kind="prompt")
    told = lf.spec.wordings(lf.classes)
    assert list(told) == list(lf.classes)
    assert all("t-shirt" in wording for wording in told["t-shirt"]) and len(told["t-shirt"]) > 1
    assert "t-shirt" in tools.make_lf(kind="prompt", on="text").spec.wordings(lf.classes)["t-shirt"]


def test_what_it_reads(tools: Any) -> None:
    assert tools.make_lf(kind="prompt", prompts=PROMPTS).reads == ("clip",)
    assert tools.make_lf(kind="prompt", prompts=PROMPTS, on="text").reads == ("text",)
    encoder = tools.Encoder(DIRECTIONS)
    lf = tools.make_lf(kind="prompt", prompts=PROMPTS, on="text", using="clip.text")
    lf.prepare(encoder)
    assert lf.reads == ("clip.text",)
    assert {primitive for primitive, _ in encoder.asked} == {"clip"}


def test_the_order_of_prompts_is_the_classes(tools: Any) -> None:
    there = tools.make_lf(kind="prompt", prompts={"dress": "dress", "hat": "hat"})
    back = tools.make_lf(kind="prompt", prompts={"hat": "hat", "dress": "dress"})
    assert list(back.spec.prompts) == ["dress", "hat"]
    assert there.version == back.version


def test_an_item_votes_alike_in_every_chunk(tools: Any) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(999, 384))
    names = {name: rng.normal(size=384) for name in DIRECTIONS}
    lf = tools.make_lf(
        kind="prompt", prompts={"dress": ["dress", "gown"], "hat": "hat"}, against="a room", threshold=0
    )
    lf.prepare(tools.Encoder(names, logit_scale=40.0))
    features = FeatureSet([Item(str(i)) for i in range(999)], {"clip": tools.embeddings(list(vectors))})
    whole = lf.vote(features)
    for size in (1, 7, 64, 500):
        parts = [lf.vote(tools.slice_features(features, i, i + size)) for i in range(0, 999, size)]
        assert np.array_equal(np.concatenate([part.classes for part in parts]), whole.classes)
        assert np.array_equal(np.concatenate([part.scores for part in parts]), whole.scores, equal_nan=True)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompts": {"dress": "dress"}}, "always win"),
        ({"prompts": {"dress": [], "hat": "hat"}}, "has no prompts"),
        ({"prompts": {"dress": "dress", "hut": "hat"}}, "did you mean 'hat'?"),
        ({"prompts": PROMPTS, "templates": ["a photo"]}, "must hold {} once"),
        ({"prompts": PROMPTS, "templates": ["{} {}"]}, "must hold {} once"),
        ({"prompts": PROMPTS, "threshold": 1.5}, "less than or equal to 1"),
        ({"prompts": PROMPTS, "temperature": 0}, "greater than 0"),
        ({"prompts": PROMPTS, "temperature": float("nan")}, "temperature"),
        ({"prompts": PROMPTS, "pool": "median"}, "'mean' or 'max'"),
        ({"prompts": PROMPTS, "on": "sound"}, "cannot be read; allowed: image, text, filename"),
        (
            {
                "prompts": {"dress": [f"d{i}" for i in range(1_000)], "hat": "hat"},
                "templates": ["a {}", "b {}"],
            },
            "2000",
        ),
    ],
)
def test_what_is_refused(tools: Any, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tools.make_lf(kind="prompt", **fields)
    assert told in str(caught.value)
