"""Rows of pandas, polars and Arrow tables as items. None of the three is imported: a table is told by its looks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np

from manyeyes.client.flow import Flow
from manyeyes.client.items import is_address
from manyeyes.client.results import LabelResult
from manyeyes.errors import InvalidRequest, nearest
from manyeyes.types import Item, Label, Versions

_MISSING: Final = frozenset({"NAType", "NaTType", "NoneType"})
_ROWS: Final = 1024


class Rows(Iterable[Item]):
    """The rows of a table as items, made one by one."""

    def __init__(self, table: Any, columns: Mapping[str, str], metadata: Sequence[str]) -> None:
        self._table = table
        self._columns = columns
        self._metadata = tuple(metadata)

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Item]:
        names = list(dict.fromkeys([*self._columns.values(), *self._metadata]))
        own = _index_ids(self._table) if "id" not in self._columns else None
        for n, row in enumerate(_rows(self._table, names)):
            told = dict(zip(names, row, strict=True))
            given = {field: told[column] for field, column in self._columns.items()}
            name = own[n] if own is not None else _plain(given["id"]) if "id" in given else n
            yield Item(
                # A row whose id is missing is named by its number, as in a list of items without ids.
                id=f"item-{n}" if name is None else str(name),
                image=_image(given.get("image")),
                text=_text(given.get("text")),
                metadata={
                    column: value for column in self._metadata if (value := _plain(told[column])) is not None
                },
            )


def checked_table(
    table: Any, *, image: str | None, text: str | None, id: str | None, metadata: Sequence[str]
) -> Rows:
    """Return a table's rows as items.

    Raises InvalidRequest if it is no table, has no rows or no such columns, or two rows have the same id.
    """
    names = _names(table)
    if isinstance(metadata, str):
        raise InvalidRequest(f"metadata is a list of columns, got {metadata!r}; write [{metadata!r}]")
    columns = {
        field: name for field, name in (("image", image), ("text", text), ("id", id)) if name is not None
    }
    if image is None and text is None:
        raise InvalidRequest(
            f"say which column holds the images or the texts: image='…' or text='…'; there are {_quoted(names)}"
        )
    for name in (*columns.values(), *metadata):
        if name not in names:
            raise InvalidRequest(
                f"the table has no column {name!r}{nearest(name, map(str, names))}; there are {_quoted(names)}"
            )
    if not len(table):
        raise InvalidRequest("the table has no rows")
    if id is not None:
        seen: set[str] = set()
        for (value,) in _rows(table, [id]):
            if (name := _plain(value)) is not None and str(name) in seen:
                raise InvalidRequest(f"two rows have the id {str(name)!r}; give every row an id of its own")
            seen.add(str(name))
    return Rows(table, columns, metadata)


def result_of(labels: Sequence[tuple[Label, str | None]], flow: Flow[Any]) -> LabelResult:
    """Return the labels of a whole stream, each with its id; the versions are those that came last."""
    return LabelResult(
        labels=tuple(label for label, _ in labels),
        versions=flow.versions[-1] if flow.versions else Versions(recipe=""),
        recipe=flow.recipe_name,
        label_ids=tuple(id for _, id in labels),
        batches=tuple(flow.batches),
    )


def _names(table: Any) -> list[Any]:
    # An Arrow table has column_names; a DataFrame of either kind has columns.
    found = getattr(table, "column_names", None)
    found = getattr(table, "columns", None) if found is None else found
    if found is None or not hasattr(table, "__len__"):
        raise InvalidRequest(
            f"a table is a pandas or polars DataFrame or an Arrow table, got {type(table).__name__}; collect a lazy one"
        )
    return list(found)


def _rows(table: Any, names: list[str]) -> Iterator[Sequence[Any]]:
    if hasattr(table, "to_batches"):  # Arrow
        for batch in table.select(names).to_batches(max_chunksize=_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
    elif hasattr(table, "iter_rows"):  # polars
        yield from table.select(names).iter_rows()
    elif hasattr(table, "loc"):  # pandas, which may hold two columns of one name
        yield from zip(*(_one(table[name], name) for name in names), strict=True)
    else:
        raise InvalidRequest(
            f"a table is a pandas or polars DataFrame or an Arrow table, got {type(table).__name__}"
        )


def _one(column: Any, name: str) -> Any:
    if getattr(column, "ndim", 1) != 1:
        raise InvalidRequest(f"the table has more than one column {name!r}; rename one of them")
    return column


def _index_ids(table: Any) -> list[str] | None:
    """Return pandas' index, where it names rows rather than counting them."""
    index = getattr(table, "index", None)
    if index is None or callable(index) or not getattr(index, "is_unique", False):
        return None
    return [str(value) for value in index]


def _image(value: Any) -> Any:
    if isinstance(value, Mapping):  # {"bytes", "path"}: how Hugging Face's datasets keep images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return value if is_address(value) else Path(value)
    if isinstance(value, (bytes, bytearray, memoryview, np.ndarray)) or value is None:
        return value
    return None if _is_missing(value) else value


def _text(value: Any) -> Any:
    return None if _is_missing(value) else value


def _plain(value: Any) -> Any:
    """Return a cell as the value of metadata: str, int, float or bool; None where it is missing."""
    if _is_missing(value):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return float(value) if isinstance(value, Decimal) else value


def _is_missing(value: Any) -> bool:
    # NaN of any width is the one number that does not equal itself.
    return type(value).__name__ in _MISSING or (
        isinstance(value, (float, np.floating, Decimal)) and value != value
    )


def _quoted(names: Sequence[Any]) -> str:
    return ", ".join(map(repr, names[:20])) + (" …" if len(names) > 20 else "")
