"""What a worker does with one shard: lease it, read its rows, see, vote, write, and commit.

The same code runs on a thread of a local process and in a Ray actor. Whatever goes wrong with a row is a row of the
output; whatever goes wrong with the shard is its Outcome.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.shapes import Commit, PassName, Shard
from manyeyes.service.jobs.storage import Storage

RowError: TypeAlias = tuple[str, str, str]
"""The id of a row that failed, the code and the message of its error."""
OnRows: TypeAlias = Callable[[int, Sequence[RowError]], None]
"""Called with how many more rows are known, and what failed of them."""
OutcomeState: TypeAlias = Literal["committed", "done before", "busy", "lost", "stopped", "error"]


@dataclass(frozen=True)
class WorkSpec:
    """What a worker needs to know of a job; small and picklable. out: the job's place.

    attempts: how often a row is fetched whose failure may pass. lease_s: how long a lease may stand still. update:
    whether features are taken that earlier jobs stored; a later generation takes them in any case. cache: the folder of
    the feature cache; None for the usual one. buckets: those of the operator; None where credentials come from the
    environment.
    """

    out: str
    job: str
    pass_: PassName
    generation: int = 0
    attempts: int = 4
    lease_s: float = 60.0
    update: bool = True
    cache: str | None = None
    buckets: Buckets | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a shard.

    committed: by us, commit is ours. done before: it was committed already; commit is that one. busy: another works on
    it. lost: another committed it first, or took the lease; commit is theirs, if there is one. stopped: on request.
    error: the code and the message of what went wrong; fatal where it would with every other shard, too.
    """

    shard: int
    state: OutcomeState
    commit: Commit | None = None
    code: str | None = None
    message: str | None = None
    fatal: bool = False


class ShardWorker:
    """Works on shards of one pass of a job, on any number of threads at once. Loads the job and its models once.

    Raises NotFound if there is no such job, InvalidRecipe or WeightsMismatch if this process cannot do what it asks.
    """

    def __init__(self, spec: WorkSpec, *, storage: Storage | None = None) -> None:
        self.spec = spec
        self.storage = storage or Storage.open(spec.out, buckets=spec.buckets)

    def do(
        self, shard: Shard, *, stop: threading.Event | None = None, on_rows: OnRows | None = None
    ) -> Outcome:
        """Do a shard and say what came of it; raises for no row and no failure of the place."""
        raise NotImplementedError
