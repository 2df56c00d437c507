"""YOLO's two layouts, as Ultralytics trains on them: boxes in text files beside images, or classes as folders.

With a detector, ``images/<split>/…``, ``labels/<split>/….txt`` and ``data.yaml``; an image in which nothing was found
has an empty text file: a background. Without one, or with ``boxes: label``, ``<split>/<class>/…`` for classification.
The split ``validation`` is called ``val``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Final

import yaml

from manyeyes.errors import InvalidRequest
from manyeyes.service.jobs.sinks.base import Example, Setting, Wants
from manyeyes.service.jobs.sinks.folders import ImageFolder
from manyeyes.service.jobs.sinks.target import Target

# What Ultralytics opens, and torchvision, on which its classifiers stand.
_SUFFIXES: Final = frozenset({".jpg", ".png", ".bmp", ".tif", ".webp"})
_ROLES: Final = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}


class Yolo:
    """Boxes where the dataset shows detections, else folders."""

    def __init__(self, setting: Setting, target: Target) -> None:
        self._setting = setting
        self._target = target
        self._folders = None if setting.box_names is not None else ImageFolder(setting, target)
        if setting.box_names is not None:
            document = yaml.safe_dump(_data(setting), sort_keys=False, allow_unicode=True)
            target.put("data.yaml", document.encode())

    @classmethod
    def wants(cls, setting: Setting) -> Wants:
        roles = Counter(_ROLES.get(name, name) for name in setting.options.splits)
        if repeated := [name for name, times in roles.items() if times > 1]:
            raise InvalidRequest(f"yolo: several splits would be called {repeated[0]!r}; keep one of them")
        # Which layout it will be is known once a detector was looked for.
        return Wants(boxes=True, suffixes=_SUFFIXES, class_folders=setting.box_names is None)

    def add(self, example: Example) -> None:
        split = _ROLES.get(example.split, example.split)
        if self._folders is not None:
            self._folders.add(replace(example, split=split))
            return
        assert example.data is not None
        self._target.put(f"images/{split}/{example.file}", example.data)
        lines = []
        if example.boxes is not None:
            for corners, kind in zip(
                example.boxes.relative.astype(float).tolist(), example.boxes.label.tolist(), strict=True
            ):
                left, top, right, bottom = corners
                numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
                lines.append(f"{kind} " + " ".join(f"{number:.6f}" for number in numbers) + "\n")
        self._target.put(f"labels/{split}/{example.name}.txt", "".join(lines).encode())

    def close(self) -> None:
        if self._folders is not None:
            self._folders.close()


def _data(setting: Setting) -> dict[str, Any]:
    """Return what ``data.yaml`` says. There is no ``path``: it is then the folder that the file lies in."""
    splits = {_ROLES.get(name, name): f"images/{_ROLES.get(name, name)}" for name in setting.splits}
    first = next(iter(splits.values()))
    assert setting.box_names is not None
    return {
        **splits,
        # Ultralytics wants both; where a dataset was not split, it validates on what it trained on.
        "train": splits.get("train", first),
        "val": splits.get("val", splits.get("train", first)),
        "names": dict(enumerate(setting.box_names)),
    }
