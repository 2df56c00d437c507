"""What the pipeline tells of its work while it does it, for whoever counts: metrics, traces, a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol, TypeAlias

Loss: TypeAlias = Literal["gone", "expired", "refused"]
"""Why work was not done: the caller left, the call's time was over, or it was never taken on."""


class Observer(Protocol):
    """Is told what happens, from any thread; its methods return at once and raise nothing.

    line: a queue in front of one model, by the version of its primitive. Seconds are of wall-clock time.
    """

    def queued(self, line: str, n_items: int) -> None:
        """So many items wait in a line now."""

    def waited(self, line: str, seconds: float) -> None:
        """An item waited so long in a line before its batch began."""

    def inferred(self, line: str, n_items: int, seconds: float) -> None:
        """A model has seen a batch."""

    def decoded(self, seconds: float) -> None:
        """An image has been read, decoded and reduced to what models see."""

    def lost(self, n_items: int, why: Loss) -> None:
        """Items of a call were not labeled."""

    def voted(self, recipe: str, votes: Mapping[str, Mapping[str, int]]) -> None:
        """A stored recipe's LFs have voted. votes: LF → class, "several" for a set of classes, or "abstain" → items."""

    def restarted(self, stage: str) -> None:
        """The thread of a stage died and another has taken its place."""


class Nobody:
    """Listens to nothing."""

    def queued(self, line: str, n_items: int) -> None:
        return

    def waited(self, line: str, seconds: float) -> None:
        return

    def inferred(self, line: str, n_items: int, seconds: float) -> None:
        return

    def decoded(self, seconds: float) -> None:
        return

    def lost(self, n_items: int, why: Loss) -> None:
        return

    def voted(self, recipe: str, votes: Mapping[str, Mapping[str, int]]) -> None:
        return

    def restarted(self, stage: str) -> None:
        return


NOBODY: Final[Observer] = Nobody()
