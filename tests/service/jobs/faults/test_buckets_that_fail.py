"""Every verb against a bucket that fails in every way: right in the end, and never half; or an error that helps."""

from __future__ import annotations

import os
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from manyeyes.errors import NotFound, StorageFailed, StorageFull
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.leases import Leases
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Commit, Counts
from tests.service.jobs.faulty_s3 import FAULTS, PAGE, Fault, FaultyS3, nothing, seeded


def open_place(*, patience_s: float = 30.0) -> Storage:
    return Storage.open(f"s3://jobs/{uuid.uuid4().hex}", patience_s=patience_s)


def always(fault: Fault) -> Callable[[str, str, int], Fault]:
    return lambda method, path, before: fault


def first(fault: Fault, times: int = 1) -> Callable[[str, str, int], Fault | None]:
    return lambda method, path, before: fault if before < times else None


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[pytest.mark.slow] if "hang" in fault else []) for fault in FAULTS]
)
class TestEveryVerbGetsOverIt:
    def test_create(self, s3: FaultyS3, fault: Fault) -> None:
        """Also where it was done, and only the answer lost: it is not taken for another's."""
        place = open_place()
        s3.plan = first(fault)
        assert place.create("a", b"mine" * 100)
        assert s3.happened[fault]
        assert not place.create("a", b"yours" * 100)
        assert place.get("a") == b"mine" * 100

    def test_create_of_what_another_made(self, s3: FaultyS3, fault: Fault) -> None:
        place = open_place()
        place.put("a", b"yours")
        s3.plan = first(fault)
        assert not place.create("a", b"mine")
        s3.plan = nothing
        assert place.get("a") == b"yours"

    def test_put_and_get(self, s3: FaultyS3, fault: Fault) -> None:
        place, data = open_place(), os.urandom(100_000)
        s3.plan = first(fault)
        place.put("a", data)
        assert place.get("a") == data
        assert place.get_range("a", 50_000, 100) == data[50_000:50_100]
        with place.put_stream("b") as file:
            file.write(data)
        assert place.get("b") == data

    def test_an_upload_in_pieces_whose_end_is_not_answered(self, s3: FaultyS3, fault: Fault) -> None:
        place, data = open_place(), os.urandom(9 * 2**20)
        s3.plan = lambda method, path, before: fault if method == "POST" and before < 1 else None
        place.put("a", data)
        assert place.get("a") == data

    def test_large_ones(self, s3: FaultyS3, fault: Fault) -> None:
        if "hang" in fault:
            pytest.skip("each of several pieces would wait; small ones do, too")
        place, data = open_place(), os.urandom(18 * 2**20)
        s3.plan = first(fault)
        place.put("a", data)
        assert place.get("a") == data

    def test_the_rest(self, s3: FaultyS3, fault: Fault) -> None:
        place = open_place()
        place.put("a", b"1")
        s3.plan = first(fault)
        place.copy("a", "b")
        assert place.exists("b")
        assert not place.exists("c")
        with pytest.raises(NotFound):
            place.get("d")
        place.delete(["a", "never was"])
        assert [meta.path for meta in place.list()] == ["b"]

    def test_a_check(self, s3: FaultyS3, fault: Fault) -> None:
        s3.plan = first(fault)
        open_place().check(write=True)

    def test_a_commit(self, s3: FaultyS3, fault: Fault) -> None:
        commits = Commits(open_place(), "job", "votes", 1)
        s3.plan = first(fault)
        mine, yours = (Commit(0, attempt, {}, Counts(rows=1)) for attempt in ("mine", "yours"))
        assert commits.create(mine) == mine
        assert commits.create(yours) == mine
        assert list(commits.all()) == [mine]


def test_a_conflict_of_writers_is_no_answer(s3: FaultyS3) -> None:
    """S3 says 409 where two create at once, and neither may have; whoever hears it asks again."""
    place = open_place()
    s3.plan = first((409, "ConditionalRequestConflict"))
    assert place.create("a", b"mine")
    assert place.get("a") == b"mine"


@pytest.mark.slow
def test_a_listing_goes_on_where_it_broke(s3: FaultyS3) -> None:
    """Three pages, each of which fails: no name twice, none left out."""
    place = open_place()
    names = [f"{index:05d}" for index in range(2 * PAGE + 30)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: place.put(name, b"1"), names))
    plans: list[tuple[Fault, int]] = [("error", 4), ("half", 2), ("reset", 1)]
    for fault, times in plans:  # of the first, more than obstore tries by itself
        s3.forget()
        s3.plan = first(fault, times)
        assert [meta.path for meta in place.list()] == names
        assert s3.happened[fault] >= 3 * times


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
def test_a_storm(s3: FaultyS3, seed: int) -> None:
    """Four writers of twelve shards while a third of all calls fail: each shard has one commit, which all see."""
    place = open_place()
    s3.plan = seeded(seed, 0.3, ("error", "slow_down", "reset", "half", "lost"))
    seen: list[list[Commit]] = []

    def work(who: int) -> None:
        leases, commits = Leases(place, "job", "votes", 1), Commits(place, "job", "votes", 1)
        won = []
        for shard in range(12):
            lease = leases.acquire(shard)
            path = f"{shard}-{who}"
            place.put(path, path.encode())
            won.append(commits.create(Commit(shard, str(who), {"votes": (path, "")}, Counts(rows=1))))
            if lease is not None:
                lease.release()
        seen.append(won)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    s3.plan = nothing
    assert len(seen) == 4
    stored = list(Commits(place, "job", "votes", 1).all())
    assert [one.shard for one in stored] == list(range(12))
    for won in seen:
        assert won == stored
    for commit in stored:
        path = commit.files["votes"][0]
        assert place.get(path) == path.encode()
    assert sum(s3.happened.values()) > 20


def test_an_outage_is_waited_out(s3: FaultyS3) -> None:
    place = open_place()
    s3.plan = always("slow_down")
    threading.Timer(2.0, lambda: setattr(s3, "plan", nothing)).start()
    began = time.monotonic()
    place.put("a", b"1")
    assert 1.5 < time.monotonic() - began < 12
    assert s3.happened["slow_down"] < 60, "whoever is told to slow down does"


def test_who_is_told_to_stop_waits_for_no_outage(s3: FaultyS3) -> None:
    place, stop = open_place(patience_s=60), threading.Event()
    place.hurry(stop)
    s3.plan = always("slow_down")
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StorageFailed):
        place.put("a", b"1")
    assert time.monotonic() - began < 8
    s3.forget()
    s3.plan = first("slow_down", 5)
    place.put("a", b"a last word gets over a slip")


class TestErrors:
    def test_an_outage_that_lasts(self, s3: FaultyS3) -> None:
        place = open_place(patience_s=1.0)
        s3.plan = always("slow_down")
        began = time.monotonic()
        with pytest.raises(
            StorageFailed, match=r"cannot write 'a' of s3://jobs/.*: status 503 SlowDown\. Run"
        ):
            place.put("a", b"1")
        assert time.monotonic() - began < 10

    def test_no_such_bucket(self, s3: FaultyS3) -> None:
        place = Storage.open("s3://there-is-none/x")
        for call in (
            place.check,
            lambda: place.put("a", b""),
            lambda: place.get("a"),
            lambda: list(place.list()),
        ):
            began = time.monotonic()
            with pytest.raises(StorageFailed, match="There is no such bucket"):
                call()
            assert time.monotonic() - began < 5

    @pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
    def test_a_wrong_address(self, s3: FaultyS3, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        began = time.monotonic()
        with pytest.raises(StorageFailed, match="check the endpoint"):
            open_place().check(write=True)
        assert time.monotonic() - began < 10

    @pytest.mark.parametrize(
        ("status", "code", "advice"),
        [
            (403, "SignatureDoesNotMatch", "credentials are wrong, or may not"),
            (403, "InvalidAccessKeyId", "credentials are wrong, or may not"),
            (401, "Unauthorized", "wrong: set AWS_ACCESS_KEY_ID"),
            (403, "RequestTimeTooSkewed", "clock of this machine is wrong"),
            (301, "", "redirect.*set AWS_REGION"),
            (400, "ExpiredToken", "have expired"),
        ],
    )
    def test_what_cannot_help_is_not_tried_again(
        self, s3: FaultyS3, status: int, code: str, advice: str
    ) -> None:
        place = open_place()
        s3.plan = always((status, code))
        for call in (lambda: place.put("a", b"1"), lambda: place.create("a", b"1"), lambda: place.get("a")):
            s3.forget()
            s3.plan = always((status, code))
            with pytest.raises(StorageFailed, match=f"{code}.*{advice}"):
                call()
            assert sum(s3.asked.values()) == 1

    def test_no_room_in_the_bucket(self, s3: FaultyS3) -> None:
        s3.plan = always((507, "QuotaExceeded"))
        with pytest.raises(StorageFull):
            open_place(patience_s=0).put("a", b"1")

    def test_no_secret_is_told(self, s3: FaultyS3, caplog: pytest.LogCaptureFixture) -> None:
        s3.plan = always((403, "SignatureDoesNotMatch"))
        place = open_place()
        with pytest.raises(StorageFailed) as caught:
            place.get("a")
        s3.plan = always("error")
        with pytest.raises(StorageFailed) as again:
            open_place(patience_s=0.5).get("a")
        told = "".join(traceback.format_exception(caught.value) + traceback.format_exception(again.value))
        for secret in ("nobody-may-see", "an-id", "Authorization", "Signature="):
            assert secret not in told + caplog.text + repr(place)

    def test_a_store_that_cannot_create_is_found_out(self, s3: FaultyS3) -> None:
        """Some servers overwrite, whatever `If-None-Match` says: no job may run there."""
        s3.plan = always("unconditional")
        place = open_place()
        place.check()
        with pytest.raises(StorageFailed, match="does not honour"):
            place.check(write=True)
        s3.plan = nothing
        assert list(place.list()) == []
        place.check(write=True)


def test_a_folder_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageFailed, match="hard links"):
        Storage.open(str(tmp_path)).create("a", b"1")
