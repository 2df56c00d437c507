"""Classes as folders: what torchvision's ``ImageFolder``, Keras and Ultralytics' classifiers read."""

from __future__ import annotations

import json
from typing import Final

from manyeyes.service.jobs.sinks.base import Example, Setting, Wants
from manyeyes.service.jobs.sinks.names import class_folders
from manyeyes.service.jobs.sinks.target import Target

# What torchvision opens; it passes over everything else without a word.
_SUFFIXES: Final = frozenset({".jpg", ".png", ".bmp", ".tif", ".webp"})


class ImageFolder:
    """``<split>/<class>/<file>``, and ``classes.json``, which says what each folder holds.

    Readers number the classes by the names of their folders in alphabetical order: by ``classes.json``, not by the
    recipe.
    """

    def __init__(self, setting: Setting, target: Target) -> None:
        self._target = target
        self._folders = class_folders(setting.classes)
        told = [
            {"class": name, "folder": folder}
            for name, folder in sorted(self._folders.items(), key=lambda one: one[1])
        ]
        target.put("classes.json", json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n")

    @classmethod
    def wants(cls, _: Setting) -> Wants:
        return Wants(suffixes=_SUFFIXES, class_folders=True)

    def add(self, example: Example) -> None:
        assert example.data is not None and example.label.label is not None
        folder = self._folders[example.label.label]
        self._target.put(f"{example.split}/{folder}/{example.file}", example.data)

    def close(self) -> None:
        """There is nothing left to write."""
