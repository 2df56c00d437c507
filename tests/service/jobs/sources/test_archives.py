"""Zips, tars and WebDataset tars: every member a row, read by ranges; whoever lies in one costs one row."""

from __future__ import annotations

import gc
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.errors import InvalidSource, UnreadableItem
from manyeyes.service.jobs.manifests.fetch import Fetcher
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row, Source
from manyeyes.service.jobs.sources import open_source
from manyeyes.service.jobs.sources.zips import member_bytes
from manyeyes.settings import Limits
from tests.service.jobs.faulty_s3 import FaultyS3
from tests.service.jobs.sources.conftest import Lay, read

FILES = {
    "b/x.jpg": b"xx" * 5000,
    "a.jpg": b"1",
    "a.txt": b"said",
    "a.json": b'{"k": 1}',
    "ä/ö.png": b"umlaut",
    "alone.txt": b"text",
    ".hidden.jpg": b"1",
    "n.bin": b"0",
    "empty.jpg": b"",
}
TOLD = [
    ("a.jpg", "said", '{"k":1}', None, b"1"),
    ("alone.txt", "text", "{}", None, None),
    ("b/x.jpg", None, "{}", None, b"xx" * 5000),
    ("empty.jpg", None, "{}", "empty_item", "empty_item"),
    ("ä/ö.png", None, "{}", None, b"umlaut"),
]


def zipped(files: Mapping[str, bytes], how: int = zipfile.ZIP_DEFLATED, **options: bool) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = how
            with archive.open(member, "w", **options) as writer:
                writer.write(data)
    return stream.getvalue()


def tarred(files: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


class TestBoth:
    @pytest.mark.parametrize(
        "make",
        [
            zipped,
            lambda files: zipped(files, zipfile.ZIP_STORED),
            lambda files: zipped(files, force_zip64=True),
            lambda files: b"#!/bin/sh\nexit\n" + zipped(files),  # unpacks itself
        ],
    )
    def test_zips(self, lay: Lay, make: Callable[[Mapping[str, bytes]], bytes]) -> None:
        listed = read(lay({"all.zip": make(FILES)}) + "/all.zip")
        assert listed.told == TOLD
        assert listed.skipped == {"hidden": 1, ".bin": 1}

    @pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_tars(self, lay: Lay, kind: int) -> None:
        listed = read(lay({"all.tar": tarred(FILES, kind)}) + "/all.tar")
        assert listed.told == TOLD

    def test_names_longer_than_a_header(self, lay: Lay) -> None:
        long = "d" * 150 + "/" + "n" * 150 + ".jpg"
        for name, data in (
            ("a.tar", tarred({long: b"1"})),
            ("b.tar", tarred({"./" + long: b"1"}, tarfile.GNU_FORMAT)),
        ):
            assert read(lay({name: data}) + f"/{name}").told == [(long, None, "{}", None, b"1")]

    def test_names_that_lead_out_cost_a_row_each(self, lay: Lay) -> None:
        files = {
            "../up.jpg": b"1",
            "/abs.jpg": b"2",
            "a/../../b.jpg": b"3",
            "good.jpg": b"4",
            "c\\..\\d.jpg": b"5",
        }
        for name, data in (("x.tar", tarred(files)), ("x.zip", zipped(files))):
            listed = read(lay({name: data}) + f"/{name}")
            assert [row.error and row.error[0] for row in listed.rows].count("invalid_item") == 4
            assert listed.bytes_of("good.jpg") == b"4"

    def test_a_member_beyond_the_limit_is_not_unpacked(self, tmp_path: Path) -> None:
        files = {"bomb.jpg": bytes(50 * 2**20), "small.jpg": b"1"}
        for name, data in (("x.zip", zipped(files)), ("x.tar", tarred(files))):
            (tmp_path / name).write_bytes(data)
            rows = list(open_source(Source(uri=str(tmp_path / name))).rows())
            with Fetcher(limits=Limits(max_bytes=2**20)) as fetcher:
                found = [one for _, one, _ in fetcher.fetch(rows, attempts=1)]
            assert [getattr(one, "code", one) for one in found] == ["image_too_large", b"1"]

    def test_what_is_no_archive(self, lay: Lay) -> None:
        where = lay({"a.zip": b"no zip at all", "a.tar": b"no tar" * 1000, "e.zip": b"", "e.tar": b"", "a.tgz": b"1",
                     "gz.tar": b"\x1f\x8b\x08" + bytes(600), "cut.zip": zipped(FILES)[:-30]})  # fmt: skip
        for name in ("a.zip", "a.tar", "e.zip", "e.tar", "cut.zip"):
            with pytest.raises(InvalidSource, match=r"cannot be read|is no zip"):
                read(f"{where}/{name}")
        with pytest.raises(InvalidSource, match="compressed as a whole"):
            read(f"{where}/gz.tar")
        with pytest.raises(InvalidSource, match="compressed as a whole"):
            read(f"{where}/a.tgz", kind="archive")

    @settings(max_examples=40, deadline=None)
    @given(
        st.dictionaries(
            st.from_regex(r"[a-cä]{1,3}(/[a-c]{1,2})?\.jpg", fullmatch=True),
            st.binary(min_size=1, max_size=2000),
            min_size=1,
            max_size=6,
        )
    )
    def test_any_members_are_read_as_they_were_written(self, files: dict[str, bytes]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            for name, data in (("x.zip", zipped(files)), ("x.tar", tarred(files))):
                Path(folder, name).write_bytes(data)
                listed = read(f"{folder}/{name}")
                assert {row.id: got for row, got in zip(listed.rows, listed.got, strict=True)} == files
                assert [row.id for row in listed.rows] == sorted(files, key=str.encode)


class TestRanges:
    def test_a_zip_is_not_read_as_a_whole(self, data_s3: FaultyS3, tmp_path: Path) -> None:
        files = {f"{n:04}.jpg": bytes([n % 256]) * 100_000 for n in range(200)}
        Storage.open(f"s3://data/{tmp_path.name}").put("big.zip", zipped(files, zipfile.ZIP_STORED))
        sizes: list[int] = []
        original = Storage.get_range
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Storage,
                "get_range",
                lambda self, path, start, length: (sizes.append(length), original(self, path, start, length))[
                    1
                ],
            )
            rows = list(open_source(Source(uri=f"s3://data/{tmp_path.name}/big.zip")).rows())
        assert len(rows) == 200
        assert sum(sizes) < 2**20  # of 20 MB

    def test_large_members_of_a_tar_are_jumped_over(self, data_s3: FaultyS3, tmp_path: Path) -> None:
        files = {f"{n:02}.jpg": bytes(4 * 2**20) for n in range(5)}
        Storage.open(f"s3://data/{tmp_path.name}").put("big.tar", tarred(files))
        sizes: list[int] = []
        original = Storage.get_range
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Storage,
                "get_range",
                lambda self, path, start, length: (sizes.append(length), original(self, path, start, length))[
                    1
                ],
            )
            rows = list(open_source(Source(uri=f"s3://data/{tmp_path.name}/big.tar")).rows())
        assert len(rows) == 5
        assert sum(sizes) < 5 * 2**20  # of 20 MB


class TestLies:
    """What archives may say of themselves without being true."""

    def directory_says(
        self, data: bytes, *, size: int | None = None, crc: int | None = None, flags: int | None = None
    ) -> bytes:
        """Return a zip of one member whose directory says something else."""
        changed = bytearray(data)
        at = data.rindex(b"PK\1\2")
        if size is not None:
            struct.pack_into("<L", changed, at + 24, size)
        if crc is not None:
            struct.pack_into("<L", changed, 14, crc)
        if flags is not None:
            struct.pack_into("<H", changed, at + 8, flags)
        return bytes(changed)

    @pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("size", [1, 999, 1001, 5000])
    def test_a_member_of_another_size(self, lay: Lay, how: int, size: int) -> None:
        data = zipped({"a.jpg": b"z" * 1000}, how)
        listed = read(lay({"x.zip": self.directory_says(data, size=size)}) + "/x.zip")
        code = getattr(listed.got[0], "code", None)
        # Stored bytes are as many as the directory says, and then their sum is wrong.
        assert code in ("unreadable_item", "fetch_failed")

    def test_a_bomb_that_says_it_is_small_is_unpacked_no_further(self) -> None:
        bomb = zipped({"a.jpg": bytes(100 * 2**20)})
        with pytest.raises(UnreadableItem, match="another number of bytes"):
            member_bytes(bomb, 1000, 2**20, lambda start, length: b"")

    def test_a_wrong_sum_a_password_and_an_unknown_method(self, lay: Lay) -> None:
        data = zipped({"a.jpg": b"z" * 1000}, zipfile.ZIP_STORED)
        assert not struct.unpack_from("<H", data, 6)[0] & 8
        listed = read(lay({"x.zip": self.directory_says(data, crc=7)}) + "/x.zip")
        assert "checksum" in str(listed.got[0])
        listed = read(lay({"y.zip": self.directory_says(data, flags=1)}) + "/y.zip")
        assert "encrypted" in str(listed.got[0])
        listed = read(lay({"z.zip": zipped({"a.jpg": b"z" * 1000}, zipfile.ZIP_LZMA)}) + "/z.zip")
        assert "method 14" in str(listed.got[0])

    def test_a_damaged_stream(self, lay: Lay) -> None:
        data = bytearray(zipped({"a.jpg": bytes(range(256)) * 40}))
        data[40:60] = b"\xff" * 20
        listed = read(lay({"x.zip": bytes(data)}) + "/x.zip")
        assert getattr(listed.got[0], "code", None) == "unreadable_item"

    def test_a_directory_that_breaks_off_keeps_what_was_before(self, lay: Lay) -> None:
        data = bytearray(zipped({"a.jpg": b"1", "b.jpg": b"2"}))
        data[data.rindex(b"PK\1\2") : data.rindex(b"PK\1\2") + 4] = b"????"
        listed = read(lay({"x.zip": bytes(data)}) + "/x.zip")
        assert [row.id for row in listed.rows] == ["a.jpg", "after 1 members"]
        assert listed.got[0] == b"1"

    def test_a_tar_that_breaks_off_keeps_what_was_before(self, lay: Lay) -> None:
        data = tarred({"a.jpg": b"1" * 1000, "b.jpg": b"2" * 1000, "c.jpg": b"3" * 1000})
        for cut in (2500, 3000, 3600):
            listed = read(lay({f"{cut}.tar": data[:cut]}) + f"/{cut}.tar")
            assert listed.bytes_of("a.jpg") == b"1" * 1000
            assert any(row.error for row in listed.rows)

    def test_a_tar_whose_member_claims_more_than_there_is(self, lay: Lay) -> None:
        for size in (2**40, 8**11 - 1):
            data = bytearray(tarred({"a.jpg": b"1"}, tarfile.USTAR_FORMAT))
            data[124:136] = f"{size:011o}\0".encode() if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
            data[148:156] = b" " * 8
            data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
            listed = read(lay({f"{size}.tar": bytes(data)}) + f"/{size}.tar")
            assert listed.rows[0].error is not None

    def test_a_long_name_of_gigabytes_is_not_read(self, tmp_path: Path) -> None:
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**31
        with (tmp_path / "x.tar").open("wb") as file:
            file.write(tarred({"a.jpg": b"1"}, tarfile.USTAR_FORMAT)[:1024])
            file.write(header.tobuf(tarfile.GNU_FORMAT))
            file.truncate(2**31 + 10_000)
        listed = read(str(tmp_path / "x.tar"))
        assert [row.id for row in listed.rows] == ["a.jpg", "after 1 members"]

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_any_bytes_changed_never_raise_anything_else(self, data: st.DataObject) -> None:
        import tempfile

        is_zip = data.draw(st.booleans())
        whole = bytearray(zipped(FILES) if is_zip else tarred(FILES))
        for _ in range(data.draw(st.integers(1, 8))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        del whole[data.draw(st.integers(len(whole) // 2, len(whole))) :]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.zip" if is_zip else "x.tar")
            path.write_bytes(whole)
            try:
                read(str(path))
            except InvalidSource:
                return


class TestWebDataset:
    @pytest.fixture
    def shards(self, tmp_path: Path) -> Path:
        """Return a folder of three tars that webdataset itself wrote."""
        import webdataset

        for shard in range(3):
            with webdataset.TarWriter(str(tmp_path / f"train-{shard:03}.tar")) as sink:
                for n in range(4):
                    sink.write(
                        {
                            "__key__": f"{shard}/{n:05}",
                            "jpg": b"image %d %d" % (shard, n),
                            "txt": f"caption {n}",
                            "json": {"width": 5, "exif": {"x": 1}},
                            "cls": n,
                        }
                    )
        return tmp_path

    def test_a_key_is_a_row(self, shards: Path) -> None:
        listed = read(f"{shards}/train-{{000..002}}.tar")
        assert [row.id for row in listed.rows] == [
            f"train-{s:03}/{s}/{n:05}" for s in range(3) for n in range(4)
        ]
        assert listed.told[5] == (
            "train-001/1/00001", "caption 1", '{"cls":1,"width":5}', None, b"image 1 1",
        )  # fmt: skip
        assert all(row.offset is not None for row in listed.rows)
        assert read(f"{shards}/train-*.tar").told == listed.told

    @pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files open
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_webdataset_reads_the_same(self, shards: Path) -> None:
        import webdataset

        url = f"{shards}/train-{{000..002}}.tar"
        samples = list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False))
        gc.collect()
        listed = read(url)
        assert [sample["jpg"] for sample in samples] == listed.got
        assert [sample["txt"].decode() for sample in samples] == [row.text for row in listed.rows]

    def test_in_a_bucket(self, shards: Path, data_s3: FaultyS3) -> None:
        storage = Storage.open(f"s3://data/{shards.name}")
        for path in shards.glob("*.tar"):
            storage.put(path.name, path.read_bytes())
        local = read(f"{shards}/train-{{000..002}}.tar")
        data_s3.forget()
        remote = read(f"s3://data/{shards.name}/train-{{000..002}}.tar")
        assert remote.told == local.told
        # Of each tar: two heads, one read of its 20 kB, and one for its images.
        assert data_s3.asked["GET"] == 6

    def test_what_is_wrong_with_a_sample(self, tmp_path: Path) -> None:
        files = {
            "a.jpg": b"1", "a.json": b"{", "b.txt": b"only text", "c.cls": b"3", "d.jpg": b"", "e.jpg": b"5",
            "e.seg.png": b"6", "e.cls": b"dog", "f.jpg": b"7", "f.txt": b"\xff\xfe", "noext": b"", ".x.jpg": b"",
        }  # fmt: skip
        (tmp_path / "s.tar").write_bytes(tarred(files))
        listed = read(str(tmp_path / "s.tar"), kind="webdataset")
        assert [(row.id, row.error and row.error[0]) for row in listed.rows] == [
            ("s/a", "invalid_item"), ("s/b", None), ("s/d", "empty_item"), ("s/e", None), ("s/f", "invalid_item"),
        ]  # fmt: skip
        assert listed.row("s/e").metadata == '{"cls":"dog"}'
        assert listed.bytes_of("s/e") == b"5"
        assert listed.skipped == {
            "sample without image or text": 1, "second image of a sample": 1, "no extension": 1, "hidden": 1,
        }  # fmt: skip

    def test_one_that_is_missing_is_told(self, shards: Path) -> None:
        with pytest.raises(InvalidSource, match=r"nothing is at .*train-003.tar"):
            read(f"{shards}/train-{{000..003}}.tar")

    def test_more_tars_than_anybody_has(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidSource, match="more than 1,000,000"):
            read(f"{tmp_path}/{{000..999}}-{{0000..9999}}.tar")


def test_the_offset_of_a_row_is_one_range_of_bytes(tmp_path: Path) -> None:
    data = tarred(FILES)
    (tmp_path / "x.tar").write_bytes(data)
    row: Row = read(str(tmp_path / "x.tar")).row("b/x.jpg")
    assert row.offset is not None
    assert row.length == 10_000
    assert data[row.offset : row.offset + row.length] == FILES["b/x.jpg"]
