"""Suggested labeling functions: how well a recipe of nothing else labels, beside one that was written by hand.

python -m benchmarks.suggest [--json] [--quick] [--draws 9]

A hundred labels are drawn at random from the training part, suggestions are made from them and those that were chosen
are taken as they are. The label model ``auto`` is fitted on the votes on the training part, once told the same hundred
labels and once not, and scored on every item of the validation part (clothing) or the test part (YouTube), like that of
the recipe written by hand: examples/garments.yaml, and the ten labeling functions that came with the YouTube comments.
The starter CLIP was trained on the training photographs of clothing, which both recipes stand on.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.bars import Bar, arguments, at_least, show, told
from benchmarks.label_tasks import GARMENTS, REAL, Source, Task, comments, photos
from manyeyes import Item, Labeler, Recipe
from manyeyes.registry import load
from manyeyes.suggestions import accept, suggest_lfs
from manyeyes.types import ABSTAIN, Votes

N_GOLD = 100
WITHIN = 0.03


class Data(NamedTuple):
    """Items to fit and to score on, and what each truly is: class indices."""

    classes: tuple[str, ...]
    fit: Sequence[Item]
    gold_fit: npt.NDArray[np.int64]
    score: Sequence[Item]
    gold_score: npt.NDArray[np.int64]


def clothing(source: Source) -> Data:
    """Return photographs of garments."""
    classes = tuple(Recipe.load(GARMENTS).classes)
    train = photos(source.data / "clothing_train.zip", lambda _: True)
    held = photos(source.data / "clothing_validation.zip", lambda _: True)

    def gold(items: Sequence[Item]) -> npt.NDArray[np.int64]:
        return np.array([classes.index(item.id.partition("/")[0]) for item in items], dtype=np.int64)

    # Ids name their classes, which no suggestion may read.
    return Data(classes, _renamed(train), gold(train), _renamed(held), gold(held))


def youtube(source: Source) -> Data:
    """Return comments under videos."""
    train, gold_train, _ = comments(source.data / "youtube_train.json")
    test, gold_test, _ = comments(source.data / "youtube_test.json")
    return Data(("ham", "spam"), train, gold_train, test, gold_test)


class Scores(NamedTuple):
    """Accuracies of one recipe. with_gold: the label model was told the known labels, too. alone: it was not."""

    with_gold: float
    alone: float
    n_lfs: int


def suggested(data: Data, drawn: npt.NDArray[np.int64]) -> Scores:
    """Return how a recipe of suggestions does that is made from some known labels."""
    recipe = Recipe.warm_start(list(data.classes), name="suggested")
    gold = {data.fit[i].id: data.classes[data.gold_fit[i]] for i in drawn.tolist()}
    suggestions = suggest_lfs(recipe, data.fit, gold, count_existing=False)
    taken = accept(recipe, suggestions, keep=False)
    labeler = Labeler(taken)
    fit, score = labeler.collect(data.fit).votes, labeler.collect(data.score).votes
    return scores(fit, score, _known(data.gold_fit, drawn), data.gold_score)


def by_hand(task: Task, drawn: npt.NDArray[np.int64]) -> Scores:
    """Return how a recipe does that was written by hand, with the same known labels."""
    return scores(task.fit, task.score, _known(task.gold_fit, drawn), task.gold_score)


def scores(fit: Votes, score: Votes, known: npt.NDArray[np.int64], gold: npt.NDArray[np.int64]) -> Scores:
    """Return the accuracies of the label model that ``auto`` chooses for some votes."""

    def right(told: npt.NDArray[np.int64] | None) -> float:
        model = load("manyeyes.label_models", "auto")().fit(fit, told, shared=fit.shared)
        return float((model.predict_proba(score).argmax(axis=1) == gold).mean())

    return Scores(right(known), right(None), fit.n_lfs)


def _known(gold: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    known = np.full(len(gold), ABSTAIN, dtype=np.int64)
    known[drawn] = gold[drawn]
    return known


def _renamed(items: Sequence[Item]) -> list[Item]:
    return [Item(f"{i}.jpg", image=item.image) for i, item in enumerate(items)]


def main() -> int:
    """Print the figures; return 1 where one misses its goal."""
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, help="how often labels are drawn")
    parser.add_argument("--only", choices=("clothing", "youtube"), help="one data set")
    options = parser.parse_args()
    source = Source(data=options.data)
    n_draws = options.draws or (2 if options.quick else 9)
    bars: list[Bar] = []
    for name, load_data in (("youtube", youtube), ("clothing", clothing)):
        if options.only not in (None, name) or (options.quick and name == "clothing" and not options.only):
            continue
        data, task = load_data(source), REAL[name](source)
        assert isinstance(task, Task)
        draws = [
            np.random.default_rng(seed).choice(len(data.fit), N_GOLD, replace=False)
            for seed in range(n_draws)
        ]
        ours = [suggested(data, drawn) for drawn in draws]
        hand = [by_hand(task, drawn) for drawn in draws]
        what = f"{name}, {N_GOLD} labels"
        usual = statistics.median(result.alone for result in hand)
        told_too = statistics.median(result.with_gold for result in hand)
        bars += [
            at_least(
                f"{what}: suggestions, the label model told them, too",
                statistics.median(result.with_gold for result in ours),
                usual - WITHIN,
                peer=f"by hand, not told: {usual:.3f}",
            ),
            at_least(
                f"{what}: suggestions, the label model not told",
                statistics.median(result.alone for result in ours),
                usual - WITHIN,
                peer=f"by hand, not told: {usual:.3f}",
            ),
            told(
                f"{what}: suggestions minus by hand, both told",
                statistics.median(a.with_gold - b.with_gold for a, b in zip(ours, hand, strict=True)),
                peer=f"by hand, told: {told_too:.3f}",
            ),
            told(f"{what}: told, the worst of {n_draws} draws", min(result.with_gold for result in ours)),
            told(f"{what}: functions taken", statistics.median(result.n_lfs for result in ours)),
        ]
    return show("Suggested labeling functions", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
