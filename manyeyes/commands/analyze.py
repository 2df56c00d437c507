"""``manyeyes analyze``: how good the labeling functions are, which hang together, and what another recipe would do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.text import Text

from manyeyes.commands import screen
from manyeyes.commands.label import Stream, read_gold
from manyeyes.errors import InvalidRecipe, InvalidRequest, ItemError
from manyeyes.fitting import Collected
from manyeyes.labeler import Labeler, gold_indices
from manyeyes.lfs.analysis import VotesSummary, summarize
from manyeyes.lfs.analysis_blocks import posterior
from manyeyes.lfs.analysis_change import EXAMPLES, Change, Flip
from manyeyes.lfs.analysis_pairs import PairsSummary, compare_pairs
from manyeyes.lfs.analysis_preview import Preview
from manyeyes.lfs.base import VoteColumn
from manyeyes.models.base import LabelModel
from manyeyes.recipe import Recipe
from manyeyes.recipe_label_model import TargetPrecision
from manyeyes.sources import read_items
from manyeyes.types import ABSTAIN, Labels, Votes, vote_dtype

_PAIRS_SHOWN: Final = 10
_WORTH_SAYING: Final = 1.5  # times as often as independent LFs
_REDUNDANT: Final = 0.9


@dataclass(frozen=True)
class Options:
    """What the command line asks of ``analyze``; see ``manyeyes analyze --help``."""

    paths: Sequence[Path]
    recipe: Path
    gold: Path | None = None
    what_if: Path | None = None
    as_json: bool = False
    limit: int | None = None


@dataclass(frozen=True, eq=False)
class Voted:
    """The votes of one recipe on the items, and the label model that was fitted on them."""

    labeler: Labeler
    collected: Collected
    gold: Mapping[str, str] | None
    n_unread: int

    @property
    def votes(self) -> Votes:
        return self.collected.votes

    @property
    def errors(self) -> Mapping[int, ItemError]:
        return self.collected.errors

    @property
    def ids(self) -> tuple[str, ...]:
        return self.collected.ids

    @property
    def label_model(self) -> LabelModel:
        """The label model; raises InvalidRequest where there was nothing to fit it on."""
        if self.labeler.label_model is None:
            raise InvalidRequest(
                f"with recipe {self.labeler.recipe.name!r} not one item can be read; nothing can be told of its votes"
            )
        return self.labeler.label_model


@dataclass(frozen=True)
class WhatIf:
    """What going to another recipe would do: each LF that differs by itself, and all together with a new label model.

    flips: how many labels change. examples: id, label and its probability before and after, of up to 20 items whose
    label becomes another class, those whose probabilities move furthest first.
    """

    changes: tuple[Change, ...]
    before: VotesSummary
    after: VotesSummary
    flips: tuple[Flip, ...]
    examples: tuple[tuple[str, str, float, str, float], ...]

    @property
    def n_flips(self) -> int:
        return sum(flip.items for flip in self.flips if None not in (flip.before, flip.after))


def run(options: Options) -> int:
    """Analyze as the options say; return the exit code: 0, or 1 where there was not one item without an error.

    Raises InvalidRecipe if the two recipes have different classes, InvalidRequest if the gold labels do not fit.
    """
    recipe = Recipe.load(options.recipe)
    other = None if options.what_if is None else Recipe.load(options.what_if)
    if other is not None and tuple(other.classes) != tuple(recipe.classes):
        raise InvalidRecipe(
            f"{options.what_if} has the classes {', '.join(other.classes)}, but {options.recipe} has"
            f" {', '.join(recipe.classes)}; labels can be compared only under the same classes, in the same order"
        )
    gold = None if options.gold is None else read_gold(options.gold)
    here = _vote(recipe, options, gold)
    if len(here.errors) == len(here.ids):
        screen.say("There was nothing to analyze: not one image, text or table row that can be read.")
        return 1
    probs = posterior(here.label_model, here.votes)
    truth = gold_indices(here.gold, here.ids, recipe.classes)
    errors = list(here.errors)
    summary = summarize(here.votes, gold=truth, errors=errors, probs=probs, label_model=here.label_model)
    known = probs if _is_calibrated(here.label_model) else None
    pairs = compare_pairs(here.votes, probs=known, gold=truth, errors=errors)
    what_if = None if other is None else compare_recipes(here, _vote(other, options, gold))
    if options.as_json:
        told = _document(here, summary, pairs, what_if)
        screen.out().out(json.dumps(told, indent=2, ensure_ascii=False), highlight=False)
    else:
        _show(here, summary, pairs)
        if what_if is not None:
            _show_what_if(what_if, here.ids)
    return 0


def lf_rows(summary: VotesSummary) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heads and rows of the table of labeling functions, the last row for all of them together."""
    judged = any(lf.accuracy is not None for lf in summary.lfs)
    heads = (
        "function",
        "votes for",
        "coverage",
        "overlaps",
        "conflicts",
        *(("right", "95 %") if judged else ()),
    )
    rows = []
    for lf in summary.lfs:
        votes_for = ", ".join(
            f"{value.name} {value.votes / lf.votes:.0%}" if len(lf.values) > 1 else value.name
            for value in lf.values
        )
        row = (lf.name, votes_for or "–", *(f"{s:.1%}" for s in (lf.coverage, lf.overlaps, lf.conflicts)))
        if judged:
            low, high = lf.accuracy_interval or (None, None)
            row += (_percent(lf.accuracy), "–" if low is None else f"{low:.0%}–{high:.0%}")
        rows.append((*row, _percent(lf.estimated_accuracy)))
    whole = (f"{s:.1%}" for s in (summary.coverage, summary.overlaps, summary.conflicts))
    rows.append(("(any)", "", *whole, *(("", "") if judged else ()), ""))
    return (*heads, "estimated"), rows


def hints(pairs: PairsSummary) -> list[str]:
    """Return in words which labeling functions count for less than they seem to, the plainest cases first."""
    group = {name: names for names in pairs.copies for name in names}
    told = [
        f"{_and(names)} vote alike almost everywhere: together they count for one." for names in pairs.copies
    ]
    seen = {
        frozenset((r.name, r.of))
        for r in pairs.redundancy
        if r.of is not None and r.of in group.get(r.name, ())
    }
    for r in pairs.redundancy:
        if r.of is not None and r.share >= _REDUNDANT and frozenset((r.name, r.of)) not in seen:
            seen.add(frozenset((r.name, r.of)))
            told.append(f"{r.of} gives {r.share:.0%} of the votes of {r.name} already: {r.name} adds little.")
    for pair in pairs.dependent():
        alike = group.get(pair.first) is not None and group.get(pair.first) is group.get(pair.second)
        if pair.together is not None and pair.together >= _WORTH_SAYING and not alike:
            told.append(
                f"{pair.first} and {pair.second} err together {pair.together:.1f}× as often as independent functions"
                " would: together they count for less than two."
            )
    return told[:_PAIRS_SHOWN]


def compare_recipes(here: Voted, there: Voted) -> WhatIf:
    """Return what going from one recipe's votes to another's would do. Raises InvalidRequest if the items differ."""
    if here.ids != there.ids:
        raise InvalidRequest("the items changed while they were read; nothing was compared, run it again")
    errors = sorted({*here.errors, *there.errors})
    sets = tuple(dict.fromkeys([*here.votes.sets, *there.votes.sets]))
    old, new = with_sets(here.votes, sets), with_sets(there.votes, sets)
    preview = Preview(old, here.label_model, errors=errors, abstain_below=here.labeler.least_confidence)
    versions = [{lf.name: lf.version for lf in voted.labeler.lfs} for voted in (here, there)]
    changes = []
    for name in dict.fromkeys([*old.lf_names, *new.lf_names]):
        if name not in new.lf_names:
            changes.append(preview.drop(name))
            continue
        j = new.lf_names.index(name)
        column = VoteColumn(new.classes[:, j], new.scores[:, j])
        if name not in old.lf_names:
            changes.append(preview.add(column, name=name))
        elif versions[0][name] != versions[1][name] or not np.array_equal(
            column.classes, old.classes[:, old.lf_names.index(name)]
        ):
            changes.append(preview.edit(name, column))
    labels = [voted.labeler.fuse(voted.collected) for voted in (here, there)]
    flips, examples = _flips(*labels, errors=errors)
    return WhatIf(
        changes=tuple(changes),
        before=summarize(old, errors=errors),
        after=summarize(new, errors=errors),
        flips=flips,
        examples=examples,
    )


def _vote(recipe: Recipe, options: Options, gold: Mapping[str, str] | None) -> Voted:
    if not gold and isinstance(recipe.abstain_below, TargetPrecision):
        # LFs can be looked at without the threshold that only known labels give.
        recipe = recipe.model_copy(update={"abstain_below": 0.0})
    labeler = Labeler(recipe)
    stream = Stream(reads=islice(read_items(options.paths, skipped=Counter()), options.limit))
    with screen.progress(f"voting ({recipe.name})", total=None) as done:
        collected = labeler.collect(stream.sound(), progress=done)
    for note in labeler.extractor.notes:
        screen.say(note)
    broken = {unread.id for unread in stream.broken}
    known = None if gold is None else {key: name for key, name in gold.items() if key not in broken}
    if len(collected.errors) < len(collected.ids):
        labeler.fit_collected(collected, gold=known)
    return Voted(labeler, collected, known, len(stream.broken))


def _is_calibrated(model: LabelModel) -> bool:
    """Whether probabilities can be taken for how often labels are right; those of majority vote cannot."""
    return getattr(model, "choice_", model).name != "majority"


def with_sets(votes: Votes, sets: tuple[tuple[int, ...], ...]) -> Votes:
    """Return the same votes, numbered by other sets of classes, among which all of theirs must be."""
    if votes.sets == sets:
        return votes
    k = votes.n_classes
    meaning = np.array([*range(k), *(k + sets.index(members) for members in votes.sets), ABSTAIN])
    classes = meaning[votes.classes].astype(vote_dtype(k + len(sets)))  # ABSTAIN is the last entry
    return replace(votes, classes=classes, sets=sets)


def _flips(
    before: Labels, after: Labels, *, errors: Sequence[int]
) -> tuple[tuple[Flip, ...], tuple[tuple[str, str, float, str, float], ...]]:
    names = (*before.votes.class_names, None)
    sound = np.ones(len(before), dtype=np.bool_)
    sound[list(errors)] = False
    changed = np.flatnonzero((before.label != after.label) & sound)
    counts = Counter(zip(before.label[changed].tolist(), after.label[changed].tolist(), strict=True))
    flips = tuple(Flip(names[was], names[now], items) for (was, now), items in counts.most_common())
    rows = changed[(before.label[changed] != ABSTAIN) & (after.label[changed] != ABSTAIN)]
    distance = np.abs(after.probs[rows] - before.probs[rows]).sum(axis=1)
    examples = []
    for row in rows[np.argsort(-distance, kind="stable")][:EXAMPLES].tolist():
        sides = [
            (str(names[labels.label[row]]), float(labels.probs[row, labels.label[row]]))
            for labels in (before, after)
        ]
        examples.append((before.ids[row], *sides[0], *sides[1]))
    return flips, tuple(examples)


def _show(here: Voted, summary: VotesSummary, pairs: PairsSummary) -> None:
    console = screen.out()
    heads, rows = lf_rows(summary)
    console.print(screen.table("Labeling functions", heads, rows, words=("votes for",)))
    console.print()
    found = pairs.dependent()
    if found:
        given = "that are not independent" if pairs.given_class else "that agree more than by chance"
        cells = [
            (
                pair.first,
                pair.second,
                f"{pair.both:,}",
                _percent(pair.agreement),
                _percent(pair.expected),
                f"{pair.dependence or 0.0:.2f}",
                "–" if pair.together is None else f"{pair.together:.1f}×",
            )
            for pair in found[:_PAIRS_SHOWN]
        ]
        heads = ("function", "and", "both vote", "agree", "expected", "dependence", "same mistakes")
        title = f"Pairs {given}" + (
            f" (the first {_PAIRS_SHOWN} of {len(found)})" if len(found) > len(cells) else ""
        )
        console.print(screen.table(title, heads, cells, words=("and",)))
        console.print()
    nothing = [] if found else ["No two functions hang together beyond what chance explains."]
    for line in hints(pairs) or nothing:
        console.print(Text(line), soft_wrap=True)
    if not pairs.given_class:
        why = getattr(here.label_model, "why_", "majority vote does not learn how good a function is")
        screen.say(
            f"Agreement is judged against chance alone ({why}), so two good functions agree too. Mistakes in common can"
            " be told with more items, or with known labels (--gold)."
        )
    n_errors = len(here.errors) + here.n_unread
    if n_errors:
        screen.say(f"Left out: {n_errors:,} {'item' if n_errors == 1 else 'items'} with an error.")


def _show_what_if(what_if: WhatIf, ids: Sequence[str]) -> None:
    console = screen.out()
    console.print()
    if not what_if.changes:
        console.print(Text("What if: the labeling functions of both recipes are the same."), soft_wrap=True)
    else:
        heads = (
            "function",
            "change",
            "coverage",
            "conflicts",
            "estimated",
            "labels flipped",
            "newly covered",
            "uncovered",
        )
        rows = []
        for change in what_if.changes:
            before, after = change.lf_before, change.lf_after
            rows.append(
                (
                    change.lf,
                    {"drop": "dropped", "add": "added", "edit": "edited"}[change.kind],
                    _arrow(before.coverage if before else None, after.coverage if after else None),
                    _arrow(before.conflicts if before else None, after.conflicts if after else None),
                    _arrow(change.estimated_before, change.estimated_after),
                    f"{change.n_flips:,}",
                    f"{change.newly_covered:,}",
                    f"{change.uncovered:,}",
                )
            )
        console.print(screen.table("What if: each change by itself", heads, rows, words=("change",)))
        for change in what_if.changes:
            if change.examples:
                told = ", ".join(ids[row] for row in change.examples)
                console.print(Text(f"{change.lf} would flip {told}", style="dim"), soft_wrap=True)
    console.print()
    shares = [
        (name, _arrow(getattr(what_if.before, name), getattr(what_if.after, name)))
        for name in ("coverage", "overlaps", "conflicts")
    ]
    console.print(screen.table("What if: all together", ("all functions", "before → after"), shares))
    console.print()
    if not what_if.flips:
        console.print(Text("No label would change."))
        return
    flips = [(f.before or "(none)", f.after or "(none)", f"{f.items:,}") for f in what_if.flips]
    console.print(
        screen.table(f"Labels flipped: {what_if.n_flips:,}", ("from", "to", "items"), flips, words=("to",))
    )
    if what_if.examples:
        console.print()
        moved = [(i, f"{was} {p:.2f}", f"{now} {q:.2f}") for i, was, p, now, q in what_if.examples]
        columns = ("item", "before", "after")
        console.print(screen.table("Where most would change", columns, moved, words=("before", "after")))


def _document(
    here: Voted, summary: VotesSummary, pairs: PairsSummary, what_if: WhatIf | None
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "recipe": here.labeler.recipe.version,
        "label_model": here.label_model.version,
        "errors": len(here.errors) + here.n_unread,
        **asdict(summary),
        "given_class": pairs.given_class,
        "pairs": [{**asdict(pair), "dependent": pair.dependent} for pair in pairs.pairs],
        "redundancy": [asdict(r) for r in pairs.redundancy],
        "copies": [list(names) for names in pairs.copies],
        "hints": hints(pairs),
    }
    if what_if is not None:
        examples = ("examples", "covered_examples", "uncovered_examples")
        told["what_if"] = {
            "changes": [
                asdict(change) | {key: [here.ids[row] for row in getattr(change, key)] for key in examples}
                for change in what_if.changes
            ],
            **{
                side: {name: getattr(found, name) for name in ("coverage", "overlaps", "conflicts")}
                for side, found in (("before", what_if.before), ("after", what_if.after))
            },
            "n_flips": what_if.n_flips,
            "flips": [asdict(flip) for flip in what_if.flips],
            "examples": [
                {"id": i, "before": was, "confidence_before": p, "after": now, "confidence_after": q}
                for i, was, p, now, q in what_if.examples
            ],
        }
    return told


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _arrow(before: float | None, after: float | None) -> str:
    return f"{_percent(before)} → {_percent(after)}"


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
