"""Suggested labeling functions (LFs): candidates with how often each is right, to accept or drop.

With gold labels, a candidate is made from some of them and judged by the others, all in turn, so that none is judged by
what it was made from. Without, the classes' names and the clusters of the items give presumed labels to make candidates
from, and a label model over all candidates says how often each is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest
from manyeyes.lfs.analysis import summarize, wilson
from manyeyes.lfs.base import LabelingFunction
from manyeyes.lfs.build import collect_votes
from manyeyes.lfs.suggest_prompts import propose_examples, propose_names, propose_prompts
from manyeyes.lfs.suggest_tree import propose_facts, propose_objects
from manyeyes.lfs.suggest_view import Document, Known, View, folds, rows_of
from manyeyes.lfs.suggest_words import propose_words
from manyeyes.registry import load
from manyeyes.types import ABSTAIN, Votes

FAMILIES: Final[dict[str, Callable[[View, Known], list[Document]]]] = {
    "names": propose_names,
    "prompts": propose_prompts,
    "examples": propose_examples,
    "words": propose_words,
    "objects": propose_objects,
    "facts": propose_facts,
}
"""What candidates are made of; each function proposes some from known labels."""
_FOLDS: Final = 5
_SEED: Final = 20_260_102
_MOST: Final = 12
_LEAST_GAIN: Final = 0.005
_RIGHT: Final = 0.5
"""What is wrong more often than right is not taken, even where chance is worse."""
_SAME_PRIMITIVE: Final = 0.5
_OTHER: Final = 0.8
_PRESUMED: Final = 400


@dataclass(frozen=True)
class Suggestion:
    """A candidate LF. family: what it was made of. document: as a recipe writes it.

    coverage: the share of all items on which it votes. precision: how often its votes are right; None where nothing can
    be told. interval: the ends of its 95 % interval, None without gold labels. n_judged: known items it rests on.
    gain: what it adds to those chosen before it, as a share of items; chosen: whether it adds enough to be taken.
    """

    family: str
    document: Document
    votes_for: tuple[str, ...]
    coverage: float
    precision: float | None
    interval: tuple[float, float] | None
    n_judged: int
    gain: float = 0.0
    chosen: bool = False
    votes: npt.NDArray[Any] = field(
        default_factory=lambda: np.empty(0, dtype=np.int8), repr=False, compare=False
    )
    reads: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.document["name"])


def suggest(
    view: View,
    known: Known | None,
    *,
    there: Sequence[LabelingFunction] = (),
    families: Sequence[str] = tuple(FAMILIES),
    most: int = _MOST,
) -> list[Suggestion]:
    """Return candidates, those that are worth taking first, in the order in which they add most.

    known: gold labels; None makes do without. there: LFs that the recipe has already, prepared; what they cover counts
    less. families: names of FAMILIES. most: how many are chosen at most.
    Raises InvalidRequest if there are fewer than two known labels of two classes each, or nothing to presume any from.
    """
    gold = known is not None
    known = known if known is not None else presumed(view)
    if (np.bincount(known.labels, minlength=len(view.classes)) >= 2).sum() < 2:
        raise InvalidRequest(
            f"{len(known.labels)} labels are known, and too few of two classes; suggestions need at least two of each"
        )
    taken = {lf.name for lf in there}
    documents = [(family, document) for family in families for document in FAMILIES[family](view, known)]
    lfs = [view.lf(document) for _, document in documents]
    votes, _ = collect_votes(lfs, view.features, view.classes)
    judged = _judge(view, known, families) if gold else {}
    estimated = {} if gold else _estimate(votes)
    suggestions = []
    for (family, document), lf, column in zip(documents, lfs, votes.classes.T, strict=True):
        voted = column[column != ABSTAIN]
        right, tried = judged.get(lf.name, (0, 0))
        precision = right / tried if tried else estimated.get(lf.name)
        suggestions.append(
            Suggestion(
                family=family,
                document={**document, "name": _free(lf.name, taken)},
                votes_for=tuple(votes.value_names[value] for value in np.unique(voted).tolist()),
                coverage=len(voted) / max(1, len(view)),
                precision=precision,
                interval=wilson(right, tried) if tried else None,
                n_judged=tried,
                votes=column,
                reads=lf.reads,
            )
        )
        taken.add(suggestions[-1].name)
    prior = np.bincount(known.labels, minlength=len(view.classes)) / len(known.labels)
    held = _columns(there, view)
    return _select(suggestions, prior, held, most)


def presumed(view: View) -> Known:
    """Return labels that the names of the classes and the clusters of the items suggest, of at most 400 items.

    An item gets the class that its name prompt votes for, where most of its cluster has the same one.
    Raises InvalidRequest if no encoder sees the items.
    """
    from manyeyes.lfs.suggest_clusters import cluster_labels

    found = [cluster_labels(view, document) for document in propose_names(view)]
    if not found:
        raise InvalidRequest(
            "without gold labels, suggestions start from images or texts that an encoder has embedded, and there are"
            " none; give some gold labels (--gold), or items with images or texts"
        )
    labels = found[0]
    for other in found[1:]:
        labels = np.where(labels == ABSTAIN, other, labels)
    rng = np.random.default_rng(_SEED)
    rows = []
    share = max(2, _PRESUMED // len(view.classes))
    for c in range(len(view.classes)):
        mine = np.flatnonzero(labels == c)
        rows.append(rng.permutation(mine)[:share])
    chosen = np.sort(np.concatenate(rows)).astype(np.int64)
    return Known(chosen, labels[chosen].astype(np.int64))


def _judge(view: View, known: Known, families: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return for each candidate how many votes on known items that it was not made from were right, of how many."""
    counts: dict[str, list[int]] = {}
    for made_from, judged_by in folds(known, _FOLDS, np.random.default_rng(_SEED)):
        rows, labels = known.among(judged_by)
        part = rows_of(view.features, rows)
        for family in families:
            for document in FAMILIES[family](view, known.among(made_from)):
                lf = view.lf(document)
                votes = lf.vote(part).classes
                tally = counts.setdefault(lf.name, [0, 0])
                tally[0] += int((votes == labels).sum())
                tally[1] += int((votes != ABSTAIN).sum())
    return {name: (right, tried) for name, (right, tried) in counts.items()}


def _estimate(votes: Votes) -> dict[str, float | None]:
    """Return how often each candidate is right as far as a label model over all of them can tell."""
    if votes.n_lfs < 2:
        return {}
    model = load("manyeyes.label_models", "dependency_aware")().fit(votes, shared=votes.shared)
    return {lf.name: lf.estimated_accuracy for lf in summarize(votes, label_model=model).lfs}


def _select(
    suggestions: list[Suggestion],
    prior: npt.NDArray[np.float64],
    held: list[tuple[npt.NDArray[Any], tuple[str, ...]]],
    most: int,
) -> list[Suggestion]:
    """Choose greedily by what each adds: its votes, by how much better than chance they are, less what is covered.

    An item on which chosen LFs vote already counts half for one that reads the same primitive, and four fifths for
    another: their errors are the less independent.
    """
    worth = np.array([_worth(suggestion, prior) for suggestion in suggestions])
    left = [i for i, s in enumerate(suggestions) if worth[i] > 0 and (s.precision or 0.0) > _RIGHT]
    room = [np.ones(len(s.votes)) for s in suggestions]
    for column, reads in held:
        _fill(room, suggestions, column, reads)
    chosen: list[Suggestion] = []
    while left and len(chosen) < most:
        gains = [float(worth[i] * (room[i] * (suggestions[i].votes != ABSTAIN)).mean()) for i in left]
        best = int(np.argmax(gains))
        if gains[best] < _LEAST_GAIN:
            break
        i = left.pop(best)
        chosen.append(replace(suggestions[i], gain=gains[best], chosen=True))
        _fill(room, suggestions, suggestions[i].votes, suggestions[i].reads)
    names = {suggestion.name for suggestion in chosen}
    rest = sorted(
        (s for s in suggestions if s.name not in names), key=lambda s: -_worth(s, prior) * s.coverage
    )
    return [*chosen, *rest]


def _fill(
    room: list[npt.NDArray[np.float64]],
    suggestions: list[Suggestion],
    column: npt.NDArray[Any],
    reads: tuple[str, ...],
) -> None:
    voted = column != ABSTAIN
    for i, suggestion in enumerate(suggestions):
        room[i][voted] *= _SAME_PRIMITIVE if set(reads) & set(suggestion.reads) else _OTHER


def _worth(suggestion: Suggestion, prior: npt.NDArray[np.float64]) -> float:
    """Return how much better than chance the votes are, taken halfway down the interval; 0 where nobody can tell."""
    if suggestion.precision is None:
        return 0.0
    low = suggestion.precision if suggestion.interval is None else suggestion.interval[0]
    voted = suggestion.votes[(suggestion.votes != ABSTAIN) & (suggestion.votes < len(prior))]
    chance = float(prior[voted].mean()) if len(voted) else 1.0
    return max(0.0, ((suggestion.precision + low) / 2 - chance) / max(1e-9, 1 - chance))


def _columns(lfs: Sequence[LabelingFunction], view: View) -> list[tuple[npt.NDArray[Any], tuple[str, ...]]]:
    return [(lf.vote(view.features).classes, lf.reads) for lf in lfs]


def _free(name: str, taken: set[str]) -> str:
    free, n = name, 2
    while free in taken:
        free, n = f"{name}_{n}", n + 1
    return free
