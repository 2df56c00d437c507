"""Functions of the user's own: what they may return, and what becomes of what they raise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manyeyes.errors import InvalidRecipe, PrimitiveFailed, UnreadableItem
from manyeyes.lfs.build import collect_votes
from manyeyes.primitives.base import FeatureSet
from manyeyes.types import Item

SOURCE = '''
def by_title(item):
    """Answers in every way that is allowed, and in some that are not."""
    return {
        "hat": "hat",
        "sure": ("dress", 0.75),
        "nothing": None,
        "unknown": "hatt",
        "beyond": ("hat", 1.5),
        "crash": lambda: 1 / 0,
        "either": ["hat", "dress"],
        "not that": ({"not": "hat"}, 0.5),
        "one": ["hat"],
        "another set": ["hat", "t-shirt"],
        "all": ["hat", "t-shirt", "dress"],
        "none of": {"not": ["hat", "huts"]},
    }[item.text]


def crash(item):
    raise ZeroDivisionError("of all things")


def boxes(item, features):
    return "hat" if len(features["detector"]) > 1 else None


class Rules:
    @staticmethod
    def always(item):
        return "t-shirt"


constant = 3
'''


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "rules_of_a_user"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def prepared(tools: Any, **fields: Any) -> Any:
    lf = tools.make_lf(kind="python", **fields)
    lf.prepare(tools.Encoder({}))
    return lf


def test_what_a_function_may_return(tools: Any, rules: str) -> None:
    lf = prepared(tools, function=f"{rules}:by_title")
    column = lf.vote(tools.with_texts("hat", "sure", "nothing"))
    assert column.classes.tolist() == [1, 0, -1]
    assert column.scores[1] == np.float32(0.75)
    assert np.isnan(column.scores[[0, 2]]).all()
    assert not column.errors


def test_it_may_return_the_sets_of_classes_that_the_recipe_names(tools: Any, rules: str) -> None:
    lf = prepared(tools, function=f"{rules}:by_title", sets=[["dress", "hat"], {"not": "hat"}, "hat"])
    assert lf.sets == ((0, 1), (0, 2))
    features = tools.with_texts("either", "not that", "one", "hat")
    assert tools.votes_of(lf, features) == ["not t-shirt", "not hat", "hat", "hat"]
    assert lf.vote(features).scores[1] == np.float32(0.5)
    wrong = lf.vote(tools.with_texts("another set", "all", "none of"))
    assert wrong.classes.tolist() == [-1, -1, -1]
    assert "not t-shirt and not hat; add {'not': 'dress'} to the LF's sets" in str(wrong.errors[0])
    assert "says nothing" in str(wrong.errors[1])
    assert "unknown class 'huts'" in str(wrong.errors[2])


def test_what_it_raises_is_an_error_of_that_item_and_no_abstention(tools: Any, rules: str) -> None:
    lf = prepared(tools, function=f"{rules}:by_title")
    features = tools.with_texts("hat", "missing key", "unknown", "beyond", "crash", "sure")
    votes, errors = collect_votes([lf], features, tools.CLASSES)
    assert votes.classes[:, 0].tolist() == [1, -1, -1, -1, -1, 0]
    assert sorted(errors) == [1, 2, 3, 4]
    assert all(isinstance(error, PrimitiveFailed) for error in errors.values())
    assert "LF 'lf'" in str(errors[1]) and "item '1'" in str(errors[1]) and "KeyError" in str(errors[1])
    assert "did you mean 'hat'?" in str(errors[2])
    assert "1.5" in str(errors[3])


def test_an_item_with_an_error_is_not_asked_about(tools: Any, rules: str) -> None:
    lf = prepared(tools, function=f"{rules}:crash")
    items = [Item("a"), Item("b")]
    features = FeatureSet(items, errors={0: UnreadableItem("gone"), 1: UnreadableItem("gone")})
    assert lf.vote(features).errors == {}


def test_it_may_read_features(tools: Any, rules: str) -> None:
    lf = prepared(tools, function=f"{rules}:boxes", reads=["detector"])
    box = ("person", 0.1, 0.1, 0.2, 0.2, 0.9)
    features = FeatureSet(
        [Item("a"), Item("b"), Item("c")], {"detector": tools.boxes([[box, box], [box], None])}
    )
    assert lf.reads == ("detector",)
    assert tools.votes_of(lf, features) == ["hat", None, None]


def test_methods_of_classes_have_dotted_names(tools: Any, rules: str) -> None:
    assert tools.votes_of(prepared(tools, function=f"{rules}:Rules.always"), tools.with_texts("x")) == [
        "t-shirt"
    ]


def test_an_edited_function_is_another_version(tools: Any, rules: str) -> None:
    by_title, crash = (prepared(tools, function=f"{rules}:{name}").version for name in ("by_title", "crash"))
    assert by_title != crash
    path = Path(sys.modules[rules].__file__ or "")
    path.write_text(SOURCE.replace("0.75", "0.5"))
    del sys.modules[rules]
    assert prepared(tools, function=f"{rules}:by_title").version != by_title


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("no_such_module_here:f", "no module named 'no_such_module_here'"),
        ("{rules}:by_titel", "did you mean 'by_title'?"),
        ("{rules}:constant", "is no function, but int"),
    ],
)
def test_what_cannot_be_called_is_told_before_any_vote(
    tools: Any, rules: str, function: str, told: str
) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        prepared(tools, function=function.format(rules=rules))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "function", ["f", "a.b", "a:b()", "a/b:c", ":f", "a:", "a b:c", "__import__('os'):x"]
)
def test_names_are_names(tools: Any, function: str) -> None:
    with pytest.raises(ValueError, match="function"):
        tools.make_lf(kind="python", function=function)


def test_nothing_is_imported_until_it_is_prepared(tools: Any, rules: str) -> None:
    tools.make_lf(kind="python", function=f"{rules}:by_title")
    assert rules not in sys.modules
