"""From rows of bytes, one a content, to the columns of a FeatureSet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from manyeyes.errors import ItemError
from manyeyes.primitives.base import Features, Outcome, Primitive


@dataclass(frozen=True)
class Layout:
    """How a primitive's rows are laid out, and what it tells of itself; kept in the cache beside the rows."""

    dtype: np.dtype[Any]
    ragged: bool
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, primitive: Primitive) -> Self:
        """Ask a primitive, which may load its model for that."""
        return cls(primitive.dtype, primitive.ragged, dict(primitive.info))

    def to_meta(self) -> dict[str, Any]:
        """Return the same in JSON's types."""
        descr = np.lib.format.dtype_to_descr(self.dtype)
        return {"dtype": descr, "ragged": self.ragged, "info": dict(self.info)}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Self | None:
        """Return what `to_meta` told; None if it is not that."""
        try:
            return cls(_dtype(meta["dtype"]), bool(meta["ragged"]), dict(meta["info"]))
        except (KeyError, TypeError, ValueError):
            return None

    def fits(self, row: bytes) -> bool:
        """Return whether bytes can be rows of this layout."""
        return len(row) % self.dtype.itemsize == 0 if self.ragged else len(row) == self.dtype.itemsize

    def check(self, rows: Sequence[Outcome], n_inputs: int) -> None:
        """Raise TypeError if a primitive's answer breaks its contract."""
        if len(rows) != n_inputs:
            raise TypeError(f"{len(rows)} arrays of rows for {n_inputs} inputs")
        for array in rows:
            if array is None or isinstance(array, ItemError):
                continue
            shape = tuple(np.shape(array))
            if array.dtype != self.dtype or len(shape) != 1 or (not self.ragged and shape != (1,)):
                wanted = "(n_rows,)" if self.ragged else "(1,)"
                raise TypeError(
                    f"rows of dtype {array.dtype} and shape {shape}, not {self.dtype} and {wanted}"
                )

    def assemble(self, contents: Sequence[bytes | None], rows: Mapping[bytes, bytes]) -> Features:
        """Return features of many items, read-only.

        contents: one content digest an item, None where the item has nothing to see. rows: digest → bytes of rows.
        """
        n_items = len(contents)
        found = [None if content is None else rows.get(content) for content in contents]
        present = np.fromiter((row is not None for row in found), dtype=np.bool_, count=n_items)
        values = np.frombuffer(b"".join([row for row in found if row is not None]), dtype=self.dtype)
        offsets: npt.NDArray[np.int64] | None = None
        if self.ragged:
            sizes = np.fromiter(
                (0 if row is None else len(row) for row in found), dtype=np.int64, count=n_items
            )
            offsets = np.concatenate([[0], np.cumsum(sizes // self.dtype.itemsize)]).astype(np.int64)
            offsets.flags.writeable = False
        elif not present.all():
            dense = np.zeros(n_items, dtype=self.dtype)
            dense[present] = values
            dense.flags.writeable = False
            values = dense
        present.flags.writeable = False
        return Features(rows=values, present=present, offsets=offsets, info=self.info)


def _dtype(descr: Any) -> np.dtype[Any]:
    def tuples(part: Any) -> Any:
        # JSON knows no tuples: a column is (name, format) or (name, format, shape).
        if not isinstance(part, list):
            return part
        return [(name, tuples(format_), *(tuple(shape) for shape in rest)) for name, format_, *rest in part]

    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(tuples(descr))
    return dtype
