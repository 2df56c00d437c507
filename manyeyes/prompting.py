"""Prompts tried out on items: which match best, which are borderline, what a threshold would cover.

    view = try_prompt("a photo of a dress", items)
    view.ids[view.top[0]], view.coverage, view.suggested

The command line and web pages show what is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest, ItemError, nearest
from manyeyes.labeler import Labeler, extractor_for, gold_indices
from manyeyes.lfs.build import build_lf, collect_votes
from manyeyes.lfs.prompt import PromptLF
from manyeyes.lfs.prompt_calibration import two_heaps
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor
from manyeyes.recipe import Recipe
from manyeyes.settings import home
from manyeyes.types import ABSTAIN, FloatArray, Item, Votes

NAME: Final = "prompt"
_MATCH, _OTHER = "match", "other"
_CHUNK: Final = 512
_GRID: Final = tuple(round(0.05 * step, 2) for step in range(1, 20))
_LEAST_GAP: Final = 2.0

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Agreement:
    """What a prompt and one LF of a recipe have to do with each other, on the items on which the prompt votes.

    overlaps, conflicts: shares of those items on which the LF votes, and votes otherwise; None where the prompt was
    given no class. says: the LF's votes there, most frequent first: (vote, items). covers: share of the LF's own votes
    that fall on items on which the prompt votes.
    """

    lf: str
    overlaps: float
    conflicts: float | None
    covers: float
    says: tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class PromptView:
    """How a prompt does on some items.

    scores: float32, shape (n_items,): the probability that an item matches; NaN where it lacks what is compared.
    top, borderline, bottom: rows, the most telling first. threshold: the one asked about.
    suggested: where the scores fall apart, or the best on gold; None where they do not. right: share of the prompt's
    votes that gold confirms, None without gold.
    """

    prompts: tuple[str, ...]
    against: tuple[str, ...]
    background: tuple[str, ...]
    vote: str | None
    ids: tuple[str, ...]
    scores: FloatArray
    threshold: float
    suggested: float | None
    top: tuple[int, ...]
    borderline: tuple[int, ...]
    bottom: tuple[int, ...]
    agreements: tuple[Agreement, ...]
    right: float | None
    errors: Mapping[int, ItemError]

    @property
    def coverage(self) -> float:
        """The share of the items that the prompt votes on at its threshold."""
        return self.share_at(self.threshold)

    @property
    def coverage_at(self) -> tuple[tuple[float, float], ...]:
        """What other thresholds would cover: (threshold, share of the items)."""
        return tuple((least, self.share_at(least)) for least in _GRID)

    def share_at(self, threshold: float) -> float:
        """Return the share of the items that a threshold covers."""
        return float((self.scores >= threshold).mean()) if len(self.scores) else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the view as plain values, with the rows that are shown and every item's score."""

        def row(index: int) -> dict[str, Any]:
            return {"id": self.ids[index], "score": float(self.scores[index])}

        return {
            "prompts": list(self.prompts),
            "against": list(self.against),
            "background": list(self.background),
            "vote": self.vote,
            "n_items": len(self.ids),
            "n_errors": len(self.errors),
            "threshold": self.threshold,
            "suggested_threshold": self.suggested,
            "coverage": self.coverage,
            "coverage_at": [list(pair) for pair in self.coverage_at],
            "right": self.right,
            "agreements": [
                {
                    "lf": a.lf,
                    "overlaps": a.overlaps,
                    "conflicts": a.conflicts,
                    "covers": a.covers,
                    "says": [list(pair) for pair in a.says],
                }
                for a in self.agreements
            ],
            "top": [row(index) for index in self.top],
            "borderline": [row(index) for index in self.borderline],
            "bottom": [row(index) for index in self.bottom],
            "scores": {
                self.ids[i]: None if np.isnan(score) else float(score) for i, score in enumerate(self.scores)
            },
        }


def try_prompt(
    prompts: str | Sequence[str],
    items: Iterable[Item],
    *,
    against: Sequence[str] = (),
    background: Sequence[str] = ("standard",),
    on: str = "image",
    using: str = "",
    templates: Sequence[str] = (),
    threshold: float | None = None,
    recipe: Recipe | None = None,
    vote: str | None = None,
    gold: Mapping[str, str] | None = None,
    n_shown: int = 12,
    extractor: Extractor | None = None,
    progress: Progress | None = None,
) -> PromptView:
    """Return how well some items match a prompt.

    prompts: one sentence, or several for the same thing. against, background, on, using, templates: as in a recipe.
    threshold: the least probability to vote; without one, the suggested one, else 0.5. recipe: whose encoder is used,
    and with whose LFs the prompt is compared. vote: the class that it would vote for; without one, a class whose name
    is in the prompt. gold: item id → class. n_shown: rows for each of top, borderline and bottom.
    Raises InvalidRecipe if the prompt cannot be used, InvalidRequest if the class is not one of the recipe.
    """
    said = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    vote = _class_of(said, vote, recipe)
    alone = _recipe_of(
        said, against=against, background=background, on=on, using=using, templates=templates, recipe=recipe
    )
    lf = build_lf(alone.lfs[0], alone.classes)
    assert isinstance(lf, PromptLF)
    others = Labeler(recipe, extractor=extractor) if recipe is not None else None
    if others is not None and extractor is None:
        extractor = _shared(others, alone)
    elif extractor is None:
        extractor = extractor_for(alone, cache=Cache.shared(home() / "cache"))
    told = others.lfs if others is not None else ()
    for function in (lf, *told):
        function.prepare(extractor)
    needs = sorted({feature for function in (lf, *told) for feature in function.reads})
    ids: list[str] = []
    scores: list[FloatArray] = []
    votes: list[Votes] = []
    errors: dict[int, ItemError] = {}
    for chunk in in_chunks(items):
        features = extractor.extract(chunk, needs)
        seen = lf.evidence(features)
        score = np.where(seen.present, seen.classes[0], np.float32(np.nan))
        score[list(features.errors)] = np.nan
        errors |= {len(ids) + row: error for row, error in features.errors.items()}
        if recipe is not None:
            votes.append(collect_votes(told, features, recipe.classes)[0])
        ids += [item.id for item in chunk]
        scores.append(score)
        if progress is not None:
            progress(len(ids))
    every = np.concatenate(scores) if scores else np.zeros(0, dtype=np.float32)
    known = None
    if gold is not None and recipe is not None and vote is not None:
        known = gold_indices(gold, ids, recipe.classes)
    truth = None if known is None or vote is None or recipe is None else known == recipe.classes.index(vote)
    judged = None if known is None else known != ABSTAIN
    suggested = (
        _best_threshold(every[judged], truth[judged])
        if truth is not None and judged is not None and judged.any()
        else suggest_threshold(every)
    )
    if threshold is None:
        threshold = 0.5 if suggested is None else suggested
    voted = every >= threshold
    right = None
    if truth is not None and judged is not None and (voted & judged).any():
        right = float(truth[voted & judged].mean())
    return PromptView(
        prompts=said,
        against=tuple(against),
        background=tuple(background),
        vote=vote,
        ids=tuple(ids),
        scores=every,
        threshold=threshold,
        suggested=suggested,
        **_rows_to_show(every, threshold, n_shown),
        agreements=_agreements(Votes.concatenate(votes), voted, vote) if votes else (),
        right=right,
        errors=errors,
    )


def suggest_threshold(scores: FloatArray) -> float | None:
    """Return where scores fall into two heaps, at the point between them; None where there is no clear gap.

    Two normal distributions are put through the log-odds, by expectation-maximisation; NaN scores are left out.
    """
    scores = np.sort(scores[~np.isnan(scores)]).astype(np.float64)
    if len(scores) < 10:
        return None
    odds = _log_odds(scores)
    heaps = two_heaps(odds, low=float(odds[0]), high=float(odds[-1]))
    if heaps.high - heaps.low < _LEAST_GAP * heaps.sd:
        return None
    between = (heaps.high + heaps.low) / 2 - np.log(heaps.share / (1 - heaps.share)) / heaps.slope()
    return round(float(np.clip(1 / (1 + np.exp(-between)), 0.01, 0.99)), 2)


def _log_odds(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    clipped = np.clip(np.asarray(scores, dtype=np.float64), 1e-6, 1 - 1e-6)
    odds: npt.NDArray[np.float64] = np.log(clipped) - np.log1p(-clipped)
    return odds


def _best_threshold(scores: FloatArray, truth: npt.NDArray[np.bool_]) -> float | None:
    """Return the threshold with the best F1 on gold; None where nothing is right."""
    found = []
    for least in _GRID:
        voted = scores >= least
        both = float((voted & truth).sum())
        if both:
            found.append((2 * both / (voted.sum() + truth.sum()), least))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _rows_to_show(scores: FloatArray, threshold: float, n: int) -> dict[str, tuple[int, ...]]:
    there = np.flatnonzero(~np.isnan(scores))
    falling = there[np.argsort(-scores[there], kind="stable")]
    near = there[np.argsort(np.abs(_log_odds(scores[there]) - _log_odds(threshold)), kind="stable")]
    near = near[:n][np.argsort(-scores[near[:n]], kind="stable")]
    return {
        "top": tuple(falling[:n].tolist()),
        "borderline": tuple(near.tolist()),
        "bottom": tuple(falling[::-1][:n].tolist()),
    }


def _agreements(votes: Votes, voted: npt.NDArray[np.bool_], vote: str | None) -> tuple[Agreement, ...]:
    names = votes.class_names
    n_voted = max(int(voted.sum()), 1)
    found = []
    for j, lf in enumerate(votes.lf_names):
        column = votes.classes[:, j]
        spoken = column != ABSTAIN
        both = spoken & voted
        conflicts = None
        if vote is not None:
            fits = [i for i in range(len(names)) if names[i] == vote]
            fits += [len(names) + i for i, inside in enumerate(votes.sets) if names.index(vote) in inside]
            conflicts = float((both & ~np.isin(column, fits)).sum()) / n_voted
        values, counts = np.unique(column[both], return_counts=True)
        told = sorted(
            zip(counts.tolist(), values.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1])
        )
        found.append(
            Agreement(
                lf=lf,
                overlaps=float(both.sum()) / n_voted,
                conflicts=conflicts,
                covers=float(both.sum()) / max(int(spoken.sum()), 1),
                says=tuple((votes.value_names[value], count) for count, value in told[:3]),
            )
        )
    return tuple(found)


def _class_of(prompts: Sequence[str], vote: str | None, recipe: Recipe | None) -> str | None:
    if recipe is None:
        if vote is not None:
            raise InvalidRequest(f"vote {vote!r} is a class of a recipe; name the recipe, too")
        return None
    if vote is not None:
        if vote not in recipe.classes:
            raise InvalidRequest(
                f"{vote!r} is not a class of the recipe; classes: {', '.join(recipe.classes)}"
                f"{nearest(vote, recipe.classes)}"
            )
        return vote
    words = " ".join(prompts).lower()
    named = [name for name in recipe.classes if f" {name.lower()} " in f" {words} "]
    return named[0] if len(named) == 1 else None


def _recipe_of(
    prompts: Sequence[str],
    *,
    against: Sequence[str],
    background: Sequence[str],
    on: str,
    using: str,
    templates: Sequence[str],
    recipe: Recipe | None,
) -> Recipe:
    """Return a recipe with nothing but the prompt, and the encoders of another one."""
    lf = {
        "name": NAME,
        "kind": "prompt",
        "on": on,
        "using": using,
        "threshold": 0.0,
        "prompts": {_MATCH: list(prompts)},
        "against": list(against),
        "background": list(background),
        "templates": list(templates),
    }
    primitives = {} if recipe is None else recipe.document().get("primitives", {})
    return Recipe.parse(
        {"name": NAME, "classes": [_MATCH, _OTHER], "primitives": primitives, "lfs": [lf]}, source="prompt"
    )


def _shared(others: Labeler, alone: Recipe) -> Extractor:
    """Return an extractor of what a recipe's LFs read and of what a prompt reads besides."""
    of_prompt = extractor_for(alone, cache=others.extractor.cache)
    return Extractor({**of_prompt.primitives, **others.extractor.primitives}, cache=others.extractor.cache)


def in_chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield items by the hundred, as many as are looked at together."""
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
