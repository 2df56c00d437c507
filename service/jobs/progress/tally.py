"""What the commits of a pass add up to, for progress and for the breaker.

Commits never change, so sums of them may be kept: whoever works writes down now and then which shards it has counted
and what they came to, and a reader lists the commits and reads only those that are newer. Without the file the same
numbers come out, by reading every commit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Final

from manyeyes.errors import NotFound
from manyeyes.service.jobs.layout import tally_file
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Commit, Counts, PassName

_READERS: Final = 16


@dataclass
class Tally:
    """Sums over the commits of a pass. done: the shards that are in it. computed: feature → inputs of its model.

    rows_per_s: how fast its writer was, where that is known.
    """

    done: set[int] = field(default_factory=set)
    counts: Counts = field(default_factory=Counts)
    computed: Counter[str] = field(default_factory=Counter)
    rows_per_s: float | None = None

    def add(self, commit: Commit, *, instead_of: Commit | None = None) -> None:
        """Add a commit, once. instead_of: that of an earlier generation, whose rows it replaces."""
        if commit.shard in self.done:
            return
        self.done.add(commit.shard)
        self.counts += commit.counts
        if instead_of is not None:
            self.counts = minus(self.counts, instead_of.counts)
        self.computed.update(commit.computed)

    def to_bytes(self) -> bytes:
        """Return what is kept of it."""
        told = {
            "done": [list(pair) for pair in _ranges(self.done)],
            "counts": asdict(self.counts),
            "computed": dict(self.computed),
            "rows_per_s": self.rows_per_s,
        }
        return json.dumps(told, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Tally:
        """Return what was kept. Raises ValueError, KeyError or TypeError if it is damaged."""
        told = json.loads(data)
        done = {shard for first, last in told["done"] for shard in range(first, last + 1)}
        return cls(done, Counts(**told["counts"]), Counter(told["computed"]), told["rows_per_s"])


def minus(a: Counts, b: Counts) -> Counts:
    """Return the rows that are in ``a`` and not in ``b``, which is a part of it.

    >>> minus(Counts(9, failed=3, errors={"x": 2, "y": 1}), Counts(4, failed=2, errors={"x": 2})).errors
    {'y': 1}
    """
    errors = Counter(a.errors)
    errors.subtract(b.errors)
    left = {code: n for code, n in sorted(errors.items()) if n}
    return Counts(
        a.rows - b.rows, a.labeled - b.labeled, a.abstained - b.abstained, a.failed - b.failed, left
    )


def read_tally(
    storage: Storage, job: str, pass_: PassName, generation: int, *, known: Tally | None = None
) -> Tally:
    """Return what the commits of a pass come to now. known: an earlier answer, which is brought up to date."""
    tally = known if known is not None else _kept(storage, job, pass_, generation)
    commits = Commits(storage, job, pass_, generation)
    new = commits.done() - tally.done
    for commit in read_commits(commits, new):
        tally.add(commit, instead_of=replaced_by(commit, storage, job, pass_, generation))
    return tally


def read_commits(commits: Commits, shards: Iterable[int]) -> Iterator[Commit]:
    """Yield the commits of some shards, in order; several are read at once."""
    wanted = sorted(shards)
    if len(wanted) == 1:
        found = commits.get(wanted[0])
        if found is not None:
            yield found
        return
    with ThreadPoolExecutor(_READERS, thread_name_prefix="manyeyes-commits") as pool:
        yield from (commit for commit in pool.map(commits.get, wanted) if commit is not None)


def replaced_by(
    commit: Commit, storage: Storage, job: str, pass_: PassName, generation: int
) -> Commit | None:
    """Return the newest commit of an earlier generation whose rows this one's replace, where there is one.

    The labels of a generation are all written anew, and replace nothing in its sums.
    """
    if pass_ == "votes":
        for earlier in range(generation - 1, -1, -1):
            found = Commits(storage, job, pass_, earlier).get(commit.shard)
            if found is not None:
                return found
    return None


def write_tally(storage: Storage, job: str, pass_: PassName, generation: int, data: bytes) -> None:
    """Keep what a pass came to, as bytes of a tally, for whoever asks how far it is."""
    storage.put(tally_file(job, pass_, generation), data, durable=False)


def _kept(storage: Storage, job: str, pass_: PassName, generation: int) -> Tally:
    try:
        return Tally.from_bytes(storage.get(tally_file(job, pass_, generation)))
    except (NotFound, ValueError, KeyError, TypeError):
        return Tally()


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of neighbouring numbers, as (first, last).

    >>> list(_ranges({1, 2, 3, 7, 9, 8}))
    [(1, 3), (7, 9)]
    """
    first: int | None = None
    last = 0
    for number in sorted(numbers):
        if first is None or number != last + 1:
            if first is not None:
                yield first, last
            first = number
        last = number
    if first is not None:
        yield first, last


def errors_told(counts: Counts, most: int = 3) -> str:
    """Return the commonest codes of a job's failed rows in words.

    >>> errors_told(Counts(10, failed=4, errors={"fetch_failed": 1, "empty_item": 3}))
    '3 empty_item, 1 fetch_failed'
    """
    ranked = sorted(counts.errors.items(), key=lambda pair: (-pair[1], pair[0]))
    told = [f"{n:,} {code}" for code, n in ranked[:most]]
    more = len(ranked) - most
    return ", ".join([*told, *([f"{more} other codes"] if more > 0 else [])])
