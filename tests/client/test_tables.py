"""Tables in and out: pandas, polars and Arrow, with everything that is missing in them."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from manyeyes import Label, Reason, Versions
from manyeyes.client import LabelResult
from manyeyes.errors import InvalidRequest, MissingDependency, UndecodableImage
from manyeyes.testing import FakeService

COLUMNS: dict[str, list[Any]] = {
    "sku": ["a", "b", "c", "d"],
    "title": ["a red hat", None, "a blue hat", "a hat"],
    "price": [1.5, None, 3.0, 4.0],
    "n": [1, 2, 3, 4],
    "sold": [True, False, True, True],
}
KINDS = [pd.DataFrame, pl.DataFrame, pa.table]


def _fake() -> FakeService:
    return FakeService(lambda item: "red" if "red" in (item.text or "") else "blue", classes=["red", "blue"])


@pytest.mark.parametrize("make", KINDS)
def test_rows_become_items(make: Any) -> None:
    fake = _fake()
    with fake.client() as client:
        labels = client.label_table(
            make(COLUMNS), recipe="r", text="title", id="sku", metadata=["price", "n", "sold"], batch_size=3
        )
    assert [label.id for label in labels] == list("abcd")
    assert [label.label for label in labels] == ["red", "blue", "blue", "blue"]
    sent = sorted((item for call in fake.calls for item in call.items), key=lambda item: item.id)
    assert sent[0].metadata == {"price": 1.5, "n": 1, "sold": True}
    assert sent[1].text is None and sent[1].metadata == {"n": 2, "sold": False}
    assert all(type(item.metadata["sold"]) is bool for item in sent)


@pytest.mark.parametrize("make", KINDS)
def test_images_in_columns(make: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"from a path")
    told = [str(tmp_path / "a.png"), "https://example.org/b.png", None, "s3://bucket/d.png"]
    fake = _fake()
    with fake.client() as client:
        client.label_table(make({"photo": told, "t": list("abcd")}), recipe="r", image="photo", text="t")
        client.label_table(make({"photo": [b"\x89PNG", b"GIF8"]}), recipe="r", image="photo")
    first, second = (call.items for call in fake.calls)
    assert first[0].image == b"from a path" and first[0].metadata == {"filename": "a.png"}
    assert first[1].url == "https://example.org/b.png" and first[1].metadata["filename"] == "b.png"
    assert first[2].image is None
    assert first[3].object == "s3://bucket/d.png"
    assert [item.image for item in second] == [b"\x89PNG", b"GIF8"]


def test_pandas_holds_arrays_and_datasets_keep_mappings() -> None:
    frame = pd.DataFrame({"x": [np.zeros((2, 2, 3), np.uint8), {"bytes": b"file", "path": "a.png"}, pd.NA]})
    fake = _fake()
    with fake.client() as client:
        labels = client.label_table(frame.assign(t="t"), recipe="r", image="x", text="t")
    assert all(label.error is None for label in labels)
    (call,) = fake.calls
    assert [item.image and item.image[:4] for item in call.items] == [b"\x89PNG", b"file", None]


def test_cells_of_every_kind_become_plain_metadata() -> None:
    frame = pd.DataFrame(
        {
            "t": ["x"],
            "when": [pd.Timestamp("2026-01-02T03:04:05Z")],
            "day": [date(2026, 1, 2)],
            "price": [Decimal("1.25")],
            "f": [np.float32(0.5)],
            "i": [np.int8(3)],
            "b": [np.bool_(True)],
            "nat": [pd.NaT],
            "na": [pd.NA],
            "nan": [float("nan")],
            "c": pd.Categorical(["k"]),
        }
    )
    fake = _fake()
    with fake.client() as client:
        client.label_table(frame, recipe="r", text="t", metadata=[c for c in frame if c != "t"])
    assert fake.calls[0].items[0].metadata == {
        "when": "2026-01-02T03:04:05+00:00",
        "day": "2026-01-02",
        "price": 1.25,
        "f": 0.5,
        "i": 3,
        "b": True,
        "c": "k",
    }


def test_ids_come_from_the_index_or_the_number() -> None:
    frame = pd.DataFrame({"t": ["x", "y"]})

    def ids(table: Any) -> list[str]:
        with _fake().client() as client:
            return [label.id for label in client.label_table(table, recipe="r", text="t")]

    assert ids(frame.set_index([["p", "q"]])) == ["p", "q"]
    assert ids(frame.set_index([["p", "p"]])) == ids(pl.DataFrame(frame)) == ["0", "1"]


@pytest.mark.parametrize(
    ("table", "options", "hint"),
    [
        (pd.DataFrame(COLUMNS), {"text": "titel"}, "did you mean 'title'"),
        (pd.DataFrame(COLUMNS), {}, "which column"),
        (pd.DataFrame(COLUMNS), {"text": "title", "metadata": "n"}, r"\['n'\]"),
        (pd.DataFrame({"t": ["a", "b"], "i": [1, 1]}), {"text": "t", "id": "i"}, "two rows have the id '1'"),
        (pd.DataFrame({"t": []}), {"text": "t"}, "no rows"),
        ([{"t": "a"}], {"text": "t"}, "a table is"),
        (pl.DataFrame({"t": ["a"]}).lazy(), {"text": "t"}, "collect"),
        (pd.DataFrame([["a", "b"]], columns=["t", "t"]), {"text": "t"}, "more than one column"),
    ],
)
@pytest.mark.filterwarnings("ignore::polars.exceptions.PerformanceWarning")
def test_tables_that_cannot_be_read(table: Any, options: dict[str, Any], hint: str) -> None:
    with _fake().client() as client, pytest.raises(InvalidRequest, match=hint):
        client.label_table(table, recipe="r", **options)


def test_the_async_client_reads_tables_too() -> None:
    async def run() -> LabelResult:
        async with _fake().async_client() as client:
            return await client.label_table(pd.DataFrame(COLUMNS), recipe="r", text="title", id="sku")

    assert [label.id for label in asyncio.run(run())] == list("abcd")


# Out


RESULT = LabelResult(
    (
        Label(
            "a",
            "labeled",
            "red",
            0.75,
            {"red": 0.75, "blue": 0.25},
            "blue",
            0.0,
            (Reason("lf", "red", None, 1.1),),
        ),
        Label("b", "abstained", None, 0.5, {"red": 0.5, "blue": 0.5}, "blue", 0.0),
        Label("c", "error", error=UndecodableImage("damaged")),
    ),
    Versions("v1", {"toy": "toy 1"}, "majority:1"),
    "paint",
)


def test_labels_become_a_dataframe() -> None:
    frame = RESULT.to_pandas()
    assert list(frame) == [
        "id", "status", "label", "confidence", "runner_up", "prior", "prob_red", "prob_blue",
        "error_code", "error_message",
    ]  # fmt: skip
    assert frame["prob_red"].tolist()[:2] == [0.75, 0.5]
    assert frame.loc[2, "error_code"] == "undecodable_image"
    assert frame["label"].isna().tolist() == [False, True, True]
    assert frame.attrs["label_model_version"] == "majority:1"
    assert "probs" in RESULT.to_pandas(probs="struct")
    assert list(RESULT.to_pandas(probs=None, reasons=True))[6:] == ["reasons", "error_code", "error_message"]


def test_labels_become_an_arrow_table() -> None:
    table = RESULT.to_arrow(reasons=True)
    assert table.schema.field("prob_red").type == pa.float64()
    assert table["reasons"].to_pylist()[0][0]["lf"] == "lf"
    assert table.schema.metadata[b"manyeyes.primitive_version.toy"] == b"toy 1"
    struct = RESULT.to_arrow(probs="struct")
    assert struct["probs"].to_pylist() == [{"red": 0.75, "blue": 0.25}, {"red": 0.5, "blue": 0.5}, None]
    assert pl.DataFrame(table).height == 3


def test_labels_become_dicts_and_columns_are_the_same_without_a_label() -> None:
    rows = RESULT.to_dicts()
    assert rows[0]["probs"] == {"red": 0.75, "blue": 0.25}
    assert rows[2]["error_message"] == "damaged"
    empty = LabelResult((), Versions(""), "")
    assert list(empty.to_pandas()) == list(empty.to_arrow().column_names)
    with pytest.raises(InvalidRequest, match="probs"):
        RESULT.to_dicts(probs="cols")  # type: ignore[arg-type]
    assert RESULT.errors.keys() == {"c"}


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_what_is_not_installed_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=f"pip install {package}"):
        RESULT.to_pandas() if package == "pandas" else RESULT.to_arrow()


def test_times_need_no_zone() -> None:
    fake = _fake()
    table = pa.table({"t": ["x"], "when": [datetime(2026, 1, 2, tzinfo=UTC)]})
    with fake.client() as client:
        client.label_table(table, recipe="r", text="t", metadata=["when"])
    assert fake.calls[0].items[0].metadata["when"].startswith("2026-01-02T00:00:00")
