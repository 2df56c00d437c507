"""What ``detect`` and ``metadata`` LFs share: conditions with a vote each, of which the first that holds decides."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import LabelingFunction, LFSpec, VoteColumn
from manyeyes.lfs.columns import Evaluation, Mask, Source
from manyeyes.lfs.expressions import Expression, parse
from manyeyes.lfs.partial import Named, Vote
from manyeyes.lfs.vocabulary import Vocabulary
from manyeyes.types import ABSTAIN


class Rule(BaseModel):
    """One condition and what to vote for where it holds: a class, or several."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)
    vocabulary: ClassVar[Vocabulary]

    when: str
    vote: Vote

    @field_validator("when")
    @classmethod
    def _canonical(cls, value: str) -> str:
        return parse(value, cls.vocabulary).text


class RulesSpec(LFSpec):
    """A condition and a vote, or a list of them. A kind narrows ``rules`` to rules of its own vocabulary."""

    vocabulary: ClassVar[Vocabulary]

    when: str | None = None
    vote: Vote | None = None
    rules: Annotated[tuple[Rule, ...], Field(max_length=1_000)] = ()

    @field_validator("when")
    @classmethod
    def _canonical(cls, value: str | None) -> str | None:
        return None if value is None else parse(value, cls.vocabulary).text

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        single = (self.when is not None, self.vote is not None)
        if self.rules and any(single):
            raise InvalidRecipe("when and vote stand beside rules; write one or the other")
        if not self.rules and not all(single):
            missing = "when" if not single[0] else "vote"
            raise InvalidRecipe(f"{missing} is missing; an LF of this kind needs when and vote, or rules")
        if len(self.rules) == 1:  # the same LF as its short form, so it must have the same version
            rule = self.rules[0]
            for field, value in {"when": rule.when, "vote": rule.vote, "rules": ()}.items():
                object.__setattr__(self, field, value)
        return self

    def conditions(self) -> list[tuple[Expression, Named]]:
        """Return the conditions in order, each with its vote."""
        written: list[tuple[str, Named]] = [(rule.when, rule.vote) for rule in self.rules]
        if self.when is not None and self.vote is not None:
            written = [(self.when, self.vote)]
        return [(parse(when, self.vocabulary), vote) for when, vote in written]


class RulesLF(LabelingFunction):
    """Votes as the first rule says whose condition is known to hold; hard votes."""

    spec: RulesSpec

    def __init__(self, spec: RulesSpec, classes: tuple[str, ...]) -> None:
        super().__init__(spec, classes)
        self.conditions = [(expression, self.declare(vote)) for expression, vote in spec.conditions()]

    def names(self) -> set[str]:
        """Return every label and field that the conditions hand to functions."""
        return {label for expression, _ in self.conditions for label in expression.labels}

    def variables(self) -> set[str]:
        """Return every bare name in the conditions."""
        return {name for expression, _ in self.conditions for name in expression.variables}

    def decide(self, source: Source, present: Mask) -> VoteColumn:
        """Return the votes. present: bool, shape (n_items,); where the LF has something to go by."""
        column = self.empty(len(present))
        evaluation = Evaluation(source, len(present))
        for expression, vote in self.conditions:
            holds = evaluation.value(expression.node).true
            column.classes[holds & present & (column.classes == ABSTAIN)] = np.int16(vote)
        return column
