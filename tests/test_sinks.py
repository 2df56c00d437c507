"""Sinks: what is written is read back exactly, and nothing half-written is ever seen."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyeyes.errors import InvalidRequest, ItemError, LabelNotFound, by_code
from manyeyes.sinks import (
    SUFFIXES,
    check_destination,
    find_label,
    read_labels,
    read_versions,
    write_labels,
    write_text,
)
from manyeyes.types import Label, Labels, Lent, Reason, Versions, Votes

VERSIONS = Versions("0123456789abcdef", {"clip": "starter:12", "image": "facts-1"}, "majority:ab")
CLASSES = ("cat", 'a "dog", or two', "λ\nline")

ROWS = [
    Label(
        id="cats/1.jpg",
        status="labeled",
        label="cat",
        confidence=0.9,
        probs={"cat": 0.9, CLASSES[1]: 0.1, CLASSES[2]: 0.0},
        runner_up=CLASSES[1],
        prior=-0.1,
        reasons=(Reason("looks_like", "cat", 0.7, 2.3), Reason("says", None, None, 0.0)),
    ),
    Label(
        id="2",
        status="abstained",
        confidence=0.4,
        probs={"cat": 0.4, CLASSES[1]: 0.3, CLASSES[2]: 0.3},
        runner_up=CLASSES[1],
        prior=0.0,
    ),
    Label(id="=3,\n", status="error", error=by_code()["undecodable_image"]("no end in sight")),  # type: ignore[arg-type]
]


def plain(labels: Iterator[Label] | list[Label]) -> list[dict[str, object]]:
    return [label.to_dict() for label in labels]


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[str, ...], list[Label], Versions]:
    classes = tuple(draw(st.lists(texts.filter(bool), min_size=1, max_size=4, unique=True)))
    reasons = st.builds(
        Reason,
        lf=texts.filter(bool),
        vote=st.none() | st.sampled_from(classes),
        score=st.none() | numbers,
        moved=numbers,
        lent=st.none() | st.builds(Lent, neighbors=st.integers(0, 99), nearest=numbers, votes=numbers),
        at=st.none() | texts,
    )
    rows = []
    for _ in range(draw(st.integers(0, 5))):
        status = draw(st.sampled_from(["labeled", "abstained", "error"]))
        if status == "error":
            kinds = [kind for kind in by_code().values() if issubclass(kind, ItemError)]
            error = draw(st.sampled_from(kinds))(draw(texts))
            rows.append(Label(id=draw(texts), status="error", error=error))
            continue
        rows.append(
            Label(
                id=draw(texts),
                status=status,
                label=draw(st.sampled_from(classes)) if status == "labeled" else None,
                confidence=draw(numbers),
                probs={name: draw(numbers) for name in classes},
                runner_up=draw(st.none() | st.sampled_from(classes)),
                prior=draw(st.none() | numbers),
                reasons=tuple(draw(st.lists(reasons, max_size=3))),
            )
        )
    versions = Versions(draw(texts), draw(st.dictionaries(texts, texts, max_size=3)), draw(texts))
    return classes, rows, versions


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_labels_come_back_exactly(
    tmp_path: Path, suffix: str, table: tuple[tuple[str, ...], list[Label], Versions]
) -> None:
    classes, rows, versions = table
    path = tmp_path / f"labels{suffix}"
    assert write_labels(path, rows, classes=classes, versions=versions) == len(rows)
    assert plain(read_labels(path)) == plain(rows)
    if rows:
        assert read_versions(path) == versions


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_labels_object_is_written_as_it_is(tmp_path: Path, suffix: str) -> None:
    votes = Votes(
        classes=np.array([[0, -1], [1, 1], [-1, -1]], dtype=np.int8),
        scores=np.array([[0.7, np.nan], [np.nan, 0.6], [np.nan, np.nan]], dtype=np.float32),
        class_names=("a", "b"),
        lf_names=("x", "y"),
    )
    labels = Labels(
        ids=("1", "2", "3"),
        votes=votes,
        probs=np.array([[0.7, 0.3], [0.1, 0.9], [np.nan, np.nan]], dtype=np.float32),
        label=np.array([0, 1, -1], dtype=np.int16),
        runner_up=np.array([1, 0, 0], dtype=np.int16),
        prior=np.zeros(3, dtype=np.float32),
        moved=np.array([[0.8, 0], [1, 1.2], [0, 0]], dtype=np.float32),
        errors={2: by_code()["empty_item"]("nothing")},  # type: ignore[dict-item]
        versions=VERSIONS,
    )
    write_labels(tmp_path / f"l{suffix}", labels, classes=votes.class_names, versions=VERSIONS)
    assert plain(read_labels(tmp_path / f"l{suffix}")) == plain(list(labels))


def test_parquet_has_the_columns_that_are_promised(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "labels.parquet"
    write_labels(path, ROWS, classes=CLASSES, versions=VERSIONS)
    table = pq.read_table(path)
    assert table.column_names == [
        *("id", "status", "label", "confidence", "runner_up", "prior"),
        *(f"prob_{name}" for name in CLASSES),
        *("reasons", "error_code", "error_message"),
        *("recipe_version", "primitive_versions", "label_model_version"),
    ]
    assert table["prob_cat"].to_pylist() == [0.9, 0.4, None]
    assert table["reasons"].to_pylist()[0][0] == {
        "lf": "looks_like",
        "vote": "cat",
        "score": 0.7,
        "moved": 2.3,
        "lent": None,
        "at": None,
    }
    assert json.loads(table.schema.metadata[b"manyeyes"]) == {
        "classes": list(CLASSES),
        "recipe_version": "0123456789abcdef",
        "primitive_versions": {"clip": "starter:12", "image": "facts-1"},
        "label_model_version": "majority:ab",
    }


def test_csv_and_jsonl_are_plain_to_other_programs(tmp_path: Path) -> None:
    for suffix in (".csv", ".jsonl"):
        write_labels(tmp_path / f"l{suffix}", ROWS, classes=CLASSES, versions=VERSIONS)
    with (tmp_path / "l.csv").open(newline="", encoding="utf-8") as stream:
        first, _, last = csv.DictReader(stream)
    assert (first["label"], first["prob_cat"], last["error_code"], last["label"]) == (
        "cat",
        "0.9",
        "undecodable_image",
        "",
    )
    line = json.loads((tmp_path / "l.jsonl").read_text().splitlines()[2])
    assert line["error"] == {"code": "undecodable_image", "message": "no end in sight"}
    assert line["versions"]["label_model"] == "majority:ab"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_many_rows_go_through_a_few_at_a_time(tmp_path: Path, suffix: str) -> None:
    def rows() -> Iterator[Label]:
        for i in range(10_000):
            yield Label(
                id=str(i),
                status="labeled",
                label="a",
                confidence=1.0,
                probs={"a": 1.0},
                runner_up="a",
                prior=0.0,
            )

    path = tmp_path / f"l{suffix}"
    assert write_labels(path, rows(), classes=("a",), versions=VERSIONS) == 10_000
    assert [label.id for label in read_labels(path)] == [str(i) for i in range(10_000)]
    assert find_label(path, "9999")[0].id == "9999"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"l{suffix}"
    write_labels(path, ROWS, classes=CLASSES, versions=VERSIONS)
    before = path.read_bytes()

    def rows() -> Iterator[Label]:
        yield ROWS[0]
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="power"):
        write_labels(path, rows(), classes=CLASSES, versions=VERSIONS)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[Label]:
        yield ROWS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(InvalidRequest, match="No space left on device; make room"):
        write_labels(tmp_path / "l.csv", rows(), classes=CLASSES, versions=VERSIONS)
    assert os.listdir(tmp_path) == []


def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.csv", ROWS, classes=CLASSES, versions=VERSIONS)
    (tmp_path / "b.csv").write_text("")
    assert (tmp_path / "a.csv").stat().st_mode == (tmp_path / "b.csv").stat().st_mode


@pytest.mark.parametrize("name", ["labels.xlsx", "labels", "labels.parqet"])
def test_an_unknown_suffix_names_those_that_are_allowed(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"allowed: \.parquet, \.jsonl, \.csv"):
        write_labels(tmp_path / name, ROWS, classes=CLASSES, versions=VERSIONS)
    assert os.listdir(tmp_path) == []


def test_a_near_suffix_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"did you mean '\.parquet'"):
        check_destination("labels.parqet")


def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match=r"cannot write .* choose another place"):
        check_destination(tmp_path / "file" / "labels.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidRequest, match="is a folder; name a file in it"):
        check_destination(tmp_path / "folder.csv")
    assert check_destination(tmp_path / "new" / "l.csv").parent.is_dir()
    assert os.listdir(tmp_path / "new") == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_label_is_found_and_an_unknown_id_names_near_ones(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"l{suffix}"
    write_labels(path, ROWS, classes=CLASSES, versions=VERSIONS)
    label, versions = find_label(path, "cats/1.jpg")
    assert label == ROWS[0]
    assert versions == VERSIONS
    for typo in ("1.jpg", "cats/1.jpeg"):
        with pytest.raises(LabelNotFound, match=r"nearest: 'cats/1\.jpg'"):
            find_label(path, typo)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "content", [b"PAR1 no", b"{}\n", b'{"id": 1}\n', b"id,status\n1,labeled\n", b"\xff\xfe"]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"l{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        InvalidRequest, match=r"is damaged, or manyeyes label did not write it|holds no labels"
    ):
        read_versions(path)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there is no file"):
        list(read_labels(tmp_path / "l.csv"))
    with pytest.raises(InvalidRequest, match="is no file of labels"):
        list(read_labels(tmp_path / "l.txt"))


def test_a_text_is_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "r.html", "é\n", suffixes=(".html",))
    assert (tmp_path / "r.html").read_bytes() == b"\xc3\xa9\n"
