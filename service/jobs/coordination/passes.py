"""One pass over the shards of a job: rounds of an engine, until each shard is committed, by this process or another."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from manyeyes.service.jobs.engines.base import Engine
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.tally import read_commits
from manyeyes.service.jobs.shapes import Commit, Shard
from manyeyes.service.jobs.work.worker import OnRows, Outcome, WorkSpec

log: Final = logging.getLogger("manyeyes.service.jobs")

ATTEMPTS: Final = 3
"""How often a shard is tried that fails as a whole, such as when its worker dies."""
_BUSY_WAIT_S: Final = 1.0
_RETRY_WAIT_S: Final = 2.0

OnCommit: TypeAlias = Callable[[Commit], None]
OnProblem: TypeAlias = Callable[[Outcome, bool], None]
"""Called with a shard that failed as a whole, and whether it is tried again."""


class ShardFailed(Exception):
    """A shard failed as a whole, and trying again does not help."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"shard {outcome.shard}: {outcome.message}")
        self.outcome = outcome


class Pass:
    """Works on shards until all of them are committed.

    on_commit: called once with the commit of each shard that was missing at first. on_problem: with what went wrong.
    on_others: when somebody else is seen at work on them.
    """

    def __init__(
        self,
        storage: Storage,
        engine: Engine,
        spec: WorkSpec,
        *,
        on_commit: OnCommit,
        on_problem: OnProblem,
        on_others: Callable[[], None] = lambda: None,
        stop: threading.Event,
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._commits = Commits(storage, spec.job, spec.pass_, spec.generation)
        self._on_commit = on_commit
        self._on_problem = on_problem
        self._on_others = on_others
        self._stop = stop
        self._round = threading.Event()  # set: this round shall end
        self._busy: list[Shard] = []
        self._failed: list[Shard] = []
        self._elsewhere: list[Shard] = []
        self._attempts: Counter[int] = Counter()
        self._fatal: ShardFailed | None = None

    def run(self, shards: Iterable[Shard], *, on_rows: OnRows | None = None) -> None:
        """Return when all are committed, or when it was told to stop.

        Raises ShardFailed if one cannot be, and whatever the engine raises when it cannot begin.
        """
        left = list(shards)
        while left and not self._stop.is_set():
            self._round.clear()
            with _Forwarded(self._stop, on=self._round):
                self._engine.run(left, self._spec, self._settle, self._round, on_rows=on_rows)
            for commit in read_commits(self._commits, [shard.index for shard in self._elsewhere]):
                self._on_commit(commit)
            self._elsewhere.clear()
            if self._fatal is not None:
                raise self._fatal
            left, wait_s = self._rest()
            if left and not self._stop.wait(wait_s):
                left = self._still_missing(left)

    def _settle(self, shard: Shard, outcome: Outcome) -> None:
        if outcome.state in ("done before", "busy", "lost"):
            self._on_others()
        if outcome.state in ("committed", "done before", "lost"):
            if outcome.commit is not None:
                self._on_commit(outcome.commit)
            elif outcome.state == "lost":  # another has the lease, and may not have committed yet
                self._busy.append(shard)
            else:
                self._elsewhere.append(shard)
        elif outcome.state == "busy":
            self._busy.append(shard)
        elif outcome.state == "error":
            self._note(shard, outcome)

    def _note(self, shard: Shard, outcome: Outcome) -> None:
        self._attempts[shard.index] += 1
        again = not outcome.fatal and self._attempts[shard.index] < ATTEMPTS
        self._on_problem(outcome, again)
        if again:
            self._failed.append(shard)
        elif self._fatal is None:
            self._fatal = ShardFailed(outcome)
            self._round.set()

    def _rest(self) -> tuple[list[Shard], float]:
        """Return the shards of the next round, and how long it waits."""
        failed, busy = self._failed, self._busy
        self._failed, self._busy = [], []
        if failed:
            most = max(self._attempts[shard.index] for shard in failed)
            return failed + busy, _RETRY_WAIT_S * most * random.uniform(0.5, 1)
        return busy, _BUSY_WAIT_S if busy else 0.0

    def _still_missing(self, shards: Sequence[Shard]) -> list[Shard]:
        """Return the shards that nobody committed meanwhile; count the others."""
        done = self._commits.done()
        for commit in read_commits(self._commits, [shard.index for shard in shards if shard.index in done]):
            self._on_commit(commit)
        return [shard for shard in shards if shard.index not in done]


class _Forwarded:
    """Sets an event once another is set: what ends the job ends its round, and a round may end by itself."""

    def __init__(self, event: threading.Event, *, on: threading.Event) -> None:
        self._event = event
        self._on = on
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="manyeyes-stop", daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            if self._event.is_set():
                self._on.set()
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
