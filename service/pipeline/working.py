"""The work of calls itself, on one thread: of one call, or of several that share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from manyeyes.errors import ItemError
from manyeyes.fitting import Collected
from manyeyes.labeler import Labeler
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.extractor import Extractor
from manyeyes.service.intake.items import Read
from manyeyes.service.operations.observer import NOBODY, Observer
from manyeyes.service.operations.spans import span
from manyeyes.service.pipeline.tallies import tally
from manyeyes.service.pipeline.together import Rows, collected_of, features_of
from manyeyes.service.recipes import ServedRecipe
from manyeyes.types import Item, Label, Versions


@dataclass(frozen=True, slots=True)
class Labeled:
    """The labels of a call, one a row, and what made them.

    collected: what the LFs said of the rows that could be read, in their order; enough to fit a label model later.
    """

    labels: list[Label]
    versions: Versions
    collected: Collected


@dataclass(frozen=True, slots=True)
class Seen:
    """Features of the rows of a call. versions: feature → the version of what made it."""

    features: FeatureSet
    versions: Mapping[str, str]


def collect(
    items: Sequence[Item],
    labeler: Labeler,
    served: ServedRecipe,
    observer: Observer,
    *,
    distinct: bool = True,
) -> Collected:
    """Return what the LFs of a recipe say of some items, and tell the observer. distinct: see ``Labeler.collect``."""
    collected = labeler.collect(items, within=span, distinct=distinct)
    if served.stored and observer is not NOBODY:
        observer.voted(served.name, tally(collected.votes))
    return collected


def label_together(
    calls: Sequence[Rows], labeler: Labeler, served: ServedRecipe, observer: Observer
) -> list[Labeled]:
    """Return what came of some calls; several only where each item is labeled by itself."""
    items = [[read for _, read in rows if isinstance(read, Item)] for rows in calls]
    together = [item for own in items for item in own]
    # Two callers may use the same id. That no call uses one twice was seen to before it was put beside others.
    found = collect(together, labeler, served, observer, distinct=len(calls) == 1)
    with span("fuse", n_items=len(together)):
        labels = labeler.fuse(found)
    made = iter(labels)
    parts = collected_of(found, [len(own) for own in items])
    return [
        Labeled(
            labels=[
                next(made) if isinstance(read, Item) else Label(id=name, status="error", error=read)
                for name, read in rows
            ],
            versions=labels.versions,
            collected=part,
        )
        for rows, part in zip(calls, parts, strict=True)
    ]


def see_together(calls: Sequence[Rows], extractor: Extractor, needs: Sequence[str]) -> list[Seen]:
    """Return what is seen in the rows of some calls, call by call."""
    # An item of nothing holds the place of a row that could not be read.
    items = [item_of(name, read) for rows in calls for name, read in rows]
    features = extractor.extract(items, needs)
    versions = extractor.versions(needs)
    return [
        Seen(features=replace(part, errors=errors_of(rows, part.errors)), versions=versions)
        for rows, part in zip(calls, features_of(features, [len(rows) for rows in calls]), strict=True)
    ]


def item_of(name: str, read: Read) -> Item:
    """Return the item of a row; one of nothing holds the place of what could not be read."""
    return read if isinstance(read, Item) else Item(id=name)


def errors_of(rows: Sequence[tuple[str, Read]], found: Mapping[int, ItemError]) -> dict[int, ItemError]:
    """Return what is wrong with which rows: what was found, and what could not be read."""
    unread = {n: read for n, (_, read) in enumerate(rows) if isinstance(read, ItemError)}
    return dict(sorted({**found, **unread}.items()))
