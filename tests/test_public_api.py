"""What users import, and nothing else: a change here is a change to everybody's code."""

from __future__ import annotations

import pytest

import manyeyes


def test_the_front_door_is_pinned() -> None:
    assert manyeyes.__all__ == [
        "ABSTAIN",
        "AsyncClient",
        "Client",
        "Item",
        "Label",
        "Labeler",
        "Labels",
        "Reason",
        "Recipe",
        "Url",
        "Versions",
        "Votes",
        "errors",
    ]
    assert manyeyes.ABSTAIN == -1


@pytest.mark.parametrize("name", manyeyes.__all__)
def test_every_name_is_there_and_seen_by_dir(name: str) -> None:
    assert getattr(manyeyes, name) is not None
    assert name in dir(manyeyes)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'manyeyes' has no attribute 'Labeller'"):
        manyeyes.Labeller  # noqa: B018


def test_errors_are_reached_through_the_front_door() -> None:
    assert issubclass(manyeyes.errors.InvalidRecipe, manyeyes.errors.ManyeyesError)
