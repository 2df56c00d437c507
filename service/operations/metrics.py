"""What the service counts, for Prometheus: one registry for each app, so that two apps in a process do not mix.

Label values are bounded: routes are templates, lines and labeling functions are the operator's, and beyond a fixed
number of series everything else is counted as "other".
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from manyeyes import __version__
from manyeyes.service.operations.observer import Loss
from manyeyes.service.operations.processes import Children

OTHER: Final = "other"
MAX_LINES: Final = 64
MAX_VOTE_SERIES: Final = 5_000
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_LOSSES: Final[tuple[Loss, ...]] = ("gone", "expired", "refused")


class Bounded:
    """Lets the first so many values of a label through; the others become "other".

    >>> lines = Bounded(1)
    >>> lines("a"), lines("b"), lines("a")
    (('a',), ('other',), ('a',))
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._seen: set[tuple[str, ...]] = set()
        self._lock = Lock()

    def __call__(self, *values: str) -> tuple[str, ...]:
        """Return the values, or as many times "other"."""
        if values in self._seen:
            return values
        with self._lock:
            if len(self._seen) >= self.most:
                return (OTHER,) * len(values)
            self._seen.add(values)
        return values


class Metrics:
    """The metrics of one app. It is an Observer of the pipeline; all its methods may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # The process: memory, CPU seconds, open files, start time. The platform: which Python.
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(Children())
        self._lines, self._votes_seen = Bounded(MAX_LINES), Bounded(MAX_VOTE_SERIES)

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"manyeyes_{name}", told, labels, registry=self.registry)

        def gauge(name: str, told: str, *labels: str) -> Gauge:
            return Gauge(f"manyeyes_{name}", told, labels, registry=self.registry)

        def histogram(name: str, told: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"manyeyes_{name}", told, labels, buckets=buckets, registry=self.registry)

        self.build = gauge("build_info", "Which version runs; always 1.", "version", "python")
        self.build.labels(__version__, platform.python_version()).set(1)

        self.http_requests = counter(
            "http_requests_total",
            "Requests that were answered, by route and status.",
            "route",
            "method",
            "status",
        )
        self.http_seconds = histogram(
            "http_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            "route",
            "method",
        )
        self.http_open = gauge("http_requests_in_progress", "Requests that are being answered.")
        self.http_problems = counter(
            "http_problems_total",
            "Answers that were problem documents, by the code of the error, such as overloaded.",
            "code",
        )
        self.queue = gauge("queue_items", "Items that wait in front of a model.", "line")
        self.wait = histogram("queue_wait_seconds", "How long an item waited in front of a model.", "line")
        self.batch = histogram("batch_items", "Items in a batch.", "line", buckets=_BATCH)
        self.inference = histogram("inference_seconds", "How long a model took for a batch.", "line")
        self.decode = histogram("decode_seconds", "How long an image took to be read, decoded and reduced.")
        self.dropped = counter(
            "dropped_items_total",
            "Items that were not labeled: the caller was gone, the time was over, or they were refused.",
            "reason",
        )
        self.restarts = counter(
            "stage_restarts_total", "Threads of the pipeline that died and were started again.", "stage"
        )
        self.votes = counter(
            "votes_total",
            "Votes of the labeling functions of stored recipes: a class, several, or abstain.",
            "recipe",
            "lf",
            "vote",
        )
        self.store_seconds = histogram(
            "store_query_duration_seconds", "How long a statement to the database took.", "operation"
        )
        self.store_errors = counter(
            "store_errors_total", "Statements to the database that failed.", "operation"
        )
        self.ready = gauge("ready", "Whether /readyz last said that the service is ready: 1 or 0.")
        self.check = gauge(
            "ready_check", "What /readyz last said of each thing that must work: 1 or 0.", "check"
        )
        self.canary = histogram("canary_seconds", "How long a canary took that went through a model.", "line")
        self.canary_failures = counter(
            "canary_failures_total", "Canaries that failed or came too late.", "line"
        )
        self.jobs = gauge("jobs", "Batch jobs that are not over, of all replicas, by status.", "status")
        self.jobs_ended = counter("jobs_ended_total", "Batch jobs that ended here, by how.", "status")
        self.rows = counter(
            "job_rows_total",
            "Rows of batch jobs that were done here, by pass and outcome.",
            "pass",
            "outcome",
        )
        for why in _LOSSES:  # A rate needs a zero to start from.
            self.dropped.labels(why)

    # --- what the pipeline tells; see Observer

    def queued(self, line: str, n_items: int) -> None:
        """So many items wait in a line now."""
        self.queue.labels(*self._lines(line)).set(n_items)

    def waited(self, line: str, seconds: float) -> None:
        """An item waited so long in a line before its batch began."""
        self.wait.labels(*self._lines(line)).observe(seconds)

    def inferred(self, line: str, n_items: int, seconds: float) -> None:
        """A model has seen a batch."""
        (label,) = self._lines(line)
        self.batch.labels(label).observe(n_items)
        self.inference.labels(label).observe(seconds)

    def decoded(self, seconds: float) -> None:
        """An image has been read, decoded and reduced to what models see."""
        self.decode.observe(seconds)

    def lost(self, n_items: int, why: Loss) -> None:
        """Items of a call were not labeled."""
        self.dropped.labels(why).inc(n_items)

    def voted(self, recipe: str, votes: Mapping[str, Mapping[str, int]]) -> None:
        """A stored recipe's LFs have voted. votes: LF → class, "several" or "abstain" → items."""
        for lf, tally in votes.items():
            for vote, n_items in tally.items():
                self.votes.labels(*self._votes_seen(recipe, lf, vote)).inc(n_items)

    def restarted(self, stage: str) -> None:
        """The thread of a stage died and another has taken its place."""
        self.restarts.labels(*self._lines(stage)).inc()

    # --- what the middleware, the store and the probes tell

    def answered(self, route: str, method: str, status: int | None, seconds: float) -> None:
        """A request is over. route: the template of its path. status: None where the caller left before the answer."""
        method = method if method in _METHODS else OTHER
        self.http_requests.labels(route, method, "gone" if status is None else str(status)).inc()
        self.http_seconds.labels(route, method).observe(seconds)

    def problem(self, code: str) -> None:
        """An answer was a problem document."""
        self.http_problems.labels(code).inc()

    def queried(self, operation: str, seconds: float, *, failed: bool) -> None:
        """A statement to the database is over. operation: such as select."""
        self.store_seconds.labels(operation).observe(seconds)
        if failed:
            self.store_errors.labels(operation).inc()

    def checked(self, checks: Mapping[str, bool]) -> None:
        """/readyz has looked. checks: what must work → whether it does."""
        for name, works in checks.items():
            self.check.labels(name).set(works)
        self.ready.set(all(checks.values()))

    def sang(self, line: str, seconds: float, *, failed: bool) -> None:
        """A canary came through a model, or did not."""
        (label,) = self._lines(line)
        self.canary.labels(label).observe(seconds)
        if failed:
            self.canary_failures.labels(label).inc()

    def jobs_seen(self, counts: Mapping[str, int]) -> None:
        """So many batch jobs are not over. counts: status → jobs."""
        for status, n_jobs in counts.items():
            self.jobs.labels(status).set(n_jobs)

    def job_ended(self, status: str) -> None:
        """A batch job that ran here is over."""
        self.jobs_ended.labels(status).inc()

    def job_rows(self, of_pass: str, outcome: str, n_rows: int) -> None:
        """So many more rows of a batch job are done."""
        self.rows.labels(of_pass, outcome).inc(n_rows)

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page of metrics and its media type: Prometheus' text, or OpenMetrics where that is asked for."""
        encode, media_type = choose_encoder(accept)
        return encode(_WithoutCreated(self.registry)), media_type


class _WithoutCreated(CollectorRegistry):
    """A registry without the times at which each series was made: they would double what is scraped."""

    def __init__(self, inner: CollectorRegistry) -> None:
        super().__init__()
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        for family in self._inner.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
