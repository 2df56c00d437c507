"""Buckets' prefixes and folders: the same rows from both, in one order, and a clear word where there are none."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.errors import AddressRefused, InvalidSource, StorageFailed
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Source
from manyeyes.service.jobs.sources import open_source
from manyeyes.service.jobs.sources.beside import grouped
from manyeyes.service.jobs.sources.entries import Entry
from manyeyes.service.jobs.sources.opening import kind_of
from manyeyes.service.jobs.sources.shelves import sorted_names
from tests.service.jobs.faulty_s3 import FaultyS3
from tests.service.jobs.sources.conftest import Lay, read

FILES = {
    "a-b.jpg": b"7",
    "a.jpg": b"1",
    "a.txt": b"a text",
    "a.json": b'{"shelf": "R", "n": 3, "z": null}',
    "a/q.PNG": b"55",
    "alone.txt": "für sich".encode(),
    "empty.jpg": b"",
    "bad.jpg": b"8",
    "bad.json": b"[1]",
    "utf16.jpg": b"9",
    "utf16.txt": b"\xff\xfea\x00",
    "blank.txt": b"  ",
    ".hidden.jpg": b"1",
    "sub/.git/x.jpg": b"1",
    "_manyeyes/jobs/x.jpg": b"1",
    "__MACOSX/a.jpg": b"1",
    "program.exe": b"MZ",
    "README": b"text",
    "t.csv": b"id,text\n",
    "more.zip": b"PK",
    "clip.mp4": b"1",
    "lonely.json": b"{}",
    "x y+z%20#?ä.jpg": b"odd",
}


class TestBoth:
    def test_every_file_is_a_row_or_is_counted(self, lay: Lay) -> None:
        listed = read(lay(FILES))
        assert listed.told == [
            ("a-b.jpg", None, "{}", None, b"7"),
            ("a.jpg", "a text", '{"n":3,"shelf":"R","z":null}', None, b"1"),
            ("a/q.PNG", None, "{}", None, b"55"),
            ("alone.txt", "für sich", "{}", None, None),
            ("bad.jpg", None, "{}", "invalid_item", "invalid_item"),
            ("blank.txt", None, "{}", "empty_item", "empty_item"),
            ("empty.jpg", None, "{}", "empty_item", "empty_item"),
            ("utf16.jpg", None, "{}", "invalid_item", "invalid_item"),
            ("x y+z%20#?ä.jpg", None, "{}", None, b"odd"),
        ]
        assert listed.skipped == {
            "hidden": 4,
            ".exe": 1,
            "no extension": 1,
            "table (name it to read it)": 1,
            "archive (name it to read it)": 1,
            "video": 1,
            ".json without an image": 1,
        }
        assert all(row.etag and row.size is not None for row in listed.rows)

    def test_folders_inside_are_left_out_where_that_is_said(self, lay: Lay) -> None:
        listed = read(lay(FILES), recursive=False)
        assert "a/q.PNG" not in {row.id for row in listed.rows}
        assert listed.skipped["folder inside a folder"] >= 1

    def test_one_image_can_be_named(self, lay: Lay) -> None:
        listed = read(lay(FILES) + "/a-b.jpg")
        assert listed.told == [("a-b.jpg", None, "{}", None, b"7")]

    def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(self, lay: Lay) -> None:
        where = lay({"cats/1.jpg": b"1", "cats-2/2.jpg": b"2"})
        assert [row.id for row in read(where + "/cats").rows] == ["1.jpg"]
        assert [row.id for row in read(where + "/cats/").rows] == ["1.jpg"]

    @pytest.mark.parametrize("out", ["", "out/", "a/out/"])
    def test_what_jobs_write_is_no_source(self, lay: Lay, out: str) -> None:
        own = {f"{out}{key}": b"1" for key in ("_manyeyes/jobs/x.json", "card/plot.png", "exports/coco/1.jpg",
                                              "labels/part.parquet", "README.md", "manyeyes.json")}  # fmt: skip
        listed = read(lay({"1.jpg": b"1", "zoo/card/2.jpg": b"2", "card2/3.jpg": b"3", **own}))
        assert [row.id for row in listed.rows] == ["1.jpg", "card2/3.jpg", "zoo/card/2.jpg"]
        assert listed.skipped["written by a job"] >= 3

    def test_nothing_to_label_says_what_was_passed_over(self, lay: Lay) -> None:
        where = lay({"a.exe": b"1", ".x": b"1"})
        with pytest.raises(InvalidSource, match=r"nothing that can be labeled; passed over: 1 × "):
            read(where)

    def test_a_text_that_is_too_long_is_not_read(self, lay: Lay) -> None:
        listed = read(lay({"long.txt": b"x" * 400_001, "longer.txt": "ü".encode() * 100_001}))
        assert [row.error and row.error[0] for row in listed.rows] == ["invalid_item", "invalid_item"]

    def test_a_key_with_half_a_character_in_its_metadata(self, lay: Lay) -> None:
        listed = read(lay({"a.jpg": b"1", "a.json": b'{"k": "\\ud800"}'}))
        assert listed.rows[0].metadata == '{"k":"\\ud800"}'


class TestFolder:
    def test_what_cannot_be_read_is_a_row(self, tmp_path: Path) -> None:
        (tmp_path / "good.jpg").write_bytes(b"1")
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "gone.jpg").symlink_to("nowhere")
        (tmp_path / "loop").symlink_to(".")
        (tmp_path / "self").symlink_to("self")
        (tmp_path / "inside").mkdir()
        (tmp_path / "inside" / "up").symlink_to("..")
        (tmp_path / "link.jpg").symlink_to("good.jpg")
        listed = read(str(tmp_path))
        errors = {row.id: row.error[0] for row in listed.rows if row.error}
        assert errors == dict.fromkeys(
            ["gone.jpg", "inside/up", "loop", "pipe.jpg", "self"], "unreadable_item"
        )
        assert {row.id for row in listed.rows if not row.error} == {"good.jpg", "link.jpg"}

    def test_a_name_that_is_no_utf8_is_read(self, tmp_path: Path) -> None:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.jpg")).write_bytes(b"found")
        listed = read(str(tmp_path))
        assert listed.told == [("\\xff\\xfe.jpg", None, "{}", None, b"found")]

    def test_a_file_address_is_the_same_as_a_path(self, tmp_path: Path) -> None:
        (tmp_path / "a b").mkdir()
        (tmp_path / "a b" / "c.jpg").write_bytes(b"1")
        told = [read(uri).rows for uri in (str(tmp_path / "a b"), (tmp_path / "a b").as_uri())]
        assert told[0] == told[1]

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidSource, match="No such file"):
            read(str(tmp_path / "none"))

    @given(st.lists(st.binary(min_size=1, max_size=4).filter(lambda b: b"\0" not in b)), st.integers(1, 5))
    def test_names_are_sorted_however_many(self, names: list[bytes], run: int) -> None:
        assert list(sorted_names(names, run=run)) == sorted(names)

    @given(st.sets(st.lists(st.sampled_from(["a", "a-", "a.b", "ab", "b", "ä"]), min_size=1, max_size=3)
                   .map("/".join), max_size=8))  # fmt: skip
    def test_the_order_is_that_of_a_bucket(self, keys: set[str]) -> None:
        import tempfile

        from manyeyes.service.jobs.sources.shelves import FolderShelf

        with tempfile.TemporaryDirectory() as folder:
            laid = set()
            for key in keys:
                path = Path(folder, key + ".jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"1")
                laid.add(key + ".jpg")
            shelf = FolderShelf(os.fsencode(folder), recursive=True, skipped=Counter())
            assert [entry.key for entry in shelf.entries()] == sorted(laid, key=str.encode)


class TestBucket:
    def test_a_listing_of_many_pages_goes_on_after_failures(self, data_s3: FaultyS3, tmp_path: Path) -> None:
        uri = f"s3://data/{tmp_path.name}"
        storage = Storage.open(uri)
        for n in range(350):
            storage.put(f"{n:04}.jpg", b"%d" % n)
        tried = Counter[str]()

        def plan(method: str, path: str, before: int) -> object:
            # Each page of the listing fails once, in another way.
            if "list-type" in path and before == 0:
                tried[path] += 1
                return ("error", "slow_down", "half", "reset")[len(tried) % 4]
            return None

        data_s3.plan = plan  # type: ignore[assignment]
        listing = open_source(Source(uri=uri))
        assert [row.id for row in listing.rows()] == [f"{n:04}.jpg" for n in range(350)]
        assert sum(data_s3.happened.values()) >= 4

    def test_a_marker_of_a_folder_is_no_row(self, data_s3: FaultyS3, tmp_path: Path) -> None:
        import urllib.request

        storage = Storage.open(f"s3://data/{tmp_path.name}")
        storage.put("sub/a.jpg", b"1")
        for marker in ("", "sub/"):
            url = f"{data_s3.straight}/data/{tmp_path.name}/{marker}"
            urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=b"")).close()
        assert [row.id for row in read(f"s3://data/{tmp_path.name}").rows] == ["sub/a.jpg"]

    def test_a_key_that_cannot_be_listed_is_named_as_the_reason(
        self, data_s3: FaultyS3, tmp_path: Path
    ) -> None:
        import urllib.request

        data_s3.make_bucket("odd")
        url = f"{data_s3.straight}/odd/a//b.jpg"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=b"1")).close()
        with pytest.raises(InvalidSource, match="a key with an empty part"):
            read("s3://odd")

    @pytest.mark.parametrize(
        ("uri", "error", "words"),
        [
            ("s3://no-such-bucket-here/x", StorageFailed, "no such bucket"),
            ("s3://data/no/such/prefix", InvalidSource, "nothing that can be labeled"),
            ("s3://data/none.jpg", InvalidSource, "nothing is at"),
            ("s3://data/none.zip", InvalidSource, "nothing is at"),
            ("s3://data/none.parquet", InvalidSource, "nothing is at"),
            ("s3://data/none-{0..3}.tar", InvalidSource, "nothing is at"),
            ("s3://data/none-*.tar", InvalidSource, "nothing fits"),
            ("s3://data/none.txt", InvalidSource, "nothing is at"),
            ("ftp://data/x", InvalidSource, "cannot be read"),
            ("files://data/x", InvalidSource, "did you mean 'file'"),
            ("https://example.org/page.html", InvalidSource, "list of addresses"),
            ("file://elsewhere/x", InvalidSource, "another machine"),
        ],
    )
    def test_a_wholly_wrong_address_is_told_in_seconds(
        self, data_s3: FaultyS3, uri: str, error: type[Exception], words: str
    ) -> None:
        started = time.monotonic()
        with pytest.raises(error, match=f"(?i){words}"):
            read(uri)
        assert time.monotonic() - started < 5

    def test_no_access_and_no_answer_are_told_in_seconds(
        self, data_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data_s3.plan = lambda method, path, before: (403, "AccessDenied")
        with pytest.raises(StorageFailed, match=r"AccessDenied.*credentials"):
            read("s3://data/x")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        started = time.monotonic()
        with pytest.raises(StorageFailed, match="does not answer"):
            read("s3://data/x")
        assert time.monotonic() - started < 10


class TestOperator:
    @pytest.fixture
    def buckets(self, data_s3: FaultyS3, tmp_path: Path) -> Buckets:
        file = tmp_path / "buckets.yaml"
        file.write_text(
            f"mine: {{url: s3://data/{tmp_path.name}/mine, endpoint: '{data_s3.address}', region: us-east-1,"
            " credentials: {access_key_id: AWS_ACCESS_KEY_ID, secret_access_key: AWS_SECRET_ACCESS_KEY}}\n"
        )
        return Buckets.load(file)

    def test_only_what_is_below_a_listed_bucket_is_read(
        self, buckets: Buckets, data_s3: FaultyS3, tmp_path: Path
    ) -> None:
        Storage.open(f"s3://data/{tmp_path.name}/mine").put("a.jpg", b"1")
        Storage.open(f"s3://data/{tmp_path.name}/other").put("a.jpg", b"1")
        root = f"s3://data/{tmp_path.name}"
        listing = open_source(Source(uri=f"{root}/mine"), buckets=buckets)
        assert [row.id for row in listing.rows()] == ["a.jpg"]
        for uri in (f"{root}/other", root, "s3://data", str(tmp_path), "/etc", "file:///etc",
                    f"{root}/other/x.zip", f"{root}/other/t.csv", f"{root}/other/s-{{0..2}}.tar",
                    f"{root}/other/*.csv", f"{root}/mine/../other/t.csv"):  # fmt: skip
            with pytest.raises(AddressRefused):
                list(open_source(Source(uri=uri), buckets=buckets).rows())

    def test_the_joined_table_must_be_there_too(self, buckets: Buckets, tmp_path: Path) -> None:
        Storage.open(f"s3://data/{tmp_path.name}/mine").put("a.jpg", b"1")
        (tmp_path / "t.csv").write_text("id,k\na.jpg,1\n")
        for table in (str(tmp_path / "t.csv"), f"s3://data/{tmp_path.name}/t.csv"):
            source = Source.model_validate(
                {"uri": f"s3://data/{tmp_path.name}/mine", "join": {"table": table}}
            )
            with pytest.raises(AddressRefused):
                list(open_source(source, buckets=buckets).rows())


KEYS = st.lists(
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["", "d/", "a.d/"]), st.sampled_from(["a", "a.b", "b", "a-"]),
            st.sampled_from([".jpg", ".JPG", ".txt", ".json", ".png", ".bin", ""]),
        ),
    ),
    unique=True,
)  # fmt: skip


@given(KEYS)
def test_what_belongs_together_is_found_as_if_all_were_in_memory(keys: list[str]) -> None:
    entries = [Entry(key, "x") for key in sorted(keys)]
    found = {}
    for group in grouped(entries, Counter()):
        for image in group.images:
            found[image.key] = (group.text and group.text.key, group.told and group.told.key)
        if not group.images and group.text is not None:
            found[group.text.key] = (group.text.key, None)
    expected = {}
    for entry in entries:
        beside = [next((one for one in keys if one == entry.stem + end), None) for end in (".txt", ".json")]
        if entry.suffix.lower() in (".jpg", ".png"):
            expected[entry.key] = (beside[0], beside[1])
        elif entry.suffix == ".txt" and not any(entry.stem + end in keys for end in (".jpg", ".JPG", ".png")):
            expected[entry.key] = (entry.key, None)
    assert found == expected


def test_kinds_are_told_from_addresses() -> None:
    uris = ("b/x.tar", "b/x-{0..9}.tar", "b/*.tar", "https://x.org/a.jsonl?x=1", "b/l.txt")
    kinds = ["archive", "webdataset", "webdataset", "manifest", "manifest"]
    assert [kind_of(uri) for uri in uris] == kinds
