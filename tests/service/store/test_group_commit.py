"""Writes that wait at the same time share a commit, and nobody hears before it is done."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from manyeyes.errors import StoreUnavailable
from manyeyes.service.store.group_commit import GroupCommit, Job


class Disk:
    """Takes groups of jobs, and keeps them when it is told to."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.may_go_on = threading.Event()
        self.entered = threading.Event()
        self.fails: BaseException | None = None

    def __call__(self, jobs: Sequence[Job]) -> None:
        self.entered.set()
        assert self.may_go_on.wait(10)
        self.groups.append(len(jobs))
        if self.fails is not None:
            raise self.fails
        for job in jobs:
            job.done.set_result(job.row.get("n"))


def call_together(group: GroupCommit, disk: Disk, n: int) -> list[object]:
    """Let one call begin a group and others come while it is written; return what each heard."""
    heard: list[object] = []

    def call(which: int) -> None:
        try:
            heard.append(group.wait(Job(row={"n": which})))
        except Exception as error:
            heard.append(error)

    threads = [threading.Thread(target=call, args=(which,)) for which in range(n)]
    threads[0].start()
    assert disk.entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(group._waiting) < n - 1:
        pass
    assert heard == []  # nothing is acknowledged before it is done
    disk.may_go_on.set()
    for thread in threads:
        thread.join(10)
    return heard


def test_what_waits_together_is_committed_together() -> None:
    disk = Disk()
    group = GroupCommit(disk, timeout_s=10)
    assert sorted(call_together(group, disk, 9)) == list(range(9))  # type: ignore[type-var]
    assert disk.groups == [1, 8]
    group.close()


@pytest.mark.parametrize("error", [StoreUnavailable("away"), RuntimeError("a bug"), SystemExit(1)])
def test_the_thread_outlives_a_group_that_fails(error: BaseException) -> None:
    disk = Disk()
    disk.fails = error
    disk.may_go_on.set()
    group = GroupCommit(disk, timeout_s=10)
    with pytest.raises(type(error)):
        group.wait(Job())
    disk.fails = None
    assert group.wait(Job(row={"n": 7})) == 7
    group.close()


def test_what_nobody_waits_for_any_more_is_not_written() -> None:
    disk = Disk()
    group = GroupCommit(disk, timeout_s=0.1)
    blocker = Job()
    group.put(blocker)
    assert disk.entered.wait(10)
    with pytest.raises(StoreUnavailable, match="may or may not be kept"):
        group.wait(Job())
    disk.may_go_on.set()
    group.close()
    assert blocker.done.done() and disk.groups == [1]


def test_closing_writes_what_waits_and_takes_nothing_more() -> None:
    disk = Disk()
    group = GroupCommit(disk, timeout_s=10)
    jobs = [Job(row={"n": n}) for n in range(5)]
    for job in jobs:
        group.put(job)
    disk.may_go_on.set()
    group.close()
    group.close()
    assert [job.done.result(0) for job in jobs] == list(range(5))
    with pytest.raises(StoreUnavailable, match="closed"):
        group.put(Job())
