"""WebDataset: tars of bounded size, in which the files of a sample follow each other under one key."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial

from manyeyes.service.jobs.sinks.base import Example, Setting, Wants
from manyeyes.service.jobs.sinks.rolling import Rolling
from manyeyes.service.jobs.sinks.tables import cells_of
from manyeyes.service.jobs.sinks.target import Target, Writer


class WebDataset:
    """``<split>-000000.tar`` and so on: the image, ``.cls`` (the class's index), ``.txt`` and ``.json``.

    Samples come in the order of the dataset, which is often that of its folders: shuffle shards and samples.
    """

    def __init__(self, setting: Setting, target: Target) -> None:
        self._setting = setting
        options = setting.options
        self._columns = [
            name
            for name, there in (
                ("id", True),
                ("status", True),
                ("label", True),
                ("confidence", True),
                ("probs", options.soft_labels),
                ("reasons", options.reasons),
                ("metadata", True),
            )
            if there
        ]
        self._parts = {
            split: Rolling(target, partial(_name, split), _Tar, shard_bytes=options.shard_bytes)
            for split in setting.splits
        }
        target.put("classes.txt", "".join(f"{name}\n" for name in setting.classes).encode())

    @classmethod
    def wants(cls, _: Setting) -> Wants:
        return Wants(image=False)

    def add(self, example: Example) -> None:
        cells = cells_of(example, self._setting, self._columns)
        cells["metadata"] = json.loads(cells["metadata"])
        members = []
        if example.data is not None:
            members.append((example.suffix or "", example.data))
        if example.class_ is not None:
            members.append((".cls", str(example.class_).encode()))
        if example.row.text is not None:
            members.append((".txt", example.row.text.encode("utf-8", "replace")))
        members.append((".json", json.dumps(cells, ensure_ascii=False).encode("utf-8", "backslashreplace")))
        # In a tar, each file has a header of 512 bytes and is filled up to a multiple of that.
        size = sum(1024 + len(data) for _, data in members)
        self._parts[example.split].next(size).add(example.name, members)

    def close(self) -> None:
        for parts in self._parts.values():
            parts.close()


def _name(split: str, n: int) -> str:
    return f"{split}-{n:06d}.tar"


class _Tar:
    def __init__(self, writer: Writer) -> None:
        self._tar = tarfile.open(fileobj=writer, mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, key: str, members: list[tuple[str, bytes]]) -> None:
        for suffix, data in members:
            info = tarfile.TarInfo(key + suffix)
            info.size, info.mode = len(data), 0o644  # and no time and no owner, so that bytes repeat
            self._tar.addfile(info, io.BytesIO(data))

    def close(self) -> None:
        self._tar.close()
