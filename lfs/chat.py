"""``kind: chat``: a question put to a language model, with or without eyes, and what each answer means.

::

    {name: asked, kind: chat, endpoint: local-vlm, question: "Which garment is this?",
     answers: {gown: dress, cap: hat, something else: null}}

The endpoint is one that the operator configured; see :mod:`manyeyes.endpoints`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from manyeyes.endpoints import NAME, endpoints
from manyeyes.errors import InvalidRecipe, InvalidSettings
from manyeyes.lfs.base import LabelingFunction, LFSpec, Number, VoteColumn
from manyeyes.lfs.partial import Vote
from manyeyes.primitives.answers import comparable
from manyeyes.primitives.base import FeatureSet, Primitive
from manyeyes.primitives.chat import ChatPrimitive
from manyeyes.types import ABSTAIN, FloatArray

MAX_ANSWERS: Final = 100


def _in_order(answers: dict[str, Vote | None]) -> dict[str, Vote | None]:
    # A recipe's canonical form sorts keys, and the order of the answers is part of what is asked.
    return {name: answers[name] for name in sorted(answers)}


Answer = Annotated[str, Field(min_length=1, max_length=100)]
Answers = Annotated[dict[Answer, Vote | None], Field(max_length=MAX_ANSWERS), AfterValidator(_in_order)]


class ChatSpec(LFSpec):
    """What is asked of whom, and which answer is which vote.

    endpoint: a name in the operator's file of endpoints. question: put to each item by itself.
    answers: what may be answered, and the vote that it is; null abstains. Left out, the classes' names are the answers.
    on: what the model is shown; "both" takes items that have image and text. threshold: the least score to vote, where
        the endpoint gives scores. max_calls, max_cost: beyond which nothing is asked any more, counted in one process.
    """

    kind: Literal["chat"] = "chat"
    endpoint: str = Field(pattern=NAME)
    question: str = Field(min_length=1, max_length=4_000)
    answers: Answers = Field(default_factory=dict)
    on: Literal["image", "text", "both"] = "image"
    threshold: Number = Field(default=0.0, ge=0.0, le=1.0)
    max_calls: int | None = Field(default=None, ge=0, le=10**9)
    max_cost: Annotated[Number, Field(ge=0.0, allow_inf_nan=False)] | None = None

    def refused_from_outside(self) -> str | None:
        """Return why a recipe from outside may not ask this endpoint: only what the operator opened to all may be."""
        try:
            known = {name for name, endpoint in endpoints().items() if endpoint.from_outside}
        except InvalidSettings:
            known = set()
        if self.endpoint in known:
            return None
        return (
            f"endpoint: {self.endpoint!r} is not open to recipes from outside; those that are:"
            f" {', '.join(sorted(known)) or 'none'}"
        )


class ChatLF(LabelingFunction):
    """Votes for what a model's answer means; abstains on an answer that is not listed.

    The score is the share of the listed answers' probability that went to answers with this vote, where the endpoint
    tells alternatives; the probability of the answer itself where it tells only that; else there is none.
    """

    kind: ClassVar[str] = "chat"
    Spec = ChatSpec
    spec: ChatSpec

    def __init__(self, spec: ChatSpec, classes: Sequence[str]) -> None:
        super().__init__(spec, classes)
        answers: Mapping[str, Vote | None] = spec.answers or {name: name for name in sorted(classes)}
        _refuse_alike(answers)
        # One entry an answer; what the model says beside them is the last.
        self._votes = np.array(
            [*(ABSTAIN if vote is None else self.declare(vote) for vote in answers.values()), ABSTAIN],
            dtype=np.int64,
        )
        if (self._votes == ABSTAIN).all():
            raise InvalidRecipe("answers: every answer abstains; at least one must be a vote")
        self._primitive = ChatPrimitive(
            f"lf:{spec.name}",
            endpoint=spec.endpoint,
            question=spec.question,
            answers=tuple(answers),
            on=spec.on,
            max_calls=spec.max_calls,
            max_cost=spec.max_cost,
        )

    @property
    def reads(self) -> tuple[str, ...]:
        return (self._primitive.name,)

    @property
    def shares(self) -> tuple[str, ...]:
        """Whatever is asked, it is the same model that errs."""
        return (*self.reads, f"chat:{self.spec.endpoint}")

    @property
    def primitives(self) -> Mapping[str, Primitive]:
        return {self._primitive.name: self._primitive}

    def prepare(self, context: object) -> None:
        """Find the endpoint, before any model runs. Raises InvalidRecipe if there is none, or it tells no prices."""
        endpoint = self._primitive.endpoint
        if self.spec.max_cost is not None and endpoint.prices is None:
            raise InvalidRecipe(
                f"LF {self.name!r} has a max_cost, but the endpoint {self.spec.endpoint!r} has no prices; the operator"
                " writes them there, or take max_calls"
            )

    def vote(self, features: FeatureSet) -> VoteColumn:
        block = features[self._primitive.name]
        column = self.empty(len(features))
        answers = np.where(block.present, block["answer"], len(self._votes) - 1)
        votes = self._votes[answers]
        scores = self._scores(votes, block["masses"], block["logprob"])
        sure = ~(scores < self.spec.threshold)
        column.classes[:] = np.where(sure, votes, ABSTAIN)
        column.scores[:] = np.where(column.classes == ABSTAIN, np.nan, scores)
        return column

    def _scores(
        self,
        votes: npt.NDArray[np.int64],
        masses: FloatArray,
        logprobs: FloatArray,
    ) -> npt.NDArray[np.float64]:
        """Return the probability of each vote: float64, shape (n_items,); NaN where nothing is known."""
        same = self._votes[:-1] == votes[:, None]
        told = masses.astype(np.float64)
        total = told.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(same, told, 0.0).sum(axis=1) / total
        alone = np.exp(np.minimum(logprobs.astype(np.float64), 0.0))
        scores: npt.NDArray[np.float64] = np.clip(np.where(total > 0, share, alone), 0.0, 1.0)
        return scores


def _refuse_alike(answers: Mapping[str, object]) -> None:
    seen: dict[str, str] = {}
    for answer in answers:
        word = comparable(answer)
        if not word:
            raise InvalidRecipe(f"answers: {answer!r} has no letter and no digit, so it cannot be recognised")
        if word in seen:
            raise InvalidRecipe(
                f"answers: {seen[word]!r} and {answer!r} differ only in case, spaces or punctuation, which do not"
                " count; keep one"
            )
        seen[word] = answer
