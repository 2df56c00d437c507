"""What shards are written as: Parquet whose bytes follow from its contents alone, read back exactly.

====================  ==============================================================================================
part                  holds, one row for each row of the shard
====================  ==============================================================================================
features              state (unknown, present, absent, broken), rows (the primitive's own bytes), and what is wrong with
                      a broken one; positions are those of the manifest's part, skipped rows included
votes                 position, id, what is wrong with the row and how often it was tried; for each labeling function
                      its vote, and its score where any has one; the embedding, where the label model wants them
labels                as :mod:`manyeyes.service.jobs.work.label_table` says
====================  ==============================================================================================

Nothing in them says when, where or by whom they were written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from manyeyes.errors import ItemError, StorageFailed
from manyeyes.primitives.features import Layout
from manyeyes.service.jobs.work.features import FeatureRows, error_of
from manyeyes.types import FloatArray, Votes, vote_dtype

FORMAT: Final = 1
METADATA_KEY: Final = b"manyeyes"
ROW_GROUP: Final = 4096
_VOTE, _SCORE, _EMBEDDING = "vote_", "score_", "embedding"


@dataclass(frozen=True, eq=False)
class VotesPart:
    """The votes on a shard. ids: one a row.

    positions: int32, shape (n_rows,); where each row stands in the manifest's part.
    errors: row → what is wrong with it; such a row abstains throughout. attempts: row → how often it was tried, of
    those with an error. embeddings: float32, shape (n_rows, dim), NaN rows where there is none; None where the label
    model wants none.
    """

    ids: tuple[str, ...]
    positions: npt.NDArray[np.int32]
    votes: Votes
    errors: Mapping[int, ItemError]
    attempts: Mapping[int, int]
    embeddings: FloatArray | None = None

    def sound(self) -> npt.NDArray[np.bool_]:
        """Return which rows have no error: bool, shape (n_rows,)."""
        sound = np.ones(len(self.ids), dtype=np.bool_)
        sound[sorted(self.errors)] = False
        return sound

    def to_bytes(self) -> bytes:
        """Return the part; ``from_bytes`` gives back the same."""
        votes, n = self.votes, len(self.ids)
        columns: dict[str, Any] = {
            "position": pa.array(self.positions, pa.int32()),
            "id": pa.array(self.ids, pa.string()),
        } | error_columns(self.errors, self.attempts, n)
        scored = set(np.unique(np.nonzero(~np.isnan(votes.scores))[1]).tolist())
        for j in range(votes.n_lfs):
            columns[f"{_VOTE}{j}"] = pa.array(np.ascontiguousarray(votes.classes[:, j]))
            if j in scored:
                columns[f"{_SCORE}{j}"] = pa.array(np.ascontiguousarray(votes.scores[:, j]))
        told = {
            "format": FORMAT,
            "classes": votes.class_names,
            "lfs": votes.lf_names,
            "shared": votes.shared,
            "sets": votes.sets,
            "dim": None if self.embeddings is None else self.embeddings.shape[1],
        }
        if self.embeddings is not None:
            kept = np.ascontiguousarray(self.embeddings, dtype=np.float32)
            columns[_EMBEDDING] = _binary(kept.tobytes(), np.full(n, kept.shape[1] * 4), None)
        return _written(columns, told, plain=(_EMBEDDING,))

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = "a votes part") -> VotesPart:
        """Read a part. Raises StorageFailed if it is damaged."""
        try:
            table, told = _read(data)
        except ValueError as error:
            raise StorageFailed(
                f"{where} is {error}; delete it and its commit, and run the job again"
            ) from error
        n, n_lfs = table.num_rows, len(told["lfs"])
        sets = tuple(map(tuple, told["sets"]))
        classes = np.empty((n, n_lfs), dtype=vote_dtype(len(told["classes"]) + len(sets)))
        scores = np.full((n, n_lfs), np.nan, dtype=np.float32)
        names = set(table.column_names)
        for j in range(n_lfs):
            classes[:, j] = table[f"{_VOTE}{j}"].to_numpy()
            if f"{_SCORE}{j}" in names:
                scores[:, j] = table[f"{_SCORE}{j}"].to_numpy()
        votes = Votes(
            classes=classes,
            scores=scores,
            class_names=tuple(told["classes"]),
            lf_names=tuple(told["lfs"]),
            shared=tuple(map(tuple, told["shared"])),
            sets=sets,
        )
        embeddings = None
        if told["dim"] is not None:
            flat, _ = _from_binary(table[_EMBEDDING])
            embeddings = flat.view(np.float32).reshape(n, told["dim"])
        return cls(
            ids=tuple(table["id"].to_pylist()),
            positions=table["position"].to_numpy().astype(np.int32, copy=False),
            votes=votes,
            errors=errors_in(table),
            attempts=_attempts_in(table),
            embeddings=embeddings,
        )


def features_to_bytes(rows: FeatureRows, key: str) -> bytes:
    """Return a features part. key: what stored features go by, see ``feature_key``."""
    item = rows.layout.dtype.itemsize
    columns: dict[str, Any] = {
        "state": pa.array(rows.state),
        "rows": _binary(np.ascontiguousarray(rows.values).tobytes(), rows.counts * item, rows.state == 1),
    }
    wrong = error_columns(rows.errors, {}, len(rows.state))
    columns |= {name: wrong[name] for name in ("error_code", "error_message")}
    return _written(columns, {"format": FORMAT, "key": key, "layout": rows.layout.to_meta()}, plain=("rows",))


def features_from_bytes(data: bytes, key: str) -> FeatureRows:
    """Read a features part. Raises ValueError if it is damaged, or of another feature than ``key``."""
    table, told = _read(data)
    layout = Layout.from_meta(told.get("layout", {}))
    if layout is None or told.get("key") != key:
        raise ValueError(f"of {told.get('key')!r}, not of {key!r}")
    values, sizes = _from_binary(table["rows"])
    if (sizes % layout.dtype.itemsize).any():
        raise ValueError(f"damaged: its rows are not of {layout.dtype.itemsize} bytes each")
    return FeatureRows(
        layout,
        table["state"].to_numpy().astype(np.int8, copy=False),
        np.asarray(sizes // layout.dtype.itemsize, dtype=np.int64),
        values.view(layout.dtype),
        errors_in(table),
    )


def error_columns(
    errors: Mapping[int, ItemError], attempts: Mapping[int, int], n_rows: int
) -> dict[str, Any]:
    """Return what is wrong with rows as columns: error_code, error_message and attempts, null where nothing is."""
    codes: list[str | None] = [None] * n_rows
    messages: list[str | None] = [None] * n_rows
    tries: list[int | None] = [None] * n_rows
    for row, error in errors.items():
        codes[row], messages[row], tries[row] = error.code, _text(str(error)), attempts.get(row, 1)
    return {
        "error_code": pa.array(codes, pa.string()),
        "error_message": pa.array(messages, pa.string()),
        "attempts": pa.array(tries, pa.int32()),
    }


def errors_in(table: Any) -> dict[int, ItemError]:
    """Return row → what is wrong with it, from the columns that ``error_columns`` makes."""
    codes = table["error_code"]
    if codes.null_count == table.num_rows:
        return {}
    told = zip(codes.to_pylist(), table["error_message"].to_pylist(), strict=True)
    return {
        row: error_of(code, message or "") for row, (code, message) in enumerate(told) if code is not None
    }


def digest_of(data: bytes) -> str:
    """Return what a commit says of a part's bytes: sha256, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _attempts_in(table: Any) -> dict[int, int]:
    column = table["attempts"]
    if column.null_count == table.num_rows:
        return {}
    return {row: tries for row, tries in enumerate(column.to_pylist()) if tries is not None}


def _written(columns: Mapping[str, Any], told: Mapping[str, Any], *, plain: Sequence[str] = ()) -> bytes:
    table = pa.table(dict(columns)).replace_schema_metadata({METADATA_KEY: json.dumps(told, sort_keys=True)})
    return table_bytes(table, plain=plain)


def table_bytes(table: Any, *, plain: Sequence[str] = ()) -> bytes:
    """Return a table as Parquet, the same bytes for the same table.

    plain: columns of numbers that look like noise, which are neither compressed nor looked through for repetitions.
    """
    names = _leaves(table.schema)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        version="2.6",
        data_page_version="1.0",
        use_dictionary=[name for name in names if name not in plain],
        write_statistics=False,
        compression={name: "none" if name in plain else "zstd" for name in names},
        write_page_checksum=True,
    )
    return bytes(sink.getvalue())


def _leaves(schema: Any) -> list[str]:
    """Return the paths of a schema's columns as Parquet names them."""
    found: list[str] = []

    def walk(kind: Any, path: str) -> None:
        if pa.types.is_struct(kind):
            for field in kind:
                walk(field.type, f"{path}.{field.name}")
        elif pa.types.is_list(kind):
            walk(kind.value_type, f"{path}.list.element")
        else:
            found.append(path)

    for field in schema:
        walk(field.type, field.name)
    return found


def _read(data: bytes) -> tuple[Any, dict[str, Any]]:
    """Return a part and what it tells of itself. Raises ValueError, which says what it is instead."""
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        told = json.loads((table.schema.metadata or {})[METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ValueError(f"damaged ({type(error).__name__})") from error
    if told.get("format") != FORMAT:
        raise ValueError(f"of format {told.get('format')!r}, and this version of manyeyes reads {FORMAT}")
    return table, told


def _binary(data: bytes, sizes: npt.NDArray[np.int64], present: npt.NDArray[np.bool_] | None) -> Any:
    """Return a column of bytes from all of them in one piece. present: which are there; None for all."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    valid = None
    if present is not None and not present.all():
        valid = pa.py_buffer(np.packbits(present, bitorder="little").tobytes())
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(sizes), [valid, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def _from_binary(column: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return a column of bytes in one piece, uint8, and the size of each: int64, shape (n_rows,)."""
    pieces, sizes = [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)]
    for chunk in column.chunks:
        if not len(chunk):
            continue
        _, offsets_buffer, data_buffer = chunk.buffers()
        offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        if data_buffer is not None:
            pieces.append(np.frombuffer(data_buffer, dtype=np.uint8)[offsets[0] : offsets[-1]])
        sizes.append(np.diff(offsets))
    if len(pieces) == 2:
        return pieces[1], np.concatenate(sizes)
    return np.concatenate(pieces), np.concatenate(sizes)


def _text(message: str) -> str:
    """Return a message that can be written as UTF-8, whatever a file's name brought into it."""
    return message.encode("utf-8", "backslashreplace").decode()
