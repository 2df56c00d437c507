"""What makes prompts keep quiet, against vectors whose angles one can see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.prompt_sets import background
from manyeyes.primitives.base import FeatureSet
from manyeyes.recipe import Recipe
from manyeyes.types import Item

DRESS, HAT, SHIRT, ROOM = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)
SCALE = 10.0
PROMPTS = {"dress": ["dress"], "hat": ["hat"]}
WORDS: dict[str, Any] = {
    "dress": DRESS,
    "hat": HAT,
    "t-shirt": SHIRT,
    "a room": ROOM,
    "top": (0, 0.6, 0.8, 0),
}
ROOMS = background(["rooms"], "image")


def directions(**more: Any) -> dict[str, Any]:
    # A room that is near a dress, as one of the nearest quarter, is left out of the background.
    rooms = {text: (0.1, 0.1, 0.1, 1.0 + 0.01 * i) for i, text in enumerate(ROOMS)}
    return {
        **rooms,
        **{text.replace("a photo of", "a text about"): v for text, v in rooms.items()},
        **WORDS,
        **more,
    }


def made(tools: Any, *, encoder: Any = None, **fields: Any) -> Any:
    lf = tools.make_lf(kind="prompt", **{"prompts": PROMPTS, "threshold": 0.0, **fields})
    lf.prepare(encoder or tools.Encoder(directions(), logit_scale=SCALE))
    return lf


def seen(tools: Any, lf: Any, vectors: list[Any], texts: list[Any] | None = None) -> FeatureSet:
    blocks = {lf.reads[0]: tools.embeddings(vectors)}
    if texts is not None:
        blocks[lf.reads[1]] = tools.embeddings(texts)
    return FeatureSet([Item(str(i)) for i in range(len(vectors))], blocks)


def votes(tools: Any, lf: Any, vectors: list[Any], texts: list[Any] | None = None) -> list[str | None]:
    found: list[str | None] = tools.votes_of(lf, seen(tools, lf, vectors, texts))
    return found


# --- background ------------------------------------------------------------------------------------------------------


def test_with_a_background_it_keeps_quiet_about_what_is_none_of_the_classes(tools: Any) -> None:
    vectors = [DRESS, HAT, ROOM, (0.5, 0.5, 0.5, 0.5), None]
    assert votes(tools, made(tools), vectors) == ["dress", "hat", "dress", "dress", None]
    lf = made(tools, background="rooms")
    assert votes(tools, lf, vectors) == ["dress", "hat", None, None, None]
    found = lf.evidence(seen(tools, lf, vectors))
    assert found.in_class[0] > 0.5 > found.in_class[3] > found.in_class[2]
    assert found.classes.sum(axis=0) == pytest.approx(found.in_class, abs=1e-6)


def test_what_is_nearest_to_the_classes_is_left_out_of_the_background(tools: Any) -> None:
    near = {ROOMS[0]: (1, 0.01, 0, 0)}  # a room that looks just like a dress
    lf = made(tools, background="rooms", encoder=tools.Encoder(directions(**near), logit_scale=SCALE))
    assert votes(tools, lf, [DRESS]) == ["dress"]
    assert len(lf._tables["image"].background) == pytest.approx(0.75 * len(ROOMS), abs=1)


def test_a_background_takes_the_place_of_against(tools: Any) -> None:
    lf = made(tools, prompts={"dress": "dress"}, background="rooms")
    assert votes(tools, lf, [DRESS, ROOM]) == ["dress", None]


def test_without_a_background_nothing_is_none_of_the_classes(tools: Any) -> None:
    lf = made(tools)
    assert lf.evidence(seen(tools, lf, [ROOM])).in_class == pytest.approx([1.0])


# --- negative prompts ------------------------------------------------------------------------------------------------


def test_what_resembles_a_class_takes_from_it_alone(tools: Any) -> None:
    vectors = [DRESS, (0.7, 0, 0.714, 0), (0.1, 1, 0, 0)]
    plain, careful = made(tools), made(tools, not_like={"dress": "t-shirt"})
    assert votes(tools, plain, vectors) == ["dress", "dress", "hat"]
    assert votes(tools, careful, vectors) == ["dress", None, "hat"]
    before, after = (lf.evidence(seen(tools, lf, vectors)) for lf in (plain, careful))
    assert after.classes[1] == pytest.approx(before.classes[1])
    assert (after.classes[0] < before.classes[0]).all()
    # At equal similarity it is as likely the one as the other.
    here = seen(tools, careful, [(1, 0, 1, 0)])
    kept = careful.evidence(here).classes[0] / plain.evidence(here).classes[0]
    assert kept == pytest.approx([0.5])


def test_a_negative_prompt_is_enough_against_one_class(tools: Any) -> None:
    lf = made(tools, prompts={"dress": "dress"}, not_like={"dress": ["t-shirt", "a room"]})
    assert votes(tools, lf, [DRESS, SHIRT, ROOM]) == ["dress", None, None]


# --- groups ----------------------------------------------------------------------------------------------------------


def test_where_only_the_group_is_sure_it_votes_for_the_group(tools: Any) -> None:
    prompts = {"dress": "dress", "hat": "hat", "t-shirt": "t-shirt"}
    lf = made(tools, prompts=prompts, threshold=0.7, groups={"top": ["hat", "t-shirt"]})
    vectors = [HAT, (0, 1, 0.98, 0), DRESS, (1, 0.99, 0, 0), (1, 0.8, 0.8, 0)]
    assert votes(tools, lf, vectors) == ["hat", "not dress", "dress", None, None]
    assert lf.sets == ((1, 2),)
    scores = lf.vote(seen(tools, lf, vectors)).scores
    assert scores[1] > 0.99 and scores[0] > 0.99
    # Hat and t-shirt together are more likely than the dress, which alone is the nearest.
    lf = made(tools, prompts=prompts, threshold=0.55, groups={"top": ["hat", "t-shirt"]}, temperature=1.0)
    assert votes(tools, lf, [(1, 0.8, 0.8, 0)]) == ["not dress"]


def test_what_is_said_of_a_group_counts(tools: Any) -> None:
    prompts = {"dress": "dress", "hat": "hat", "t-shirt": "t-shirt"}
    vector = [(0.9, 0.35, 0.7, 0)]
    without = made(tools, prompts=prompts, groups={"top": ["hat", "t-shirt"]})
    told = made(tools, prompts=prompts, groups={"top": {"classes": ["hat", "t-shirt"], "prompts": "top"}})
    inside = [lf.evidence(seen(tools, lf, vector)).classes[1:].sum() for lf in (without, told)]
    assert inside[1] > inside[0]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"groups": {"g": ["dress"]}}, "at least 2"),
        ({"groups": {"g": ["dress", "hut"]}}, "did you mean 'hat'"),
        ({"groups": {"g": ["dress", "t-shirt"]}}, "no prompts"),
        ({"groups": {"g": ["dress", "hat"], "h": ["hat", "t-shirt"]}}, "one class, one group"),
        ({"groups": {"g": ["dress", "hat", "t-shirt"]}, "prompts": {}}, "says nothing"),
        ({"not_like": {"t-shirt": "a shirt"}}, "no prompts"),
        ({"not_like": {"dress": []}}, "has no prompts"),
        ({"background": "romms"}, "did you mean 'rooms'"),
        ({"text_using": "text"}, "on: both"),
        ({"calibrated": {"text": {"scale": 10}}}, "calibrated: text was not compared"),
        ({"calibrated": {"image": {"scale": 10, "in_class": {}}}}, "measured against a background"),
        ({"calibrated": {"image": {"scale": 10, "gain": {"t-shirt": 1.0}}}}, "no prompts"),
        ({"calibrated": {"image": {"scale": 10, "gain": {"hat": float("nan")}}}}, "gain"),
        ({"calibrated": {"image": {"scale": 10, "bias": {"hat": 1e9}}}}, "bias"),
    ],
)
def test_what_cannot_be_used_is_told(tools: Any, fields: dict[str, Any], told: str) -> None:
    with pytest.raises((ValidationError, InvalidRecipe), match=told):
        tools.make_lf(kind="prompt", **{"prompts": PROMPTS, **fields})


# --- image and text --------------------------------------------------------------------------------------------------


def both(tools: Any, **fields: Any) -> Any:
    return made(tools, on="both", **fields)


def test_image_and_text_multiply(tools: Any) -> None:
    lf = both(tools)
    assert lf.reads == ("clip", "text")
    here = seen(tools, lf, [DRESS, (1, 0.9, 0, 0)], [DRESS, (0.8, 1, 0, 0)])
    image = made(tools).evidence(seen(tools, made(tools), [DRESS, (1, 0.9, 0, 0)])).classes
    text = made(tools).evidence(seen(tools, made(tools), [DRESS, (0.8, 1, 0, 0)])).classes
    wanted = image * text / (image * text).sum(axis=0)
    assert lf.evidence(here).classes == pytest.approx(wanted, abs=1e-6)
    assert tools.votes_of(lf, here) == ["dress", "hat"]


def test_where_one_is_missing_the_other_speaks_alone(tools: Any) -> None:
    lf = both(tools, background="rooms")
    vectors, texts = [DRESS, None, None, ROOM], [None, HAT, None, None]
    assert votes(tools, lf, vectors, texts) == ["dress", "hat", None, None]
    alone = made(tools, background="rooms")
    told = alone.evidence(seen(tools, alone, [DRESS]))
    assert lf.evidence(seen(tools, lf, vectors, texts)).classes[:, 0] == pytest.approx(told.classes[:, 0])


def test_both_encoders_are_asked(tools: Any) -> None:
    encoder = tools.Encoder(directions(), logit_scale=SCALE)
    lf = both(tools, text_using="clip.text", background="rooms", encoder=encoder)
    assert lf.reads == ("clip", "clip.text")
    assert ("clip", "a photo of an empty room") in encoder.asked
    assert ("clip", "a text about an empty room") in encoder.asked


# --- calibration in use ----------------------------------------------------------------------------------------------


def test_a_calibration_moves_what_it_names(tools: Any) -> None:
    told = {"image": {"scale": SCALE, "bias": {"hat": 3.0}}}
    vectors = [(1, 0.8, 0, 0)]
    plain, moved = made(tools), made(tools, calibrated=told)
    assert votes(tools, plain, vectors) == ["dress"] and votes(tools, moved, vectors) == ["hat"]
    odds = [np.log(lf.evidence(seen(tools, lf, vectors)).classes[:, 0]) for lf in (plain, moved)]
    assert (odds[1][1] - odds[1][0]) - (odds[0][1] - odds[0][0]) == pytest.approx(3.0, abs=1e-5)
    assert plain.version != moved.version


def test_a_calibration_decides_how_soon_an_item_is_of_any_class(tools: Any) -> None:
    vectors = [DRESS, (0.6, 0, 0, 0.8), ROOM]
    told = {"image": {"scale": SCALE, "in_class": {"gain": 2.0, "bias": 1.0}}}
    plain, moved = made(tools, background="rooms"), made(tools, background="rooms", calibrated=told)
    before, after = (lf.evidence(seen(tools, lf, vectors)).in_class.astype(float) for lf in (plain, moved))
    wanted = 1 / (1 + np.exp(-(2.0 * np.log(before / (1 - before)) + 1.0)))
    assert after == pytest.approx(wanted, rel=1e-3)


def test_a_calibration_for_another_encoder_is_refused(tools: Any) -> None:
    with pytest.raises(InvalidRecipe, match=r"calibrated at scale 100 .* has 10 here; calibrate it again"):
        made(tools, calibrated={"image": {"scale": 100.0}})


def test_everything_at_once_stays_a_distribution_and_alike_in_every_chunk(tools: Any) -> None:
    rng = np.random.default_rng(0)
    told = {"image": {"scale": SCALE, "gain": {"hat": 1.3}, "in_class": {"gain": 0.7, "bias": 0.2}}}
    lf = both(
        tools,
        prompts={"dress": ["dress", "top"], "hat": "hat", "t-shirt": "t-shirt"},
        pool="max",
        background="rooms",
        against="a room",
        not_like={"dress": "top"},
        groups={"top": {"classes": ["hat", "t-shirt"], "prompts": "top"}},
        calibrated=told,
    )
    features = seen(tools, lf, list(rng.normal(size=(600, 4))), list(rng.normal(size=(600, 4))))
    found = lf.evidence(features)
    assert ((found.classes >= 0) & (found.classes <= 1)).all()
    assert found.classes.sum(axis=0) == pytest.approx(found.in_class, abs=1e-5)
    whole = lf.vote(features)
    assert {*whole.classes.tolist()} >= {-1, 0, 1, 2}
    for size in (1, 7, 250):
        parts = [lf.vote(tools.slice_features(features, i, i + size)) for i in range(0, 600, size)]
        assert np.array_equal(np.concatenate([part.classes for part in parts]), whole.classes)
        assert np.array_equal(np.concatenate([part.scores for part in parts]), whole.scores, equal_nan=True)


# --- properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 999), pool=st.sampled_from(["mean", "max"]))
def test_the_order_of_classes_prompts_and_backgrounds_changes_nothing(
    tools: Any, order: list[int], seed: int, pool: str
) -> None:
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c", "d"]
    words = {f"{name}{i}": rng.normal(size=6) for name in [*names, "x", "g"] for i in range(3)}
    kitchen = {text: rng.normal(size=6) for text in background(["kitchen", "music"], "image")}
    encoder = tools.Encoder({**words, **kitchen}, logit_scale=SCALE)
    vectors = list(rng.normal(size=(50, 6)))

    def look(names: list[str], forward: bool) -> dict[str, Any]:
        step = 1 if forward else -1
        lf = tools.make_lf(
            classes=tuple(names),
            kind="prompt",
            threshold=0.3,
            pool=pool,
            prompts={name: [f"{name}{i}" for i in range(3)][::step] for name in names},
            against=["x0", "x1"][::step],
            background=["kitchen", "music"][::step],
            not_like={"a": ["x2"]},
            groups={"g": {"classes": ["b", "c"][::step], "prompts": ["g0", "g1"][::step]}},
        )
        lf.prepare(encoder)
        features = FeatureSet([Item(str(i)) for i in range(50)], {"clip": tools.embeddings(vectors)})
        told = lf.evidence(features)
        by_class = dict(zip(lf.prompted, told.classes, strict=True))
        members = [{lf.classes[c] for c in inside} for inside in lf.sets]
        said = [
            None if v < 0 else {lf.classes[v]} if v < 4 else members[v - 4]
            for v in lf.vote(features).classes.tolist()
        ]
        return {"classes": [by_class[name] for name in "abcd"], "in_class": told.in_class, "votes": said}

    here, there = look(names, True), look([names[i] for i in order], False)
    assert np.allclose(here["classes"], there["classes"], atol=1e-6)
    assert np.allclose(here["in_class"], there["in_class"], atol=1e-6)
    assert sum(a != b for a, b in zip(here["votes"], there["votes"], strict=True)) == 0


def test_a_recipe_keeps_all_of_it() -> None:
    lf = {
        "name": "p",
        "kind": "prompt",
        "on": "both",
        "templates": ["photo", "my {}"],
        "background": "standard",
        "not_like": {"hat": "a helmet"},
        "groups": {"head or feet": {"classes": ["shoes", "hat"], "prompts": "accessory"}},
        "calibrated": {"image": {"scale": 23.5, "bias": {"hat": 0.5}, "in_class": {"bias": 1.0}}},
    }
    recipe = Recipe.parse({"name": "r", "classes": ["dress", "hat", "shoes"], "lfs": [lf]})
    assert Recipe.parse(recipe.to_yaml()) == recipe and Recipe.parse(recipe.to_json()) == recipe
    assert sorted(recipe.primitives) == ["clip", "text"]
    recipe.check_untrusted()


def test_recipes_from_before_have_the_version_that_they_had() -> None:
    lf = {
        "name": "p",
        "kind": "prompt",
        "prompts": {"a": "x", "b": ["y", "z"]},
        "against": "w",
        "threshold": 0.4,
    }
    assert Recipe.parse({"name": "r", "classes": ["a", "b"], "lfs": [lf]}).version == "760682542a23459a"
