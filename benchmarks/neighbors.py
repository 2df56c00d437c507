"""A few examples of each class: how often the votes of ``kind: neighbors`` are right, and on how many items it votes.

python -m benchmarks.neighbors [--json] [--quick]

Five photographs of each of ten kinds of garments are drawn at random, many times; the LF learns its cut-off from them
alone. Scored on the validation photographs, which nothing was tuned on. The starter CLIP was trained on the training
photographs that the examples of the first figure are drawn from, so a second one draws them from the validation
photographs and scores on the others there: what to expect of examples that the encoder never saw.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.bars import Bar, arguments, at_least, show, told
from benchmarks.label_tasks import photos
from manyeyes import Item
from manyeyes.lfs.neighbors import NeighborsLF, NeighborsSpec
from manyeyes.lfs.suggest_view import rows_of
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor
from manyeyes.recipe_parts import default_primitive
from manyeyes.settings import home
from manyeyes.types import ABSTAIN

PER_CLASS = 5


class Scored(NamedTuple):
    """accuracy: of the votes. coverage: the share of items with a vote. error: expected calibration error."""

    accuracy: float
    coverage: float
    error: float


def draw(
    extractor: Extractor,
    examples: FeatureSet,
    scored: FeatureSet,
    rng: np.random.Generator,
) -> Scored:
    """Return how an LF does whose examples are drawn from some items; those items are not scored."""
    classes = sorted({item.id.partition("/")[0] for item in examples.items})
    labels = _labels(examples.items, classes)
    rows = np.concatenate(
        [rng.choice(np.flatnonzero(labels == c), PER_CLASS, replace=False) for c in range(len(classes))]
    )
    vectors = examples["clip"]["embedding"]
    given = {
        name: [{"embedding": vectors[row].tolist()} for row in rows[labels[rows] == c].tolist()]
        for c, name in enumerate(classes)
    }
    document: dict[str, Any] = {"name": "like", "kind": "neighbors", "examples": given}
    lf = NeighborsLF(NeighborsSpec.model_validate(document, context={"classes": tuple(classes)}), classes)
    lf.prepare(extractor)
    if scored is examples:
        scored = rows_of(examples, np.setdiff1d(np.arange(len(examples)), rows))
    column = lf.vote(scored)
    voted = column.classes != ABSTAIN
    right = column.classes == _labels(scored.items, classes)
    return Scored(
        float(right[voted].mean()), float(voted.mean()), _calibration(column.scores[voted], right[voted])
    )


def _labels(items: Sequence[Item], classes: list[str]) -> npt.NDArray[np.int64]:
    return np.array([classes.index(item.id.partition("/")[0]) for item in items], dtype=np.int64)


def _calibration(scores: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> float:
    """Return the expected calibration error over ten bins of equal width."""
    bins = np.minimum((scores * 10).astype(int), 9)
    return float(
        sum(
            abs(right[bins == b].mean() - scores[bins == b].mean()) * (bins == b).mean()
            for b in np.unique(bins).tolist()
        )
    )


def main() -> int:
    """Print the figures; return 1 where one misses its goal."""
    options = arguments(__doc__).parse_args()
    extractor = Extractor.for_specs({"clip": default_primitive("clip")}, cache=Cache.shared(home() / "cache"))
    step = 8 if options.quick else 1
    train = extractor.extract(photos(options.data / "clothing_train.zip", lambda _: True)[::step], ["clip"])
    kept = extractor.extract(
        photos(options.data / "clothing_validation.zip", lambda _: True)[:: min(step, 2)], ["clip"]
    )
    n_draws = 5 if options.quick else 21
    bars: list[Bar] = []
    for name, source in (("clothing", train), ("clothing, examples that CLIP never saw", kept)):
        results = [draw(extractor, source, kept, np.random.default_rng(seed)) for seed in range(n_draws)]
        accuracy = statistics.median(result.accuracy for result in results)
        coverage = statistics.median(result.coverage for result in results)
        worst = min(result.accuracy for result in results)
        what = f"{name}, {PER_CLASS} examples a class"
        if source is train:
            peer = "linear probe on all labels: 0.895"
            bars.append(at_least(f"{what}: accuracy, median of {n_draws} draws", accuracy, 0.70, peer=peer))
            bars.append(at_least(f"{what}: coverage, median of {n_draws} draws", coverage, 0.80))
        else:
            bars.append(told(f"{what}: accuracy, median of {n_draws} draws", accuracy))
            bars.append(told(f"{what}: coverage, median of {n_draws} draws", coverage))
        bars.append(told(f"{what}: accuracy, the worst draw", worst))
        bars.append(told(f"{what}: ECE of the scores", statistics.median(r.error for r in results)))
    return show("Neighbors", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
