"""``manyeyes label``: from paths to a file of labels, a report and a table."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from manyeyes.commands import screen
from manyeyes.commands.recipe import chosen_recipe
from manyeyes.commands.state import remember
from manyeyes.errors import InvalidRequest
from manyeyes.primitives.naming import families
from manyeyes.report import SUFFIXES as REPORT_SUFFIXES
from manyeyes.report import Run, write_report
from manyeyes.sinks import check_destination, write_labels
from manyeyes.sources import Broken, Read, read_items
from manyeyes.types import Item, Label, Labels
from manyeyes.videos import Sampling, clip_of, with_small_image

if TYPE_CHECKING:
    from manyeyes.fitting import Collected, Threshold
    from manyeyes.labeler import Labeler
    from manyeyes.recipe import Recipe

# Items up to here are listed before the first is labeled, so that the bar knows its end and the report has pictures.
_LISTED: Final = 100_000
_FRAMES_AT_ONCE: Final = 64
_FRAMES_SHOWN: Final = 2_000
_ERRORS_SHOWN: Final = 10
BETTER: Final = {
    "clip": "MobileCLIP2-S2 or ViT-B-32 (--clip)",
    "detector": "yolo11n or yolo26n (--detector)",
}


@dataclass(frozen=True)
class Options:
    """What the command line asks of ``label``; see ``manyeyes label --help``."""

    paths: Sequence[Path]
    out: Path
    recipe: Path | None = None
    classes: str | None = None
    report: Path | None = None
    label_model: Path | None = None
    save_label_model: Path | None = None
    gold: Path | None = None
    limit: int | None = None
    clip: str | None = None
    detector: str | None = None
    recursive: bool = True
    cache: bool = True
    videos: Sampling | None = None
    per_clip: bool = False


@dataclass
class Stream(Sequence[Label]):
    """Reads items on their way to the Labeler, and puts the rows back in the order in which they were read.

    order: one entry a row; i ≥ 0 is the i-th item that was labeled, -1 - i the i-th that could not be read.
    pictures: whether decoded frames are kept, small, to be shown; anything else is kept as it is, for it costs little.
    clips: for each item that was labeled, the video that it is a frame of, or None.
    """

    reads: Iterator[Read]
    pictures: bool = False
    clips: list[str | None] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    items: dict[str, Item] = field(default_factory=dict)
    labels: Labels | None = None

    def __iter__(self) -> Iterator[Label]:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Any) -> Any:
        place = self.order[index]
        if place < 0:
            broken = self.broken[-1 - place]
            return Label(id=broken.id, status="error", error=broken.error)
        if self.labels is None:
            raise InvalidRequest("these items are not labeled yet")
        return self.labels[place]

    def sound(self) -> Iterator[Item]:
        """Yield the items that can be given to the Labeler, and note the rest."""
        given = 0
        for read in self.reads:
            if isinstance(read, Broken):
                self.order.append(-1 - len(self.broken))
                self.broken.append(read)
                continue
            self.order.append(given)
            given += 1
            self.clips.append(clip_of(read))
            if self.clips[-1] is not None:
                if self.pictures and len(self.items) < _FRAMES_SHOWN:
                    self.items[read.id] = with_small_image(read)
            elif len(self.items) < _LISTED:
                self.items[read.id] = read
            yield read


def run(options: Options) -> int:
    """Label as the options say; return the exit code: 0, or 1 where not one item could be labeled."""
    check_destination(options.out)
    if options.report is not None:
        check_destination(options.report, suffixes=REPORT_SUFFIXES)
    recipe = chosen_recipe(
        file=options.recipe,
        classes=options.classes,
        models={"clip": options.clip, "detector": options.detector},
    )
    _check_clips(recipe, options)
    gold = None if options.gold is None else read_gold(options.gold)
    labeler = _labeler(recipe, options)
    labeler.require_gold(gold)
    _name_starters(recipe, labeler)

    skipped: Counter[str] = Counter()
    every = read_items(options.paths, recursive=options.recursive, skipped=skipped, videos=options.videos)
    reads = islice(every, options.limit)
    # Frames are large and made when they are asked for: they are not listed beforehand.
    listed = [] if options.videos is not None else list(islice(reads, _LISTED))
    all_listed = options.videos is None and len(listed) < _LISTED
    known = sum(isinstance(read, Item) for read in listed) if all_listed else None
    stream = Stream(reads=_chain(listed, reads), pictures=options.report is not None)
    with screen.progress("labeling", total=known) as done:
        collected = labeler.collect(stream.sound(), progress=done)
    gold = None if gold is None else _known_gold(gold, stream, collected.ids)
    if labeler.label_model is None:
        labeler.fit_collected(collected, gold=gold)
    stream.labels = labeler.fuse(collected)
    told: Sequence[Label] = _per_clip(labeler, collected, stream) if options.per_clip else stream
    if options.save_label_model is not None:
        labeler.save_label_model(options.save_label_model)

    write_labels(options.out, told, classes=recipe.classes, versions=stream.labels.versions)
    try:
        remember(options.out)
    except InvalidRequest as error:  # The labels are written; only explain will want --labels.
        screen.say(f"Not remembered for manyeyes explain: {error}")
    notes = [*threshold_notes(labeler.threshold), *labeler.extractor.notes]
    heads, rows = lf_table(stream.labels, gold)
    if options.report is not None:
        write_report(
            options.report,
            told,
            run=Run(
                title=recipe.name,
                description=recipe.description,
                classes=recipe.classes,
                versions=stream.labels.versions,
                lf_heads=heads,
                lfs=rows,
                notes=[*_notes(skipped), *notes],
            ),
            items=_shown(stream, told) if options.per_clip else stream.items,
        )
    return _tell(told, options=options, heads=heads, rows=rows, recipe=recipe, skipped=skipped, notes=notes)


def read_gold(path: Path) -> dict[str, str]:
    """Return known labels from a CSV file with the columns id and label.

    Raises InvalidRequest if the file cannot be read or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in ("id", "label") if column not in (reader.fieldnames or ())]
            if missing:
                raise InvalidRequest(
                    f"{path} has the columns {', '.join(reader.fieldnames or ()) or '(none)'}; gold labels are a CSV"
                    " with a header and the columns id and label"
                )
            return {row["id"]: row["label"] for row in reader if row["label"]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(
            f"cannot read the gold labels {path}: {error}; give a CSV with id and label"
        ) from error


def lf_table(labels: Labels, gold: Mapping[str, str] | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heads and rows of the table of labeling functions, the last row for all of them together.

    gold: known labels; with them, the table says how often each function was right.
    """
    from manyeyes.labeler import gold_indices
    from manyeyes.lfs.analysis import summarize

    truth = gold_indices(gold, labels.ids, labels.votes.class_names)
    summary = summarize(labels.votes, gold=truth, errors=list(labels.errors))
    heads = ("function", "votes for", "coverage", "overlaps", "conflicts")
    rows = [
        (lf.name, ", ".join(lf.polarity) or "–", *_shares(lf.coverage, lf.overlaps, lf.conflicts))
        for lf in summary.lfs
    ]
    rows.append(("(any)", "", *_shares(summary.coverage, summary.overlaps, summary.conflicts)))
    if truth is None:
        return heads, rows
    right = ["–" if lf.accuracy is None else f"{lf.accuracy:.1%}" for lf in summary.lfs]
    return (*heads, "right"), [(*row, cell) for row, cell in zip(rows, [*right, ""], strict=True)]


def threshold_notes(threshold: Threshold | None) -> list[str]:
    """Return in words what the known labels said of the confidence that a precision takes; nothing without one."""
    if threshold is None:
        return []
    known = f"{threshold.n_gold:,} known {'label' if threshold.n_gold == 1 else 'labels'}"
    held_out = f"held out, {threshold.held_out_accuracy:.1%} of them are labeled right"
    if math.isinf(threshold.value):
        return [
            f"No confidence gives a precision of {threshold.precision:.1%} on {known} ({held_out}), so every label is"
            " withheld; give more gold, or ask for less."
        ]
    sure = "is guaranteed in nine of ten draws of gold" if threshold.guaranteed else "is the best estimate"
    return [
        f"Labels below a confidence of {threshold.value:.3f} are withheld, so that {threshold.precision:.1%} of the"
        f" others are right: this {sure}, found on {known} ({held_out})."
    ]


def _shares(*shares: float) -> tuple[str, ...]:
    return tuple(f"{share:.1%}" for share in shares)


def _labeler(recipe: Recipe, options: Options) -> Labeler:
    from manyeyes.labeler import Labeler, extractor_for

    extractor = None if options.cache else extractor_for(recipe, cache=None)
    labeler = Labeler(
        recipe, extractor=extractor, chunk_size=512 if options.videos is None else _FRAMES_AT_ONCE
    )
    if options.label_model is not None:
        labeler.load_label_model(options.label_model)
    return labeler


def _name_starters(recipe: Recipe, labeler: Labeler) -> None:
    used = {name for feature in labeler.needs for name in families(feature)}
    specs = [spec for name, spec in recipe.primitives.items() if name in used]
    starters = sorted({spec.kind for spec in specs if spec.model == "starter"} & set(BETTER))
    if starters:
        screen.say(
            f"Using the starter {' and '.join(starters)}: good enough to try everything on everyday photos. Better:"
            f" {'; '.join(BETTER[kind] for kind in starters)}, fetched from a hub with MANYEYES_ALLOW_DOWNLOADS=1."
            " See manyeyes models."
        )


def _check_clips(recipe: Recipe, options: Options) -> None:
    from manyeyes.recipe_label_model import TargetPrecision

    if not options.per_clip:
        return
    if options.videos is None:
        raise InvalidRequest(
            "--per-clip puts frames together; say which are taken, with --video-every 1.0, --video-frames or"
            " --video-keyframes"
        )
    if isinstance(recipe.abstain_below, TargetPrecision):
        raise InvalidRequest(
            "abstain_below: {precision: …} is found on items whose label is known, and says nothing of clips; write a"
            " probability, or leave --per-clip out"
        )


def _per_clip(labeler: Labeler, collected: Collected, stream: Stream) -> list[Label]:
    """Return one row a clip, in the order of reading; a damaged video has its error, whatever its frames say."""
    from manyeyes.clips import pool_clips

    assert stream.labels is not None
    pooled = iter(pool_clips(labeler, collected, stream.labels, clips=stream.clips))
    rows: dict[str, Label] = {}
    for place in stream.order:
        if place < 0:
            name, error = stream.broken[-1 - place].id, stream.broken[-1 - place].error
            rows[name] = Label(id=name, status="error", error=error)
            continue
        name = stream.clips[place] or stream.labels.ids[place]
        if name not in rows:
            rows[name] = next(pooled)
    return list(rows.values())


def _shown(stream: Stream, labels: Sequence[Label]) -> dict[str, Item]:
    """Return what a report shows of clips: the frame that moved the label most."""
    shown = dict(stream.items)
    for label in labels:
        strongest = max(label.reasons, key=lambda reason: reason.moved, default=None)
        if strongest is not None and strongest.at in stream.items:
            shown[label.id] = stream.items[strongest.at]
    return shown


def _known_gold(gold: Mapping[str, str], stream: Stream, item_ids: Sequence[str]) -> dict[str, str]:
    # A gold label of something that could not be read helps nobody, and is no mistake of the gold file.
    broken = {broken.id for broken in stream.broken}
    known = {item_id: label for item_id, label in gold.items() if item_id not in broken}
    # A label of a whole clip is one of each of its frames.
    frames: dict[str, list[str]] = {}
    for item_id, clip in zip(item_ids, stream.clips, strict=True):
        if clip in known:
            frames.setdefault(clip, []).append(item_id)
    for clip, of_clip in frames.items():
        known = dict.fromkeys(of_clip, known.pop(clip)) | known
    return known


def _chain(listed: list[Read], rest: Iterator[Read]) -> Iterator[Read]:
    yield from listed
    yield from rest


def _notes(skipped: Counter[str]) -> list[str]:
    if not skipped:
        return []
    told = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common())
    return [f"Passed over, because they are no data: {told}."]


def _tell(
    stream: Sequence[Label],
    *,
    options: Options,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    recipe: Recipe,
    skipped: Counter[str],
    notes: Sequence[str],
) -> int:
    console = screen.out()
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    by_default = 0
    errors: list[tuple[str, str, str]] = []
    for label in stream:
        statuses[label.status] += 1
        by_default += label.by_default
        if label.label is not None:
            counts[label.label] += 1
        if label.error is not None and len(errors) < _ERRORS_SHOWN:
            errors.append((label.id, label.error.code, str(label.error)))
    if statuses["labeled"] + statuses["abstained"]:
        console.print(screen.table("Labeling functions", heads, rows, words=("votes for",)))
        console.print()
        sound = statuses["labeled"] + statuses["abstained"]
        per_class = [(name, f"{counts[name]:,}", f"{counts[name] / sound:.1%}") for name in recipe.classes]
        per_class.append(
            ("(abstained)", f"{statuses['abstained']:,}", f"{statuses['abstained'] / sound:.1%}")
        )
        console.print(screen.table("Labels", ("class", "items", "share"), per_class))
        console.print()
    if errors:
        title = f"Errors: {statuses['error']:,}" + (
            f" (the first {_ERRORS_SHOWN})" if statuses["error"] > _ERRORS_SHOWN else ""
        )
        console.print(
            screen.table(title, ("item", "code", "what is wrong"), errors, words=("code", "what is wrong"))
        )
        console.print()
    for note in [*_notes(skipped), *notes]:
        screen.say(note)
    if by_default:
        items = "1 item got" if by_default == 1 else f"{by_default:,} items got"
        screen.say(f"{items} the default class {recipe.default_class}, because no function voted.")
    if not len(stream):
        screen.say("There was nothing to label: no image, text or table row under the paths that were given.")
    _say_written(options, n_rows=len(stream), statuses=statuses)
    return 0 if statuses["labeled"] else 1


def _say_written(options: Options, *, n_rows: int, statuses: Counter[str]) -> None:
    errors = "1 error" if statuses["error"] == 1 else f"{statuses['error']:,} errors"
    told = f"{statuses['labeled']:,} labeled, {statuses['abstained']:,} abstained, {errors}"
    rows = "1 row" if n_rows == 1 else f"{n_rows:,} rows"
    screen.say(f"Wrote {rows} ({told}) to {os.fspath(options.out)}")
    if options.report is not None:
        screen.say(f"Wrote the report to {os.fspath(options.report)}")
    if options.save_label_model is not None:
        screen.say(f"Saved the label model in {os.fspath(options.save_label_model)}")
