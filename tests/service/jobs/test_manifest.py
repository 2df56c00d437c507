"""The manifest: the same rows give the same bytes, ids are unique, and one that follows another keeps what it can."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.errors import NotFound, StorageFailed
from manyeyes.service.jobs.manifests import shards as shards_module
from manyeyes.service.jobs.manifests.ids import Ids
from manyeyes.service.jobs.manifests.manifest import read_manifest, read_rows, update_manifest, write_manifest
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Manifest, Row

_numbers = itertools.count()


def memory() -> Storage:
    return Storage.open(f"memory://manifest-{next(_numbers)}")


def all_rows(storage: Storage, manifest: Manifest) -> list[Row]:
    return [row for shard in manifest.shards for row in read_rows(storage, shard)]


def photos(n: int, etag: str = "1") -> Iterator[Row]:
    return (Row(f"{i:08}.jpg", uri=f"s3://b/{i:08}.jpg", size=i, etag=etag) for i in range(n))


class TestWriting:
    def test_the_same_rows_give_the_same_bytes_wherever_they_are_written(self, tmp_path: Path) -> None:
        places = [Storage.open(str(tmp_path / "a")), Storage.open(str(tmp_path / "b"))]
        made = [write_manifest(photos(1000), place, uri="s3://b", shard_rows=300) for place in places]
        assert made[0] == made[1]
        assert [shard.n_rows for shard in made[0].shards] == [300, 300, 300, 100]
        assert [shard.index for shard in made[0].shards] == [0, 1, 2, 3]
        written = [
            {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
            for root in (tmp_path / "a", tmp_path / "b")
        ]
        assert written[0] == written[1]
        assert len(written[0]) == 5
        for shard in made[0].shards:
            assert hashlib.sha256(places[0].get(shard.part)).hexdigest() == shard.digest

    def test_it_is_read_as_it_was_written(self) -> None:
        storage = memory()
        rows = [
            Row("a.jpg", uri="s3://b/a.jpg", size=3, etag='"e"', text="tëxt", metadata='{"k":1}'),
            Row("b", uri="s3://b/x.tar", member="b.jpg", offset=512, length=2**40, size=2**40),
            Row("c", text="alone"),
            Row("d", error=("empty_item", "nothing in it")),
        ]
        manifest = write_manifest(rows, storage, uri="s3://b")
        assert read_manifest(storage, manifest.id) == manifest
        assert all_rows(storage, manifest) == rows
        skipping = replace(manifest.shards[0], skip=(1, 3))
        assert read_rows(storage, skipping) == [rows[0], rows[2]]

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(
            st.builds(
                Row,
                id=st.text(min_size=1, max_size=3),
                uri=st.none() | st.text(max_size=5),
                offset=st.none() | st.integers(0, 2**62),
                text=st.none() | st.text(),
                metadata=st.just("{}"),
                error=st.none() | st.tuples(st.just("invalid_item"), st.text()),
            ),
            max_size=20,
            unique_by=lambda row: row.id,
        )
    )
    def test_any_row_survives(self, rows: list[Row]) -> None:
        storage = memory()
        back = all_rows(storage, write_manifest(rows, storage, uri="x", shard_rows=7))
        # Halves of pairs of UTF-16, which no file can hold, are the one thing that is written otherwise.
        clean = [row for row in rows if _encodes(row)]
        assert [row for row in back if row in clean] == clean
        assert len(back) == len(rows)

    def test_long_texts_close_a_shard_early(self) -> None:
        storage = memory()
        rows = (Row(f"{i:03}", text="x" * 100_000) for i in range(700))
        manifest = write_manifest(rows, storage, uri="x")
        assert [shard.n_rows for shard in manifest.shards] == [336, 336, 28]

    def test_two_that_list_at_once_write_one(self, tmp_path: Path) -> None:
        storage = Storage.open(str(tmp_path))
        made: list[Manifest] = []
        threads = [
            threading.Thread(
                target=lambda: made.append(
                    write_manifest(photos(2000), storage, uri="s3://b", shard_rows=100)
                )
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 4
        assert len(set(made)) == 1
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 21

    def test_what_was_changed_since_is_noticed(self) -> None:
        storage = memory()
        manifest = write_manifest(photos(10), storage, uri="s3://b")
        (shard,) = manifest.shards
        whole = storage.get(shard.part)
        storage.put(shard.part, whole[:-1])
        with pytest.raises(StorageFailed, match="not what was written"):
            read_rows(storage, shard)
        # Whoever lists the source again puts it right.
        assert write_manifest(photos(10), storage, uri="s3://b") == manifest
        assert storage.get(shard.part) == whole
        storage.delete([shard.part])
        with pytest.raises(StorageFailed, match="is gone"):
            read_rows(storage, shard)
        with pytest.raises(NotFound):
            read_manifest(storage, "0" * 20)

    def test_progress_is_told(self) -> None:
        told: list[int] = []
        write_manifest(photos(250), memory(), uri="x", shard_rows=100, progress=told.append)
        assert told == [100, 200, 250]

    def test_rows_are_taken_as_they_are_written(self) -> None:
        storage = memory()
        taken = 0

        def rows() -> Iterator[Row]:
            nonlocal taken
            for row in photos(50_000):
                taken += 1
                yield row

        def progress(n_rows: int) -> None:
            assert taken - n_rows <= 2 * 1024

        write_manifest(rows(), storage, uri="x", shard_rows=1000, progress=progress)


class TestIds:
    def test_a_repeated_one_becomes_an_error_under_another(self) -> None:
        storage = memory()
        rows = [
            Row("a", text="1"),
            Row("b", text="2"),
            Row("a", text="3"),
            Row("a (2)", text="4"),
            Row("a", text="5"),
        ]
        back = all_rows(storage, write_manifest(rows, storage, uri="x"))
        assert [row.id for row in back] == ["a", "b", "a (2)", "a (2) (2)", "a (3)"]
        assert [row.error and row.error[0] for row in back] == [None, None] + ["invalid_item"] * 3
        assert back[2].error is not None
        assert "'a' is taken by an earlier row" in back[2].error[1]

    @given(
        st.lists(st.lists(st.sampled_from(["a", "b", "a (2)", "b (2)", "c", "ä"]), max_size=6), max_size=6),
        st.booleans(),
    )
    def test_every_id_is_given_once(self, batches: list[list[str]], ordered: bool) -> None:
        if ordered:
            flat = sorted(set(itertools.chain.from_iterable(batches)))
            batches = [flat[:2], flat[2:], *batches]
        with Ids() as ids:
            given_out = [ids.take(batch) for batch in batches]
        names = list(itertools.chain.from_iterable(given_out))
        assert len(names) == len(set(names))
        seen: set[str] = set()
        for asked, got in zip(itertools.chain.from_iterable(batches), names, strict=True):
            # An id is kept wherever it is free.
            assert (got == asked) == (asked not in seen)
            seen.add(got)

    def test_many_in_no_order(self) -> None:
        rng = random.Random(5)
        values = [f"{rng.randrange(150_000)}" for _ in range(200_000)]
        with Ids() as ids:
            names = [
                name
                for start in range(0, len(values), 1024)
                for name in ids.take(values[start : start + 1024])
            ]
            assert ids._runs is not None
            assert len(ids._runs) < 16
        assert len(set(names)) == len(values)
        kept = sum(name == value for name, value in zip(names, values, strict=True))
        assert kept == len(set(values))

    def test_a_million_of_the_same_are_named_in_seconds(self) -> None:
        with Ids() as ids:
            names = [name for _ in range(50) for name in ids.take(["x"] * 400)]
        assert names[-1] == "x (20000)"


class TestUpdating:
    def test_nothing_changed_gives_the_same_manifest(self) -> None:
        storage = memory()
        first = write_manifest(photos(1000), storage, uri="x", shard_rows=300)
        assert update_manifest(first, photos(1000), storage, shard_rows=300) == first

    def test_only_what_changed_is_in_new_shards(self) -> None:
        storage = memory()
        first = write_manifest(photos(1000), storage, uri="x", shard_rows=100)
        now = [
            replace(row, etag="2") if row.id in ("00000005.jpg", "00000999.jpg") else row
            for row in photos(1010)
            if not "00000200" <= row.id < "00000300" and row.id != "00000007.jpg"
        ]
        second = update_manifest(first, now, storage, shard_rows=100)
        assert sorted(all_rows(storage, second), key=lambda row: row.id) == now
        kept, added = second.shards[:-1], second.shards[-1]
        assert [shard.index for shard in second.shards] == list(range(10))
        assert {shard.digest for shard in kept} <= {shard.digest for shard in first.shards}
        assert [shard.skip for shard in kept if shard.skip] == [(5, 7), (99,)]
        assert added.n_rows == 12
        assert second.n_rows == len(now)
        # And so on: from there, the same source gives the same again.
        assert update_manifest(second, now, storage, shard_rows=100) == second

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from([f"{i:02}" for i in range(12)]), st.sampled_from("12"), max_size=12
            ),
            min_size=2,
            max_size=5,
        ),
        st.integers(1, 5),
        st.randoms(use_true_random=False),
    )
    def test_against_a_naive_model(
        self, sources: list[dict[str, str]], shard_rows: int, rng: random.Random
    ) -> None:
        storage = memory()

        def rows(source: dict[str, str]) -> list[Row]:
            found = [Row(row_id, uri=f"s3://b/{row_id}", etag=etag) for row_id, etag in source.items()]
            rng.shuffle(found)
            return found

        manifest = write_manifest(rows(sources[0]), storage, uri="x", shard_rows=shard_rows)
        before = sources[0]
        for source in sources[1:]:
            old_parts = {shard.part for shard in manifest.shards}
            manifest = update_manifest(manifest, rows(source), storage, shard_rows=shard_rows)
            found = all_rows(storage, manifest)
            assert {row.id: row.etag for row in found} == source
            assert len(found) == len(source) == manifest.n_rows
            new = {
                row.id
                for shard in manifest.shards
                if shard.part not in old_parts
                for row in read_rows(storage, shard)
            }
            # Unchanged rows are never written again.
            unchanged = {row_id for row_id, etag in source.items() if before.get(row_id) == etag}
            assert not new & unchanged
            assert [shard.index for shard in manifest.shards] == list(range(len(manifest.shards)))
            before = source

    def test_repeated_ids_stay_where_they_were(self) -> None:
        storage = memory()
        rows = [Row("a", text="1"), Row("a", text="2"), Row("b", text="3")]
        first = write_manifest(rows, storage, uri="x")
        assert update_manifest(first, rows, storage) == first

    def test_only_new_rows_are_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = memory()
        first = write_manifest(photos(5000), storage, uri="x", shard_rows=1000)
        written: list[int] = []
        whole = shards_module.shard_bytes

        def counted(rows: list[Row]) -> bytes:
            written.append(len(rows))
            return whole(rows)

        monkeypatch.setattr(shards_module, "shard_bytes", counted)
        update_manifest(first, photos(5050), storage, shard_rows=1000)
        assert written == [50]


def _encodes(row: Row) -> bool:
    texts: Iterable[str | None] = (row.id, row.uri, row.text, row.error and row.error[1])
    try:
        for one in texts:
            (one or "").encode()
    except UnicodeEncodeError:
        return False
    return True
