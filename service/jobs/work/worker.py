"""What a worker does with one shard: lease it, read its rows, see, vote, write, and commit.

The same code runs on a thread of a local process and in a Ray actor. Whatever goes wrong with a row is a row of the
output; whatever goes wrong with the shard is its Outcome.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from manyeyes.errors import (
    InvalidRecipe,
    InvalidRequest,
    InvalidVotes,
    ItemError,
    ManyeyesError,
    MissingDependency,
    ModelNotFound,
    NotFitted,
    StorageFull,
    UntrustedRecipe,
    WeightsMismatch,
)
from manyeyes.fitting import Collected
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.reading import Decode
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.layout import part_file
from manyeyes.service.jobs.manifests.fetch import Fetcher
from manyeyes.service.jobs.manifests.manifest import read_rows
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.leases import Lease, LeaseLost, Leases
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Commit, Counts, PassName, Row, Shard
from manyeyes.service.jobs.work.fitting import label_model_files, newest_votes
from manyeyes.service.jobs.work.generations import read_generation
from manyeyes.service.jobs.work.job import load_files, read_job
from manyeyes.service.jobs.work.label_table import label_table
from manyeyes.service.jobs.work.parts import digest_of, table_bytes
from manyeyes.service.jobs.work.seeing import Fetches, Seeing, Stopped, error_of_row, run_counted
from manyeyes.service.jobs.work.voting import collect
from manyeyes.types import ABSTAIN

log: Final = logging.getLogger("manyeyes.service.jobs")

_FATAL: Final = (
    InvalidRecipe,
    InvalidRequest,
    InvalidVotes,
    MissingDependency,
    ModelNotFound,
    NotFitted,
    StorageFull,
    UntrustedRecipe,
    WeightsMismatch,
)
"""What would end every other shard in the same way."""

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
    environment. web: which addresses may be fetched, where an operator says so.
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
    web: FetchSettings | None = None


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

    fetcher, decode: who fetches rows and who makes pixels of them, where others do; by default this process.
    Raises NotFound if there is no such job, or no label model yet for its labels; InvalidRecipe, UntrustedRecipe or
    WeightsMismatch if this process would not do what was begun.
    """

    def __init__(
        self,
        spec: WorkSpec,
        *,
        storage: Storage | None = None,
        fetcher: Fetches | None = None,
        decode: Decode | None = None,
    ) -> None:
        self.spec = spec
        self.storage = storage or Storage.open(spec.out, buckets=spec.buckets)
        self.job = read_job(self.storage, spec.job)
        self._commits = Commits(self.storage, spec.job, spec.pass_, spec.generation)
        self._leases = Leases(self.storage, spec.job, spec.pass_, spec.generation, lease_s=spec.lease_s)
        self._again = read_generation(self.storage, spec.job, spec.generation).again
        cache = Cache.shared(spec.cache) if spec.pass_ == "votes" else None
        self.labeler = Labeler(
            self.job.recipe,
            extractor=extractor_for(self.job.recipe, cache=cache, run=run_counted, decode=decode),
        )
        if not self.job.trusted:
            _refuse_code(self.labeler)
        self._check_versions()
        if spec.pass_ == "labels":
            load_files(self.labeler, label_model_files(self.job, self.storage, spec.generation))
            return
        self._fetcher = fetcher or Fetcher(buckets=spec.buckets, web=spec.web)
        self._seeing = Seeing(
            self.labeler.extractor,
            self.storage,
            self._fetcher,
            needs=self.labeler.needs,
            versions=self.job.versions,
            attempts=spec.attempts,
        )

    def do(
        self, shard: Shard, *, stop: threading.Event | None = None, on_rows: OnRows | None = None
    ) -> Outcome:
        """Do a shard and say what came of it; raises for no row and no failure of the place.

        stop: set by who wants no more of it; looked at some times a second. on_rows: told of rows as they are known.
        """
        began = time.monotonic()
        try:
            found = self._commits.get(shard.index)
            if found is not None:
                return Outcome(shard.index, "done before", found)
            lease = self._leases.acquire(shard.index)
            if lease is None:
                return Outcome(shard.index, "busy")
            with lease:
                # Whoever had it before may have committed between the two looks.
                found = self._commits.get(shard.index)
                if found is not None:
                    lease.done()
                    return Outcome(shard.index, "done before", found)
                return self._do(shard, lease, _Asked(lease, stop), on_rows, began)
        except Stopped:
            return Outcome(shard.index, "stopped")
        except LeaseLost:
            return Outcome(shard.index, "lost")
        except Exception as error:
            if not isinstance(error, ManyeyesError):
                log.exception("shard %d of job %s failed", shard.index, self.spec.job)
            code = error.code if isinstance(error, ManyeyesError) else type(error).__name__
            return Outcome(
                shard.index, "error", code=code, message=str(error), fatal=isinstance(error, _FATAL)
            )

    def _do(self, shard: Shard, lease: Lease, asked: _Asked, on_rows: OnRows | None, began: float) -> Outcome:
        made = self._votes(shard, asked, on_rows) if self.spec.pass_ == "votes" else self._labels(shard)
        attempt = uuid.uuid4().hex[:12]
        path = part_file(self.spec.job, self.spec.pass_, self.spec.generation, shard.index, attempt)
        if asked():
            raise Stopped
        self.storage.put(path, made.data)
        commit = Commit(
            shard=shard.index,
            attempt=attempt,
            files={self.spec.pass_: (path, digest_of(made.data)), **made.files},
            counts=made.counts,
            computed=dict(made.computed),
            seconds=round(time.monotonic() - began, 3),
        )
        winner = self._commits.create(commit)
        lease.done()
        if winner.attempt == attempt:
            return Outcome(shard.index, "committed", commit)
        self.storage.delete([path])
        return Outcome(shard.index, "lost", winner)

    def _votes(self, shard: Shard, asked: _Asked, on_rows: OnRows | None) -> _Made:
        rows = read_rows(self.storage, shard)
        _assert_rows(shard, len(rows))
        wrong = {i: error for i, row in enumerate(rows) if (error := error_of_row(row)) is not None}
        attempts: dict[int, int] = {}
        if self.spec.generation and self._again:
            self._leave_alone(shard, rows, wrong, attempts)
        seen = self._seeing.see(
            shard,
            rows,
            wrong=wrong,
            stored=self.spec.update or self.spec.generation > 0,
            stop=asked,
            on_chunk=_telling(rows, on_rows),
        )
        part = collect(self.labeler, seen, attempts=attempts | seen.attempts)
        if on_rows is not None:  # what LFs made of rows that had been known as sound
            late = sorted(part.errors.keys() - seen.errors.keys())
            on_rows(0, [(rows[i].id, part.errors[i].code, str(part.errors[i])) for i in late])
        _assert_rows(shard, len(part.ids))
        _assert_rows(shard, part.votes.n_items)
        return _Made(
            part.to_bytes(),
            _counts(len(rows), 0, 0, part.errors),
            {f"features:{feature}": file for feature, file in sorted(seen.parts.items())},
            seen.computed,
        )

    def _leave_alone(
        self, shard: Shard, rows: Sequence[Row], wrong: dict[int, ItemError], attempts: dict[int, int]
    ) -> None:
        """Note the errors of the generation before that are not tried again."""
        earlier = newest_votes(self.storage, self.spec.job, shard, self.spec.generation - 1)
        if earlier is None:
            return
        if list(earlier.ids) != [row.id for row in rows]:
            raise InvalidRequest(
                f"the votes of shard {shard.index} are not those of its rows; begin the job again in an empty place"
            )
        for row, error in earlier.errors.items():
            if error.code not in self._again:
                wrong[row], attempts[row] = error, earlier.attempts.get(row, 1)

    def _labels(self, shard: Shard) -> _Made:
        part = newest_votes(self.storage, self.spec.job, shard, self.spec.generation)
        if part is None:
            raise InvalidRequest(
                f"shard {shard.index} of job {self.spec.job} has no votes yet; run the job, which makes them first"
            )
        _assert_rows(shard, len(part.ids))
        labels = self.labeler.fuse(Collected(part.votes, part.errors, part.ids, part.embeddings))
        table = label_table(labels, part.attempts)
        _assert_rows(shard, table.num_rows)
        failed = len(part.errors)
        abstained = int((labels.label == ABSTAIN).sum()) - failed
        counts = _counts(len(labels), len(labels) - failed - abstained, abstained, part.errors)
        return _Made(table_bytes(table), counts)

    def _check_versions(self) -> None:
        """Raise if this process has other weights or other code than those with which the job was begun."""
        versions = self.labeler.extractor.versions(self.labeler.needs)
        if versions != dict(self.job.versions):
            differ = sorted(f for f in versions if versions[f] != self.job.versions.get(f))
            raise WeightsMismatch(
                f"job {self.job.id} was begun with other models than this process has: {', '.join(differ)}; give it"
                " the same weights and packages"
            )
        for lf in self.labeler.lfs:
            if lf.operator_only:
                lf.prepare(self.labeler.extractor)
                if self.job.lf_versions.get(lf.name) != lf.version:
                    raise InvalidRecipe(
                        f"the function of LF {lf.name!r} is not the one with which job {self.job.id} was begun; give"
                        " this process the same code, or begin the job again"
                    )


@dataclass(frozen=True)
class _Made:
    """What is to be committed of a shard. data: of the pass's own part. files: what else was written."""

    data: bytes
    counts: Counts
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    computed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Asked:
    """Whether to stop. Raises LeaseLost once another works on the shard."""

    lease: Lease
    stop: threading.Event | None

    def __call__(self) -> bool:
        if self.lease.lost.is_set():
            raise LeaseLost(f"{self.lease.path!r} was taken over")
        return self.stop is not None and self.stop.is_set()


def _telling(rows: Sequence[Row], on_rows: OnRows | None) -> Callable[..., None]:
    def tell(known: Sequence[int], errors: Mapping[int, ItemError]) -> None:
        if on_rows is not None and known:
            on_rows(len(known), [(rows[i].id, error.code, str(error)) for i, error in errors.items()])

    return tell


def _counts(n_rows: int, labeled: int, abstained: int, errors: Mapping[int, ItemError]) -> Counts:
    codes = Counter(error.code for error in errors.values())
    return Counts(n_rows, labeled, abstained, len(errors), dict(sorted(codes.items())))


def _assert_rows(shard: Shard, n_rows: int) -> None:
    """Raise RuntimeError, which ends the shard, if a row was lost or came from nowhere."""
    wanted = shard.n_rows - len(set(shard.skip))
    if n_rows != wanted:
        raise RuntimeError(f"shard {shard.index} has {wanted} rows, and {n_rows} came out")


def _refuse_code(labeler: Labeler) -> None:
    """Raise UntrustedRecipe if a recipe from outside runs code; it was refused when the job was begun, too."""
    for lf in labeler.lfs:
        if lf.operator_only:
            raise UntrustedRecipe(
                f"LF {lf.name!r} runs code that the recipe names, and the job came over HTTP; run it from the shell"
            )
