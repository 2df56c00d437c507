"""What label models are measured on: votes of real recipes on real items, and votes made up to hurt.

python -m benchmarks.label_tasks [--json] [--quick] [--cache FOLDER] [--only NAME …]

prints the tasks and how well majority vote and the peers do on each. The real votes take minutes to compute once; they
are kept under ``--cache`` by recipe version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import yaml

from benchmarks.bars import SHARED_DATA
from manyeyes import Item, Labeler, Recipe
from manyeyes.settings import home
from manyeyes.types import ABSTAIN, FloatArray, Votes, vote_dtype

Gold = npt.NDArray[np.int64]
Rng = np.random.Generator

RECIPES = Path(__file__).resolve().parent / "recipes"
GARMENTS = Path(__file__).resolve().parents[1] / "examples" / "garments.yaml"
N_SEEDS = 5


@dataclass(frozen=True, eq=False)
class Task:
    """Votes to fit a label model on, and votes with gold labels to score it on.

    fit: what a label model is fitted on, without gold. score: what it is scored on; may be the same rows.
    gold_fit, gold_score: int64, shape (n_items,); a class index, ABSTAIN where unknown.
    embeddings_fit, embeddings_score: float32, shape (n_items, dim), of length 1; None where there are none.
    class_balance: what a label model is told of it; None is nothing.
    real: votes of a recipe on real items, not generated.
    """

    name: str
    fit: Votes
    score: Votes
    gold_fit: Gold
    gold_score: Gold
    embeddings_fit: FloatArray | None = None
    embeddings_score: FloatArray | None = None
    class_balance: tuple[float, ...] | None = None
    real: bool = False

    @property
    def rare(self) -> bool:
        """Whether accuracy says little: two classes, of which the second is under a fifth of the scored items."""
        return self.score.n_classes == 2 and bool((self.gold_score == 1).mean() < 0.2)


@dataclass(frozen=True, eq=False)
class MultiTask:
    """A multi-label task: one binary task (absent, present) a class, over the same items.

    classes: their names. tasks: one a class.
    """

    name: str
    classes: tuple[str, ...]
    tasks: tuple[Task, ...]

    @property
    def gold(self) -> npt.NDArray[np.int8]:
        """What is there: int8, shape (n_items, n_classes); 0 or 1."""
        return np.stack([task.gold_score for task in self.tasks], axis=1).astype(np.int8)


# --- generated -------------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """Generated votes: classes int, scores float or None for hard votes, gold int."""

    classes: npt.NDArray[np.int64]
    gold: Gold
    scores: npt.NDArray[np.float64] | None = None


Sampler = Callable[[int], Drawn]
"""Draws that many items from one world: the same LFs with the same accuracies each time."""


def one_coin(
    rng: Rng, gold: Gold, k: int, accuracies: npt.ArrayLike, coverage: float | npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return votes of independent LFs whose errors fall on all other classes alike: int, shape (n_items, n_lfs)."""
    accuracies = np.asarray(accuracies, dtype=float)
    shape = (len(gold), len(accuracies))
    wrong = (gold[:, None] + rng.integers(1, k, size=shape)) % k
    votes = np.where(rng.random(shape) < accuracies, gold[:, None], wrong)
    votes[rng.random(shape) >= coverage] = ABSTAIN
    return votes


def conditional(rng: Rng, gold: Gold, confusions: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return votes drawn from p(vote | gold).

    confusions: shape (n_lfs, k, k + 1); the last column is the probability to abstain.
    """
    edges = np.cumsum(confusions, axis=2)
    edges[:, :, -1] = 1.0
    drawn = (rng.random((len(gold), len(confusions)))[:, :, None] > edges[:, gold].transpose(1, 0, 2)).sum(
        axis=2
    )
    return np.where(drawn == confusions.shape[1], ABSTAIN, drawn)


def _plain(rng: Rng) -> Sampler:
    accuracies, coverage = rng.uniform(0.6, 0.85, 10), rng.uniform(0.3, 0.9, 10)

    def draw(n: int) -> Drawn:
        gold = rng.integers(2, size=n)
        return Drawn(one_coin(rng, gold, 2, accuracies, coverage), gold)

    return draw


def _clique(rng: Rng) -> Sampler:
    good, weak = rng.uniform(0.8, 0.86, 3), rng.uniform(0.62, 0.68)

    def draw(n: int) -> Drawn:
        gold = rng.integers(2, size=n)
        independent = one_coin(rng, gold, 2, good, 0.8)
        leader = one_coin(rng, gold, 2, [weak], 1.0)
        own = one_coin(rng, gold, 2, [weak] * 6, 1.0)
        clique = np.where(rng.random((n, 6)) < 0.9, leader, own)
        clique[rng.random((n, 6)) >= 0.8] = ABSTAIN
        return Drawn(np.hstack([independent, clique]), gold)

    return draw


def _adversarial(rng: Rng) -> Sampler:
    accuracies = np.concatenate([rng.uniform(0.65, 0.85, 6), rng.uniform(0.25, 0.38, 3)])

    def draw(n: int) -> Drawn:
        gold = rng.integers(2, size=n)
        return Drawn(one_coin(rng, gold, 2, accuracies, 0.6), gold)

    return draw


def _mostly_abstain(rng: Rng) -> Sampler:
    accuracies = rng.uniform(0.5, 0.95, 20)

    def draw(n: int) -> Drawn:
        gold = rng.integers(3, size=n)
        return Drawn(one_coin(rng, gold, 3, accuracies, 0.05), gold)

    return draw


def _rare_positive(rng: Rng) -> Sampler:
    confusions = np.zeros((10, 2, 3))
    for j in range(10):
        # Six look for the positive class, with false alarms; four know most of the negative one.
        hit, alarm = (rng.uniform(0.3, 0.6), rng.uniform(0.01, 0.04)) if j < 6 else (0.0, 0.0)
        miss, calm = (
            (rng.uniform(0.0, 0.05), 0.0) if j < 6 else (rng.uniform(0.02, 0.15), rng.uniform(0.3, 0.6))
        )
        confusions[j] = [[calm, alarm, 1 - calm - alarm], [miss, hit, 1 - miss - hit]]

    def draw(n: int) -> Drawn:
        gold = (rng.random(n) < 0.01).astype(np.int64)
        return Drawn(conditional(rng, gold, confusions), gold)

    return draw


def _positive_only(rng: Rng) -> Sampler:
    hits, alarms = rng.uniform(0.2, 0.5, 8), rng.uniform(0.01, 0.15, 8)

    def draw(n: int) -> Drawn:
        gold = (rng.random(n) < 0.3).astype(np.int64)
        fires = rng.random((n, 8)) < np.where(gold[:, None] == 1, hits, alarms)
        return Drawn(np.where(fires, 1, ABSTAIN), gold)

    return draw


def _many_classes(rng: Rng, *, k: int, n_lfs: int) -> Sampler:
    accuracies = rng.uniform(0.15, 0.5, n_lfs)

    def draw(n: int) -> Drawn:
        gold = rng.integers(k, size=n)
        return Drawn(one_coin(rng, gold, k, accuracies, 0.8), gold)

    return draw


def _two_lfs(rng: Rng) -> Sampler:
    accuracies = np.array([rng.uniform(0.6, 0.7), rng.uniform(0.8, 0.9)])

    def draw(n: int) -> Drawn:
        gold = rng.integers(2, size=n)
        return Drawn(one_coin(rng, gold, 2, accuracies, 0.8), gold)

    return draw


def _scored(rng: Rng, *, sharpen: float) -> Sampler:
    means = rng.uniform(0.35, 0.8, 8)

    def draw(n: int) -> Drawn:
        gold = rng.integers(5, size=n)
        sure = np.clip(rng.beta(4 * means, 4 * (1 - means), size=(n, 8)), 0.2, 0.99)
        votes = one_coin(rng, gold, 5, np.ones(8), 0.8)
        right = rng.random((n, 8)) < sure
        votes = np.where(right | (votes == ABSTAIN), votes, (votes + rng.integers(1, 5, size=(n, 8))) % 5)
        # What is said of a vote: its probability, or one whose log-odds against a blind guess are too large.
        odds = np.log(sure / (1 - sure)) - np.log(0.25)
        said = 1 / (1 + np.exp(-(sharpen * odds + np.log(0.25))))
        return Drawn(votes, gold, np.where(votes == ABSTAIN, np.nan, np.clip(said, 0.0, 0.999)))

    return draw


def _near_copies(rng: Rng) -> Sampler:
    good, weak = rng.uniform(0.65, 0.8, 4), rng.uniform(0.5, 0.6)

    def draw(n: int) -> Drawn:
        gold = rng.integers(3, size=n)
        independent = one_coin(rng, gold, 3, good, 0.8)
        copied = one_coin(rng, gold, 3, [weak], 0.9)
        copies = np.repeat(copied, 10, axis=1)
        noisy = (rng.random(copies.shape) < 0.02) & (copies != ABSTAIN)
        copies[noisy] = rng.integers(3, size=int(noisy.sum()))
        return Drawn(np.hstack([independent, copied, copies]), gold)

    return draw


def _neighbours(rng: Rng) -> Sampler:
    k, n_lfs = 6, 8
    confusions = np.zeros((n_lfs, k, k + 1))
    for j in range(n_lfs):
        for c in range(k):
            right = rng.uniform(0.35, 0.9)
            row = np.full(k, 0.1 * (1 - right) / (k - 1))
            row[(c + rng.choice([-1, 1])) % k] += 0.9 * (1 - right)
            row[c] = right
            confusions[j, c] = [*(0.8 * row / row.sum()), 0.2]

    def draw(n: int) -> Drawn:
        gold = rng.integers(k, size=n)
        return Drawn(conditional(rng, gold, confusions), gold)

    return draw


def _unipolar(rng: Rng) -> Sampler:
    hits, alarms = rng.uniform(0.2, 0.7, 16), rng.uniform(0.01, 0.2, 16)
    classes = np.arange(16) % 4

    def draw(n: int) -> Drawn:
        gold = rng.choice(4, size=n, p=[0.4, 0.3, 0.2, 0.1])
        fires = rng.random((n, 16)) < np.where(gold[:, None] == classes, hits, alarms)
        return Drawn(np.where(fires, classes, ABSTAIN), gold)

    return draw


def _few_items(rng: Rng) -> Sampler:
    accuracies = rng.uniform(0.5, 0.85, 8)

    def draw(n: int) -> Drawn:
        gold = rng.integers(3, size=n)
        return Drawn(one_coin(rng, gold, 3, accuracies, 0.7), gold)

    return draw


@dataclass(frozen=True)
class World:
    """How a generated task is made. n_fit, n_score: items; n_score 0 scores the fitted rows.

    shared: the primitive that each LF reads, where a label model is told. n_seeds: at most that many draws.
    """

    sampler: Callable[[Rng], Sampler]
    k: int
    n_fit: int = 2_000
    n_score: int = 2_000
    class_balance: tuple[float, ...] | None = None
    shared: tuple[str, ...] = ()
    n_seeds: int = N_SEEDS


GENERATED: dict[str, World] = {
    "plain": World(_plain, 2),
    "clique": World(_clique, 2),
    "clique_shared": World(_clique, 2, shared=("a", "b", "c", *["clip"] * 6)),
    "adversarial": World(_adversarial, 2),
    "mostly_abstain": World(_mostly_abstain, 3, n_fit=4_000, n_score=4_000),
    "rare_positive": World(_rare_positive, 2, n_fit=10_000, n_score=10_000),
    "rare_positive_known": World(_rare_positive, 2, n_fit=10_000, n_score=10_000, class_balance=(0.99, 0.01)),
    "positive_only": World(_positive_only, 2),
    "hundred_classes": World(partial(_many_classes, k=100, n_lfs=10), 100, n_fit=5_000, n_seeds=3),
    "thousand_classes": World(partial(_many_classes, k=1_000, n_lfs=8), 1_000, n_fit=10_000, n_seeds=3),
    "two_lfs": World(_two_lfs, 2),
    "scored_calibrated": World(partial(_scored, sharpen=1.0), 5),
    "scored_overconfident": World(partial(_scored, sharpen=2.5), 5),
    "near_copies": World(_near_copies, 3),
    "neighbours": World(_neighbours, 6),
    "unipolar": World(_unipolar, 4),
    "few_items": World(_few_items, 3, n_fit=100, n_score=0),
}


def generated(name: str, seed: int = 0) -> Task:
    """Return a generated task; the same for the same seed."""
    world = GENERATED[name]
    rng = np.random.default_rng(seed)
    sample = world.sampler(rng)
    drawn = sample(world.n_fit + world.n_score)
    n_lfs = drawn.classes.shape[1]
    scores = np.full(drawn.classes.shape, np.nan) if drawn.scores is None else drawn.scores

    def votes(rows: slice) -> Votes:
        return Votes(
            classes=drawn.classes[rows].astype(vote_dtype(world.k)),
            scores=scores[rows].astype(np.float32),
            class_names=tuple(f"class_{c}" for c in range(world.k)),
            lf_names=tuple(f"lf_{j}" for j in range(n_lfs)),
            shared=tuple((primitive,) for primitive in world.shared),
        )

    fitted = slice(0, world.n_fit)
    scored = slice(world.n_fit, None) if world.n_score else fitted
    fit = votes(fitted)
    return Task(
        name,
        fit=fit,
        score=votes(scored) if world.n_score else fit,
        gold_fit=drawn.gold[fitted],
        gold_score=drawn.gold[scored],
        class_balance=world.class_balance,
    )


# --- real ------------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """Where the development data lie, and where computed votes are kept."""

    data: Path = SHARED_DATA
    cache: Path | None = None

    @property
    def folder(self) -> Path:
        return self.cache or home() / "benchmarks"


class Seen(NamedTuple):
    """Items as a recipe sees them: votes, and embeddings float32, shape (n_items, dim)."""

    votes: Votes
    embeddings: FloatArray


def seen(recipe: Recipe, items: Sequence[Item], embedding: str, source: Source) -> Seen:
    """Return a recipe's votes on items and one embedding an item, from the cache where they were computed before.

    embedding: the feature that gives it, such as "clip"; the recipe reads its primitive. Raises RuntimeError if
    an item cannot be read.
    """
    labeler = Labeler(recipe)
    key = hashlib.sha256(recipe.version.encode())
    for feature, version in labeler.extractor.versions({embedding, *labeler.needs}).items():
        key.update(f"{feature} {version}\n".encode())
    for item in items:
        key.update(f"{item.id}\n".encode())
    path = source.folder / f"{recipe.name}-{key.hexdigest()[:16]}.npz"
    if not path.exists():
        votes, errors, _ = labeler.votes(items)
        features = labeler.extractor.extract(items, [embedding])
        if errors or features.errors:
            raise RuntimeError(f"{len(errors)} of {len(items)} items cannot be read: {errors}")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        with unfinished.open("wb") as file:
            np.savez_compressed(
                file,
                classes=votes.classes,
                scores=votes.scores,
                embeddings=features[embedding]["embedding"],
                names=np.array(json.dumps([votes.lf_names, votes.shared])),
            )
        unfinished.replace(path)
    with np.load(path) as kept:
        lf_names, shared = json.loads(str(kept["names"]))
        return Seen(
            Votes(
                kept["classes"],
                kept["scores"],
                class_names=tuple(recipe.classes),
                lf_names=tuple(lf_names),
                shared=tuple(map(tuple, shared)),
            ),
            kept["embeddings"],
        )


def photos(archive: Path, chosen: Callable[[str], bool]) -> list[Item]:
    """Return one item for each photo of an archive whose name is chosen, in the order of the names."""
    with ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if name.endswith(".jpg") and chosen(name))
        return [Item(name, image=source.read(name)) for name in names]


def _numbered(first: int, last: int) -> Callable[[str], bool]:
    """Choose ``<class>/<number>.jpg`` by number, last excluded."""
    return lambda name: first <= int(Path(name).stem) < last


def _gold(items: Sequence[Item], classes: Sequence[str]) -> Gold:
    """Return the class index of every item, read off its folder."""
    return np.array([list(classes).index(item.id.partition("/")[0]) for item in items], dtype=np.int64)


def _photo_task(
    name: str,
    recipe: Recipe,
    fitted: Sequence[Item],
    scored: Sequence[Item],
    gold: Callable[[Sequence[Item]], Gold],
    source: Source,
) -> Task:
    fit = seen(recipe, fitted, "clip", source)
    score = fit if scored is fitted else seen(recipe, scored, "clip", source)
    return Task(
        name, fit.votes, score.votes, gold(fitted), gold(scored), fit.embeddings, score.embeddings, real=True
    )


def _clothing(source: Source) -> Task:
    recipe = Recipe.load(GARMENTS)
    return _photo_task(
        "clothing",
        recipe,
        photos(source.data / "clothing_train.zip", _every),
        photos(source.data / "clothing_validation.zip", _every),
        lambda items: _gold(items, recipe.classes),
        source,
    )


def _garment(source: Source, *, name: str) -> Task:
    """One garment or not, of which few photos show any."""
    return _photo_task(
        name,
        Recipe.load(RECIPES / f"{name}.yaml"),
        photos(source.data / "clothing_train.zip", _every),
        photos(source.data / "clothing_validation.zip", _every),
        lambda items: np.array([item.id.startswith(f"{name}/") for item in items], dtype=np.int64),
        source,
    )


def _cifar10(source: Source) -> Task:
    recipe = Recipe.load(RECIPES / "cifar10.yaml")
    # The starter CLIP was trained on photos from the front of each class.
    return _photo_task(
        "cifar10",
        recipe,
        photos(source.data / "cifar10_train.zip", _numbered(2_000, 2_300)),
        photos(source.data / "cifar10_test.zip", _numbered(0, 200)),
        lambda items: _gold(items, recipe.classes),
        source,
    )


def imagenet_groups() -> Callable[[str], str | None]:
    """Return what tells the coarse group of ``<wnid>/<class name>.jpg``, None where it is in none."""
    groups: dict[str, dict[str, Any]] = yaml.safe_load((RECIPES / "imagenet_groups.yaml").read_text())

    def group(name: str) -> str | None:
        wnid, _, file = name.partition("/")
        for label, members in groups.items():
            if any(first <= wnid <= last for first, last in members.get("wnids", [])):
                return label
            if file.removesuffix(".jpg") in members.get("names", []):
                return label
        return None

    return group


def _imagenet(source: Source) -> Task:
    recipe, group = Recipe.load(RECIPES / "imagenet.yaml"), imagenet_groups()
    items = photos(source.data / "imagenet_sample.zip", lambda name: group(name) is not None)
    classes = list(recipe.classes)

    def gold(items: Sequence[Item]) -> Gold:
        return np.array([classes.index(str(group(item.id))) for item in items], dtype=np.int64)

    return _photo_task("imagenet", recipe, items, items, gold, source)


def _coco128(source: Source) -> MultiTask:
    documents = list(yaml.safe_load_all((RECIPES / "coco128.yaml").read_text()))
    items = photos(source.data / "coco128.zip", _every)
    with ZipFile(source.data / "coco128.zip") as archive:
        names: dict[int, str] = yaml.safe_load(archive.read("classes.yaml"))["names"]
        members = set(archive.namelist())
        there = [_labels(archive, item.id, names, members) for item in items]
    tasks = []
    for document in documents:
        label = document["name"]
        recipe = Recipe.parse({**document, "name": label.replace(" ", "-")})
        found = seen(recipe, items, "clip", source)
        gold = np.array([label in labels for labels in there], dtype=np.int64)
        tasks.append(
            Task(
                f"coco128: {label}",
                found.votes,
                found.votes,
                gold,
                gold,
                found.embeddings,
                found.embeddings,
                real=True,
            )
        )
    return MultiTask("coco128", tuple(document["name"] for document in documents), tuple(tasks))


def _labels(archive: ZipFile, image: str, names: Mapping[int, str], members: set[str]) -> set[str]:
    """Return what is in a photo of COCO; nothing where it has no file of labels."""
    file = image.replace("images/", "labels/").removesuffix(".jpg") + ".txt"
    lines = archive.read(file).decode().splitlines() if file in members else []
    return {names[int(line.split()[0])] for line in lines}


def comments(path: Path) -> tuple[list[Item], Gold, npt.NDArray[np.int64]]:
    """Return the comments of a file with their gold labels and the votes that came with them."""
    rows = list(json.loads(path.read_text()).values())
    items = [Item(f"{path.stem}-{i}", text=row["data"]["text"]) for i, row in enumerate(rows)]
    return items, np.array([row["label"] for row in rows]), np.array([row["weak_labels"] for row in rows])


def _youtube(source: Source, *, own: bool) -> Task:
    recipe = Recipe.load(RECIPES / "youtube.yaml")
    parts = []
    for split in ("train", "test"):
        items, gold, given = comments(source.data / f"youtube_{split}.json")
        ours, embeddings = seen(recipe, items, "text", source)
        parts.append((ours if own else Votes.hard(given, n_classes=2), gold, embeddings))
    (fit, gold_fit, embeddings_fit), (score, gold_score, embeddings_score) = parts
    name = "youtube_own" if own else "youtube"
    return Task(name, fit, score, gold_fit, gold_score, embeddings_fit, embeddings_score, real=True)


def _every(name: str) -> bool:
    return bool(name)


REAL: dict[str, Callable[[Source], Task | MultiTask]] = {
    "youtube": partial(_youtube, own=False),
    "youtube_own": partial(_youtube, own=True),
    "clothing": _clothing,
    "shoes": partial(_garment, name="shoes"),
    "outwear": partial(_garment, name="outwear"),
    "cifar10": _cifar10,
    "imagenet": _imagenet,
    "coco128": _coco128,
}


def out_of_class(source: Source | None = None) -> dict[str, Votes]:
    """Return recipes' votes on photos that show none of their classes, by recipe: every label of them is wrong."""
    source = source or Source()
    group = imagenet_groups()
    no_garments = photos(source.data / "imagenet_sample.zip", lambda name: group(name) != "clothing")
    garments = photos(source.data / "clothing_validation.zip", _every)
    return {
        "clothing": seen(Recipe.load(GARMENTS), no_garments, "clip", source).votes,
        "cifar10": seen(Recipe.load(RECIPES / "cifar10.yaml"), garments, "clip", source).votes,
    }


def all_tasks(
    source: Source | None = None, *, only: Sequence[str] = (), n_seeds: int = N_SEEDS
) -> Iterator[tuple[int, Task | MultiTask]]:
    """Yield every task with its seed, real ones first; a real task comes once, with seed 0.

    only: names of tasks; all where there are none.
    """
    for name, load in REAL.items():
        if not only or name in only:
            yield 0, load(source or Source())
    for name in GENERATED:
        if not only or name in only:
            for seed in range(min(n_seeds, GENERATED[name].n_seeds)):
                yield seed, generated(name, seed)


if __name__ == "__main__":
    # The driver stands with the peers; imported here, it sees the same classes as they do.
    from benchmarks.label_peers import main

    raise SystemExit(main())
