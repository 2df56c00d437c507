"""Sources: every kind of path becomes an item or a row that says what is wrong, in a fixed order."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from manyeyes.errors import EmptyItem, InvalidItem, InvalidRequest, UnreadableItem
from manyeyes.settings import Limits
from manyeyes.sources import Broken, looks_like_image, read_items
from manyeyes.types import Item

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)


def ids(*paths: Path, **options: object) -> list[str]:
    return [read.id for read in read_items(paths, **options)]  # type: ignore[arg-type]


def only(path: Path, **options: object) -> Item | Broken:
    (read,) = read_items([path], **options)  # type: ignore[arg-type]
    return read


def broken(path: Path, kind: type[Exception], *words: str) -> None:
    read = only(path)
    assert isinstance(read, Broken)
    assert type(read.error) is kind
    for word in words:
        assert word in str(read.error)


def test_a_folder_is_read_in_order_with_ids_below_it(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.jpg", "a/B.PNG", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG if name != "c.txt" else b"words")
    assert ids(tmp_path) == ["a/B.PNG", "a/z.jpg", "b.png", "c.txt"]
    assert ids(tmp_path, recursive=False) == ["b.png", "c.txt"]


def test_several_paths_share_the_deepest_folder_and_a_file_is_read_once(tmp_path: Path) -> None:
    for name in ("cats/1.png", "dogs/1.png", "dogs/puppies/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    assert ids(tmp_path / "cats", tmp_path / "dogs") == ["cats/1.png", "dogs/1.png", "dogs/puppies/2.png"]
    assert ids(tmp_path / "dogs", tmp_path / "dogs" / "puppies", tmp_path / "dogs" / "1.png") == [
        "1.png",
        "puppies/2.png",
    ]
    assert ids(tmp_path / "dogs" / "1.png") == ["1.png"]


def test_an_image_is_known_by_its_bytes_and_what_is_no_data_is_counted(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(PNG)
    (tmp_path / "photo.backup").write_bytes(PNG)
    (tmp_path / "notes.md").write_text("# no data")
    (tmp_path / "script").write_text("#!/bin/sh")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "labels.csv").write_text("id,label\n")
    (tmp_path / "lonely.json").write_text("{}")
    skipped: Counter[str] = Counter()
    assert ids(tmp_path, skipped=skipped) == ["photo", "photo.backup"]
    assert skipped == {
        ".md": 1,
        "no extension": 1,
        "hidden": 1,
        "table (name it to read it)": 1,
        ".json without an image": 1,
    }


@pytest.mark.parametrize(
    "head", [b"\xff\xd8\xff\xe0", PNG[:16], b"GIF89a", b"II*\0", b"MM\0*", b"BM6", b"RIFF\1\2\3\4WEBPVP8 "]
)
def test_six_formats_are_known_by_their_first_bytes(head: bytes) -> None:
    assert looks_like_image(head)
    assert not looks_like_image(b"%PDF-1.7" + head)


def test_text_and_metadata_beside_an_image_belong_to_it(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(PNG)
    (tmp_path / "photo.txt").write_text("a red hat\n")
    (tmp_path / "photo.json").write_text('{"price": 9.5, "new": true, "brand": null}')
    expected = Item(
        id="photo.jpg",
        image=tmp_path / "photo.jpg",
        text="a red hat\n",
        metadata={"price": 9.5, "new": True, "brand": None},
    )
    assert list(read_items([tmp_path])) == [expected]
    assert list(read_items([tmp_path / "photo.jpg"])) == [expected]
    assert only(tmp_path / "photo.txt") == Item(id="photo.txt", text="a red hat\n")


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"{", "not JSON"), (b"[1]", "list"), (b'{"a": [1]}', "'a' is a list"), (b"[" * 100_000, "not JSON")],
)
def test_broken_metadata_is_an_error_of_its_image(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "photo.png").write_bytes(PNG)
    (tmp_path / "photo.json").write_bytes(content)
    broken(tmp_path, InvalidItem, "photo.json", word)


@pytest.mark.parametrize(
    ("content", "kind", "word"),
    [
        (b"", EmptyItem, "no text"),
        (b" \n\t", EmptyItem, "no text"),
        (b"caf\xe9", InvalidItem, "byte 0xe9 at 3; save it as UTF-8"),
        (b"a\0b", InvalidItem, "NUL"),
        ("hi".encode("utf-16"), InvalidItem, "UTF-16"),
        (b"x" * 100_001, InvalidItem, "at most 100,000"),
        (b"x" * 400_001, InvalidItem, "at most 100,000 characters"),
    ],
)
def test_what_is_no_text_says_why(tmp_path: Path, content: bytes, kind: type[Exception], word: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    broken(tmp_path, kind, word)


def test_texts_of_any_script_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("\ufeffπ 👩‍🚀 \u202eabc".encode())
    read = only(tmp_path)
    assert isinstance(read, Item)
    assert read.text == "π 👩‍🚀 \u202eabc"


def test_links_in_a_circle_and_links_to_nothing_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "up").symlink_to("..")
    reads = {read.id: read for read in read_items([tmp_path])}
    assert list(reads) == ["a.png", "b.png", "gone.png", "sub/up"]
    for name, word in (("a.png", "circle"), ("gone.png", "does not exist"), ("sub/up", "link back")):
        read = reads[name]
        assert isinstance(read, Broken)
        assert isinstance(read.error, UnreadableItem)
        assert word in str(read.error)


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(PNG)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    assert ids(tmp_path / "root") == ["link/a.png"]


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    found: list[Item | Broken] = []
    thread = threading.Thread(target=lambda: found.extend(read_items([tmp_path])), daemon=True)
    thread.start()
    thread.join(timeout=10)
    (read,) = found
    assert isinstance(read, Broken)
    assert "pipe, socket or device" in str(read.error)


def test_a_path_that_is_not_there_is_a_row(tmp_path: Path) -> None:
    broken(tmp_path / "nope.jpg", UnreadableItem, "does not exist", "check the spelling")


def test_what_may_not_be_read_is_a_row(
    as_nobody: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    # A superuser reads everything, so the folder is made by one and read by nobody.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o700)
        (folder / "closed.dat").write_bytes(PNG)
        (folder / "closed.dat").chmod(0o000)
        (folder / "closed").chmod(0o000)
        with as_nobody():
            reads = list(read_items([folder]))
            named = list(read_items([folder / "closed" / "within.txt"]))
        (folder / "closed").chmod(0o700)
    assert [read.id for read in reads] == ["closed", "closed.dat"]
    assert [read.id for read in named] == ["within.txt"]
    for read in [*reads, *named]:
        assert isinstance(read, Broken)
        assert "change its permissions" in str(read.error)


def test_no_paths_is_a_mistake_of_the_call() -> None:
    with pytest.raises(InvalidRequest, match="no paths"):
        list(read_items([]))


def test_a_name_that_is_no_utf8_still_makes_a_printable_id(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))).write_bytes(PNG)
    (name,) = ids(tmp_path)
    assert name == "caf\\xe9.png"
    assert name.encode()


def test_a_csv_gives_items_with_typed_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    table = tmp_path / "t.csv"
    table.write_text(
        'id,image,text,price,zip,new,empty\nx,a.png,"red, hat",9.50,007,TRUE,\n,,"two\nlines",3,1,no,\n'
    )
    assert list(read_items([table])) == [
        Item(
            id="x",
            image=tmp_path / "a.png",
            text="red, hat",
            metadata={"price": 9.5, "zip": "007", "new": True},
        ),
        Item(id="t.csv#3", text="two\nlines", metadata={"price": 3, "zip": 1, "new": "no"}),
    ]


def test_a_jsonl_gives_items_with_nested_and_flat_metadata(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    rows = [
        {"id": 7, "text": "x", "price": 2, "metadata": {"brand": "B"}},
        {"id": "p", "image_base64": base64.b64encode(PNG).decode()},
    ]
    table.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    assert list(read_items([table])) == [
        Item(id="7", text="x", metadata={"price": 2, "brand": "B"}),
        Item(id="p", image=PNG),
    ]


@pytest.mark.parametrize(
    ("row", "kind", "word"),
    [
        ("{", InvalidItem, "line 2 is not a JSON object"),
        ("[]", InvalidItem, "line 2 is a list"),
        ("{}", EmptyItem, "neither image nor text"),
        ('{"id": null, "text": null}', EmptyItem, "neither image nor text"),
        ('{"id": "", "text": "x"}', InvalidItem, "id must be a text"),
        ('{"id": true, "text": "x"}', InvalidItem, "id must be a text"),
        ('{"id": "\\ud800", "text": "x"}', InvalidItem, "not UTF-8"),
        ('{"text": 5}', InvalidItem, "text must be a text, got int"),
        ('{"text": "a\\u0000"}', InvalidItem, "NUL"),
        ('{"text": "x", "tags": ["a"]}', InvalidItem, "'tags' is a list"),
        ('{"text": "x", "metadata": 3}', InvalidItem, "metadata must be an object"),
        ('{"image": 5}', InvalidItem, "path relative to the table"),
        ('{"image": "https://example.org/a.jpg"}', InvalidItem, "fetch it first"),
        ('{"image": "../a.jpg"}', UnreadableItem, "outside the table's folder"),
        ('{"image": "/etc/passwd"}', UnreadableItem, "outside the table's folder"),
        ('{"image_base64": "%%%"}', InvalidItem, "not base64"),
        ('{"image_base64": 3}', InvalidItem, "must be a text"),
        ('{"image": "a.png", "image_base64": "AAAA"}', InvalidItem, "keep one"),
    ],
)
def test_one_bad_row_of_a_table_is_one_error(
    tmp_path: Path, row: str, kind: type[Exception], word: str
) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text(f'{{"id": "first", "text": "x"}}\n{row}\n{{"id": "last", "text": "y"}}\n')
    first, bad, last = read_items([table])
    assert isinstance(first, Item)
    assert isinstance(last, Item)
    assert isinstance(bad, Broken)
    assert type(bad.error) is kind
    assert word in str(bad.error)


@pytest.mark.parametrize(
    ("content", "kind", "word"),
    [
        (b"", EmptyItem, "no rows"),
        (b"\n\n", EmptyItem, "no rows"),
        (b"name,iamge\n1,a.png\n", InvalidItem, "column 'iamge'; did you mean 'image'?"),
        (b"id,text,text\n1,a,b\n", InvalidItem, "twice"),
        (b"id,text\n1\n", InvalidItem, "has 1 cells, but the header has 2"),
        (b"id,text\n1,caf\xe9\n", InvalidItem, "UTF-8"),
        (b"id,text,x\n1,a,caf\xe9\n", InvalidItem, "UTF-8"),
    ],
)
def test_a_bad_csv_says_why(tmp_path: Path, content: bytes, kind: type[Exception], word: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    broken(tmp_path / "t.csv", kind, word)


def test_a_link_out_of_the_tables_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").symlink_to("../secret.png")
    (tmp_path / "in" / "t.csv").write_text("id,image\n1,a.png\n")
    broken(tmp_path / "in" / "t.csv", UnreadableItem, "outside")


def test_an_id_that_is_taken_is_an_error_of_the_second(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,text\nx,a\nx,b\ny,c\nx (2),d\n")
    reads = list(read_items([tmp_path / "t.csv"]))
    assert [(type(read), read.id) for read in reads] == [
        (Item, "x"),
        (Broken, "x (2)"),
        (Item, "y"),
        (Broken, "x (2) (2)"),
    ]


def test_a_line_that_never_ends_is_one_error_and_the_next_is_read(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    limits = Limits(max_bytes=10, max_text=10)
    table.write_text('{"text": "' + "x" * 3_000_000 + '"}\n{"id": "next", "text": "y"}\n')
    bad, good = read_items([table], limits=limits)
    assert isinstance(bad, Broken)
    assert "longer than" in str(bad.error)
    assert good.id == "next"


def test_folders_are_read_as_a_stream(tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / f"{i:03}.png").write_bytes(PNG)
    reads = read_items([tmp_path])
    assert next(reads).id == "000.png"
    (tmp_path / "049.png").unlink()
    last = list(reads)[-1]
    assert last.id == "049.png"
    assert isinstance(last, Broken)
