"""Label Studio: tasks with predictions, ready to be imported, and the labeling config that they fit.

Images that lie in buckets or on the web are referred to there; Label Studio opens them itself. Others are copied to
``images/`` and referred to as files that it serves (``/data/local-files/?d=…``), or below ``image_root``.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from manyeyes.errors import InvalidRequest
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sinks.base import WHOLE, Example, Setting, Wants
from manyeyes.service.jobs.sinks.names import is_plain_address
from manyeyes.service.jobs.sinks.rolling import Rolling
from manyeyes.service.jobs.sinks.target import Target, Writer

_IMAGE, _TEXT, _LABEL, _BOXES = "image", "text", "label", "objects"


class LabelStudio:
    """``config.xml``, ``tasks-00000.json`` and so on (with splits, ``<split>-00000.json``), and ``images/``."""

    def __init__(self, setting: Setting, target: Target) -> None:
        self._setting = setting
        self._target = target
        options, versions = setting.options, setting.versions
        self._version = f"{setting.recipe.name}@{versions.recipe}/{versions.label_model}"
        self._root = options.image_root
        if self._root is None:
            last = setting.out.rstrip("/").rpartition("/")[2]
            local = "://" not in setting.out
            self._root = f"/data/local-files/?d={quote(last)}/" if local else setting.out.rstrip("/") + "/"
        self._parts = {
            split: Rolling(
                target,
                partial(_name, split if options.splits or split != WHOLE else "tasks"),
                _Tasks,
                shard_rows=options.shard_rows,
            )
            for split in setting.splits
        }
        target.put("config.xml", _config(setting).encode())

    @classmethod
    def wants(cls, setting: Setting) -> Wants:
        if setting.options.images == "reference" and setting.options.image_root is not None:
            raise InvalidRequest(
                "image_root is where copied images are, and images: reference copies none; leave one out"
            )
        options = setting.options
        if options.images == "copy" or setting.box_names is not None:  # a box goes with the size of its image
            return Wants(image=False, size=True, boxes=True)
        of = None if options.images == "reference" else _to_copy
        return Wants(image=False, size=True, boxes=True, data=of)

    def add(self, example: Example) -> None:
        setting, row, label = self._setting, example.row, example.label
        data: dict[str, Any] = {"id": row.id}
        # Label Studio refuses a task that lacks what its config shows.
        if setting.images:
            data[_IMAGE] = "" if row.uri is None else self._address(example)
        if setting.texts:
            data[_TEXT] = row.text or ""
        result = []
        if label.label is not None:
            result.append(self._region(_LABEL, "choices", {"choices": [label.label]}, label.confidence))
        result += self._boxes(example)
        for i, region in enumerate(result):
            region["id"] = f"manyeyes-{i}"
        task: dict[str, Any] = {
            "data": data,
            "meta": json.loads(row.metadata),
            "predictions": [
                {"model_version": self._version, "score": label.confidence or 0.0, "result": result}
            ],
        }
        if setting.options.soft_labels:
            task["meta"]["probs"] = dict(label.probs)
        if setting.options.reasons:
            task["meta"]["reasons"] = [reason.to_dict() for reason in label.reasons]
        self._parts[example.split].next().add(task)

    def close(self) -> None:
        for parts in self._parts.values():
            parts.close()

    def _address(self, example: Example) -> str:
        options, row = self._setting.options, example.row
        if options.images == "reference" or (options.images == "auto" and is_plain_address(row)):
            return row.uri or ""
        assert example.data is not None
        path = f"images/{example.file}"
        self._target.put(path, example.data)
        return f"{self._root}{path}"

    def _boxes(self, example: Example) -> list[dict[str, Any]]:
        names = self._setting.box_names
        if example.boxes is None or example.size is None or names is None:
            return []
        width, height = example.size
        regions = []
        for corners, kind, score in zip(
            example.boxes.relative.astype(float).tolist(),
            example.boxes.label.tolist(),
            example.boxes.score.astype(float).tolist(),
            strict=True,
        ):
            left, top, right, bottom = (100 * value for value in corners)
            value = {
                "x": left,
                "y": top,
                "width": right - left,
                "height": bottom - top,
                "rotation": 0,
                "rectanglelabels": [names[kind]],
            }
            region = self._region(_BOXES, "rectanglelabels", value, score)
            regions.append(region | {"original_width": width, "original_height": height, "image_rotation": 0})
        return regions

    def _region(self, name: str, kind: str, value: dict[str, Any], score: float | None) -> dict[str, Any]:
        return {
            "from_name": name,
            "to_name": _IMAGE if self._setting.images else _TEXT,
            "type": kind,
            "value": value,
            "score": score,
        }


def _to_copy(row: Row) -> bool:
    return row.uri is not None and not is_plain_address(row)


def _config(setting: Setting) -> str:
    """Return a labeling config with which all of the tasks can be shown and corrected."""
    lines = ["<View>"]
    if setting.images:
        lines.append(f'  <Image name="{_IMAGE}" value="${_IMAGE}"/>')
    if setting.texts:
        lines.append(f'  <Text name="{_TEXT}" value="${_TEXT}"/>')
    to_name = _IMAGE if setting.images else _TEXT
    lines.append(f'  <Choices name="{_LABEL}" toName="{to_name}" choice="single">')
    lines += [f"    <Choice value={quoteattr(name)}/>" for name in setting.classes]
    lines.append("  </Choices>")
    if setting.box_names:
        lines.append(f'  <RectangleLabels name="{_BOXES}" toName="{_IMAGE}">')
        lines += [f"    <Label value={quoteattr(name)}/>" for name in setting.box_names]
        lines.append("  </RectangleLabels>")
    return "\n".join([*lines, "</View>", ""])


def _name(stem: str, n: int) -> str:
    return f"{stem}-{n:05d}.json"


class _Tasks:
    """A JSON list, written as it comes."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._first = True

    def add(self, task: dict[str, Any]) -> None:
        told = json.dumps(task, ensure_ascii=False).encode("utf-8", "backslashreplace")
        self._writer.write((b"[\n" if self._first else b",\n") + told)
        self._first = False

    def close(self) -> None:
        self._writer.write(b"\n]\n")
