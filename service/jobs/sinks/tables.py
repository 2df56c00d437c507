"""Labels as tables: Parquet, JSON lines and CSV, one file a split."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, Protocol

from manyeyes.service.jobs.sinks.base import WHOLE, Example, Setting, Wants
from manyeyes.service.jobs.sinks.target import Target, Writer

_ROW_GROUP: Final = 4096
_NUMBERS: Final = ("confidence", "prior")


def default_columns(setting: Setting) -> tuple[str, ...]:
    """Return the columns of a table whose options name none."""
    options = setting.options
    return tuple(
        name
        for name, there in (
            ("id", True),
            ("status", options.abstained),
            ("label", True),
            ("confidence", True),
            ("probs", options.soft_labels),
            ("reasons", options.reasons),
            ("uri", setting.images),
            ("member", setting.images),
            ("text", setting.texts),
            ("metadata", True),
            ("split", bool(options.splits)),
        )
        if there
    )


def cells_of(example: Example, setting: Setting, columns: Sequence[str]) -> dict[str, Any]:
    """Return one row: column → value. probs is an object, reasons a list of objects, metadata JSON."""
    row, label = example.row, example.label
    made: Mapping[str, Callable[[], Any]] = {
        "id": lambda: row.id,
        "status": lambda: label.status,
        "label": lambda: label.label,
        "confidence": lambda: label.confidence,
        "probs": lambda: {name: label.probs.get(name) for name in setting.classes},
        "runner_up": lambda: label.runner_up,
        "prior": lambda: label.prior,
        "reasons": lambda: [reason.to_dict() for reason in label.reasons],
        "error_code": lambda: None if label.error is None else label.error.code,
        "error_message": lambda: None if label.error is None else str(label.error),
        "uri": lambda: row.uri,
        "member": lambda: row.member,
        "text": lambda: row.text,
        "metadata": lambda: row.metadata,
        "split": lambda: example.split,
        "recipe_version": lambda: setting.versions.recipe,
        "label_model_version": lambda: setting.versions.label_model,
    }
    return {name: made[name]() for name in columns}


class _File(Protocol):
    def add(self, cells: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class _Table:
    """One file a split, named after it; ``labels`` where there are no splits."""

    suffix: str
    image_bytes = False

    def __init__(self, setting: Setting, target: Target) -> None:
        self.setting = setting
        self.columns = setting.options.columns or default_columns(setting)
        self._stack = ExitStack()
        self._files: dict[str, _File] = {}
        for split in setting.splits:
            name = "labels" if not setting.options.splits and split == WHOLE else split
            writer = self._stack.enter_context(target.stream(name + self.suffix))
            self._files[split] = self.start(writer)

    @classmethod
    def wants(cls, _: Setting) -> Wants:
        return Wants(image=False, data=None, columns=True)

    def start(self, writer: Writer) -> _File:
        raise NotImplementedError

    def add(self, example: Example) -> None:
        self._files[example.split].add(cells_of(example, self.setting, self.columns))

    def close(self) -> None:
        with self._stack:
            for file in self._files.values():
                file.close()


class Parquet(_Table):
    """Probabilities are a column a class, ``prob_<class>``; reasons are a list of structs."""

    suffix = ".parquet"

    def start(self, writer: Writer) -> _File:
        return ParquetFile(writer, _schema(self.setting, self.columns))


class JsonLines(_Table):
    """One object a line; ``probs`` and ``metadata`` are objects."""

    suffix = ".jsonl"

    def start(self, writer: Writer) -> _File:
        return _JsonFile(writer)


class Csv(_Table):
    """As in Parquet; reasons and metadata are JSON."""

    suffix = ".csv"

    def start(self, writer: Writer) -> _File:
        return _CsvFile(writer, self.columns, self.setting.classes)


class ParquetFile:
    """Rows into a Parquet file, some thousand at a time. row_group: of how many rows."""

    def __init__(self, writer: Writer, schema: Any, *, row_group: int = _ROW_GROUP) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = schema
        self._row_group = row_group
        self._rows: list[Mapping[str, Any]] = []
        self._file = pq.ParquetWriter(pa.PythonFile(writer, mode="w"), schema, compression="zstd")

    def add(self, cells: Mapping[str, Any]) -> None:
        self._rows.append(_flat(cells))
        if len(self._rows) >= self._row_group:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group."""
        import pyarrow as pa

        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self.flush()
        self._file.close()


class _JsonFile:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def add(self, cells: Mapping[str, Any]) -> None:
        told = dict(cells)
        if "metadata" in told:
            told["metadata"] = json.loads(told["metadata"])
        self._writer.write(json.dumps(told, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def close(self) -> None:
        pass


class _CsvFile:
    def __init__(self, writer: Writer, columns: Sequence[str], classes: Sequence[str]) -> None:
        # Lines end as RFC 4180 says: with another end, a lone \r would stay unquoted.
        self._text = io.TextIOWrapper(
            io.BufferedWriter(writer), encoding="utf-8", newline="", write_through=False
        )
        self._csv = csv.writer(self._text)
        self._csv.writerow(list(_names(columns, classes)))

    def add(self, cells: Mapping[str, Any]) -> None:
        row = _flat(cells)
        if "reasons" in row:
            row["reasons"] = json.dumps(row["reasons"], ensure_ascii=False)
        self._csv.writerow(row.values())

    def close(self) -> None:
        self._text.flush()
        self._text.detach().detach()  # so that nobody closes the writer


def _flat(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with a column a class in the place of ``probs``."""
    flat: dict[str, Any] = {}
    for name, value in cells.items():
        if name == "probs":
            flat |= {f"prob_{known}": prob for known, prob in value.items()}
        else:
            flat[name] = value
    return flat


def _names(columns: Sequence[str], classes: Sequence[str]) -> Iterator[str]:
    for name in columns:
        if name == "probs":
            yield from (f"prob_{known}" for known in classes)
        else:
            yield name


def reasons_type() -> Any:
    """Return the Arrow type of reasons, as ``manyeyes.sinks`` has it."""
    import pyarrow as pa

    lent = pa.struct([("neighbors", pa.int32()), ("nearest", pa.float64()), ("votes", pa.float64())])
    fields = [
        ("lf", pa.string()),
        ("vote", pa.string()),
        ("score", pa.float64()),
        ("moved", pa.float64()),
        ("lent", lent),
        ("at", pa.string()),
    ]
    return pa.list_(pa.struct(fields))


def _schema(setting: Setting, columns: Sequence[str]) -> Any:
    import pyarrow as pa

    def type_of(name: str) -> Any:
        if name == "reasons":
            return reasons_type()
        return pa.float64() if name in _NUMBERS or name.startswith("prob_") else pa.string()

    told = {
        "classes": list(setting.classes),
        "recipe_version": setting.versions.recipe,
        "primitive_versions": dict(setting.versions.primitives),
        "label_model_version": setting.versions.label_model,
    }
    return pa.schema(
        [(name, type_of(name)) for name in _names(columns, setting.classes)],
        metadata={b"manyeyes": json.dumps(told, sort_keys=True)},
    )
