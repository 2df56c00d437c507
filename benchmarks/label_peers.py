"""What people would use instead of our label models: thin adapters, and how well each does on the tasks.

Every adapter takes ``(fit, score, seed, class_balance)`` and returns float64, shape (n_items, n_classes): probabilities
for the scored items. They are imported when used; ``pip install "manyeyes[bench]"`` brings them. Other
people's conventions end here: none of them sees our types, and nothing that they raise ends a run.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import random
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy._core.multiarray import scalar as _scalar
from rich.console import Console
from rich.table import Table

from benchmarks.bars import arguments
from benchmarks.label_tasks import N_SEEDS, MultiTask, Source, Task, all_tasks, out_of_class
from manyeyes.types import ABSTAIN, Votes

Probs: TypeAlias = npt.NDArray[np.float64]
Balance: TypeAlias = Sequence[float] | None
Peer: TypeAlias = Callable[[Votes, Votes, int, Balance], Probs]

N_EPOCHS = 500
"""What snorkel's tutorials train for."""
logger = logging.getLogger(__name__)


class DoesNotApply(Exception):
    """A peer cannot be asked about such votes, or not within minutes and gigabytes."""


def majority(fit: Votes, score: Votes, seed: int, class_balance: Balance) -> Probs:  # noqa: ARG001
    """Return the share of the votes for each class; where nobody voted, of all classes alike."""
    counts = np.zeros((score.n_items, score.n_classes))
    item, lf = np.nonzero(score.classes != ABSTAIN)
    np.add.at(counts, (item, score.classes[item, lf]), 1.0)
    counts[counts.sum(axis=1) == 0] = 1.0
    shares: Probs = counts / counts.sum(axis=1, keepdims=True)
    return shares


def snorkel(fit: Votes, score: Votes, seed: int, class_balance: Balance) -> Probs:
    """Snorkel's LabelModel as in its tutorials. Its matrices have a row for each LF and class."""
    if fit.n_lfs * fit.n_classes > 2_000:
        raise DoesNotApply(
            f"{fit.n_lfs} LFs × {fit.n_classes} classes need a square matrix of that many rows"
        )
    model = importlib.import_module("snorkel.labeling.model").LabelModel(
        cardinality=fit.n_classes, verbose=False
    )
    balance = None if class_balance is None else list(class_balance)
    model.fit(
        fit.classes.astype(np.int64), class_balance=balance, n_epochs=N_EPOCHS, seed=seed, progress_bar=False
    )
    return np.asarray(model.predict_proba(score.classes.astype(np.int64)), dtype=np.float64)


def snorkel_majority(fit: Votes, score: Votes, seed: int, class_balance: Balance) -> Probs:  # noqa: ARG001
    """Snorkel's MajorityLabelVoter, which gives ties to all tied classes alike."""
    voter = importlib.import_module("snorkel.labeling.model").MajorityLabelVoter(cardinality=fit.n_classes)
    return np.asarray(voter.predict_proba(score.classes.astype(np.int64)), dtype=np.float64)


def hyper(fit: Votes, score: Votes, seed: int, class_balance: Balance) -> Probs:  # noqa: ARG001
    """The Hyper label model, a network that reads the whole label matrix and needs no training."""
    if score.n_classes * (score.classes != ABSTAIN).sum() > 20_000_000:
        raise DoesNotApply(f"a pass over {score.n_items} items for each of {score.n_classes} classes")
    # Its weights lie in a pickle with one number of numpy's, which torch refuses unless it is told of these names.
    numbers = [(_scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]
    with importlib.import_module("torch").serialization.safe_globals(numbers):
        model = importlib.import_module("hyperlm").HyperLabelModel(device="cpu")

    def infer(votes: npt.NDArray[np.int64]) -> Probs:
        return np.asarray(model.infer(votes, return_probs=True), dtype=np.float64)

    # As its authors use it: on the votes to be labelled, and no others. On real votes that did better than on all.
    return _transductive(infer, score, score)


def dawid_skene(fit: Votes, score: Votes, seed: int, class_balance: Balance) -> Probs:  # noqa: ARG001
    """crowd-kit's Dawid–Skene with its own settings. Its table of errors has classes × classes rows."""
    if fit.n_classes > 200:
        raise DoesNotApply(f"{fit.n_lfs} confusion matrices of {fit.n_classes} classes")
    return _crowd(lambda kit: kit.DawidSkene(), fit, score)


def one_coin_dawid_skene(fit: Votes, score: Votes, seed: int, class_balance: Balance) -> Probs:  # noqa: ARG001
    """crowd-kit's Dawid–Skene with one accuracy an LF. Its table of errors has a row for every vote and class."""
    if fit.n_classes > 200:
        raise DoesNotApply(f"{fit.n_classes} classes: more than ten minutes for 12,000 items")
    return _crowd(lambda kit: kit.OneCoinDawidSkene(), fit, score)


PEERS: dict[str, Peer] = {
    "majority": majority,
    "snorkel": snorkel,
    "snorkel majority": snorkel_majority,
    "hyper": hyper,
    "dawid-skene": dawid_skene,
    "one-coin ds": one_coin_dawid_skene,
}
_NEEDS = {"majority": "numpy", "snorkel": "snorkel", "snorkel majority": "snorkel", "hyper": "hyperlm"}
_RANDOM = frozenset({"snorkel"})
"""Peers whose figures depend on a seed even where the votes do not."""


def installed() -> list[str]:
    """Return the names of the peers that can be imported here."""
    return [name for name in PEERS if importlib.util.find_spec(_NEEDS.get(name, "crowdkit")) is not None]


def ask(name: str, task: Task, *, seed: int = 0) -> Probs:
    """Return a peer's probabilities for the scored items of a task; NaN where it failed or does not apply."""
    try:
        with _their_ways():
            probs = PEERS[name](task.fit, task.score, seed, task.class_balance)
    except Exception as error:  # other people's code on votes made to hurt: anything may come
        logger.info("%s on %s: %s: %s", name, task.name, type(error).__name__, error)
        return np.full((task.score.n_items, task.score.n_classes), np.nan)
    if probs.shape != (task.score.n_items, task.score.n_classes):
        logger.info("%s on %s: probabilities of shape %s", name, task.name, probs.shape)
        return np.full((task.score.n_items, task.score.n_classes), np.nan)
    return probs


@contextmanager
def _their_ways() -> Iterator[None]:
    """Keep warnings, and seeds that are set for the whole process, to a peer's own call."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    torch = importlib.import_module("torch")
    torch_state = torch.get_rng_state()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        torch.set_rng_state(torch_state)


def _transductive(infer: Callable[[npt.NDArray[np.int64]], Probs], fit: Votes, score: Votes) -> Probs:
    """Return what a model that cannot be asked of new items says of the scored ones, given all rows at once.

    infer: from votes of items that somebody voted on to probabilities of as many classes as were voted for. Items that
    nobody voted on get the mean of the others.
    """
    together = score.classes if fit is score else np.concatenate([fit.classes, score.classes])
    covered = (together != ABSTAIN).any(axis=1)
    found = infer(together[covered].astype(np.int64))
    probs = np.zeros((len(together), score.n_classes))
    probs[covered, : found.shape[1]] = found
    probs[~covered] = probs[covered].mean(axis=0)
    return probs[len(together) - score.n_items :]


def _crowd(build: Callable[[Any], Any], fit: Votes, score: Votes) -> Probs:
    """Ask a model of crowd-kit, which reads one row a vote: task, worker, label."""
    kit = importlib.import_module("crowdkit.aggregation")
    pandas = importlib.import_module("pandas")

    def infer(votes: npt.NDArray[np.int64]) -> Probs:
        item, lf = np.nonzero(votes != ABSTAIN)
        table = pandas.DataFrame({"task": item, "worker": lf, "label": votes[item, lf]})
        found = build(kit).fit_predict_proba(table)
        probs = np.zeros((len(votes), score.n_classes))
        probs[np.ix_(np.asarray(found.index), np.asarray(found.columns))] = found.to_numpy()
        return probs

    return _transductive(infer, fit, score)


# --- figures ---------------------------------------------------------------------------------------------------------


def accuracy(probs: npt.NDArray[Any], gold: npt.NDArray[Any]) -> float:
    """Return the share of items with known gold whose most probable class is right; ties go to the first class."""
    known = gold != ABSTAIN
    if np.isnan(probs).any():
        return float("nan")
    return float((probs[known].argmax(axis=1) == gold[known]).mean())


def f1(probs: npt.NDArray[Any], gold: npt.NDArray[Any]) -> float:
    """Return F1 of the second of two classes; 0 where it is never found."""
    if np.isnan(probs).any():
        return float("nan")
    known = gold != ABSTAIN
    said, there = probs[known].argmax(axis=1) == 1, gold[known] == 1
    return float(2 * (said & there).sum() / max(1, said.sum() + there.sum()))


def figures(name: str, task: Task | MultiTask, *, seed: int = 0) -> dict[str, float]:
    """Return a peer's figures on a task: accuracy, and F1 of what is rare; means over classes for several labels."""
    if isinstance(task, MultiTask):
        each = [ask(name, one, seed=seed) for one in task.tasks]
        return {
            "accuracy": statistics.fmean(
                accuracy(p, one.gold_score) for p, one in zip(each, task.tasks, strict=True)
            ),
            "f1": statistics.fmean(f1(p, one.gold_score) for p, one in zip(each, task.tasks, strict=True)),
        }
    probs = ask(name, task, seed=seed)
    found = {"accuracy": accuracy(probs, task.gold_score)}
    return found | {"f1": f1(probs, task.gold_score)} if task.rare else found


def seeds_of(name: str, task: Task | MultiTask, seed: int) -> Sequence[int]:
    """Return the seeds to ask a peer with: three for a random one on real votes, which have one draw only."""
    real = isinstance(task, MultiTask) or task.real
    return (0, 1, 2) if real and name in _RANDOM else (seed,)


def facts(task: Task | MultiTask) -> dict[str, float]:
    """Return what the scored votes are like: items, LFs, classes; shares of items with a vote and with two that differ.

    Of several labels, the LFs of all of them together, the number of labels, and means of the shares.
    """
    if isinstance(task, MultiTask):
        each = [facts(one) for one in task.tasks]
        return {
            "n": each[0]["n"],
            "m": sum(one["m"] for one in each),
            "k": len(each),
            "coverage": statistics.fmean(one["coverage"] for one in each),
            "conflicts": statistics.fmean(one["conflicts"] for one in each),
        }
    return _facts(task.score)


def _facts(votes: Votes) -> dict[str, float]:
    voted = votes.classes != ABSTAIN
    highest = votes.classes.max(axis=1)
    return {
        "n": votes.n_items,
        "m": votes.n_lfs,
        "k": votes.n_classes,
        "coverage": float(voted.any(axis=1).mean()),
        "conflicts": float((voted & (votes.classes != highest[:, None])).any(axis=1).mean()),
    }


def measure(
    source: Source, *, only: Sequence[str], n_seeds: int, peers: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield one row a task: its name, its facts, and the median over seeds of every peer's figures, None for none."""
    rows: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    last = ""
    for seed, task in all_tasks(source, only=only, n_seeds=n_seeds):
        if last not in ("", task.name):
            yield rows[last] | {"figures": _medians(found[last])}
        last = task.name
        rows.setdefault(last, {"task": last} | facts(task))
        for peer in peers:
            for one in seeds_of(peer, task, seed):
                for figure, value in figures(peer, task, seed=one).items():
                    found[last][peer][figure].append(value)
    if last:
        yield rows[last] | {"figures": _medians(found[last])}


def _medians(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float | None]]:
    def median(values: list[float]) -> float | None:
        return None if any(map(math.isnan, values)) else statistics.median(values)

    return {peer: {figure: median(values) for figure, values in of.items()} for peer, of in found.items()}


def main() -> int:
    """Print the tasks and the peers' figures; return 0."""
    parser = arguments("The tasks that label models are measured on, and how well the peers do on each.")
    parser.add_argument("--cache", type=Path, help="folder of computed votes (default: in the manyeyes home)")
    parser.add_argument("--only", nargs="+", default=(), metavar="TASK", help="these tasks alone")
    options = parser.parse_args()
    source = Source(options.data, options.cache)
    peers = installed()
    table = Table(title="Label-model tasks: accuracy over all scored items / F1 of what is rare")
    for column in ("task", "n", "m", "k", "cover", "conflict", *peers):
        table.add_column(column, justify="left" if column == "task" else "right")
    for row in measure(source, only=options.only, n_seeds=1 if options.quick else N_SEEDS, peers=peers):
        if options.json:
            print(json.dumps(row), flush=True)
        figures = [_cell(row["figures"].get(peer, {})) for peer in peers]
        table.add_row(
            row["task"],
            *(f"{row[c]:,}" for c in ("n", "m", "k")),
            *(f"{row[c]:.2f}" for c in ("coverage", "conflicts")),
            *figures,
        )
    for name, votes in ({} if options.only else out_of_class(source)).items():
        row = _facts(votes)
        table.add_row(
            f"{name} (out of class)",
            *(f"{row[c]:,}" for c in ("n", "m", "k")),
            *(f"{row[c]:.2f}" for c in ("coverage", "conflicts")),
        )
    if not options.json:
        Console(width=140).print(table)
    return 0


def _cell(figures: dict[str, float | None]) -> str:
    return " / ".join("—" if value is None else f"{value:.3f}" for value in figures.values())


if __name__ == "__main__":
    raise SystemExit(main())
