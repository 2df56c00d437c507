"""Prompts that know when to keep quiet: photographs of a recipe's classes among as many that show none of them.

python -m benchmarks.prompts [--json] [--quick]

The score is the LF's probability of being in any of its classes (``in_class``: what `PromptLF.evidence` gives) with
``background: standard``, beside what everybody takes: the highest softmax probability over the same prompts and the
same CLIP at its own scale. The prompts are those of every LF of the shipped recipes that knows all ten classes; figures
are means over these LFs. The default background, and what is kept of it, were chosen on the training photographs and on
every other class of ImageNet; what is scored here are the validation and test photographs and the rest of the classes.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.bars import Bar, arguments, at_least, show, told
from benchmarks.label_tasks import GARMENTS, RECIPES, imagenet_groups, photos
from manyeyes import Item, Recipe
from manyeyes.labeler import extractor_for
from manyeyes.lfs.build import build_lf
from manyeyes.lfs.prompt import PromptLF
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.cache import Cache
from manyeyes.prompt_fitting import calibrate
from manyeyes.settings import home

FloatArray = npt.NDArray[np.floating[Any]]

GOAL = 0.80
MARGIN = 0.05
N_SMALL = 32

# ImageNet's photographs of cats, of frogs, and of horses, deer and their kin, which CIFAR-10 has as classes, too.
_CIFAR_LIKE = ("bird", "dog", "vehicle")
_CIFAR_WNIDS = (
    ("n02085620", "n02129604"),  # dogs, wolves, foxes, cats
    ("n01639765", "n01644900"),  # frogs
    ("n02389026", "n02391049"),  # horse, zebra
    ("n02417914", "n02423022"),  # ibex, hartebeest, impala, gazelle
)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Photographs of a recipe's classes, and as many of none of them.

    fit: photographs to calibrate on, without gold: of the classes and of none, none of which are scored.
    """

    name: str
    recipe: Recipe
    inside: Sequence[Item]
    outside: Sequence[Item]
    fit: Sequence[Item]


def auroc(inside: FloatArray, outside: FloatArray) -> float:
    """Return how often an item of the classes scores higher than one of none; ties count half."""
    order = np.concatenate([inside, outside]).astype(np.float64)
    _, inverse, counts = np.unique(order, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n = len(inside)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(outside)))


def spread_out(items: Sequence[Item], n: int) -> list[Item]:
    """Return n of the items, evenly apart."""
    return [items[i * len(items) // n] for i in range(min(n, len(items)))]


def shrunk(items: Sequence[Item]) -> list[Item]:
    """Return the middle squares of photographs at 32 × 32 pixels, so that size alone gives nothing away."""
    small = []
    for item in items:
        assert isinstance(item.image, bytes)
        picture = Image.open(io.BytesIO(item.image)).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        buffer = io.BytesIO()
        square = picture.crop((left, top, left + side, top + side))
        square.resize((N_SMALL, N_SMALL), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
        small.append(Item(f"small/{item.id}", image=buffer.getvalue()))
    return small


def mixtures(data: Path, *, quick: bool) -> list[Mixture]:
    """Return what is scored."""
    group = imagenet_groups()
    most = 150 if quick else 100_000

    def shows_cifar(name: str) -> bool:
        wnid = name.partition("/")[0]
        return group(name) in _CIFAR_LIKE or any(first <= wnid <= last for first, last in _CIFAR_WNIDS)

    every = photos(data / "imagenet_sample.zip", lambda name: True)
    developed, held_out = every[::2], every[1::2]
    garments, cifar = Recipe.load(GARMENTS), Recipe.load(RECIPES / "cifar10.yaml")
    worn = photos(data / "clothing_validation.zip", lambda name: True)
    worn_fit = photos(data / "clothing_train.zip", lambda name: True)[::6]
    tiny = photos(data / "cifar10_test.zip", lambda name: int(Path(name).stem) < 200)
    tiny_fit = photos(data / "cifar10_train.zip", lambda name: 2_000 <= int(Path(name).stem) < 2_050)

    def mixed(name: str, recipe: Recipe, inside: list[Item], outside: list[Item], fit: list[Item]) -> Mixture:
        n = min(len(inside), len(outside), most)
        return Mixture(name, recipe, spread_out(inside, n), spread_out(outside, n), fit)

    no_garment = [item for item in held_out if group(item.id) != "clothing"]
    no_cifar = [item for item in held_out if not shows_cifar(item.id)]
    dev_garment = [item for item in developed if group(item.id) != "clothing"]
    dev_cifar = [item for item in developed if not shows_cifar(item.id)]
    return [
        mixed("clothing and ImageNet", garments, worn, no_garment, worn_fit + dev_garment),
        mixed("CIFAR-10 and garments", cifar, tiny, worn, tiny_fit + worn_fit),
        mixed("CIFAR-10 and ImageNet at 32 px", cifar, tiny, shrunk(no_cifar), tiny_fit + shrunk(dev_cifar)),
    ]


def prompt_lf(recipe: Recipe, name: str, context: Any, **fields: object) -> PromptLF:
    """Return a recipe's LF with some fields changed, prepared."""
    spec = next(lf for lf in recipe.lfs if lf.name == name)
    written = spec.model_dump(mode="json") | fields
    lf = build_lf(type(spec).model_validate(written, context={"classes": recipe.classes}), recipe.classes)
    assert isinstance(lf, PromptLF)
    lf.prepare(context)
    return lf


def with_background(recipe: Recipe) -> Recipe:
    """Return a recipe of the LFs that know all classes, each held against the standard background."""
    document = recipe.document()
    document["lfs"] = [
        told | {"background": "standard"}
        for told in document["lfs"]
        if told["kind"] == "prompt" and set(told.get("prompts", recipe.classes)) == set(recipe.classes)
    ]
    return Recipe.parse(document)


def mixture_bars(mixture: Mixture, cache: Cache) -> list[Bar]:
    """AUROC of being in class, by our score and by the highest softmax; shares of both halves that get a vote."""
    recipe = with_background(mixture.recipe)
    extractor = extractor_for(recipe, cache=cache)
    inside = extractor.extract(mixture.inside, ["clip"])
    outside = extractor.extract(mixture.outside, ["clip"])
    calibrated = calibrate(recipe, mixture.fit, extractor=extractor)

    def each(
        score: Callable[[PromptLF, FeatureSet], FloatArray], source: Recipe, **fields: object
    ) -> list[float]:
        found = []
        for spec in source.lfs:
            lf = prompt_lf(source, spec.name, extractor, **fields)
            found.append(auroc(score(lf, inside), score(lf, outside)))
        return found

    def share(source: Recipe, features: FeatureSet) -> float:
        lfs = [prompt_lf(source, spec.name, extractor, threshold=0.0) for spec in source.lfs]
        return statistics.fmean(float((lf.vote(features).classes >= 0).mean()) for lf in lfs)

    def accuracy(source: Recipe) -> float:
        truth = np.array([recipe.classes.index(item.id.split("/")[0]) for item in mixture.inside])
        lfs = [prompt_lf(source, spec.name, extractor) for spec in source.lfs]
        best = [
            np.array([lf.class_index(name) for name in lf.prompted])[lf.evidence(inside).classes.argmax(0)]
            for lf in lfs
        ]
        return statistics.fmean(float((votes == truth).mean()) for votes in best)

    softmaxes = each(lambda lf, seen: lf.evidence(seen).classes.max(axis=0), recipe, background=())
    each_ours = each(lambda lf, seen: lf.evidence(seen).in_class, recipe)
    of_votes = each(lambda lf, seen: lf.evidence(seen).classes.max(axis=0), recipe)
    fitted = each(lambda lf, seen: lf.evidence(seen).in_class, calibrated)
    softmax, ours = statistics.fmean(softmaxes), statistics.fmean(each_ours)
    least, name = min((a - b, lf.name) for a, b, lf in zip(each_ours, softmaxes, recipe.lfs, strict=True))
    what = f"{mixture.name}, {len(mixture.inside)} of each"
    return [
        at_least(f"{what}: AUROC of in_class", ours, GOAL),
        at_least(f"{what}: minus max softmax", ours - softmax, MARGIN, peer=f"max softmax: {softmax:.3f}"),
        told(f"{what}: minus max softmax, least of the LFs", least, peer=name),
        told(f"{what}: AUROC of the vote's score", statistics.fmean(of_votes)),
        told(f"{what}: AUROC of in_class, calibrated without gold", statistics.fmean(fitted)),
        told(f"{what}: in-class photos with a vote", share(recipe, inside), peer="threshold 0"),
        told(
            f"{what}: other photos with a vote",
            share(recipe, outside),
            peer="threshold 0; 1 without background",
        ),
        told(f"{what}: in-class photos with a vote, calibrated", share(calibrated, inside)),
        told(f"{what}: other photos with a vote, calibrated", share(calibrated, outside)),
        told(
            f"{what}: accuracy among the classes",
            accuracy(recipe),
            peer=f"calibrated: {accuracy(calibrated):.3f}",
        ),
    ]


def main() -> int:
    """Measure and print; return the exit code."""
    options = arguments(__doc__).parse_args()
    cache = Cache.shared(home() / "cache")
    bars = [
        bar for mixture in mixtures(options.data, quick=options.quick) for bar in mixture_bars(mixture, cache)
    ]
    return show("Prompts that know when to keep quiet", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
