"""How much may be asked of an endpoint: calls and money, counted while calls run side by side."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from manyeyes.endpoints import Endpoint
from manyeyes.primitives.chat_wire import Reply

logger = logging.getLogger(__name__)

_CHARS_A_TOKEN: Final = 3
_PIXELS_A_TOKEN: Final = 750


class Budget:
    """So many calls and so much money. whose: what it is called in the warning that it is used up.

    A call reserves what it will probably cost, so that calls side by side do not spend the same money twice.
    """

    def __init__(self, whose: str, max_calls: int | None, max_cost: float | None) -> None:
        self.whose = whose
        self.max_calls = max_calls
        self.max_cost = max_cost
        self.calls = 0
        self.cost = 0.0
        self._reserved = 0.0
        self._dearest = 0.0
        self._told = False
        self._lock = threading.Lock()

    def take(self, estimate: float) -> float | None:
        """Reserve one call; return what was reserved, or None if it does not fit any more.

        estimate: its probable cost, until a real one is known; then the dearest so far counts.
        """
        with self._lock:
            reserved = self._dearest or estimate
            spent_calls = self.max_calls is not None and self.calls >= self.max_calls
            spent_cost = self.max_cost is not None and self.cost + self._reserved + reserved > self.max_cost
            if not (spent_calls or spent_cost):
                self.calls += 1
                self._reserved += reserved
                return reserved
            first, self._told = not self._told, True
        if first:
            limit = f"max_calls {self.max_calls:,}" if spent_calls else f"max_cost {self.max_cost:g}"
            logger.warning(
                "the budget %s is used up (%s); what is not in the cache is not asked any more, and the functions that"
                " would ask abstain",
                self.whose,
                limit,
            )
        return None

    def settle(self, reserved: float, cost: float, *, counts: bool = True) -> None:
        """Replace what was reserved by what it cost; where it does not count, the call was never made."""
        with self._lock:
            self._reserved -= reserved
            self.cost += cost
            self._dearest = max(self._dearest, cost)
            if not counts:
                self.calls -= 1


@dataclass
class Payment:
    """What one call costs. unknown: it may have been charged, though no answer says how much."""

    endpoint: Endpoint
    estimate: float
    cost: float = 0.0
    unknown: bool = False

    def settle(self, reply: Reply) -> None:
        """Take the cost from what the endpoint says it used, else estimate it."""
        prices = self.endpoint.prices
        if prices is None:
            return
        if reply.tokens_in is None or reply.tokens_out is None:
            self.cost = self.estimate
            return
        self.cost = (reply.tokens_in * prices.input + reply.tokens_out * prices.output) / 1e6


@contextlib.contextmanager
def paying(
    budgets: Sequence[Budget], endpoint: Endpoint, body: Mapping[str, Any]
) -> Iterator[Payment | None]:
    """Reserve a call in every budget and settle it afterwards; give None if one of them does not allow it."""
    estimate = estimated_cost(endpoint, body)
    taken: list[tuple[Budget, float]] = []
    for budget in budgets:
        reserved = budget.take(estimate)
        if reserved is None:
            for other, amount in taken:
                other.settle(amount, 0.0, counts=False)
            yield None
            return
        taken.append((budget, reserved))
    payment = Payment(endpoint, estimate)
    try:
        yield payment
    finally:
        cost = estimate if payment.unknown else payment.cost
        for budget, amount in taken:
            budget.settle(amount, cost)


def estimated_cost(endpoint: Endpoint, body: Mapping[str, Any]) -> float:
    """Return what a call will cost at most, roughly: three characters a token, 750 pixels a token, a full answer."""
    if endpoint.prices is None:
        return 0.0
    chars = images = 0
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        chars += sum(len(part["text"]) for part in parts if part["type"] == "text")
        images += sum(part["type"] != "text" for part in parts)
    tokens_in = chars / _CHARS_A_TOKEN + images * endpoint.max_side**2 / _PIXELS_A_TOKEN
    limits = (endpoint.parameters.get(name) for name in ("max_tokens", "max_completion_tokens"))
    tokens_out = max((limit for limit in limits if type(limit) is int), default=1_000)
    return (tokens_in * endpoint.prices.input + tokens_out * endpoint.prices.output) / 1e6


@dataclass
class Tally:
    """What became of the questions of one LF."""

    answered: int = 0
    failed: int = 0
    not_asked: int = 0
    calls: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    over_budget: bool = False
    resting: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(
        self, *, calls: int = 0, retries: int = 0, tokens_in: int = 0, tokens_out: int = 0, cost: float = 0.0
    ) -> None:
        """Count; from any thread."""
        with self._lock:
            self.calls += calls
            self.retries += retries
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out
            self.cost += cost

    def count(self, outcomes: Sequence[object]) -> None:
        """Count what became of some items."""
        with self._lock:
            for outcome in outcomes:
                if outcome is None:
                    self.not_asked += 1
                elif isinstance(outcome, Exception):
                    self.failed += 1
                else:
                    self.answered += 1

    def notes(self, name: str, endpoint: str, *, priced: bool) -> list[str]:
        """Return in words what was asked, and what was not and why; nothing where nothing had to be asked."""
        if not (self.answered or self.failed or self.not_asked):
            return []
        cost = f", cost {self.cost:.4g}" if priced else ""
        told = [
            f"{name} asked {endpoint}: {self.answered:,} items answered in {self.calls:,} calls ({self.retries:,} of"
            f" them tries again), {self.tokens_in:,} tokens in and {self.tokens_out:,} out{cost}."
        ]
        if self.failed:
            told.append(
                f"{name}: {endpoint} failed on {self.failed:,} items, which are errors; label them again."
            )
        if self.not_asked:
            reasons = [
                *(["a budget is used up"] if self.over_budget else []),
                *(["the endpoint does not answer"] if self.resting or not self.over_budget else []),
            ]
            told.append(
                f"{name} abstained on {self.not_asked:,} items that it did not ask about: {' and '.join(reasons)}."
            )
        return told
