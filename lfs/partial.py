"""What an LF may vote for: a class, one of several classes, or none of some (a partial label).

::

    vote: dress              # this class
    vote: [dress, skirt]     # one of these
    vote: {not: hat}         # any class but this
    vote: {not: [hat, cap]}  # any class but these

Equal sets of classes have one canonical form, whichever way they were written: a set of one class is that class, and
of a set and what it leaves out the shorter is written down, in the order of the recipe's classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import PlainSerializer, PlainValidator, ValidationInfo
from pydantic_core import PydanticKnownError

from manyeyes.errors import InvalidRecipe, nearest

Named: TypeAlias = "str | tuple[str, ...] | Mapping[Literal['not'], str | tuple[str, ...]]"
"""A vote as a recipe writes it: a class name, several, or ``{"not": …}`` with one name or several."""


def members(vote: object, classes: Sequence[str]) -> tuple[int, ...]:
    """Return the classes that a vote names: indices in ascending order, at least one and not all.

    Raises InvalidRecipe if the vote is no vote, names a class that is not there, or says nothing.

    >>> members("hat", ("dress", "hat", "bag")), members({"not": "hat"}, ("dress", "hat", "bag"))
    ((1,), (0, 2))
    """
    listed, excluded = _listed(vote)
    for name in listed:
        if name not in classes:
            raise InvalidRecipe(
                f"unknown class {name!r}; classes: {', '.join(classes)}{nearest(name, classes)}"
            )
    chosen = {classes.index(name) for name in listed}
    among = {*range(len(classes))} - chosen if excluded else chosen
    if not among:
        raise InvalidRecipe("a vote for none of the classes cannot be right; leave at least one in")
    if len(among) == len(classes):
        raise InvalidRecipe("a vote for every class says nothing; leave at least one out, or the LF")
    return tuple(sorted(among))


def canonical(vote: object, classes: Sequence[str] | None) -> Named:
    """Return the one way to write a vote. Without classes, it is checked only as far as that goes.

    >>> classes = ("dress", "hat", "bag")
    >>> canonical(["bag", "dress"], classes), canonical({"not": ["hat", "bag"]}, classes)
    ({'not': 'hat'}, 'dress')
    """
    if classes is None:
        listed, excluded = _listed(vote)
        return {"not": _short(listed)} if excluded else _short(listed)
    among = members(vote, classes)
    absent = tuple(name for c, name in enumerate(classes) if c not in among)
    if len(among) > 1 and len(absent) < len(among):
        return {"not": _short(absent)}
    return _short(tuple(classes[c] for c in among))


def _listed(vote: object) -> tuple[tuple[str, ...], bool]:
    """Return the class names in a vote, each once, and whether they are those that are left out."""
    excluded = isinstance(vote, Mapping)
    if isinstance(vote, Mapping):
        if list(vote) != ["not"]:
            came = ", ".join(map(str, vote)) or "nothing"
            raise InvalidRecipe(
                f"a vote is a class, a list of classes, or {{not: class}}, got a mapping with {came}"
            )
        vote = vote["not"]
    listed: Sequence[Any] = vote if isinstance(vote, (list, tuple)) else [vote]
    for name in listed:
        if not isinstance(name, str):
            raise InvalidRecipe(
                f"a vote names classes by their names, got {name!r:.60}; put it between quotes"
            )
    if not listed:
        raise InvalidRecipe("a vote names at least one class, got an empty list")
    return tuple(dict.fromkeys(name.strip() for name in listed)), excluded


def _short(listed: tuple[str, ...]) -> str | tuple[str, ...]:
    return listed[0] if len(listed) == 1 else listed


def _read(value: Any, info: ValidationInfo) -> Named:
    if not isinstance(value, (str, list, tuple, Mapping)):
        raise PydanticKnownError("string_type")
    return canonical(value, (info.context or {}).get("classes"))


Vote = Annotated[
    str | tuple[str, ...] | dict[Literal["not"], str | tuple[str, ...]],
    PlainValidator(_read, json_schema_input_type=str | list[str] | dict[Literal["not"], str | list[str]]),
    PlainSerializer(lambda vote: vote, return_type=Any),  # a union would try, and warn of, every other form
]
"""A field that holds a vote, in its canonical form. The classes come as ``context={"classes": …}``."""
