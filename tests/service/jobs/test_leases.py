"""Leases: no two live owners, no shard that waits forever, and no clock of the wall that matters."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from manyeyes.errors import StorageFailed
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.places.leases import Lease, LeaseLost, Leases
from manyeyes.service.jobs.places.storage import Storage

LEASE_S = 60.0


class Clock:
    """Seconds that somebody else lets pass; each machine counts from another moment."""

    def __init__(self, since: float = 0.0) -> None:
        self.now = since

    def __call__(self) -> float:
        return self.now


def memory() -> Storage:
    return Storage.open(f"memory://leases/{uuid.uuid4().hex}")


def leases(storage: Storage, clock: Clock | None = None) -> Leases:
    return Leases(storage, "job", "votes", 1, LEASE_S, clock=clock or Clock())


class TestOneShard:
    def test_the_first_has_it(self) -> None:
        storage = memory()
        lease = leases(storage).acquire(7)
        assert lease is not None
        assert storage.exists(layout.lease_file("job", "votes", 1, 7, 1))
        assert leases(storage).acquire(7) is None
        assert leases(storage).acquire(8) is not None

    def test_whoever_gives_it_back_need_not_be_waited_for(self) -> None:
        storage = memory()
        first = leases(storage).acquire(0)
        assert first is not None
        first.release()
        second = leases(storage).acquire(0)
        assert second is not None
        assert second.attempt != first.attempt
        first.release()
        second.beat()
        with pytest.raises(LeaseLost):
            first.beat()

    def test_an_error_gives_it_back(self) -> None:
        storage = memory()
        lease = leases(storage).acquire(0)
        assert lease is not None
        with pytest.raises(ValueError, match="bad"), lease:
            raise ValueError("bad")
        assert leases(storage).acquire(0) is not None

    def test_what_is_committed_is_not_given_back(self) -> None:
        storage = memory()
        lease = leases(storage).acquire(0)
        assert lease is not None
        with lease:
            lease.done()
        assert leases(storage).acquire(0) is None

    def test_a_silent_owner_is_taken_over(self) -> None:
        storage, clock = memory(), Clock(1e6)
        owner, contender = leases(storage), leases(storage, clock)
        lost = owner.acquire(0)
        assert lost is not None
        assert contender.acquire(0) is None
        clock.now += LEASE_S - 1
        assert contender.acquire(0) is None
        clock.now += 1
        taken = contender.acquire(0)
        assert taken is not None
        assert taken.path.endswith("00000000.0002.json")
        with pytest.raises(LeaseLost):
            lost.beat()
        assert lost.lost.is_set()
        taken.beat()

    def test_who_beats_keeps_it(self) -> None:
        storage, clock = memory(), Clock()
        lease, contender = leases(storage).acquire(0), leases(storage, clock)
        assert lease is not None
        for _ in range(20):
            clock.now += LEASE_S * 0.9
            lease.beat()
            assert contender.acquire(0) is None

    def test_looking_once_after_a_long_time_is_not_enough(self) -> None:
        storage, clock = memory(), Clock()
        assert leases(storage).acquire(0) is not None
        clock.now += 1000 * LEASE_S  # during which nobody looked
        assert leases(storage, clock).acquire(0) is None

    def test_who_looks_anew_each_time_remembers(self) -> None:
        """A round of work makes its own; whose owner is gone with its machine is taken over all the same."""
        storage = memory()
        assert Leases(storage, "job", "votes", 1, 0.3).acquire(0) is not None
        assert Leases(storage, "job", "votes", 1, 0.3).acquire(0) is None
        assert Leases(storage, "job", "labels", 1, 0.3).acquire(0) is not None
        time.sleep(0.35)
        assert Leases(storage, "job", "votes", 1, 0.3).acquire(0) is not None
        storage.delete([meta.path for meta in storage.list()])
        assert Leases(storage, "job", "votes", 1, 0.3).acquire(0) is not None
        assert Leases(storage, "job", "votes", 1, 0.3).acquire(0) is None

    def test_what_was_swept_away_is_free(self) -> None:
        storage, clock = memory(), Clock()
        contender = leases(storage, clock)
        assert leases(storage).acquire(0) is not None
        assert contender.acquire(0) is None
        storage.delete([meta.path for meta in storage.list()])
        assert contender.acquire(0) is not None

    def test_a_lease_of_another_version_ends_when_its_beat_does(self) -> None:
        storage, clock = memory(), Clock()
        storage.put(layout.lease_file("job", "votes", 1, 0, 1), b'["?"]')
        contender = leases(storage, clock)
        assert contender.acquire(0) is None
        clock.now += LEASE_S
        assert contender.acquire(0) is not None

    def test_of_many_that_see_it_end_one_takes_over(self) -> None:
        storage, clock = memory(), Clock()
        assert leases(storage).acquire(0) is not None
        contenders = [leases(storage, clock) for _ in range(8)]
        assert [contender.acquire(0) for contender in contenders] == [None] * 8
        clock.now += LEASE_S
        assert sum(found is not None for found in _at_once(contenders)) == 1

    def test_of_many_that_begin_one_has_it(self) -> None:
        storage = memory()
        assert sum(found is not None for found in _at_once([leases(storage) for _ in range(8)])) == 1

    def test_an_outage_does_not_end_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lease = Leases(memory(), "job", "votes", 1, 0.2).acquire(0)
        assert lease is not None

        def fail(path: str) -> bool:
            raise StorageFailed("away")

        with lease:
            with monkeypatch.context() as patch:
                patch.setattr(lease.storage, "exists", fail)
                time.sleep(0.2)
                assert not lease.lost.is_set()
            before = lease.data()
            time.sleep(0.2)
            assert lease.data() != before


def _at_once(contenders: list[Leases]) -> list[Lease | None]:
    found: list[Lease | None] = []
    ready = threading.Barrier(len(contenders))

    def contend(contender: Leases) -> None:
        ready.wait()
        found.append(contender.acquire(0))

    threads = [threading.Thread(target=contend, args=(contender,)) for contender in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class Machines(RuleBasedStateMachine):
    """Several machines that want one shard: some are paused, some die, and the clocks on their walls jump."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = memory()
        self.now = 0.0
        self.clocks = [Clock(1000.0 * index) for index in range(3)]
        self.contenders = [leases(self.storage, clock) for clock in self.clocks]
        self.owned: list[Lease | None] = [None] * 3
        self.owner: int | None = None
        """Who took it last, and has not given it back."""
        self.told = 0.0
        """When that one was last heard."""
        self.epochs = 0

    @rule(seconds=st.sampled_from([0.0, 1.0, 29.0, 31.0, 60.0, 1e5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for clock in self.clocks:
            clock.now += seconds

    @rule(who=st.integers(0, 2))
    def ask(self, who: int) -> None:
        found = self.contenders[who].acquire(0)
        if found is None:
            assert self.owner is not None, "a shard that nobody has is given to whoever asks"
            return
        assert self.owner is None or self.now - self.told >= LEASE_S, "a live owner lost its shard"
        self.epochs += 1
        assert found.path == layout.lease_file("job", "votes", 1, 0, self.epochs)
        self.owned[who], self.owner, self.told = found, who, self.now

    @rule(who=st.integers(0, 2))
    def beat(self, who: int) -> None:
        lease = self.owned[who]
        if lease is None:
            return
        if self.owner == who:
            lease.beat()
            self.told = self.now
            return
        with pytest.raises(LeaseLost):  # it comes back after a pause
            lease.beat()
        self.owned[who] = None

    @rule(who=st.integers(0, 2))
    def give_back(self, who: int) -> None:
        lease, self.owned[who] = self.owned[who], None
        if lease is not None:
            lease.release()
            if self.owner == who:
                self.owner = None

    @rule(who=st.integers(0, 2))
    def start_again(self, who: int) -> None:
        """It dies and forgets everything; its lease stays."""
        self.contenders[who], self.owned[who] = leases(self.storage, self.clocks[who]), None

    @precondition(lambda self: self.owner is not None)
    @rule(who=st.integers(0, 2))
    def wait_for_a_silent_owner(self, who: int) -> None:
        if self.contenders[who].acquire(0) is not None:
            self.epochs += 1
        else:
            self.time_passes(LEASE_S)
            assert self.contenders[who].acquire(0) is not None, "a shard waits forever"
            self.epochs += 1
        # Taken by one that dies at once.
        self.contenders[who] = leases(self.storage, self.clocks[who])
        self.owned[who], self.owner, self.told = None, 3, self.now

    @invariant()
    def each_epoch_is_there(self) -> None:
        assert len(list(self.storage.list())) == self.epochs


def test_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: (-1) ** next(jumps) * 1e6)  # the wall's; hypothesis has its own
    run_state_machine_as_test(
        Machines, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


OWNER = """
import sys, time
from manyeyes.service.jobs.places.leases import Leases
from manyeyes.service.jobs.places.storage import Storage
lease = Leases(Storage.open(sys.argv[1]), "job", "votes", 1, float(sys.argv[2])).acquire(0)
with lease:
    print("has it", flush=True)
    lease.lost.wait(60)
    print("lost it", flush=True)
"""


@contextmanager
def owner(place: Path, lease_s: float) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, place, str(lease_s)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_paused_process_that_comes_back(tmp_path: Path) -> None:
    contender = Leases(Storage.open(str(tmp_path)), "job", "votes", 1, 1.0)
    with owner(tmp_path, 1.0) as process:
        for _ in range(8):
            assert contender.acquire(0) is None, "it beats"
            time.sleep(0.2)
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        while (taken := contender.acquire(0)) is None:
            time.sleep(0.05)
        assert 0.9 < time.monotonic() - began < 3
        with taken:
            process.send_signal(signal.SIGCONT)
            assert process.stdout is not None
            assert process.stdout.readline() == "lost it\n"
            assert not taken.lost.is_set()


def test_a_killed_process_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    contender = Leases(Storage.open(str(tmp_path)), "job", "votes", 1, 3600)
    with owner(tmp_path, 3600) as process:
        assert contender.acquire(0) is None
        process.kill()  # and nobody asks how it ended: it stays as a zombie
        began = time.monotonic()
        while contender.acquire(0) is None:
            time.sleep(0.01)
        assert time.monotonic() - began < 5


def test_another_machine_s_process_is_waited_for(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    lease = Leases(storage, "job", "votes", 1, 3600).acquire(0)
    assert lease is not None
    told = json.loads(storage.get(lease.path))
    told["process"] = {"machine": "another", "pid": 2**22 + 1, "started": 1}
    storage.put(lease.path, json.dumps(told).encode())
    assert Leases(storage, "job", "votes", 1, 3600).acquire(0) is None
    told["process"]["machine"] = json.loads(lease.data())["process"]["machine"]
    storage.put(lease.path, json.dumps(told).encode())
    assert Leases(storage, "job", "votes", 1, 3600).acquire(0) is not None
