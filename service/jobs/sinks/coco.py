"""COCO: images, categories and annotations in one JSON file a split; and the same laid out as FiftyOne reads it.

With a detector, its boxes are the annotations, and its labels the categories. Without one, or with ``boxes: label``,
the recipe's classes are the categories, and each image has one annotation that covers all of it. In both, an image's
entry says the item's ``label`` and ``confidence``, and an annotation's its ``score``; readers pass over what they do
not know.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

from manyeyes.service.jobs.sinks.base import Example, Setting, Wants
from manyeyes.service.jobs.sinks.target import Target, Writer

_SUFFIXES: Final = frozenset({".jpg", ".png", ".webp", ".bmp", ".tif", ".gif"})
_SPOOL_BYTES: Final = 16 * 2**20


class Coco:
    """``images/<split>/…`` and ``annotations/<split>.json``."""

    def __init__(self, setting: Setting, target: Target) -> None:
        self.setting = setting
        self.target = target
        self._stack = ExitStack()
        self._files = {
            split: _Annotations(
                setting, target, self._stack.enter_context(target.stream(self.annotations(split)))
            )
            for split in setting.splits
        }

    @classmethod
    def wants(cls, _: Setting) -> Wants:
        return Wants(size=True, boxes=True, suffixes=_SUFFIXES)

    def annotations(self, split: str) -> str:
        """Return where the annotations of a split lie."""
        return f"annotations/{split}.json"

    def image(self, split: str, file: str) -> str:
        """Return where an image lies."""
        return f"images/{split}/{file}"

    def add(self, example: Example) -> None:
        assert example.data is not None
        self.target.put(self.image(example.split, example.file), example.data)
        self._files[example.split].add(example)

    def close(self) -> None:
        with self._stack:
            for file in self._files.values():
                file.close()


class FiftyOne(Coco):
    """``<split>/data/…`` and ``<split>/labels.json``, each split a ``COCODetectionDataset`` of FiftyOne's."""

    def annotations(self, split: str) -> str:
        return f"{split}/labels.json"

    def image(self, split: str, file: str) -> str:
        return f"{split}/data/{file}"


class _Annotations:
    """Writes the images as they come, and the annotations, which wait in a temporary file, at the end."""

    def __init__(self, setting: Setting, target: Target, writer: Writer) -> None:
        self._setting = setting
        self._writer = writer
        self._waiting = target.enter(tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES))  # noqa: SIM115
        self._images = self._annotations = 0
        names = setting.box_names if setting.box_names is not None else setting.classes
        told = {
            "info": {
                "description": setting.recipe.name,
                "version": f"{setting.versions.recipe}/{setting.versions.label_model}",
                "contributor": "manyeyes",
            },
            "licenses": [],
            "categories": [
                {"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, start=1)
            ],
        }
        self._write(json.dumps(told, ensure_ascii=False)[:-1] + ', "images": [')

    def add(self, example: Example) -> None:
        assert example.size is not None
        self._images += 1
        width, height = example.size
        label = example.label
        entry: dict[str, Any] = {
            "id": self._images,
            "file_name": example.file,
            "width": width,
            "height": height,
            "item": example.row.id,
            "label": label.label,
            "confidence": label.confidence,
        }
        if self._setting.options.soft_labels:
            entry["probs"] = dict(label.probs)
        if self._setting.options.reasons:
            entry["reasons"] = [reason.to_dict() for reason in label.reasons]
        self._write(("\n" if self._images == 1 else ",\n") + json.dumps(entry, ensure_ascii=False))
        if example.boxes is not None:
            for corners, kind, score in zip(
                example.boxes.relative.astype(float).tolist(),
                example.boxes.label.tolist(),
                example.boxes.score.astype(float).tolist(),
                strict=True,
            ):
                left, top, right, bottom = corners
                box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
                self._annotate(kind + 1, [round(value, 3) for value in box], score)
        elif self._setting.box_names is None and example.class_ is not None:
            self._annotate(example.class_ + 1, [0, 0, width, height], label.confidence)

    def close(self) -> None:
        self._write('\n], "annotations": [')
        self._waiting.seek(0)
        while block := self._waiting.read(2**20):
            self._writer.write(block)
        self._write("\n]}\n")

    def _annotate(self, category: int, box: list[float], score: float | None) -> None:
        self._annotations += 1
        told: Mapping[str, Any] = {
            "id": self._annotations,
            "image_id": self._images,
            "category_id": category,
            "bbox": box,
            "area": round(box[2] * box[3], 3),
            "iscrowd": 0,
            "score": score,
        }
        self._waiting.write((("\n" if self._annotations == 1 else ",\n") + json.dumps(told)).encode())

    def _write(self, text: str) -> None:
        self._writer.write(text.encode("utf-8", "backslashreplace"))
