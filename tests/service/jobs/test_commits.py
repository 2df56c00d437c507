"""Commits: one wins, everybody sees the same one, and what is written is read again."""

from __future__ import annotations

import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.errors import StorageFailed
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.places.commits import Commits, from_json, to_json
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Commit, Counts, Manifest, Shard


def commits(uri: str | None = None) -> Commits:
    return Commits(Storage.open(uri or f"memory://commits/{uuid.uuid4().hex}"), "job", "votes", 1)


def commit(shard: int, attempt: str) -> Commit:
    return Commit(
        shard, attempt, {"votes": (f"{attempt}.parquet", "00")}, Counts(rows=3, labeled=2, failed=1)
    )


def test_the_first_wins_and_stays() -> None:
    all_ = commits()
    assert all_.get(3) is None
    assert all_.create(commit(3, "a")) == commit(3, "a")
    assert all_.create(commit(3, "b")) == commit(3, "a")
    assert all_.create(commit(3, "a")) == commit(3, "a")
    assert all_.get(3) == commit(3, "a")


def test_all_are_listed_in_order() -> None:
    all_ = commits()
    shards = [*range(600), 123456789]
    for shard in reversed(shards):
        all_.create(commit(shard, "a"))
    assert all_.done() == set(shards)
    assert [one.shard for one in all_.all()] == shards
    assert list(commits().all()) == []
    assert Commits(all_.storage, "job", "labels", 1).done() == set()
    assert Commits(all_.storage, "job", "votes", 2).done() == set()


def test_of_many_at_once_all_see_one_winner(tmp_path_factory: pytest.TempPathFactory) -> None:
    all_ = commits(str(tmp_path_factory.mktemp("out")))
    seen: list[Commit] = []
    ready = threading.Barrier(8)

    def end(who: int) -> None:
        ready.wait()
        seen.append(all_.create(commit(0, f"by {who}")))

    threads = [threading.Thread(target=end, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert {one.attempt for one in seen} == {seen[0].attempt}
    assert list(all_.all()) == [seen[0]]


def test_an_attempt_must_be_told() -> None:
    with pytest.raises(ValueError, match="attempt"):
        commits().create(commit(0, ""))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"shard": 1}', b"\xff"])
def test_a_damaged_one_is_no_commit(data: bytes) -> None:
    all_ = commits()
    all_.storage.put(layout.commit_file("job", "votes", 1, 3), data)
    with pytest.raises(StorageFailed, match=r"00000003\.json.* is damaged"):
        all_.get(3)


names = st.text(max_size=20)
shards = st.builds(
    Shard, st.integers(0, 10**6), names, names, st.integers(1, 10**5), st.lists(st.integers(0, 99)).map(tuple)
)
counts = st.builds(
    Counts, *[st.integers(0, 2**40)] * 4, errors=st.dictionaries(names, st.integers(0, 2**40), max_size=3)
)
made = st.one_of(
    shards,
    st.builds(Manifest, names, names, st.lists(shards, max_size=5).map(tuple)),
    st.builds(
        Commit,
        st.integers(0, 10**8),
        names,
        st.dictionaries(names, st.tuples(names, names), max_size=3),
        counts,
        st.dictionaries(names, st.integers(0, 2**40), max_size=3),
        st.floats(0, 1e9),
    ),
)


@given(made)
def test_what_is_written_is_read(value: Shard | Manifest | Commit) -> None:
    data = to_json(value)
    again = from_json(type(value), data)
    assert again == value
    assert to_json(again) == data
