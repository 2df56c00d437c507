"""The few verbs that a job needs of a folder and of a bucket: the same from both, and nothing half-written."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from manyeyes.errors import AddressRefused, InvalidRequest, NotFound, NotPermitted, StorageFailed, StorageFull
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.places import storage as storage_module
from manyeyes.service.jobs.places.storage import Storage
from tests.service.jobs.faulty_s3 import FaultyS3, faulty_s3

NAMES = ("a b#%é.jpg", "x%20y", "q+r?z", "deep/er/file.json", "a.b/c", "a/b", "a0")


@pytest.fixture(scope="module")
def s3() -> Iterator[FaultyS3]:
    with faulty_s3() as server:
        server.make_bucket("jobs")
        yield server


@pytest.fixture(params=["folder", "old folder", "s3", "memory"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> Storage:
    if request.param.endswith("folder"):
        place = Storage.open(str(tmp_path / "out"))
        if request.param == "old folder":  # of a system, such as macOS, whose files cannot do without a name
            place._place._nameless = False  # type: ignore[attr-defined]
        return place
    for name, value in s3.env(straight=True).items():
        monkeypatch.setenv(name, value)
    return Storage.open(f"{request.param}://jobs/{tmp_path.name}/{request.param} 1")


class TestVerbs:
    def test_what_is_written_is_read(self, place: Storage) -> None:
        for name in NAMES:
            place.put(name, name.encode())
        for name in NAMES:
            assert place.get(name) == name.encode()
            assert place.get_range(name, 1, 2) == name.encode()[1:3]
            assert place.exists(name)
        place.put("a/b", b"")
        assert place.get("a/b") == b""

    def test_what_is_not_there(self, place: Storage) -> None:
        with pytest.raises(NotFound, match="no 'nowhere/x'"):
            place.get("nowhere/x")
        with pytest.raises(NotFound):
            place.get_range("x", 0, 3)
        with pytest.raises(NotFound):
            place.copy("x", "y")
        assert not place.exists("x")
        assert place.head("x") is None
        assert list(place.list()) == list(place.list("x")) == []

    def test_a_folder_is_no_object(self, place: Storage) -> None:
        place.put("a/b", b"1")
        assert not place.exists("a")
        with pytest.raises(NotFound):
            place.get("a")

    def test_one_alone_creates(self, place: Storage) -> None:
        assert place.create("a/b", b"mine")
        assert not place.create("a/b", b"yours")
        assert place.get("a/b") == b"mine"
        assert place.create("a/b", b"mine"), "the answer to the first try may have been lost"

    def test_of_many_at_once_one_creates(self, place: Storage) -> None:
        won: list[int] = []
        ready = threading.Barrier(8)

        def contend(who: int) -> None:
            ready.wait()
            if place.create("one", str(who).encode()):
                won.append(who)

        threads = [threading.Thread(target=contend, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not place.uri.startswith("s3://"):  # moto looks first and writes then; S3 does both at once
            assert len(won) == 1
        assert int(place.get("one")) in won

    def test_the_listing_is_by_name_as_a_bucket_orders_it(self, place: Storage) -> None:
        for name in NAMES:
            place.put(name, name.encode())
        assert [meta.path for meta in place.list()] == sorted(NAMES)
        assert [meta.path for meta in place.list("a")] == [meta.path for meta in place.list("a/")] == ["a/b"]
        assert [meta.size for meta in place.list("deep/")] == [len("deep/er/file.json")]

    def test_the_tag_changes_with_the_content(self, place: Storage) -> None:
        place.put("a", b"1")
        (first,) = place.list()
        place.put("a", b"22")
        (second,) = place.list()
        assert first.etag is not None
        assert first.etag != second.etag
        assert place.head("a") == second

    def test_more_than_a_page_is_listed(self, place: Storage) -> None:
        if place.uri.startswith("s3://"):
            pytest.skip("moto takes its time for so many; the listing that fails has as many pages")
        for index in range(2500):
            place.put(f"many/{index:05d}", b"", durable=False)
        assert [meta.path for meta in place.list("many")] == [f"many/{index:05d}" for index in range(2500)]

    def test_delete_and_copy(self, place: Storage) -> None:
        place.put("a", b"1")
        place.put("b", b"2")
        place.copy("a", "deep/c")
        place.copy("a", "b")
        place.delete(["a", "never was", "deep/never"])
        assert [(meta.path, place.get(meta.path)) for meta in place.list()] == [("b", b"1"), ("deep/c", b"1")]
        place.delete([])
        with pytest.raises(TypeError):
            place.delete("b")

    def test_a_stream_is_there_when_it_is_whole(self, place: Storage) -> None:
        with place.put_stream("deep/a") as file:
            file.write(b"1" * 10)
            assert not place.exists("deep/a")
            file.write(b"2")
        assert place.get("deep/a") == b"1" * 10 + b"2"

        def fail() -> None:
            with place.put_stream("b") as file:
                file.write(b"1")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert not place.exists("b")

    def test_large_objects(self, place: Storage) -> None:
        large = os.urandom(20 * 2**20)
        place.put("large", large)
        assert place.get("large") == large
        with place.put_stream("stream") as file:
            file.write(large)
        assert place.get_range("stream", 17 * 2**20, 2**20) == large[17 * 2**20 : 18 * 2**20]

    def test_it_can_be_checked(self, place: Storage) -> None:
        if place.local is not None:
            with pytest.raises(NotFound):
                place.check()
        place.check(write=True)
        place.check()
        assert list(place.list()) == []

    def test_it_is_pickled(self, place: Storage) -> None:
        place.put("a", b"1")
        if place.uri.startswith("memory://"):
            with pytest.raises(TypeError, match="needs a folder or a bucket"):
                pickle.dumps(place)
            return
        packed = pickle.dumps(place)
        assert b"nobody-may-see" not in packed
        again = pickle.loads(packed)
        assert (again.uri, again.local, again.get("a")) == (place.uri, place.local, b"1")


class TestAddresses:
    @pytest.mark.parametrize("uri", ["ftp://x/y", "s3://", "https://example.org/a"])
    def test_what_is_no_place(self, uri: str) -> None:
        with pytest.raises(InvalidRequest):
            Storage.open(uri)

    def test_a_near_scheme_is_told(self) -> None:
        with pytest.raises(InvalidRequest, match="did you mean 'gs'"):
            Storage.open("gcs://b")

    def test_files(self, tmp_path: Path) -> None:
        place = Storage.open((tmp_path / "a b").as_uri())
        assert place.local == tmp_path / "a b"
        assert place.uri == Storage.open(f"{tmp_path}/a b/").uri == str(tmp_path / "a b")

    @pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "", "a\0b"])
    def test_a_path_cannot_leave_the_folder(self, tmp_path: Path, path: str) -> None:
        place = Storage.open(str(tmp_path / "in"))
        with pytest.raises(StorageFailed, match="cannot name"):
            place.put(path, b"1")
        with pytest.raises(StorageFailed, match="cannot name"):
            place.get(path)


class TestBucketsOfTheOperator:
    @pytest.fixture
    def buckets(self, s3: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Buckets:
        monkeypatch.setenv("JOBS_ID", "an-id")
        monkeypatch.setenv("JOBS_SECRET", "a-secret-that-nobody-may-see")
        about = (
            f'region: us-east-1, endpoint: "{s3.straight}",'
            " credentials: {access_key_id: JOBS_ID, secret_access_key: JOBS_SECRET}"
        )
        file = tmp_path / "buckets.yaml"
        file.write_text(
            f'out: {{url: "s3://jobs/out", write: true, {about}}}\nphotos: {{url: "s3://jobs/photos", {about}}}\n'
        )
        return Buckets.load(file)

    def test_places_below_theirs_are_used(self, buckets: Buckets) -> None:
        for uri in ("s3://jobs/out", "s3://jobs/out/", "s3://jobs/out/a/b"):
            place = Storage.open(uri, buckets=buckets)
            place.check(write=True)
            place.put("x", uri.encode())
            packed = pickle.dumps(place)
            assert b"nobody-may-see" not in packed
            assert pickle.loads(packed).get("x") == uri.encode()
        assert Storage.open("s3://jobs/out", buckets=buckets).get("a/b/x") == b"s3://jobs/out/a/b"

    @pytest.mark.parametrize(
        "uri",
        ["s3://jobs", "s3://jobs/other", "s3://jobs/out/../secret", "/tmp/x", "file:///tmp", "memory://x"],
    )
    def test_no_other_place_is(self, buckets: Buckets, uri: str) -> None:
        with pytest.raises(AddressRefused):
            Storage.open(uri, buckets=buckets)

    def test_what_is_for_reading_is_not_written(self, buckets: Buckets) -> None:
        place = Storage.open("s3://jobs/photos/2026", buckets=buckets)
        assert list(place.list()) == []
        for write in (
            lambda: place.put("a", b""),
            lambda: place.create("a", b""),
            lambda: place.copy("a", "b"),
            lambda: place.delete(["a"]),
            lambda: place.put_stream("a").__enter__(),
            lambda: place.check(write=True),
        ):
            with pytest.raises(NotPermitted, match="write: true"):
                write()


class TestFolder:
    @pytest.mark.parametrize("nameless", [True, False])
    def test_what_is_being_written_is_in_no_listing(self, tmp_path: Path, nameless: bool) -> None:
        """A writer that is killed in the middle leaves nothing that anybody reads."""
        program = f"""
import os, sys
from manyeyes.service.jobs.places.storage import Storage
class Body:
    def read(self, n):
        print("on it", flush=True)
        sys.stdin.read()
place = Storage.open({str(tmp_path)!r})._place
place._nameless = {nameless}
place.put("deep/labels.parquet", Body())
"""
        writer = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "on it\n"
        writer.kill()
        writer.communicate()
        left = list((tmp_path / "deep").iterdir())
        assert [path.name[0] for path in left] == ([] if nameless else ["."])
        assert list(Storage.open(str(tmp_path)).list()) == []

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_says_what_to_do(
        self, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(fd: int) -> None:
            raise OSError(number, os.strerror(number))

        place = Storage.open(str(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StorageFull, match="Make room there"):
                place.put("a/b", b"1")
        assert list((tmp_path / "a").iterdir()) == []
        place.put("a/b", b"1")

    def test_no_permission(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"1")
        with pytest.raises(StorageFailed, match="Check the folder"):
            Storage.open(str(tmp_path / "file")).put("a", b"1")
        with pytest.raises(StorageFailed, match="Check the folder"):
            Storage.open(str(tmp_path)).create("file/a", b"1")

    def test_links_that_lead_in_circles_end(self, tmp_path: Path) -> None:
        place = Storage.open(str(tmp_path))
        place.put("a/b", b"1")
        (tmp_path / "a" / "round").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
        assert [meta.path for meta in place.list()] == ["a/b"]


def test_the_memory_is_that_of_its_name() -> None:
    Storage.open("memory://one/1").put("a", b"1")
    assert Storage.open("memory://one/1").get("a") == b"1"
    assert not Storage.open("memory://one/2").exists("a")
    assert set(storage_module._memories) >= {"memory://one/1", "memory://one/2"}
