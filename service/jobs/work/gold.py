"""Known labels of a job: a table of ids and classes, wherever it lies, and the one text that it is kept as."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from manyeyes.errors import InvalidRequest, NotFound
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.places.storage import Storage

SUFFIXES: Final = (".csv", ".jsonl", ".parquet")


def read_gold(uri: str, *, buckets: Buckets | None = None) -> dict[str, str]:
    """Return item id → class from a table with the columns id and label; a row without a label is passed over.

    Raises InvalidRequest if it is no such table, or names an id twice with different labels.
    """
    folder, _, name = uri.rpartition("/")
    try:
        data = Storage.open(folder or ".", buckets=buckets).get(name)
    except NotFound:
        raise InvalidRequest(
            f"there are no gold labels at {uri!r}; give a table with the columns id and label"
        ) from None
    return parse_gold(data, name=name, where=uri)


def parse_gold(data: bytes, *, name: str, where: str) -> dict[str, str]:
    """Return item id → class from the bytes of a table. name: its suffix says how it is read."""
    gold: dict[str, str] = {}
    try:
        for row in _rows(data, name):
            missing = {"id", "label"} - row.keys()
            if missing:
                raise InvalidRequest(
                    f"{where} has the columns {', '.join(map(str, row)) or '(none)'}; gold labels need id and label"
                )
            if row["label"] in (None, ""):
                continue
            item_id, label = str(row["id"]), str(row["label"])
            if gold.setdefault(item_id, label) != label:
                raise InvalidRequest(
                    f"{where} says that item {item_id!r} is {gold[item_id]!r}, and {label!r}; keep one"
                )
    except (ValueError, TypeError, csv.Error) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(
            f"cannot read the gold labels {where}: {error}; give a table with id and label"
        ) from error
    return gold


def gold_bytes(gold: Mapping[str, str]) -> bytes:
    """Return known labels as CSV, sorted by id: equal labels give equal bytes."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["id", "label"])
    writer.writerows(sorted(gold.items()))
    return stream.getvalue().encode("utf-8", "surrogatepass")


def _rows(data: bytes, name: str) -> Iterator[Mapping[str, Any]]:
    suffix = "." + name.rpartition(".")[2].lower()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(io.BytesIO(data)).to_pylist()
    elif suffix == ".jsonl":
        for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InvalidRequest(
                        f"a line of gold labels is an object with id and label, got {row!r:.60}"
                    )
                yield row
    elif suffix == ".csv":
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if missing := {"id", "label"} - set(reader.fieldnames or ()):
            raise InvalidRequest(
                f"the table lacks {' and '.join(sorted(missing))}; it has the columns"
                f" {', '.join(reader.fieldnames or ()) or '(none)'}"
            )
        yield from reader
    else:
        raise InvalidRequest(f"gold labels are a table of one of {', '.join(SUFFIXES)}, got {name!r}")
