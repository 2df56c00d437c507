"""Labels as they come back: a sequence, and tables of it for pandas, Arrow and plain dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, overload

from manyeyes.client.calls import Answer
from manyeyes.client.items import Form
from manyeyes.errors import InvalidRequest, ItemError, MissingDependency
from manyeyes.types import Label, Versions

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Probs: TypeAlias = "Literal['columns', 'struct'] | None"
"""How probabilities stand in a table: one column ``prob_<class>`` a class, one column ``probs`` of mappings, or not."""

_PLAIN: Final = ("id", "status", "label", "confidence", "runner_up", "prior")
_PROB: Final = "prob_"


@dataclass(frozen=True, eq=False)
class LabelResult(Sequence[Label]):
    """The labels of one call, in the order of its items.

    labels: one an item; what could not be labeled is a row with status "error". recipe: the recipe's name.
    versions: what made the labels; empty where no item could be sent.
    label_ids: under which the service keeps each, to ``explain`` it by; None for what it does not keep.
    batches: the ids of the calls that they were kept from, to fit a label model on.
    request_id: in the service's log; None for the labels of several calls.
    """

    labels: tuple[Label, ...]
    versions: Versions
    recipe: str
    label_ids: tuple[str | None, ...] = ()
    batches: tuple[str, ...] = ()
    request_id: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    @overload
    def __getitem__(self, index: int) -> Label: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Label, ...]: ...
    def __getitem__(self, index: int | slice) -> Label | tuple[Label, ...]:
        return self.labels[index]

    @property
    def errors(self) -> dict[str, ItemError]:
        """Item id → what is wrong with it, for those that could not be labeled."""
        return {label.id: label.error for label in self.labels if label.error is not None}

    @property
    def batch(self) -> str | None:
        """The id of the call that the labels were kept from; None where they were not, or come from several."""
        return self.batches[0] if len(self.batches) == 1 else None

    def label_id(self, index: int) -> str | None:
        """Return the id to ``explain`` a label by, or None where the service does not keep it."""
        return self.label_ids[index] if self.label_ids else None

    def to_dicts(self, *, probs: Probs = "struct", reasons: bool = True) -> list[dict[str, Any]]:
        """Return one flat, JSON-ready mapping a label; see ``to_pandas`` for its members."""
        return rows_of(self.labels, probs=probs, reasons=reasons)

    def to_pandas(self, *, probs: Probs = "columns", reasons: bool = False) -> pd.DataFrame:
        """Return a DataFrame, one row a label, in order.

        Columns: id, status, label (absent where the item abstained), confidence, runner_up, prior; probabilities as
        ``probs`` says; reasons, a list of mappings, where asked for; error_code and error_message. What made the labels
        is in ``attrs``.
        Raises MissingDependency without pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise _missing("pandas") from error
        rows = rows_of(self.labels, probs=probs, reasons=reasons)
        table = pd.DataFrame(rows, columns=columns_of(self.labels, probs=probs, reasons=reasons))
        table.attrs.update(_made_by(self))
        return table

    def to_arrow(self, *, probs: Probs = "columns", reasons: bool = False) -> pa.Table:
        """Return an Arrow table with the columns of ``to_pandas``; what made the labels is in the schema's metadata.

        Raises MissingDependency without pyarrow.
        """
        try:
            import pyarrow as pa
        except ImportError as error:
            raise _missing("pyarrow") from error
        rows = rows_of(self.labels, probs=probs, reasons=reasons)
        names = columns_of(self.labels, probs=probs, reasons=reasons)
        classes = classes_of(self.labels)
        kinds: dict[str, Any] = {"confidence": pa.float64(), "prior": pa.float64()}
        kinds |= {_PROB + name: pa.float64() for name in classes}
        kinds["probs"] = pa.struct([(name, pa.float64()) for name in classes])
        lent = pa.struct([("neighbors", pa.int32()), ("nearest", pa.float64()), ("votes", pa.float64())])
        reason = [
            ("lf", pa.string()),
            ("vote", pa.string()),
            ("score", pa.float64()),
            ("moved", pa.float64()),
        ]
        kinds["reasons"] = pa.list_(pa.struct([*reason, ("lent", lent), ("at", pa.string())]))
        schema = pa.schema(
            [(name, kinds.get(name, pa.string())) for name in names],
            metadata={f"manyeyes.{name}": str(value) for name, value in _made_by(self).items()},
        )
        return pa.Table.from_pylist(rows, schema=schema)


def classes_of(labels: Sequence[Label]) -> list[str]:
    """Return the classes that labels have probabilities of, in the recipe's order."""
    return list(dict.fromkeys(name for label in labels for name in label.probs))


def columns_of(labels: Sequence[Label], *, probs: Probs, reasons: bool) -> list[str]:
    """Return the names of the columns of a table of labels. Raises InvalidRequest for an unknown ``probs``."""
    if probs not in ("columns", "struct", None):
        raise InvalidRequest(f"probs is 'columns', 'struct' or None, got {probs!r}")
    told = [_PROB + name for name in classes_of(labels)] if probs == "columns" else []
    told += ["probs"] if probs == "struct" else []
    return [*_PLAIN, *told, *(["reasons"] if reasons else []), "error_code", "error_message"]


def rows_of(labels: Sequence[Label], *, probs: Probs, reasons: bool) -> list[dict[str, Any]]:
    """Return one mapping a label, with the members that ``columns_of`` names."""
    names = columns_of(labels, probs=probs, reasons=reasons)
    return [{name: _cell(label, name) for name in names} for label in labels]


def _cell(label: Label, name: str) -> Any:
    if name in _PLAIN:
        return getattr(label, name)
    if name == "probs":
        return dict(label.probs) or None
    if name == "reasons":
        return [reason.to_dict() for reason in label.reasons]
    if name == "error_code":
        return None if label.error is None else label.error.code
    if name == "error_message":
        return None if label.error is None else str(label.error)
    return label.probs.get(name.removeprefix(_PROB))


def read_result(form: Form, answer: Answer | None) -> LabelResult:
    """Return the labels of a call, unsent items included. answer: None where nothing could be sent.

    Raises ServiceFailed if the answer does not fit what was sent.
    """
    if answer is None:
        return LabelResult(labels=form.merged(()), versions=Versions(recipe=""), recipe="")

    def read(told: Mapping[str, Any]) -> LabelResult:
        labels = [Label.from_dict(row) for row in told["labels"]]
        if len(labels) != len(form.entries):
            raise ValueError(f"{len(form.entries)} items were sent, {len(labels)} labels came back")
        for label in labels:
            if label.error is not None:
                label.error.request_id = answer.request_id
        ids = iter([row.get("label_id") for row in told["labels"]])
        batch = told.get("batch_id")
        return LabelResult(
            labels=form.merged(labels),
            versions=read_versions(told["versions"]),
            recipe=told["recipe"],
            label_ids=tuple(None if n in form.unsent else next(ids) for n in range(form.n_items)),
            batches=() if batch is None else (batch,),
            request_id=answer.request_id,
        )

    return answer.read(read)


def read_versions(told: Mapping[str, Any]) -> Versions:
    """Return what made labels."""
    return Versions(told["recipe"], dict(told["primitives"]), told["label_model"])


def _made_by(result: LabelResult) -> dict[str, str]:
    versions = result.versions
    return {
        "recipe": result.recipe,
        "recipe_version": versions.recipe,
        "label_model_version": versions.label_model,
        **{f"primitive_version.{name}": version for name, version in versions.primitives.items()},
    }


def _missing(package: str) -> MissingDependency:
    return MissingDependency(
        f"a table of labels needs {package}, which is not installed; run pip install {package}, or use to_dicts()"
    )
