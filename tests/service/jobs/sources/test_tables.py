"""Tables: the rules of ``manyeyes label``, and images that are addresses or bytes as well."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manyeyes.errors import InvalidSource, ItemError
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.manifests.fetch import Fetcher
from manyeyes.service.jobs.manifests.reading import Reader
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row, Source
from manyeyes.service.jobs.sources import open_source
from manyeyes.sources import Broken, read_items
from tests.service.jobs.faulty_s3 import FaultyS3
from tests.service.jobs.sources.conftest import Lay, read

CSV = """\
id,image,text,price,sold
r1,img/1.jpg,hello,3,true
r2,../x.jpg,hi,4.5,
r3,,only text,007,
,img/2.jpg,,,
r1,img/1.jpg,again,,
r6,,,1,
r7,img/none.jpg,,,
r8,img/1.jpg,two,cells,too,many
r9,"img/1.jpg","with, commas
and lines",,
"""


def parquet(table: pa.Table, **options: int) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


IMAGES = {"img/1.jpg": b"one", "img/2.jpg": b"two"}


class TestText:
    def test_a_csv(self, lay: Lay) -> None:
        listed = read(lay({"t.csv": CSV.encode(), **IMAGES}) + "/t.csv")
        told = [(name, text, metadata, code) for name, text, metadata, code, _ in listed.told]
        assert told[:6] == [
            ("r1", "hello", '{"price":3,"sold":true}', None),
            ("r2", None, '{"price":4.5}', "unreadable_item"),
            ("r3", "only text", '{"price":"007"}', None),
            ("t.csv#5", None, "{}", None),
            ("r1", "again", "{}", None),
            ("r6", None, '{"price":1}', "empty_item"),
        ]
        assert told[7][3] == "invalid_item"
        assert listed.row("r9").text == "with, commas\nand lines"
        assert listed.bytes_of("t.csv#5") == b"two"
        # A folder tells at once that a file is not there; a bucket when it is asked for it.
        assert isinstance(listed.bytes_of("r7"), ItemError)

    def test_the_same_items_as_the_shell_reads(self, tmp_path: Path) -> None:
        for name, data in IMAGES.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        (tmp_path / "t.csv").write_text(CSV)
        rows = [
            {"id": "a", "image": "img/1.jpg", "metadata": {"k": 1}, "j": None},
            {"id": 7, "text": "t" * 100_001},
            {"id": "b", "image_base64": encoded(b"bytes")},
            {"id": "c", "image_base64": "!", "text": "x"},
            {"id": "d", "image": "img/1.jpg", "image_base64": encoded(b"x")},
            {"id": ["x"], "text": "x"},
            {"id": "e", "text": "x", "deep": {"a": 1}},
            {"text": "no id"},
        ]
        (tmp_path / "t.jsonl").write_text(
            "\n".join([*map(json.dumps, rows), "[1]", "{", "", '{"text": "last"}'])
        )
        for name in ("t.csv", "t.jsonl"):
            listed = read(str(tmp_path / name))
            direct = list(read_items([tmp_path / name]))
            assert len(direct) == len(listed.rows)
            for item, row in zip(direct, listed.rows, strict=True):
                if item.id.endswith(" (2)"):  # repeated ids are the manifest's business
                    continue
                assert item.id == row.id
                if isinstance(item, Broken):
                    assert row.error is not None
                    assert row.error[0] == item.error.code
                    continue
                if row.error is not None:
                    assert row.id == "r7"  # whether a file is there is asked here at once
                    continue
                assert row.text == item.text
                assert json.loads(row.metadata) == dict(item.metadata)
                assert (row.uri is None) == (item.image is None)
        assert listed.bytes_of("b") == b"bytes"

    def test_bytes_in_a_table_are_found_again(self, lay: Lay) -> None:
        images = {f"r{n}": bytes([n]) * (n + 1) for n in range(20)}
        csv_text = "\ufeffnote,id,image_base64\r\n" + "".join(
            f'"multi\n{name}",{name},{encoded(data)}\r\n\r\n' for name, data in images.items()
        )
        jsonl = "".join(
            json.dumps({"id": name, "image_base64": encoded(data)}) + "\n\n" for name, data in images.items()
        )
        where = lay({"t.csv": csv_text.encode(), "t.jsonl": b"\xef\xbb\xbf" + jsonl.encode()})
        for name in ("t.csv", "t.jsonl"):
            listed = read(f"{where}/{name}")
            assert {row.id: one for row, one in zip(listed.rows, listed.got, strict=True)} == images
            assert [row.size for row in listed.rows] == [len(data) for data in images.values()]

    def test_a_cell_that_is_too_large_for_csv(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text(f"id,image_base64\na,{encoded(bytes(200_000))}\nb,{encoded(b'1')}\n")
        listed = read(str(tmp_path / "t.csv"))
        assert [getattr(one, "code", one) for one in listed.got] == ["invalid_item", b"1"]
        assert "JSONL or Parquet" in str(listed.got[0])

    def test_columns_by_other_names(self, lay: Lay) -> None:
        where = lay({"t.csv": b"sku,photo,title,image\nA1,img/1.jpg,words,front\n", **IMAGES})
        columns = {"id": "sku", "image": "photo", "text": "title"}
        listed = read(f"{where}/t.csv", columns=columns)
        assert listed.told == [("A1", "words", '{"image":"front"}', None, b"one")]

    @pytest.mark.parametrize(
        ("columns", "header", "words"),
        [
            ({}, "id,img", "one named image, image_base64 or text is needed"),
            ({}, "id,imgae", "did you mean 'image'"),
            ({"image": "photo"}, "id,pic", "no column 'photo'"),
            ({"picture": "photo"}, "id,photo", "'picture'; what can be mapped"),
            ({}, "image,image", "twice"),
        ],
    )
    def test_a_table_of_other_columns_is_told_as_a_whole(
        self, tmp_path: Path, columns: dict[str, str], header: str, words: str
    ) -> None:
        (tmp_path / "t.csv").write_text(header + "\n1,2\n")
        with pytest.raises(InvalidSource, match=words):
            read(str(tmp_path / "t.csv"), columns=columns)
        if "twice" not in words:
            names = header.split(",")
            pq.write_table(pa.table({name: ["1"] for name in names}), tmp_path / "t.parquet")
            with pytest.raises(InvalidSource, match=words):
                read(str(tmp_path / "t.parquet"), columns=columns)

    def test_a_line_of_gigabytes_is_one_row(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from manyeyes.service.jobs.sources import tables

        monkeypatch.setattr(tables, "longest_line", lambda limits: 1000)
        monkeypatch.setattr("manyeyes.tables.longest_line", lambda limits: 1000)
        (tmp_path / "t.jsonl").write_text('{"text": "a"}\n' + "x" * 100_000 + '\n{"text": "b"}\n')
        listed = read(str(tmp_path / "t.jsonl"))
        assert [row.error and row.error[0] for row in listed.rows] == [None, "invalid_item", None]


class TestAddresses:
    def test_images_may_lie_in_buckets(self, data_s3: FaultyS3, tmp_path: Path) -> None:
        Storage.open(f"s3://data/{tmp_path.name}").put("img/1.jpg", b"one")
        root = f"s3://data/{tmp_path.name}"
        rows = [
            "image", f"{root}/img/1.jpg", f"{root}/img/2.jpg", "s3://data", "s3://data/../x", "ftp://x/y",
            "memory:///a", "file:///etc/passwd", "/etc/passwd", "\x07", "https://a b/c",
        ]  # fmt: skip
        (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
        listed = read(str(tmp_path / "t.csv"))
        codes = [getattr(one, "code", one) for one in listed.got]
        assert codes == [
            b"one", "source_not_found", "invalid_item", "invalid_item", "address_refused", "invalid_item",
            "unreadable_item", "unreadable_item", "invalid_item", "address_refused",
        ]  # fmt: skip

    def test_a_link_leads_no_further_than_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "secret.jpg").write_bytes(b"secret")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "link.jpg").symlink_to("../secret.jpg")
        (tmp_path / "in" / "t.csv").write_text("image\nlink.jpg\n")
        assert read(str(tmp_path / "in" / "t.csv")).rows[0].error is not None

    def test_paths_in_a_bucket_lead_no_further(self, data_s3: FaultyS3, tmp_path: Path) -> None:
        storage = Storage.open(f"s3://data/{tmp_path.name}")
        storage.put("secret.jpg", b"secret")
        storage.put("in/t.csv", b"image\n../secret.jpg\n/secret.jpg\na//b.jpg\n..\\secret.jpg\n./ok.jpg\n")
        storage.put("in/ok.jpg", b"ok")
        listed = read(f"s3://data/{tmp_path.name}/in/t.csv")
        assert [getattr(one, "code", one) for one in listed.got] == ["unreadable_item"] * 4 + [b"ok"]

    def test_over_http_only_listed_buckets_are_read(self, data_s3: FaultyS3, tmp_path: Path) -> None:
        root = f"s3://data/{tmp_path.name}"
        storage = Storage.open(root)
        storage.put(
            "mine/t.csv",
            f"image\n{root}/mine/a.jpg\n{root}/other/a.jpg\nfile:///etc/passwd\na.jpg\n".encode(),
        )
        for folder in ("mine", "other"):
            storage.put(f"{folder}/a.jpg", folder.encode())
        file = tmp_path / "buckets.yaml"
        file.write_text(
            f"mine: {{url: {root}/mine, endpoint: '{data_s3.address}', region: us-east-1,"
            " credentials: {access_key_id: AWS_ACCESS_KEY_ID, secret_access_key: AWS_SECRET_ACCESS_KEY}}\n"
        )
        buckets = Buckets.load(file)
        rows = list(open_source(Source(uri=f"{root}/mine/t.csv"), buckets=buckets).rows())
        assert [row.error and row.error[0] for row in rows] == [
            None,
            "address_refused",
            "address_refused",
            None,
        ]
        smuggled = Row("x", uri=f"{root}/other/a.jpg")
        with Fetcher(buckets=buckets) as fetcher:
            found = [getattr(one, "code", one) for _, one, _ in fetcher.fetch([*rows, smuggled], attempts=1)]
        assert found == [b"mine", "address_refused", "address_refused", b"mine", "address_refused"]


class TestParquet:
    def test_every_kind_of_image(self, lay: Lay) -> None:
        where = lay(
            {
                "bytes.parquet": parquet(pa.table({"image": [b"a", b"b"], "id": ["x", "y"]})),
                "paths.parquet": parquet(pa.table({"image": ["img/1.jpg", "img/2.jpg"], "id": [1, 2]})),
                "dictionary.parquet": parquet(
                    pa.table({"image": pa.array(["img/1.jpg"] * 2).dictionary_encode(), "text": ["t", None]})
                ),
                "struct.parquet": parquet(
                    pa.table({"image": [{"bytes": b"in", "path": "x.jpg"}, {"bytes": None, "path": "img/1.jpg"}, None],
                              "text": ["a", "b", "c"]})
                ),
                "no_bytes.parquet": parquet(
                    pa.table({"image": pa.array([{"bytes": None, "path": "img/2.jpg"}],
                                                pa.struct({"bytes": pa.binary(), "path": pa.string()}))})
                ),
                **IMAGES,
            }
        )  # fmt: skip
        assert read(f"{where}/bytes.parquet").told == [
            ("x", None, "{}", None, b"a"),
            ("y", None, "{}", None, b"b"),
        ]
        assert read(f"{where}/paths.parquet").told == [
            ("1", None, "{}", None, b"one"),
            ("2", None, "{}", None, b"two"),
        ]
        assert [one for *_, one in read(f"{where}/dictionary.parquet").told] == [b"one", b"one"]
        assert [(text, one) for _, text, _, _, one in read(f"{where}/struct.parquet").told] == [
            ("a", b"in"), ("b", b"one"), ("c", None),
        ]  # fmt: skip
        assert read(f"{where}/no_bytes.parquet").got == [b"two"]

    def test_what_is_no_metadata_is_counted(self, tmp_path: Path) -> None:
        table = pa.table(
            {
                "text": ["t"],
                "vector": [[1.0, 2.0]],
                "blob": [b"x"],
                "deep": [{"a": 1}],
                "day": [dt.date(2026, 1, 2)],
                "at": [dt.datetime(2026, 1, 2, 3, 4, 5)],
                "cost": [decimal.Decimal("1.50")],
                "flag": [True],
                "nothing": pa.array([None], pa.int64()),
            }
        )
        pq.write_table(table, tmp_path / "t.parquet")
        listed = read(str(tmp_path / "t.parquet"))
        assert json.loads(listed.rows[0].metadata) == {
            "day": "2026-01-02", "at": "2026-01-02T03:04:05", "cost": "1.50", "flag": True,
        }  # fmt: skip
        assert set(listed.skipped) == {
            f"column {name!r}, which is not flat" for name in ("vector", "blob", "deep")
        }

    def test_images_are_read_in_one_go_a_few_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = [bytes([n]) * 50_000 for n in range(200)]
        pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet", row_group_size=80)
        opened = 0
        whole = pq.ParquetFile.iter_batches

        def counted(self: pq.ParquetFile, *given: object, **options: object) -> object:
            nonlocal opened
            opened += 1
            return whole(self, *given, **options)

        rows = list(open_source(Source(uri=str(tmp_path / "t.parquet"))).rows())
        monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
        with Fetcher() as fetcher:
            assert [one for _, one, _ in fetcher.fetch(rows, attempts=1)] == images
        assert opened == 3  # once a row group
        with Fetcher() as fetcher:
            back = [one for _, one, _ in fetcher.fetch(rows[::-1], attempts=1)]
        assert back == images[::-1]

    def test_what_hugging_face_writes(self, tmp_path: Path) -> None:
        import datasets

        def photos() -> object:
            for n in range(5):
                yield {"image": Image.new("RGB", (4 + n, 4), "red"), "label": n % 2, "caption": f"photo {n}"}

        features = datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["a", "b"]),
                "caption": datasets.Value("string"),
            }
        )
        made = datasets.Dataset.from_generator(photos, features=features, cache_dir=str(tmp_path / "cache"))
        made.to_parquet(tmp_path / "train-00000-of-00001.parquet")
        listed = read(f"{tmp_path}/train-*.parquet", columns={"text": "caption"})
        assert [row.text for row in listed.rows] == [f"photo {n}" for n in range(5)]
        assert [json.loads(row.metadata)["label"] for row in listed.rows] == [0, 1, 0, 1, 0]
        assert [Image.open(io.BytesIO(one)).size for one in listed.got if isinstance(one, bytes)] == [
            (4 + n, 4) for n in range(5)
        ]

    def test_a_row_group_that_is_damaged_costs_one_row(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pq.write_table(
            pa.table({"text": [f"{n} " * 50 for n in range(300)]}), path, row_group_size=100, compression="snappy",
            use_dictionary=False,
        )  # fmt: skip
        column = pq.ParquetFile(path).metadata.row_group(1).column(0)
        data = bytearray(path.read_bytes())
        data[column.data_page_offset + 30 : column.data_page_offset + 400] = b"\xff" * 370
        path.write_bytes(data)
        listed = read(str(path))
        errors = [row for row in listed.rows if row.error]
        assert [row.id for row in errors] == ["t.parquet#group 1"]
        assert len(listed.rows) == 201
        assert listed.rows[-1].id == "t.parquet#300"

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_any_bytes_changed_never_raise_anything_else(self, data: st.DataObject) -> None:
        images = [{"bytes": b"p%d" % n, "path": None} if n % 7 else None for n in range(30)]
        whole = {
            "parquet": bytearray(parquet(pa.table({"image": images, "text": ["t"] * 30}), row_group_size=20)),
            "csv": bytearray(b'id,image,text,image_base64,n\na,a.jpg,t,,3\nb,,"x\ny",aGk=,4\n'),
            "jsonl": bytearray(b'{"id":"a","image":"a.jpg"}\n{"image_base64":"aGk=","text":"x"}\n'),
        }
        kind = data.draw(st.sampled_from(sorted(whole)))
        changed = whole[kind]
        for _ in range(data.draw(st.integers(1, 8))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"t.{kind}")
            path.write_bytes(changed)
            try:
                read(str(path))
            except InvalidSource:
                return

    def test_what_is_no_parquet(self, tmp_path: Path) -> None:
        for data in (b"", b"PAR1", b"x" * 1000, b"PAR1" + b"x" * 100 + b"PAR1"):
            (tmp_path / "t.parquet").write_bytes(data)
            with pytest.raises(InvalidSource, match="cannot be read as Parquet"):
                read(str(tmp_path / "t.parquet"))

    def test_a_table_that_changed_is_told_so(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"image": [b"a", b"b"]}), tmp_path / "t.parquet")
        rows = list(open_source(Source(uri=str(tmp_path / "t.parquet"))).rows())
        pq.write_table(pa.table({"image": [b"other", b"b"]}), tmp_path / "t.parquet")
        with Fetcher() as fetcher:
            assert [getattr(one, "code", one) for _, one, _ in fetcher.fetch(rows, attempts=1)] == [
                "source_changed"
            ] * 2

    def test_readers_are_shared_by_threads(self, tmp_path: Path) -> None:
        images = [bytes([n]) * 100 for n in range(64)]
        pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
        rows = list(open_source(Source(uri=str(tmp_path / "t.parquet"))).rows())
        with Fetcher() as fetcher:
            pairs = zip(fetcher.fetch(rows, attempts=1), fetcher.fetch(rows[::-1], attempts=1), strict=True)
            found = [(one[1], other[1]) for one, other in pairs]
        assert found == list(zip(images, images[::-1], strict=True))
        assert isinstance(Reader, type)


class TestSeveral:
    def test_a_pattern_names_them_in_order(self, lay: Lay) -> None:
        where = lay({f"p-{n}.csv": f"id,text\n{n},words\n".encode() for n in (10, 2, 1)})
        assert [row.id for row in read(f"{where}/p-*.csv").rows] == ["1", "10", "2"]
        assert [row.id for row in read(f"{where}/p-{{2,10}}.csv").rows] == ["2", "10"]


class TestJoin:
    TABLE = "file,colour,size\na.jpg,red,3\nb.jpg,blue,\na.jpg,green,\n,x,y\nz.jpg,grey,1\n"

    def test_metadata_is_added_by_key(self, lay: Lay) -> None:
        where = lay({"in/a.jpg": b"1", "in/a.json": b'{"colour": "own"}', "in/b.jpg": b"2", "in/c.jpg": b"3",
                     "meta.csv": self.TABLE.encode()})  # fmt: skip
        listed = read(f"{where}/in", join={"table": f"{where}/meta.csv", "key": "file"})
        assert [row.metadata for row in listed.rows] == [
            '{"colour":"own","size":3}',
            '{"colour":"blue"}',
            "{}",
        ]
        assert listed.skipped == {
            "repeated key of the joined table": 1,
            "row of the joined table that cannot be read": 1,
            "row that the joined table does not name": 1,
        }

    @pytest.mark.parametrize(("on", "key"), [("id", "d/a.x.jpg"), ("name", "a.x.jpg"), ("stem", "a.x")])
    def test_by_id_name_or_stem(self, tmp_path: Path, on: str, key: str) -> None:
        (tmp_path / "in" / "d").mkdir(parents=True)
        (tmp_path / "in" / "d" / "a.x.jpg").write_bytes(b"1")
        (tmp_path / "m.jsonl").write_text(json.dumps({"id": key, "k": 1}) + "\n")
        pq.write_table(pa.table({"id": [key], "k": [1], "v": [[1]]}), tmp_path / "m.parquet")
        for name in ("m.jsonl", "m.parquet"):
            listed = read(str(tmp_path / "in"), join={"table": str(tmp_path / name), "on": on})
            assert listed.rows[0].metadata == '{"k":1}'

    @pytest.mark.parametrize(
        ("table", "words"),
        [("file,x\na,1\n", "no column 'id'"), ("id,x\n,1\n", "no row with something"), ("", "no row")],
    )
    def test_a_table_that_does_not_fit_is_told(self, tmp_path: Path, table: str, words: str) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.jpg").write_bytes(b"1")
        (tmp_path / "m.csv").write_text(table)
        with pytest.raises(InvalidSource, match=words):
            read(str(tmp_path / "in"), join={"table": str(tmp_path / "m.csv")})
        with pytest.raises(InvalidSource, match="nothing is at"):
            read(str(tmp_path / "in"), join={"table": str(tmp_path / "none.csv")})
        with pytest.raises(InvalidSource, match="not named as a table"):
            read(str(tmp_path / "in"), join={"table": str(tmp_path / "in" / "a.jpg")})

    def test_a_key_that_is_no_utf8_is_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.jpg").write_bytes(b"1")
        (tmp_path / "m.csv").write_bytes(b"id,k\n\xff\xfe,1\na.jpg,2\n")
        listed = read(str(tmp_path / "in"), join={"table": str(tmp_path / "m.csv")})
        assert listed.rows[0].metadata == '{"k":2}'
        assert listed.skipped["row of the joined table that cannot be read"] == 1

    def test_a_table_larger_than_a_batch(self, tmp_path: Path) -> None:
        pq.write_table(
            pa.table({"id": [f"{n:05}" for n in range(20_000)], "text": ["t"] * 20_000}),
            tmp_path / "t.parquet",
        )
        with (tmp_path / "m.csv").open("w") as file:
            file.write("id,n\n")
            file.writelines(f"{n:05},{n}\n" for n in range(19_999, -1, -1))
        listing = open_source(
            Source.model_validate(
                {"uri": str(tmp_path / "t.parquet"), "join": {"table": str(tmp_path / "m.csv")}}
            )
        )
        assert all(json.loads(row.metadata) == {"n": int(row.id)} for row in listing.rows())
