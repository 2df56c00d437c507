"""Hugging Face: Parquet with the images inside, typed so that ``datasets.load_dataset(folder)`` opens it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Final

import yaml

from manyeyes.service.jobs.sinks.base import Example, Setting, Wants
from manyeyes.service.jobs.sinks.rolling import Rolling
from manyeyes.service.jobs.sinks.tables import ParquetFile, reasons_type
from manyeyes.service.jobs.sinks.target import Target, Writer
from manyeyes.types import ABSTAIN

_ROW_GROUP: Final = 256
"""Readers that shuffle or stream hold one row group of images."""
_GROUP_BYTES: Final = 32 * 2**20


class HuggingFace:
    """``data/<split>-00000.parquet`` and so on, and ``README.md``, whose head says which splits and features there are.

    Columns: id, image, text where there are any, label (a ClassLabel; -1 for an abstention), confidence, probabilities
    (in the order of the label's names), reasons, metadata (JSON).
    """

    def __init__(self, setting: Setting, target: Target) -> None:
        self._setting = setting
        self._target = target
        self._rows = dict.fromkeys(setting.splits, 0)
        schema = _schema(setting)
        self._parts = {
            split: Rolling(
                target, partial(_name, split), partial(_Part, schema), shard_bytes=setting.options.shard_bytes
            )
            for split in setting.splits
        }

    @classmethod
    def wants(cls, _: Setting) -> Wants:
        return Wants(image=False)

    def add(self, example: Example) -> None:
        setting, row, label = self._setting, example.row, example.label
        cells: dict[str, Any] = {"id": row.id}
        if setting.images:
            image = None if example.data is None else {"bytes": example.data, "path": example.file}
            cells["image"] = image
        if setting.texts:
            cells["text"] = row.text
        cells["label"] = ABSTAIN if example.class_ is None else example.class_
        cells["confidence"] = label.confidence
        if setting.options.soft_labels:
            cells["probabilities"] = [label.probs.get(name, 0.0) for name in setting.classes]
        if setting.options.reasons:
            cells["reasons"] = [reason.to_dict() for reason in label.reasons]
        cells["metadata"] = row.metadata
        size = 512 + len(example.data or b"") + len(row.text or "")
        self._parts[example.split].next(size).add(cells, size)
        self._rows[example.split] += 1

    def close(self) -> None:
        for parts in self._parts.values():
            parts.close()
        self._target.put("README.md", self._card().encode())

    def _card(self) -> str:
        setting = self._setting
        there = [split for split in setting.splits if self._rows[split]]
        n_bytes = {split: self._parts[split].n_bytes for split in there}
        head = {
            "configs": [
                {
                    "config_name": "default",
                    "data_files": [{"split": split, "path": f"data/{split}-*"} for split in there],
                }
            ],
            "dataset_info": {
                "features": [_described(name, kind) for name, kind in _features(setting).items()],
                "splits": [
                    {"name": split, "num_bytes": n_bytes[split], "num_examples": self._rows[split]}
                    for split in there
                ],
                "download_size": sum(n_bytes.values()),
                "dataset_size": sum(n_bytes.values()),
            },
            "tags": ["manyeyes", "weak-supervision"],
            "task_categories": ["image-classification" if setting.images else "text-classification"],
        }
        versions = setting.versions
        told = [
            f"# {setting.recipe.name}",
            "",
            *([setting.recipe.description, ""] if setting.recipe.description else []),
            "Labeled by programs, not by hand: the labels are those of a label model over labeling functions, each",
            "with its confidence. Nobody has checked them one by one.",
            "",
            "| what | version |",
            "| --- | --- |",
            f"| recipe | `{versions.recipe}` |",
            f"| label model | `{versions.label_model}` |",
            *(f"| {name} | `{version}` |" for name, version in sorted(versions.primitives.items())),
        ]
        return (
            f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n"
            + "\n".join(told)
            + "\n"
        )


def _name(split: str, n: int) -> str:
    return f"data/{split}-{n:05d}.parquet"


class _Part:
    def __init__(self, schema: Any, writer: Writer) -> None:
        self._file = ParquetFile(writer, schema, row_group=_ROW_GROUP)
        self._bytes = 0

    def add(self, cells: dict[str, Any], size: int) -> None:
        self._file.add(cells)
        self._bytes += size
        if self._bytes >= _GROUP_BYTES:
            self._file.flush()
            self._bytes = 0

    def close(self) -> None:
        self._file.close()


def _features(setting: Setting) -> dict[str, Any]:
    """Return the features as `datasets` writes them into files: column → JSON."""

    def value(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "_type": "Value"}

    options = setting.options
    features: dict[str, Any] = {"id": value("string")}
    if setting.images:
        features["image"] = {"_type": "Image"}
    if setting.texts:
        features["text"] = value("string")
    features["label"] = {"names": list(setting.classes), "_type": "ClassLabel"}
    features["confidence"] = value("float64")
    if options.soft_labels:
        features["probabilities"] = {"feature": value("float64"), "_type": "List"}
    if options.reasons:
        lent = {"neighbors": value("int32"), "nearest": value("float64"), "votes": value("float64")}
        reason = {
            "lf": value("string"),
            "vote": value("string"),
            "score": value("float64"),
            "moved": value("float64"),
            "lent": lent,
            "at": value("string"),
        }
        features["reasons"] = {"feature": reason, "_type": "List"}
    features["metadata"] = value("string")
    return features


def _described(name: str, kind: Any) -> dict[str, Any]:
    """Return a feature as the head of a README says it."""
    if "_type" not in kind:
        return {"name": name, "struct": [_described(*one) for one in kind.items()]}
    if kind["_type"] == "List":
        inner = kind["feature"]
        if "_type" in inner:
            return {"name": name, "list": inner["dtype"]}
        return {"name": name, "list": [_described(*one) for one in inner.items()]}
    if kind["_type"] == "ClassLabel":
        names = {str(i): known for i, known in enumerate(kind["names"])}
        return {"name": name, "dtype": {"class_label": {"names": names}}}
    return {"name": name, "dtype": "image" if kind["_type"] == "Image" else kind["dtype"]}


def _schema(setting: Setting) -> Any:
    import pyarrow as pa

    types = {
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        "label": pa.int64(),
        "confidence": pa.float64(),
        "probabilities": pa.list_(pa.float64()),
        "reasons": reasons_type(),
    }
    features = _features(setting)
    return pa.schema(
        [(name, types.get(name, pa.string())) for name in features],
        metadata={b"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True)},
    )
