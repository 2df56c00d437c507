"""``kind: python``: a function of your own, named as ``package.module:function``.

::

    {name: mine, kind: python, function: my_rules.labels:is_a_hat}

The function gets an :class:`~manyeyes.types.Item` and returns a class name, None to abstain, or a class name with a
score in [0, 1]. In place of a class name it may return ``["dress", "hat"]``, for "one of these", or ``{"not": "hat"}``,
where ``sets`` says so: what an LF may vote for is known before it votes. With ``reads: [clip, detector]`` it also gets
a dict from feature name to that item's rows. What it raises, or returns against these rules, becomes an error of that
one item, because a bug is not an abstention.

It runs code, so it works in Python, on the command line and in batch jobs, and never in a recipe that comes over HTTP.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from manyeyes.errors import InvalidRecipe, PrimitiveFailed, nearest
from manyeyes.lfs.base import Context, LabelingFunction, LFSpec, VoteColumn
from manyeyes.lfs.partial import Vote, canonical, members
from manyeyes.primitives.base import FeatureSet, Rows
from manyeyes.types import Item, set_name


class PythonSpec(LFSpec):
    """function: "package.module:function". reads: names of features that it gets beside the item.

    sets: the sets of classes that it may return, beside single classes.
    """

    kind: Literal["python"] = "python"
    function: Annotated[
        str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", max_length=300)
    ]
    reads: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    sets: Annotated[tuple[Vote, ...], Field(max_length=1_000)] = ()

    @field_validator("sets")
    @classmethod
    def _only_sets(cls, value: tuple[Vote, ...]) -> tuple[Vote, ...]:
        kept: list[Vote] = []
        for vote in value:
            if vote not in kept and not isinstance(vote, str):  # any single class may be voted for anyway
                kept.append(vote)
        return tuple(kept)


class PythonLF(LabelingFunction):
    """Votes as a Python function says."""

    kind: ClassVar[str] = "python"
    Spec = PythonSpec
    operator_only: ClassVar[bool] = True
    spec: PythonSpec

    _function: Callable[..., Any]

    def __init__(self, spec: PythonSpec, classes: Sequence[str]) -> None:
        super().__init__(spec, classes)
        for vote in spec.sets:
            self.declare(vote)

    @property
    def reads(self) -> tuple[str, ...]:
        return self.spec.reads

    @property
    def version(self) -> str:
        """Hash of the spec, the classes, and the source of the function, once it is imported."""
        source = getattr(self, "_source", "")
        return hashlib.sha256(f"{super().version}{source}".encode()).hexdigest()[:16]

    def prepare(self, context: Context) -> None:
        """Import the function. Raises InvalidRecipe if there is none of that name."""
        module_name, _, path = self.spec.function.partition(":")
        try:
            target: Any = import_module(module_name)
        except ModuleNotFoundError as error:
            raise InvalidRecipe(
                f"LF {self.name!r}: no module named {error.name!r}; Python looked in {', '.join(sys.path) or '.'}"
            ) from error
        for part in path.split("."):
            if not hasattr(target, part):
                raise InvalidRecipe(
                    f"LF {self.name!r}: {module_name!r} has no {path!r}{nearest(part, _public(target))}"
                )
            target = getattr(target, part)
        if not callable(target):
            raise InvalidRecipe(
                f"LF {self.name!r}: {self.spec.function!r} is no function, but {type(target).__name__}"
            )
        self._function = target
        try:
            self._source = inspect.getsource(target)
        except (OSError, TypeError):  # built in, or made at run time
            self._source = ""

    def vote(self, features: FeatureSet) -> VoteColumn:
        column = self.empty(len(features))
        errors = {}
        for row, item in enumerate(features.items):
            if row in features.errors:
                continue
            # Whatever a stranger's function raises is wrong with this item alone.
            try:
                answer = self._ask(item, row, features)
                if answer is not None:
                    column.classes[row], column.scores[row] = answer
            except Exception as error:
                errors[row] = PrimitiveFailed(
                    f"LF {self.name!r} ({self.spec.function}) failed on item {item.id!r}: {type(error).__name__}:"
                    f" {error}"
                )
        return VoteColumn(column.classes, column.scores, errors)

    def _ask(self, item: Item, row: int, features: FeatureSet) -> tuple[int, float] | None:
        answer = self._function(item, self._rows(features, row)) if self.reads else self._function(item)
        if answer is None:
            return None
        vote, score = answer, np.nan
        if isinstance(answer, tuple):
            if len(answer) != 2:
                raise ValueError(f"it returned a tuple of {len(answer)}; allowed: (class, score)")
            vote, score = answer
        if isinstance(vote, str) and vote not in self.classes:
            raise ValueError(
                f"it returned {answer!r}; allowed: None, one of {', '.join(self.classes)}, or (class, score)"
                f"{nearest(vote, self.classes)}"
            )
        if not (isinstance(score, (float, int)) and (np.isnan(score) or 0 <= score <= 1)):
            raise ValueError(f"it returned the score {score!r}; a score is a probability in [0, 1]")
        among = members(vote, self.classes)
        if len(among) > 1 and among not in self.sets:
            told = canonical(vote, self.classes)
            raise ValueError(
                f"it returned {answer!r}, which is no set that the recipe names: it may return"
                f" {' and '.join(set_name(self.classes, s) for s in self.sets) or 'single classes only'}; add"
                f" {list(told) if isinstance(told, tuple) else told} to the LF's sets"
            )
        return self.value_of(vote), float(score)

    def _rows(self, features: FeatureSet, row: int) -> Mapping[str, Rows]:
        rows = {}
        for name in self.reads:
            block = features[name]
            start, stop = (row, row + 1) if block.offsets is None else block.offsets[row : row + 2]
            rows[name] = block.rows[start:stop] if block.present[row] else block.rows[:0]
        return rows


def _public(target: object) -> list[str]:
    return [name for name in dir(target) if not name.startswith("_")]
