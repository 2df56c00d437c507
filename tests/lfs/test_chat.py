"""Chat LFs: what answers mean, how sure they are, and whole recipes that ask an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from manyeyes.errors import InvalidRecipe, UntrustedRecipe
from manyeyes.labeler import Labeler
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.primitives.chat_line import fresh_lines
from manyeyes.primitives.toy_endpoint import Asked, ToyEndpoint
from manyeyes.recipe import Recipe
from manyeyes.types import Item

ASKED = {"kind": "chat", "endpoint": "toy", "question": "Which garment is this?"}
ANSWERS = {"gown": "dress", "robe": "dress", "cap": "hat", "neither": None}
ORDER = ("cap", "gown", "neither", "robe")
NAN = float("nan")


@pytest.fixture(autouse=True)
def _lines() -> Iterator[None]:
    with fresh_lines():
        yield


@pytest.fixture
def configure(manyeyes_home: Path) -> Callable[..., None]:
    def write(base_url: str = "http://127.0.0.1:9/v1", **fields: Any) -> None:
        manyeyes_home.mkdir(exist_ok=True)
        (manyeyes_home / "endpoints.yaml").write_text(
            yaml.safe_dump({"toy": {"base_url": base_url, "model": "toy", **fields}})
        )

    return write


def answered(*rows: tuple[str | None, Sequence[float], float] | None) -> FeatureSet:
    """Answers made by hand: which, the masses in alphabetical order, the answer's probability; None is not asked."""
    dtype = [("answer", "<i2"), ("text", "S8"), ("logprob", "<f4"), ("masses", "<f4", (len(ORDER),))]
    made = np.zeros(len(rows), dtype=dtype)
    for row, told in zip(made, rows, strict=True):
        if told is not None:
            row["answer"] = -1 if told[0] is None else ORDER.index(told[0])
            row["masses"] = told[1] if len(told[1]) else NAN
            row["logprob"] = np.log(told[2])
    present = np.array([told is not None for told in rows])
    return FeatureSet([Item(str(i)) for i in range(len(rows))], {"lf:lf": Features(made, present)})


ROWS = answered(
    ("gown", (), NAN),
    ("cap", (), 0.9),
    ("gown", (0.2, 0.4, 0.1, 0.1), 0.4),
    ("neither", (0, 0, 1, 0), 1),
    (None, (), NAN),
    None,
    ("cap", (0, 0, 0, 0), 0.3),
)


def test_answers_are_votes(tools: Any) -> None:
    lf = tools.make_lf(**ASKED, answers=ANSWERS)
    assert tools.votes_of(lf, ROWS) == ["dress", "hat", "dress", None, None, None, "hat"]
    scores = lf.vote(ROWS).scores
    assert scores.tolist() == pytest.approx([NAN, 0.9, 0.625, NAN, NAN, NAN, 0.3], nan_ok=True)


def test_a_threshold_keeps_what_has_no_score(tools: Any) -> None:
    lf = tools.make_lf(**ASKED, answers=ANSWERS, threshold=0.7)
    assert tools.votes_of(lf, ROWS) == ["dress", "hat", None, None, None, None, None]


def test_an_answer_may_mean_several_classes(tools: Any) -> None:
    lf = tools.make_lf(
        **ASKED, answers=ANSWERS | {"gown": {"not": "hat"}, "robe": ["t-shirt", "dress"], "cap": "hat"}
    )
    assert tools.votes_of(lf, ROWS)[:2] == ["not hat", "hat"]
    assert lf.vote(ROWS).scores[2] == pytest.approx(0.625)  # both answers are the same vote


def test_lfs_that_ask_the_same_model_are_not_independent(configure: Callable[..., None]) -> None:
    configure(retries=0, give_up_after=1)
    labeler = Labeler(recipe({**ASKED, "name": "again", "on": "text"}))
    first, second = labeler.votes([Item("1", text="x")])[0].shared
    assert set(first) & set(second) == {"chat:toy"}


def test_class_names_are_the_answers_unless_told(tools: Any) -> None:
    lf = tools.make_lf(**ASKED)
    assert lf.primitives["lf:lf"].info == {"answers": ["dress", "hat", "t-shirt"]}


def test_the_order_of_answers_does_not_count(tools: Any, configure: Callable[..., None]) -> None:
    configure()
    one = tools.make_lf(**ASKED, answers=ANSWERS)
    two = tools.make_lf(**ASKED, answers=dict(reversed(ANSWERS.items())))
    other = tools.make_lf(**ASKED, answers=ANSWERS | {"robe": "hat"})
    assert one.version == two.version != other.version
    versions = [lf.primitives["lf:lf"].version for lf in (one, two, other)]
    assert len(set(versions)) == 1  # what an answer means is no part of what is asked
    assert versions[0].startswith("chat/toy/")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"answers": {"gown": "drss"}}, "did you mean 'dress'"),
        ({"answers": {"Gown": "dress", "gown!": "hat"}}, "differ only in case"),
        ({"answers": {"?": "dress"}}, "no letter and no digit"),
        ({"answers": {"gown": None}}, "every answer abstains"),
        ({"endpoint": "http://evil.example/v1"}, "endpoint"),
        ({"question": ""}, "question"),
        ({"on": "filename"}, "image"),
        ({"key": "sk-1"}, "key"),
        ({"base_url": "http://evil.example"}, "base_url"),
        ({"max_cost": float("inf")}, "max_cost"),
        ({"answers": {str(i): "hat" for i in range(101)}}, "answers"),
    ],
)
def test_what_cannot_be_asked(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRecipe, match=r"(?s)") as caught:
        Recipe.parse(
            {
                "name": "r",
                "classes": ["dress", "hat"],
                "lfs": [{"name": "lf", **ASKED, "on": "text", **fields}],
            }
        )
    assert told in str(caught.value)


def recipe(*more: dict[str, Any], **fields: Any) -> Recipe:
    asked = {"name": "asked", **ASKED, "on": "text", "answers": ANSWERS, **fields}
    return Recipe.parse(
        {
            "name": "r",
            "classes": ["dress", "hat"],
            "lfs": [asked, *more],
            "label_model": "majority",
            "unfamiliar_below": 0,
        }
    )


def by_word(asked: Asked) -> dict[str, float]:
    return {"gown": 0.8, "cap": 0.2} if "silk" in asked.text else {"cap": 0.75, "robe": 0.25}


ITEMS = [Item(str(i), text=f"{'silk' if i % 2 else 'wool'} {i}") for i in range(12)]


def test_a_recipe_asks_once(configure: Callable[..., None]) -> None:
    with ToyEndpoint(by_word) as toy:
        configure(toy.base_url)
        labeler = Labeler(recipe())
        labels = labeler.label(ITEMS)
        assert [label.label for label in labels] == ["hat", "dress"] * 6
        assert labels[1].reasons[0].score == pytest.approx(0.8)
        assert labels.versions.primitives["lf:asked"].startswith("chat/toy/")
        assert len(toy.calls) == 12 and "12 items answered in 12 calls" in labeler.extractor.notes[0]

        again = Labeler(recipe())
        assert [label.to_dict() for label in again.label(ITEMS)] == [label.to_dict() for label in labels]
        assert again.counter.total == 0 and again.extractor.notes == []

        # Another LF, another meaning of an answer, another threshold: nothing is asked.
        wool = {"name": "wool", "kind": "keyword", "any": "wool", "vote": "hat"}
        Labeler(recipe(wool)).label(ITEMS)
        Labeler(recipe(answers=ANSWERS | {"robe": "hat"}, threshold=0.5)).label(ITEMS)
        assert len(toy.calls) == 12


def test_one_item_that_fails_leaves_the_others(configure: Callable[..., None]) -> None:
    class Failing(ToyEndpoint):
        def respond(self, handler: Any, body: Any, n: int) -> None:
            if "wool 4" in str(body):
                handler.send_error(500)
            else:
                super().respond(handler, body, n)

    with Failing(by_word) as toy:
        configure(toy.base_url, retries=1, backoff_s=0)
        labels = Labeler(recipe()).label(ITEMS)
        assert [label.status for label in labels].count("labeled") == 11
        assert labels[4].error.code == "endpoint_failed"


def test_a_dead_endpoint_leaves_the_other_lfs(configure: Callable[..., None]) -> None:
    configure(retries=0, give_up_after=2, concurrency=2)
    wool = {"name": "wool", "kind": "keyword", "any": "wool", "vote": "hat"}
    labeler = Labeler(recipe(wool))
    labels = labeler.label(ITEMS)
    assert [label.label for label in labels] == ["hat", None] * 6
    assert "the endpoint does not answer" in labeler.extractor.notes[-1]


def test_a_missing_endpoint_is_told_before_any_model_runs(configure: Callable[..., None]) -> None:
    labeler = Labeler(recipe({"name": "red", "kind": "prompt", "using": "toy.text", "on": "text"}))
    with pytest.raises(InvalidRecipe, match="no endpoint 'toy' is configured"):
        labeler.label(ITEMS)
    assert labeler.counter.total == 0
    configure()
    with pytest.raises(InvalidRecipe, match="'toy' has no prices"):
        Labeler(recipe(max_cost=1)).label(ITEMS)


def test_a_recipe_from_outside_names_only_what_is_open(configure: Callable[..., None]) -> None:
    with pytest.raises(
        UntrustedRecipe, match=r"lfs\[0\].endpoint: 'toy' is not open to recipes from outside"
    ):
        recipe().check_untrusted()
    configure()
    with pytest.raises(UntrustedRecipe, match="those that are: none"):
        recipe().check_untrusted()
    configure(from_outside=True)
    recipe().check_untrusted()
