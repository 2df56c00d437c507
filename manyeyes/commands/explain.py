"""``manyeyes explain``: why one item has its label, as a sum that can be checked by hand."""

from __future__ import annotations

import math
from pathlib import Path

from rich.text import Text

from manyeyes.commands import screen
from manyeyes.commands.state import last_labels
from manyeyes.sinks import find_label
from manyeyes.types import Label, Versions


def run(item_id: str, *, labels: Path | None) -> int:
    """Print the reasons of one item; return exit code 0.

    Raises LabelNotFound if no row has that id, InvalidRequest if there is no file of labels.
    """
    path = labels if labels is not None else last_labels()
    label, versions = find_label(path, item_id)
    console = screen.out()
    for line in headline(label):
        console.print(Text(line), soft_wrap=True)
    if label.status != "error":
        console.print()
        heads = ("function", "vote", "score", "moved")
        console.print(screen.table("", heads, reason_rows(label), words=("vote",)))
        for line in [*frame_lines(label), *lent_lines(label)]:
            console.print(Text(line, style="dim"), soft_wrap=True)
        console.print()
        console.print(screen.table("", ("class", "probability"), [(n, f"{p:.4f}") for n, p in ranked(label)]))
    console.print()
    for line in provenance(versions, path):
        console.print(Text(line, style="dim"), soft_wrap=True)
    return 0


def headline(label: Label) -> list[str]:
    """Return what became of an item, in a sentence or two."""
    if label.error is not None:
        return [
            f"{label.id} could not be labeled.",
            f"[{label.error.code}] {label.error}",
            "It is an error and not an abstention: no labeling function saw it. Mend it and label it again.",
        ]
    top = ranked(label)[0][0] if label.probs else "nothing"
    sure = f"{label.confidence:.1%}" if label.confidence is not None else "unknown"
    if label.status == "abstained":
        return [
            f"{label.id} has no label: the likeliest class is {top} at {sure}, but no function voted or"
            " that is too unsure for the recipe."
        ]
    if label.by_default:
        return [
            f"{label.id} is {label.label}, the recipe's default class, because no function voted; before any vote it is"
            f" {label.label} at {sure}."
        ]
    return [f"{label.id} is {label.label} at {sure}; runner-up: {label.runner_up}."]


def reason_rows(label: Label) -> list[tuple[str, str, str, str]]:
    """Return one row a labeling function, the heaviest first, between the prior and the sum, in nats."""
    prior = label.prior or 0.0
    rows = [("(prior)", "", "", f"{prior:+.4f}")]
    for reason in sorted(label.reasons, key=lambda reason: (reason.vote is None, -abs(reason.moved))):
        score = "" if reason.score is None else f"{reason.score:.3f}"
        rows.append((reason.lf, reason.vote or "(abstained)", score, f"{reason.moved:+.4f}"))
    total = prior + sum(reason.moved for reason in label.reasons)
    top = ranked(label)[0][0] if label.probs else ""
    rows.append(("= log-odds", f"{top} against {label.runner_up}", "", f"{total:+.4f}"))
    if label.runner_up is not None and label.runner_up in label.probs:
        odds = label.probs[top], label.probs[label.runner_up]
        check = math.log(odds[0] / odds[1]) if min(odds) > 0 else math.inf
        rows.append(("from probabilities", f"log({odds[0]:.4f} / {odds[1]:.4f})", "", f"{check:+.4f}"))
    return rows


def lent_lines(label: Label) -> list[str]:
    """Return what similar items lent to this one, one line a labeling function."""
    return [f"{reason.lf}: {reason.lent}" for reason in label.reasons if reason.lent is not None]


def frame_lines(label: Label) -> list[str]:
    """Return at which frame of a clip each labeling function was strongest, one line each."""
    return [f"{reason.lf}: strongest at {reason.at}" for reason in label.reasons if reason.at is not None]


def ranked(label: Label) -> list[tuple[str, float]]:
    """Return the classes with their probabilities, the likeliest first."""
    return sorted(label.probs.items(), key=lambda pair: -pair[1])


def provenance(versions: Versions, path: Path) -> list[str]:
    """Return what made the label, one line each."""
    lines = [f"recipe {versions.recipe}", f"label model {versions.label_model}"]
    lines += [f"{name} {version}" for name, version in sorted(versions.primitives.items())]
    return [*lines, f"read from {path}"]
