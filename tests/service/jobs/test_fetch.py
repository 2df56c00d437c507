"""Fetching: in order, ahead but not too far, tried again where that may help, and every failure one row's."""

from __future__ import annotations

import os
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manyeyes.errors import FetchFailed, ItemError, by_code
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.manifests.fetch import PASSING_CODES, Fetcher
from manyeyes.service.jobs.manifests.reading import Reader
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row, Source
from manyeyes.service.jobs.sources import open_source
from manyeyes.settings import Limits
from tests.service.fetching.sites import a_site
from tests.service.jobs.faulty_s3 import FAULTS, FaultyS3, seeded


def lay(uri: str, n: int = 60) -> str:
    """Put objects ``00.jpg`` and so on, of 1,000 bytes and more."""
    storage = Storage.open(uri)
    for i in range(n):
        storage.put(f"{i:02}.jpg", b"%02d" % i * (500 + i))
    return uri


@pytest.fixture(scope="module")
def objects(shared_s3: FaultyS3) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shared_s3.env(straight=True).items():
            patch.setenv(name, value)
        return lay("s3://data/sixty")


@pytest.fixture
def uri(objects: str, data_s3: FaultyS3) -> str:
    """Return a prefix with 60 objects, which nobody changes."""
    return objects


def listed(uri: str) -> list[Row]:
    return list(open_source(Source(uri=uri)).rows())


def fetched(rows: list[Row], attempts: int = 4, **options: Any) -> list[tuple[Any, int]]:
    with Fetcher(pause_s=0.01, **options) as fetcher:
        found = list(fetcher.fetch(rows, attempts=attempts))
    assert [position for position, _, _ in found] == list(range(len(rows)))
    return [(one.code if isinstance(one, ItemError) else one, made) for _, one, made in found]


def test_bytes_come_in_order(uri: str) -> None:
    assert fetched(listed(uri)) == [(b"%02d" % n * (500 + n), 1) for n in range(60)]


@pytest.mark.parametrize("fault", ["error", "slow_down", "reset", "half", "hang"])
def test_what_passes_is_tried_again(
    uri: str, data_s3: FaultyS3, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANYEYES_STORAGE_TIMEOUT_S", "0.3" if fault == "hang" else "30")
    data_s3.hang_s = 1.0
    rows = listed(uri)
    data_s3.plan = lambda method, path, before: fault if "07.jpg" in path and before < 2 else None
    found = fetched(rows)
    assert found[7] == (b"07" * 507, 3)
    assert [made for _, made in found].count(1) == 59
    data_s3.forget()
    data_s3.plan = lambda method, path, before: fault if "07.jpg" in path else None
    found = fetched(rows)
    assert found[7] == ("fetch_failed", 4)
    assert found[8][0] == b"08" * 508
    assert set(PASSING_CODES) == {"fetch_failed"}


def test_a_seeded_storm_loses_nothing(uri: str, data_s3: FaultyS3) -> None:
    rows = listed(uri)
    for seed in range(3):
        data_s3.forget()
        storm = tuple(fault for fault in FAULTS if "hang" not in str(fault))
        data_s3.plan = seeded(seed, 0.5, storm, at_most=4)
        found = fetched(rows, attempts=6)
        assert [one for one, _ in found] == [b"%02d" % n * (500 + n) for n in range(60)]
        assert sum(made - 1 for _, made in found) == sum(data_s3.happened.values()) > 10


@pytest.mark.parametrize(
    ("answer", "code"), [((404, "NoSuchKey"), "source_not_found"), ((403, "AccessDenied"), "address_refused"),
                         ((400, "InvalidRequest"), "fetch_failed")],
)  # fmt: skip
def test_what_is_final_is_asked_once(uri: str, data_s3: FaultyS3, answer: tuple[int, str], code: str) -> None:
    rows = listed(uri)
    data_s3.plan = lambda method, path, before: answer if "07.jpg" in path else None
    assert fetched(rows)[7] == (code, 1)
    assert data_s3.happened[answer] == 1


def test_what_changed_or_is_gone_is_told_so(data_s3: FaultyS3, tmp_path: Path) -> None:
    uri = lay(f"s3://data/{tmp_path.name}", 6)
    rows = listed(uri)
    storage = Storage.open(uri)
    storage.put("03.jpg", b"other")
    storage.delete(["04.jpg"])
    found = fetched(rows)
    assert found[3] == ("source_changed", 1)
    assert found[4] == ("source_not_found", 1)


def test_an_etag_is_the_same_with_quotes_and_without(uri: str) -> None:
    # Azure's listings write them without, and its answers with them.
    rows = [replace(row, etag=(row.etag or "").strip('"')) for row in listed(uri)]
    assert fetched(rows)[7] == (b"07" * 507, 1)


def test_what_is_too_large_is_not_read(uri: str, data_s3: FaultyS3) -> None:
    rows = listed(uri)
    data_s3.forget()
    found = fetched(rows, limits=Limits(max_bytes=1050))
    assert [code for code, _ in found].count("image_too_large") == sum(
        2 * (500 + n) > 1050 for n in range(60)
    )
    assert data_s3.asked["GET"] == 26  # the others were not asked for at all
    unknown = [Row("a", uri=rows[59].uri)]  # of a table, say, which does not tell sizes
    assert fetched(unknown, limits=Limits(max_bytes=1050)) == [("image_too_large", 1)]


def test_rows_without_bytes_and_rows_with_errors(uri: str) -> None:
    rows = [
        Row("text", text="alone"),
        Row("bad", error=("empty_item", "nothing")),
        Row("odd", error=("of_a_later_version", "x")),
        Row("file", uri="file:///no/such/file.jpg"),
        Row("strange", uri="gopher://x/y"),
        Row("none", uri="s3://data"),
        *listed(uri)[:1],
    ]
    assert fetched(rows) == [
        (None, 0), ("empty_item", 0), ("invalid_item", 0), ("unreadable_item", 1), ("address_refused", 1),
        ("address_refused", 1), (b"00" * 500, 1),
    ]  # fmt: skip


class TestAhead:
    def test_no_more_rows_are_fetched_than_is_said(self, uri: str, data_s3: FaultyS3) -> None:
        rows = listed(uri)
        data_s3.forget()
        with Fetcher(ahead_rows=5, threads=4) as fetcher:
            coming = fetcher.fetch(rows, attempts=1)
            next(coming)
            time.sleep(0.3)
            assert data_s3.asked["GET"] <= 6
            next(coming)
            time.sleep(0.3)
            assert data_s3.asked["GET"] <= 7

    def test_no_more_bytes_are_fetched_than_is_said(self, uri: str, data_s3: FaultyS3) -> None:
        rows = listed(uri)
        data_s3.forget()
        with Fetcher(ahead_bytes=4000) as fetcher:
            next(fetcher.fetch(rows, attempts=1))
            time.sleep(0.3)
            assert data_s3.asked["GET"] <= 5

    def test_one_slow_object_does_not_keep_the_others_waiting(self, uri: str, data_s3: FaultyS3) -> None:
        rows = listed(uri)
        data_s3.hang_s = 0.5
        data_s3.plan = lambda method, path, before: "hang" if "00.jpg" in path and not before else None
        started = time.monotonic()
        assert fetched(rows)[0] == (b"00" * 500, 2)
        assert time.monotonic() - started < 3

    def test_a_stop_ends_it_at_once(self, uri: str, data_s3: FaultyS3) -> None:
        rows = listed(uri)
        data_s3.plan = lambda method, path, before: "slow_down" if "05.jpg" in path else None
        stop = threading.Event()
        with Fetcher(pause_s=60, most_pause_s=60) as fetcher:
            threading.Timer(0.3, stop.set).start()
            started = time.monotonic()
            found = list(fetcher.fetch(rows, attempts=20, stop=stop))
            assert time.monotonic() - started < 5
        assert len(found) <= 6

    def test_closing_ends_waits(self, uri: str, data_s3: FaultyS3) -> None:
        rows = listed(uri)
        data_s3.plan = lambda method, path, before: "slow_down"
        fetcher = Fetcher(pause_s=60, most_pause_s=60)
        coming = fetcher.fetch(rows, attempts=20)
        threading.Timer(0.3, fetcher.close).start()
        started = time.monotonic()
        list(coming)
        assert time.monotonic() - started < 5

    def test_closing_does_not_wait_for_a_store_that_hangs(self, uri: str, data_s3: FaultyS3) -> None:
        rows = listed(uri)
        data_s3.hang_s = 3.0
        data_s3.plan = lambda method, path, before: "hang"
        with a_site() as site:
            rows.append(Row("slow", uri=f"http://127.0.0.1:{site.port}/slow"))
            web = FetchSettings(
                fetch_hosts=(f"127.0.0.1:{site.port}",), fetch_http=True, fetch_networks="127.0.0.0/8"
            )  # type: ignore[arg-type]
            fetcher = Fetcher(web=web)
            coming = fetcher.fetch(rows[::-1], attempts=1)
            ended: list[object] = []
            thread = threading.Thread(target=lambda: ended.append(list(coming)))
            thread.start()
            time.sleep(0.5)
            started = time.monotonic()
            fetcher.close()
            assert time.monotonic() - started < 2
            thread.join(timeout=10)
            assert not thread.is_alive()
            assert len(ended) == 1  # not by an error
            assert list(fetcher.fetch(rows, attempts=1)) == []

    def test_two_may_fetch_at_once(self, uri: str) -> None:
        rows = listed(uri)
        with Fetcher() as fetcher:
            pairs = list(zip(fetcher.fetch(rows, attempts=1), fetcher.fetch(rows, attempts=1), strict=True))
        assert all(one == other for one, other in pairs)


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "files"
        folder.mkdir()
        for n in range(100):
            (folder / f"{n:03}.jpg").write_bytes(b"%03d" % n)
        return folder

    def test_each_failure_is_one_row(self, folder: Path) -> None:
        rows = listed(str(folder))
        (folder / "003.jpg").write_bytes(b"other bytes")
        (folder / "050.jpg").unlink()
        (folder / "051.jpg").unlink()
        os.mkfifo(folder / "051.jpg")
        found = fetched(rows)
        assert {n: one for n, one in enumerate(found) if one[0] != b"%03d" % n} == {
            3: ("source_changed", 1), 50: ("unreadable_item", 1), 51: ("unreadable_item", 1),
        }  # fmt: skip

    def test_callers_over_http_read_none(self, folder: Path) -> None:
        rows = listed(str(folder))[:3]
        archive = Row("m", uri=(folder / "x.tar").as_uri(), member="m", offset=0, length=1)
        assert fetched([*rows, archive], buckets=Buckets({})) == [("address_refused", 1)] * 4


class TestMembers:
    @pytest.fixture
    def tar(self, data_s3: FaultyS3, tmp_path: Path) -> Iterator[str]:
        with tarfile.open(tmp_path / "all.tar", "w") as archive:
            for n in range(100):
                (tmp_path / "one").write_bytes(b"%03d" % n * 1000)
                archive.add(tmp_path / "one", f"{n:03}.jpg")
        storage = Storage.open(f"s3://data/{tmp_path.name}")
        storage.put("all.tar", (tmp_path / "all.tar").read_bytes())
        return f"s3://data/{tmp_path.name}/all.tar"

    def test_neighbours_are_read_at_once(self, tar: str, data_s3: FaultyS3) -> None:
        rows = listed(tar)
        data_s3.forget()
        assert [one for one, _ in fetched(rows)] == [b"%03d" % n * 1000 for n in range(100)]
        assert data_s3.asked["GET"] == 4

    def test_neighbours_that_fail_together_are_tried_again(self, tar: str, data_s3: FaultyS3) -> None:
        rows = listed(tar)
        data_s3.forget()
        data_s3.plan = lambda method, path, before: "half" if before < 4 else None
        found = fetched(rows, attempts=6)
        assert [one for one, _ in found] == [b"%03d" % n * 1000 for n in range(100)]
        assert max(made for _, made in found) > 1

    def test_an_archive_that_changed(self, tar: str) -> None:
        rows = listed(tar)
        head, _, name = tar.rpartition("/")
        Storage.open(head).put(name, b"x" * 2**20)
        assert fetched(rows) == [("source_changed", 1)] * 100


def test_strange_failures_of_one_row_are_its_own(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = listed(uri)[:5]
    (tmp_path / "files").mkdir()
    for n in range(5):
        (tmp_path / "files" / f"{n:02}.jpg").write_bytes(b"1")
    whole = Reader.read

    def read(self: Reader, row: Row) -> bytes:
        if row.id == "02.jpg":
            raise RuntimeError("nobody thought of this")
        return whole(self, row)

    monkeypatch.setattr(Reader, "read", read)
    for some in (rows, listed(str(tmp_path / "files"))):
        assert [code == "fetch_failed" for code, _ in fetched(some)] == [False, False, True, False, False]


def test_a_failure_that_passes_has_no_code_of_its_own() -> None:
    assert by_code()["fetch_failed"] is FetchFailed
