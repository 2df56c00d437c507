"""Writing a finished dataset as something else: the one entrance, and the list of formats."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, Final

from pydantic import ValidationError

from manyeyes.errors import InvalidRequest, ItemError, UndecodableImage, UnsupportedFormat, nearest
from manyeyes.primitives.exif import orientation
from manyeyes.primitives.images import FORMATS as IMAGE_FORMATS
from manyeyes.primitives.images import pillows_open
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sinks.base import (
    Boxes,
    Dataset,
    Example,
    ExportOptions,
    ExportReport,
    Setting,
    Sink,
    Wants,
)
from manyeyes.service.jobs.sinks.choosing import Chosen, choose, fetched, selected
from manyeyes.service.jobs.sinks.names import stem_of, suffix_of, unmistakable
from manyeyes.service.jobs.sinks.stored import boxes_of, find_detector
from manyeyes.service.jobs.sinks.target import Target
from manyeyes.types import Label

FORMATS: Final[Mapping[str, str]] = {
    "parquet": "tables:Parquet",
    "jsonl": "tables:JsonLines",
    "csv": "tables:Csv",
    "coco": "coco:Coco",
    "yolo": "yolo:Yolo",
    "imagefolder": "folders:ImageFolder",
    "webdataset": "tars:WebDataset",
    "huggingface": "hugging_face:HuggingFace",
    "labelstudio": "label_studio:LabelStudio",
    "fiftyone": "coco:FiftyOne",
}
"""Format → where its sink is."""


def export(
    dataset: Dataset,
    out: str,
    *,
    format: str,
    options: ExportOptions | Mapping[str, Any] | None = None,
    buckets: Buckets | None = None,
) -> ExportReport:
    """Write a dataset to a folder or a bucket, in a format that others read; return what it holds.

    The same dataset and options give the same bytes. Rows come one after the other: memory holds some 40 bytes for each
    row, and what is being written. Images are copied byte for byte. What cannot be exported, such as a row whose image
    is no longer there, is left out, counted and named.

    out: a folder that appears whole, or a bucket's prefix whose ``manyeyes-export.json`` is written last.
    buckets: those of the operator, where ``out`` comes from a caller.
    Raises InvalidRequest before anything is written if the format is unknown, cannot hold what is asked for, nothing is
    left to export, or ``out`` holds something else; StorageFailed if it cannot be written.
    """
    told = checked_options(options)
    kind = sink_of(format)
    storage = Storage.open(out, buckets=buckets)
    if told.detector is not None and told.boxes == "label":
        raise InvalidRequest(
            "detector chooses whose boxes are shown, and boxes: label shows none; leave one out"
        )
    setting = Setting(format, told, dataset.recipe, dataset.versions, (), {}, storage.uri)
    wants = kind.wants(setting)
    if told.columns is not None and not wants.columns:
        raise InvalidRequest(
            f"{format} has no columns to choose; choose parquet, jsonl or csv, or leave columns out"
        )
    detector = _detector(dataset, setting, wants)
    if detector is not None:
        setting = replace(setting, box_names=detector[1])
        wants = kind.wants(setting)
    target = Target(storage, overwrite=told.overwrite)
    chosen = choose(dataset, wants, told)
    if wants.class_folders:
        _require_classes(setting, chosen)
    setting = replace(
        setting,
        splits=tuple(name for name in chosen.splits if chosen.counts[name].total()),
        counts=chosen.counts,
        texts=chosen.texts,
        images=chosen.images,
    )
    written: dict[str, Counter[int]] = {name: Counter() for name in setting.splits}
    n_boxes = 0
    with target:
        sink = kind(setting, target)
        for example in _examples(dataset, chosen, setting, wants, None if detector is None else detector[0]):
            sink.add(example)
            written[example.split][-1 if example.class_ is None else example.class_] += 1
            n_boxes += 0 if example.boxes is None else len(example.boxes)
        sink.close()
        if not any(counts.total() for counts in written.values()):
            left = ", ".join(f"{count} {reason}" for reason, count in sorted(chosen.left_out.items()))
            raise InvalidRequest(f"nothing was left to export: {left}; are the images still where they were?")
        report = _told(setting, chosen, written, n_boxes)
        digest = target.commit(report | {"dataset": _identity(dataset), "options": _document(told)})
    return ExportReport(**report, out=storage.uri, files=target.n_files, bytes=target.n_bytes, digest=digest)


def checked_options(options: ExportOptions | Mapping[str, Any] | None) -> ExportOptions:
    """Return options as they are meant. Raises InvalidRequest, with the field and what is allowed."""
    if options is None:
        return ExportOptions()
    if isinstance(options, ExportOptions):
        return options
    try:
        return ExportOptions.model_validate(dict(options))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        hint = nearest(where, ExportOptions.model_fields) if problem["type"] == "extra_forbidden" else ""
        message = problem["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"export options: {where or 'columns'}: {message}{hint}") from error


def sink_of(format: str) -> type[Sink]:
    """Return what writes a format. Raises InvalidRequest with those that there are."""
    if format not in FORMATS:
        raise InvalidRequest(
            f"there is no format {format!r}; there are {', '.join(FORMATS)}{nearest(format, FORMATS)}"
        )
    module, _, name = FORMATS[format].partition(":")
    kind: type[Sink] = getattr(import_module(f"manyeyes.service.jobs.sinks.{module}"), name)
    return kind


def _detector(dataset: Dataset, setting: Setting, wants: Wants) -> tuple[str, tuple[str, ...]] | None:
    options = setting.options
    asked = options.boxes == "detections" or options.detector is not None
    if not wants.boxes:
        if asked:
            raise InvalidRequest(
                f"{setting.format} has no place for boxes; leave boxes and detector out, or choose coco, yolo,"
                " labelstudio or fiftyone"
            )
        return None
    if options.boxes == "label":
        return None
    found = find_detector(dataset, options)
    if found is None and asked:
        raise InvalidRequest(
            f"{setting.format} with boxes: detections needs a detector, and this job stored no boxes of any; add"
            " `kind: detect` to the recipe and run the job again, or set boxes: label"
        )
    return found


def _require_classes(setting: Setting, chosen: Chosen) -> None:
    """Refuse splits whose class folders would differ, since readers number classes by the folders that they find."""
    if setting.options.allow_missing_classes:
        return
    for split in chosen.splits:
        missing = [name for i, name in enumerate(setting.classes) if not chosen.counts[split][i]]
        if missing:
            raise InvalidRequest(
                f"{setting.format} makes a folder of each class, and readers number the classes by the folders that are"
                f" there; in {split!r} there is no image of {', '.join(missing[:10])}. Lower min_confidence, make fewer"
                " or larger splits, or set allow_missing_classes"
            )


def _examples(
    dataset: Dataset, chosen: Chosen, setting: Setting, wants: Wants, detector: str | None
) -> Iterator[Example]:
    def rows() -> Iterator[tuple[tuple[int, Label, Boxes | None], Row]]:
        boxes = None if detector is None else boxes_of(dataset, detector, setting.options)
        past = 0
        for position, row, label in selected(dataset, chosen):
            own = None
            if boxes is not None:
                for _ in range(position - past):
                    next(boxes)
                own, past = next(boxes), position + 1
            yield (position, label, own), row

    numbers = {name: i for i, name in enumerate(setting.classes)}
    if wants.data is None:
        for (position, label, own), row in rows():
            yield _example(row, label, position, chosen, numbers, boxes=own)
        return
    for (position, label, own), row, data in fetched(
        dataset, rows(), attempts=setting.options.attempts, wanted=wants.data
    ):
        example = _example(row, label, position, chosen, numbers, boxes=own)
        if data is None:
            yield example
            continue
        try:
            if isinstance(data, ItemError):
                raise data
            suffix = suffix_of(data)
            if suffix is None or (wants.suffixes is not None and suffix not in wants.suffixes):
                raise UnsupportedFormat(f"{setting.format} has no place for {suffix or 'such'} files")
            size = size_of(data) if wants.size else None
        except ItemError as error:
            chosen.leave_out(error.code, row.id)
            continue
        yield replace(example, data=data, suffix=suffix, size=size)


def _example(
    row: Row,
    label: Label,
    position: int,
    chosen: Chosen,
    numbers: Mapping[str, int],
    *,
    boxes: Boxes | None,
) -> Example:
    return Example(
        row=row,
        label=label,
        split=chosen.splits[chosen.split[position]],
        name=unmistakable(row.id) if chosen.renamed[position] else stem_of(row.id),
        class_=None if label.label is None else numbers[label.label],
        boxes=boxes,
    )


def size_of(data: bytes) -> tuple[int, int]:
    """Return an image's width and height, upright, from its header. Raises UndecodableImage."""
    try:
        with pillows_open()(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            width, height = image.size
            return (height, width) if orientation(image) >= 5 else (width, height)
    except Exception as error:  # decoders meet hostile bytes here, and raise whatever they trip over
        raise UndecodableImage(f"the image's header is damaged: {type(error).__name__}: {error}") from error


def _told(
    setting: Setting, chosen: Chosen, written: Mapping[str, Counter[int]], n_boxes: int
) -> dict[str, Any]:
    return {
        "format": setting.format,
        "rows": sum(counts.total() for counts in written.values()),
        "splits": {name: counts.total() for name, counts in written.items()},
        "classes": {
            name: {known: counts[i] for i, known in enumerate(setting.classes)}
            for name, counts in written.items()
        },
        "boxes": n_boxes,
        "left_out": dict(sorted(chosen.left_out.items())),
        "examples": {reason: list(ids) for reason, ids in sorted(chosen.examples.items())},
        "groups": chosen.groups,
    }


def _identity(dataset: Dataset) -> dict[str, Any]:
    versions = dataset.versions
    return {
        "manifest": dataset.manifest.id,
        "recipe": dataset.recipe.name,
        "recipe_version": versions.recipe,
        "primitives": dict(versions.primitives),
        "label_model": versions.label_model,
    }


def _document(options: ExportOptions) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude={"overwrite", "attempts"})
