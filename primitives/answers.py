"""What a model's reply says: which of the listed answers it is, and how probable each of them was.

A reply counts as a listed answer if the two are equal, or if the reply begins with it and names no other one. Case,
white space and punctuation do not count. Everything else is no answer.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from manyeyes.types import FloatArray

_THOUGHT: Final = re.compile(r"^\s*<think>.*?</think>", flags=re.S)


class Token(NamedTuple):
    """One token of a reply. logprob: natural logarithm. top: what else could have stood here, with its logprob."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@lru_cache(maxsize=4096)
def comparable(text: str) -> str:
    """Return a text as replies are compared: case-folded words with single spaces and no punctuation.

    >>> comparable(' **T-Shirt**. '), comparable("Ja!")
    ('t shirt', 'ja')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in folded)
    return " ".join("".join(kept).split())


def without_thought(reply: str) -> str:
    """Return a reply without the thoughts that some models write before it, in ``<think>`` and ``</think>``."""
    return _THOUGHT.sub("", reply, count=1)


def match(reply: str, answers: Sequence[str]) -> int:
    """Return which answer a reply is, −1 for none of them.

    answers: as `comparable` returns them. Of several that the reply begins with, the longest is meant.

    >>> match("Hat, I think.", ["hat", "t shirt"]), match("hat or T-shirt", ["hat", "t shirt"]), match("a hat", ["hat"])
    (0, -1, -1)
    """
    said = comparable(reply)
    for i, answer in enumerate(answers):
        if said == answer:
            return i
    begins = [i for i, answer in enumerate(answers) if said.startswith(answer + " ")]
    if not begins:
        return -1
    best = max(begins, key=lambda i: len(answers[i]))
    rest = f" {said[len(answers[best]) :]} "
    others = (answer for i, answer in enumerate(answers) if i != best)
    return -1 if any(f" {other} " in rest for other in others) else best


def log_probability(tokens: Sequence[Token], answer: str) -> float:
    """Return the sum of the log-probabilities of the tokens that spell an answer; NaN if they do not.

    answer: as `comparable` returns it.
    """
    said, total = "", 0.0
    for token in tokens:
        said += token.text
        total += min(token.logprob, 0.0)
        if comparable(said) == answer or comparable(said).startswith(answer + " "):
            return total
    return math.nan


def masses(tokens: Sequence[Token], answers: Sequence[str]) -> FloatArray | None:
    """Return how much probability went to each listed answer: float32, shape (n_answers,); None where it is not known.

    At each token of the reply, the alternatives that the endpoint names stand for the answers that begin so; what fits
    several is shared between them evenly. Beyond the alternatives that are named, nothing is known, and counts as zero.

    >>> told = (Token("gown", math.log(0.75), (("gown", math.log(0.75)), ("cap", math.log(0.125)))),)
    >>> masses(told, ["gown", "cap", "shoe"]).tolist()
    [0.75, 0.125, 0.0]
    """
    if not any(token.top for token in tokens):
        return None
    found = np.zeros(len(answers), dtype=np.float64)
    path, logprob = "", 0.0
    for token in tokens:
        for text, alternative in token.top:
            if text != token.text:
                _share(found, path + text, logprob + min(alternative, 0.0), answers)
        path += token.text
        logprob += min(token.logprob, 0.0)
        if comparable(path) and len(_fitting(path, answers)) <= 1:
            _share(found, path, logprob, answers)
            break
    else:
        # The reply is over: what it is decides, not what it might have become.
        said = match(path, answers)
        if said >= 0:
            found[said] += math.exp(logprob)
    return found.astype(np.float32)


def _share(found: npt.NDArray[np.float64], text: str, logprob: float, answers: Sequence[str]) -> None:
    fitting = _fitting(text, answers)
    if fitting and comparable(text) and not math.isnan(logprob):
        found[fitting] += math.exp(logprob) / len(fitting)


def _fitting(text: str, answers: Sequence[str]) -> list[int]:
    """Return the answers that a reply which begins with a text may still be."""
    said = comparable(text)
    return [
        i
        for i, answer in enumerate(answers)
        if answer.startswith(said) or f"{said} ".startswith(answer + " ")
    ]
