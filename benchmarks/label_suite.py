"""How often label models are right: YouTube, every task beside the peers, scores, photos of none of the classes."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from benchmarks.bars import Bar, at_least, told
from benchmarks.label_peers import PEERS, accuracy, ask, f1, facts, figures, installed, seeds_of
from benchmarks.label_tasks import N_SEEDS, REAL, MultiTask, Source, Task, all_tasks, out_of_class
from manyeyes import Recipe
from manyeyes.fitting import familiarity
from manyeyes.models.auto import Auto
from manyeyes.models.calibration import log_loss
from manyeyes.types import ABSTAIN, FloatArray, Votes, no_scores

OURS, WITH_EMBEDDINGS = "auto", "auto + embeddings"
IMAGE_TASKS = ("clothing", "shoes", "outwear", "cifar10", "imagenet", "coco128")
SLOW_TASKS = ("hundred_classes", "thousand_classes")
"""Tasks on which peers need most of the time."""
WORST_MARGIN = -0.005
NEAR_BEST = 0.01

Figures = dict[str, float]
"""accuracy; on tasks with a rare class also f1, that of the rare class. NaN where a model failed or does not apply."""


@dataclass(frozen=True)
class Row:
    """A task with what each model reached on it, the median over seeds."""

    task: str
    facts: dict[str, float]
    figures: dict[str, Figures]

    def accuracy(self, model: str) -> float:
        """Return the accuracy of a model, NaN where it has none."""
        return self.figures.get(model, {}).get("accuracy", math.nan)

    def telling(self, model: str) -> float:
        """Return the figure that tells most: F1 where a class is rare, else accuracy."""
        found = self.figures.get(model, {})
        return found.get("f1", found.get("accuracy", math.nan))

    def best_peer(self, figure: Callable[[str], float]) -> float:
        """Return the highest figure of a peer; ``figure`` is a method of this row."""
        found = [figure(peer) for peer in self.figures if peer in PEERS]
        return max(one for one in found if not math.isnan(one))


def fitted_on(task: Task, *, embeddings: bool = False) -> FloatArray:
    """Return the probabilities that ``auto`` gives the scored items of a task: float32, shape (n_items, n_classes)."""
    model = Auto(task.class_balance)
    if embeddings:
        model.fit(task.fit, None, task.embeddings_fit)
        return model.predict_proba(task.score, task.embeddings_score)
    return model.fit(task.fit).predict_proba(task.score)


def parts_of(task: Task | MultiTask) -> tuple[Task, ...]:
    """Return the tasks of several labels, or the task itself."""
    return task.tasks if isinstance(task, MultiTask) else (task,)


def our_figures(task: Task | MultiTask, *, embeddings: bool = False) -> Figures:
    """Return the figures of ``auto``, means over labels where there are several."""
    tasks = parts_of(task)
    if embeddings and any(one.embeddings_fit is None for one in tasks):
        return {"accuracy": math.nan}
    probs = [fitted_on(one, embeddings=embeddings) for one in tasks]
    pairs = list(zip(probs, tasks, strict=True))
    found = {"accuracy": statistics.fmean(accuracy(p, one.gold_score) for p, one in pairs)}
    if isinstance(task, MultiTask) or task.rare:
        found["f1"] = statistics.fmean(f1(p, one.gold_score) for p, one in pairs)
    return found


# --- the suite -------------------------------------------------------------------------------------------------------


def suite(source: Source, *, only: Sequence[str] = (), n_seeds: int = N_SEEDS) -> Iterator[Row]:
    """Yield a row for every task, as soon as all of its seeds are measured."""
    peers = [peer for peer in installed() if peer != "snorkel majority"]
    found: dict[str, dict[str, list[float]]] = {}
    about: dict[str, float] = {}
    last = ""
    for seed, task in all_tasks(source, only=only, n_seeds=n_seeds):
        if task.name != last:
            if last:
                yield Row(last, about, _medians(found))
            last, about, found = task.name, facts(task), defaultdict(lambda: defaultdict(list))
        for peer in peers:
            for one in seeds_of(peer, task, seed):
                _add(found, peer, figures(peer, task, seed=one))
        _add(found, OURS, our_figures(task))
        _add(found, WITH_EMBEDDINGS, our_figures(task, embeddings=True))
    if last:
        yield Row(last, about, _medians(found))


def _add(found: dict[str, dict[str, list[float]]], model: str, one: Figures) -> None:
    for figure, value in one.items():
        found[model][figure].append(value)


def _medians(found: dict[str, dict[str, list[float]]]) -> dict[str, Figures]:
    return {
        model: {
            figure: math.nan if any(map(math.isnan, values)) else statistics.median(values)
            for figure, values in of.items()
        }
        for model, of in found.items()
    }


def suite_bars(rows: Sequence[Row]) -> list[Bar]:
    """Never far below majority vote, and mostly with the best."""
    margins = {row.task: row.accuracy(OURS) - row.accuracy("majority") for row in rows}
    worst = min(margins, key=lambda task: margins[task])
    ahead = {row.task: row.accuracy(OURS) - row.best_peer(row.accuracy) for row in rows}
    telling = {row.task: row.telling(OURS) - row.best_peer(row.telling) for row in rows}
    near = sum(margin >= -NEAR_BEST for margin in ahead.values())

    def of_all(margins: dict[str, float]) -> str:
        behind = [f"{task} {margin:+.3f}" for task, margin in margins.items() if margin < -NEAR_BEST]
        return f"of {len(rows)}" + (f"; not {', '.join(behind)}" if behind else "")

    return [
        at_least("suite: worst margin on majority vote", margins[worst], WORST_MARGIN, peer=f"on {worst}"),
        at_least(
            f"suite: tasks on which auto is best or within {NEAR_BEST} of the best peer",
            near,
            10,
            peer=of_all(ahead),
        ),
        told(
            "suite: the same by F1 where a class is rare",
            sum(margin >= -NEAR_BEST for margin in telling.values()),
            peer=of_all(telling),
        ),
        told(
            "suite: tasks on which auto is best, ties included",
            sum(margin >= 0 for margin in ahead.values()),
            peer=f"of {len(rows)}",
        ),
        *rare_bars(rows),
    ]


def rare_bars(rows: Sequence[Row]) -> list[Bar]:
    """Where a class is rare, accuracy hides it: F1 of that class beside the best peer's."""
    bars = []
    for row in rows:
        found = {model: of["f1"] for model, of in row.figures.items() if model in PEERS and "f1" in of}
        found = {model: value for model, value in found.items() if not math.isnan(value)}
        if found and "f1" in row.figures[OURS]:
            best = max(found, key=lambda model: found[model])
            bars.append(
                told(
                    f"suite: {row.task}: F1 of what is rare, auto",
                    row.figures[OURS]["f1"],
                    peer=f"{best}, the best: {found[best]:.3f}; majority: {found['majority']:.3f}",
                )
            )
    return bars


def told_rows(rows: Iterable[Row]) -> list[Bar]:
    """Return a row of the table as a bar without a goal, for programs."""
    return [
        told(
            f"suite: {row.task}: auto",
            row.accuracy(OURS),
            peer=", ".join(
                f"{model} {_cell(found)}" for model, found in row.figures.items() if model != OURS
            ),
        )
        for row in rows
    ]


def _columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    models = list(rows[0].figures) if rows else []
    head = ["task", "n", "m", "k", *models]
    body = [
        [
            row.task,
            *(f"{row.facts[fact]:,}" for fact in ("n", "m", "k")),
            *(_cell(row.figures[model]) for model in models),
        ]
        for row in rows
    ]
    return head, body


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for a terminal."""
    head, body = _columns(rows)
    drawn = Table(title="Accuracy over all scored items / F1 of what is rare")
    for column in head:
        drawn.add_column(column, justify="left" if column == "task" else "right")
    for line in body:
        drawn.add_row(*line)
    return drawn


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; what is best in a row, embeddings aside, stands out.

    Where a class is rare, that is by F1.
    """
    head, body = _columns(rows)
    lines = [
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
    ]
    for row, cells in zip(rows, body, strict=True):
        best = max(row.best_peer(row.telling), row.telling(OURS))
        shown = [
            f"**{cell}**" if model != WITH_EMBEDDINGS and row.telling(model) >= best - 5e-4 else cell
            for model, cell in zip(head, cells, strict=True)
        ]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(found: Figures) -> str:
    return " / ".join("–" if math.isnan(value) else f"{value:.3f}" for value in found.values())


# --- single questions ------------------------------------------------------------------------------------------------


def youtube_bars(source: Source) -> list[Bar]:
    """Spam among comments, with the ten LFs that came with the data set."""
    task = REAL["youtube"](source)
    assert isinstance(task, Task)
    votes_alone = accuracy(fitted_on(task), task.gold_score)
    near = accuracy(fitted_on(task, embeddings=True), task.gold_score)
    peers = [
        told(f"youtube: {peer}", accuracy(ask(peer, task), task.gold_score))
        for peer in ("majority", "snorkel", "hyper", "dawid-skene")
        if peer in installed()
    ]
    return [
        at_least("youtube: auto, votes alone", votes_alone, 0.88),
        at_least("youtube: auto, with embeddings", near, 0.91),
        *peers,
    ]


def scores_bars(source: Source, *, only: Sequence[str] = IMAGE_TASKS) -> list[Bar]:
    """What scores are worth: log-loss with them, and with the same votes made hard."""
    bars = []
    for name in only:
        scored, hard = [], []
        for task in parts_of(REAL[name](source)):
            scored.append(log_loss(fitted_on(task), task.gold_score))
            made_hard = replace(task, fit=without_scores(task.fit), score=without_scores(task.score))
            hard.append(log_loss(fitted_on(made_hard), task.gold_score))
        bars.append(
            at_least(
                f"scores: {name}: nats of log-loss saved",
                statistics.fmean(hard) - statistics.fmean(scored),
                0.0,
                peer=f"{statistics.fmean(scored):.3f} with scores, {statistics.fmean(hard):.3f} without",
            )
        )
    return bars


def without_scores(votes: Votes) -> Votes:
    """Return the same votes, hard."""
    return replace(votes, scores=no_scores(votes.classes.shape))


def out_of_class_bars(source: Source | None = None) -> list[Bar]:
    """Photos that show none of a recipe's classes: how many get no label, and how many others get one, by default."""
    source = source or Source()
    fields = Recipe.model_fields
    below, unfamiliar = float(fields["abstain_below"].default), float(fields["unfamiliar_below"].default)
    bars = []
    for name, strangers in out_of_class(source).items():
        task = REAL[name](source)
        assert isinstance(task, Task)
        model = Auto(task.class_balance).fit(task.fit)

        def labeled(votes: Votes, model: Auto = model) -> float:
            """Return the share of items that a Labeler would give a label."""
            voted = (votes.classes != ABSTAIN).any(axis=1)
            sure = (model.predict_proba(votes).max(axis=1) >= below) & (familiarity(votes) >= unfamiliar)
            return float((voted & sure).mean())

        bars += [
            at_least(
                f"{name}: out-of-class photos that abstain",
                1 - labeled(strangers),
                0.8,
                peer=f"{strangers.n_items} photos, unfamiliar_below {unfamiliar:g}",
            ),
            at_least(
                f"{name}: in-class photos that get a label",
                labeled(task.score),
                0.9,
                peer=f"{task.score.n_items} photos",
            ),
        ]
    return bars
