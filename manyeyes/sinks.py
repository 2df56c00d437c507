"""Where labels go: Parquet, JSON lines or CSV, by the file's suffix, each read back exactly.

======================  ==========================================================================================
column                  holds
======================  ==========================================================================================
id                      what names the item
status                  ``labeled``, ``abstained`` or ``error``
label, confidence       the class and its probability; label is absent where the item abstained
prob_<class>            one column a class: its probability (in JSON lines, one object ``probs``)
runner_up, prior        the second most probable class, and the log-odds against it before any vote, in nats
reasons                 for each labeling function: lf, vote, score, moved (nats), and lent where votes on similar items
                        count too (neighbors, nearest, votes), and at, a clip's strongest frame; a list of structs, in
                        CSV as JSON
error_code, _message    what is wrong with the item (in JSON lines, one object ``error``)
recipe_version,         what made the label (in JSON lines, one object ``versions``; primitives as JSON elsewhere);
primitive_versions,     in Parquet also in the file's metadata
label_model_version
======================  ==========================================================================================

A file appears under its name only when it is complete.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from manyeyes.errors import InvalidRequest, LabelNotFound, ManyeyesError, MissingDependency, nearest
from manyeyes.types import Label, Versions

SUFFIXES: Final = (".parquet", ".jsonl", ".csv")
_ROW_GROUP: Final = 4096
_METADATA_KEY: Final = b"manyeyes"
_PLAIN: Final = ("id", "status", "label", "confidence", "runner_up", "prior")
_TAIL: Final = (
    "reasons",
    "error_code",
    "error_message",
    "recipe_version",
    "primitive_versions",
    "label_model_version",
)
_PROB: Final = "prob_"


def write_labels(
    path: str | os.PathLike[str], rows: Iterable[Label], *, classes: Sequence[str], versions: Versions
) -> int:
    """Write labels as the suffix of ``path`` says, whole or not at all; return how many rows were written.

    rows: a ``Labels``, or any labels in any order; read once, some thousand at a time.
    classes: the recipe's class names; the rows' probabilities are over these.
    Raises InvalidRequest if the suffix is unknown or the place cannot be written.
    """
    target = check_destination(path)
    write = {".parquet": _write_parquet, ".jsonl": _write_jsonl, ".csv": _write_csv}[target.suffix.lower()]
    with _replacing(target) as temporary:
        return write(temporary, rows, tuple(classes), versions)


def check_destination(path: str | os.PathLike[str], *, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """Return a path that a file can be written to, its folder made where it was missing.

    Raises InvalidRequest if the suffix is not allowed, the path is a folder, or the folder cannot be written.
    """
    target = Path(os.fspath(path))
    if target.suffix.lower() not in suffixes:
        came = repr(target.suffix) if target.suffix else "no suffix"
        raise InvalidRequest(
            f"cannot tell a format from {target.name!r}: {came}; allowed: {', '.join(suffixes)}"
            f"{nearest(target.suffix, suffixes)}"
        )
    if target.is_dir():
        raise InvalidRequest(
            f"{target} is a folder; name a file in it, such as {target / ('labels' + suffixes[0])}"
        )
    with _replacing(target, probe=True):
        return target


def read_labels(path: str | os.PathLike[str]) -> Iterator[Label]:
    """Yield the labels of a file that ``write_labels`` wrote, in order.

    Raises InvalidRequest if the file is missing, of another kind or damaged.
    """
    return (label for label, _ in _read(path))


def read_versions(path: str | os.PathLike[str]) -> Versions:
    """Return what made the labels of a file. Raises InvalidRequest as ``read_labels`` does, and if it has no rows."""
    for _, versions in _read(path):
        return versions
    raise InvalidRequest(f"{os.fspath(path)} holds no labels")


def labels_of_table(table: Any) -> Iterator[Label]:
    """Yield the labels of an Arrow table with the columns above, in order; its schema holds what Parquet files hold."""
    classes = _told(table)["classes"]
    for batch in table.to_batches(max_chunksize=_ROW_GROUP):
        for row in batch.to_pylist():
            yield _unflat(row, classes)[0]


def table_versions(table: Any) -> Versions:
    """Return what made the labels of an Arrow table."""
    told = _told(table)
    return Versions(told["recipe_version"], told["primitive_versions"], told["label_model_version"])


def find_label(path: str | os.PathLike[str], item_id: str) -> tuple[Label, Versions]:
    """Return one item's label and what made it.

    Raises LabelNotFound if no row has that id; the message names the nearest ones.
    """
    ids = []
    for label, versions in _read(path, only=item_id):
        if label.id == item_id:
            return label, versions
    ids = [label.id for label in read_labels(path)]
    raise LabelNotFound(
        f"no label in {os.fspath(path)} has the id {item_id!r}{_near_ids(item_id, ids)}; ids are those of the file's"
        f" {len(ids):,} rows"
    )


def _near_ids(item_id: str, ids: Sequence[str]) -> str:
    import difflib

    # What people type is mostly a part of the id (a file name without its folder), which no edit distance finds.
    partly = [known for known in ids if item_id.lower() in known.lower()][:3]
    near = partly or difflib.get_close_matches(item_id, ids[:50_000], n=3, cutoff=0.5)
    return f"; nearest: {', '.join(map(repr, near))}" if near else ""


@contextmanager
def _replacing(target: Path, *, probe: bool = False) -> Iterator[Path]:
    """Give a temporary path beside the target, and move it there when the block ends well."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise InvalidRequest(
            f"cannot write {target}: {error.strerror or error}; choose another place"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        if not probe:
            # mkstemp keeps everybody else out; a result is as readable as any file the user makes.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(target)
    except OSError as error:
        if isinstance(error, ManyeyesError):
            raise
        raise InvalidRequest(
            f"cannot write {target}: {error.strerror or error}; make room or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str, *, suffixes: Sequence[str]) -> Path:
    """Write a text file whole or not at all; return its path. Raises InvalidRequest as ``write_labels`` does."""
    target = check_destination(path, suffixes=suffixes)
    with _replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def _flat(label: Label, classes: Sequence[str], versions: Versions) -> dict[str, Any]:
    """Return a label as one flat row, the shape that Parquet and CSV share."""
    row: dict[str, Any] = {name: getattr(label, name) for name in _PLAIN}
    row |= {_PROB + name: label.probs.get(name) for name in classes}
    row["reasons"] = [reason.to_dict() for reason in label.reasons]
    row["error_code"] = None if label.error is None else label.error.code
    row["error_message"] = None if label.error is None else str(label.error)
    row["recipe_version"] = versions.recipe
    row["primitive_versions"] = json.dumps(dict(versions.primitives), sort_keys=True)
    row["label_model_version"] = versions.label_model
    return row


def _unflat(row: Mapping[str, Any], classes: Sequence[str]) -> tuple[Label, Versions]:
    told: dict[str, Any] = {name: row[name] for name in _PLAIN}
    told["probs"] = {name: row[_PROB + name] for name in classes if row[_PROB + name] is not None}
    told["reasons"] = row["reasons"] or []
    if row["status"] == "error":
        told["error"] = {"code": row["error_code"], "message": row["error_message"]}
    versions = Versions(
        row["recipe_version"], json.loads(row["primitive_versions"]), row["label_model_version"]
    )
    return Label.from_dict(told), versions


def _write_jsonl(path: Path, rows: Iterable[Label], _: Sequence[str], versions: Versions) -> int:
    told = {
        "recipe": versions.recipe,
        "primitives": dict(versions.primitives),
        "label_model": versions.label_model,
    }
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for label in rows:
            stream.write(json.dumps(label.to_dict() | {"versions": told}, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_csv(path: Path, rows: Iterable[Label], classes: Sequence[str], versions: Versions) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(
            stream
        )  # Lines end as RFC 4180 says: with another end, a lone \r would stay unquoted.
        writer.writerow([*_PLAIN, *(_PROB + name for name in classes), *_TAIL])
        for label in rows:
            row = _flat(label, classes, versions)
            row["reasons"] = json.dumps(row["reasons"], ensure_ascii=False)
            writer.writerow(row.values())
            count += 1
    return count


def _write_parquet(path: Path, rows: Iterable[Label], classes: Sequence[str], versions: Versions) -> int:
    pa, pq = _pyarrow()
    lent = pa.struct([("neighbors", pa.int32()), ("nearest", pa.float64()), ("votes", pa.float64())])
    reason = pa.struct(
        [
            ("lf", pa.string()),
            ("vote", pa.string()),
            ("score", pa.float64()),
            ("moved", pa.float64()),
            ("lent", lent),
            ("at", pa.string()),
        ]
    )
    kinds = {"confidence": pa.float64(), "prior": pa.float64(), "reasons": pa.list_(reason)}
    names = [*_PLAIN, *(_PROB + name for name in classes), *_TAIL]
    told = {
        "classes": list(classes),
        "recipe_version": versions.recipe,
        "primitive_versions": dict(versions.primitives),
        "label_model_version": versions.label_model,
    }
    schema = pa.schema(
        [(name, pa.float64() if name.startswith(_PROB) else kinds.get(name, pa.string())) for name in names],
        metadata={_METADATA_KEY: json.dumps(told, sort_keys=True)},
    )
    count, iterator = 0, iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while chunk := [_flat(label, classes, versions) for label in islice(iterator, _ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    return count


def _read(path: str | os.PathLike[str], *, only: str | None = None) -> Iterator[tuple[Label, Versions]]:
    """Yield labels with their versions; ``only`` lets a format leave out rows of other ids where that is quicker."""
    source = Path(os.fspath(path))
    readers: dict[str, Callable[[Path, str | None], Iterator[tuple[Label, Versions]]]] = {
        ".parquet": _read_parquet,
        ".jsonl": _read_jsonl,
        ".csv": _read_csv,
    }
    if source.suffix.lower() not in readers:
        raise InvalidRequest(f"{source} is no file of labels; allowed: {', '.join(SUFFIXES)}")
    if not source.is_file():
        raise InvalidRequest(f"there is no file {source}; write one with manyeyes label … --out {source}")
    try:
        yield from readers[source.suffix.lower()](source, only)
    except (KeyError, TypeError, ValueError, OSError, csv.Error) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(
            f"{source} is damaged, or manyeyes label did not write it ({type(error).__name__}: {error});"
            " write it again"
        ) from error


def _read_jsonl(path: Path, _: str | None) -> Iterator[tuple[Label, Versions]]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            row = json.loads(line)
            told = row["versions"]
            yield Label.from_dict(row), Versions(told["recipe"], told["primitives"], told["label_model"])


def _read_csv(path: Path, _: str | None) -> Iterator[tuple[Label, Versions]]:
    with path.open(encoding="utf-8", newline="") as stream:
        # The reasons of a recipe with a thousand LFs are one long cell.
        csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
        reader = csv.DictReader(stream)
        header = list(reader.fieldnames or ())
        classes = [name.removeprefix(_PROB) for name in header if name.startswith(_PROB)]
        numbers = {"confidence", "prior", *(_PROB + name for name in classes)}
        for cells in reader:
            row: dict[str, Any] = {key: cells[key] or None for key in header}
            row |= {key: None if row[key] is None else float(row[key]) for key in numbers}
            row |= {
                key: row[key] or ""
                for key in ("id", "error_message", "recipe_version", "label_model_version")
            }
            row["reasons"] = json.loads(row["reasons"])
            yield _unflat(row, classes)


def _read_parquet(path: Path, only: str | None) -> Iterator[tuple[Label, Versions]]:
    _, pq = _pyarrow()
    with pq.ParquetFile(path) as file:
        told = json.loads((file.schema_arrow.metadata or {})[_METADATA_KEY])
        for group in range(file.num_row_groups):
            if only is not None and only not in file.read_row_group(group, columns=["id"])["id"].to_pylist():
                continue
            for batch in file.read_row_group(group).to_batches(max_chunksize=_ROW_GROUP):
                for row in batch.to_pylist():
                    yield _unflat(row, told["classes"])


def _told(table: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((table.schema.metadata or {})[_METADATA_KEY])
    return told


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependency(
            "Parquet needs pyarrow, which is not installed; run pip install 'manyeyes[serve]', or write .jsonl or .csv"
        ) from error
    return pa, pq
