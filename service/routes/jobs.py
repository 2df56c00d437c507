"""Batch jobs: asked for, followed, cancelled and retried over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Final

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from manyeyes.errors import NotFound
from manyeyes.service.access.callers import LOCAL, caller_of, needs
from manyeyes.service.context import Service
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.serving.service_jobs import ServiceJobs
from manyeyes.service.routes.answers import answers, ref
from manyeyes.service.routes.job_answers import job_answer, line_answer
from manyeyes.service.routes.job_calls import read_submission
from manyeyes.service.routes.job_events import Listeners
from manyeyes.service.routes.job_labels import read_labels
from manyeyes.service.routes.resources import (
    Cursor,
    Limit,
    Position,
    by_whom,
    key_id_of,
    paged,
    read_shape,
    store_of,
    takes,
    told,
    with_status,
)
from manyeyes.service.schemas.jobs import (
    EXAMPLE_JOB,
    JobCall,
    JobEventOut,
    JobLabels,
    JobList,
    JobLog,
    JobOut,
    JobState,
)
from manyeyes.service.store.ids import new_id

SHAPES: Final = (JobCall, JobEventOut, JobLabels, JobList, JobLog, JobOut)

_Id = Annotated[str, Path(max_length=100, examples=["01a2087235a972199e0e12e0faf7d7a2"])]
_Status = Annotated[JobState | None, Query(description="Of this status alone.")]
_Last = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        pattern=r"^[0-9]{1,9}$",
        description="The id of the last event that came: only later ones follow.",
    ),
]
_STREAM: Final = {"text/event-stream": {"schema": ref("JobEventOut")}}
_AT_ONCE: Final = 8
_TAKES: Final = (404, 408, 409, 413, 415, 422)


def make_router(service: Service) -> APIRouter:
    """Return the routes of batch jobs."""
    router = APIRouter(tags=["jobs"])
    settings = service.settings
    buckets = Buckets.load(settings.buckets_file)
    listeners = Listeners(service, most=settings.jobs_max_listeners)
    # A bucket that does not answer is waited for by these alone, and not by all threads of the service.
    places = anyio.CapacityLimiter(_AT_ONCE)

    @router.post(
        "/v1/jobs",
        summary="Label what lies in a bucket",
        status_code=201,
        responses=with_status(answers("JobOut", *_TAKES, 502, 507, status=201)),
        openapi_extra=takes("JobCall", EXAMPLE_JOB),
        dependencies=[needs("label")],
    )
    async def create(request: Request) -> Response:
        """Begin a batch job: what is in a bucket, or a list of addresses and texts, is labeled into another place.

        The answer comes at once; the job waits for its turn and runs in a process of its own. A recipe that has a
        fitted label model labels with it; otherwise one is fitted on the votes of the job. The same call finds what it
        has done already, and does the rest.
        """
        store, jobs = store_of(service), _jobs_of(service)
        asked = await read_shape(request, JobCall, EXAMPLE_JOB)
        who = by_whom(request)

        def work() -> Response:
            submission = read_submission(asked, service, buckets)
            submission.put_files(buckets)
            job = store.jobs.create(
                id=new_id(),
                recipe_name=submission.recipe.name,
                recipe_version=submission.recipe.recipe.version,
                request=submission.to_keep(),
                metadata=asked.metadata,
                max_open=settings.jobs_max_open,
                **who,
            )
            jobs.nudge()
            return told(request, job_answer(job), status=201, location=f"/v1/jobs/{job.id}")

        answer = await anyio.to_thread.run_sync(work, limiter=places)
        request.state.facts["job"] = answer.headers["location"].rpartition("/")[2]
        return answer

    @router.get(
        "/v1/jobs",
        summary="List the jobs",
        responses=with_status(answers("JobList", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def list_jobs(
        request: Request, limit: Limit = 50, cursor: Cursor = None, status: _Status = None
    ) -> Response:
        """List the jobs of this key, the newest first; a key with the scope `admin` sees those of all."""
        store = store_of(service)
        mine = _only_of(request)
        page = await anyio.to_thread.run_sync(
            lambda: store.jobs.list(limit, cursor, key_id=mine, status=status)
        )
        return told(request, paged(page, job_answer))

    @router.get(
        "/v1/jobs/{job_id}",
        summary="How far a job is",
        responses=with_status(answers("JobOut", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def job(request: Request, job_id: _Id) -> Response:
        store, mine = store_of(service), _only_of(request)
        found = await anyio.to_thread.run_sync(lambda: store.jobs.get(job_id, key_id=mine))
        return told(request, job_answer(found))

    @router.post(
        "/v1/jobs/{job_id}/cancel",
        summary="Cancel a job",
        responses=with_status(answers("JobOut", 404, 409, 422)),
        dependencies=[needs("label")],
    )
    async def cancel(request: Request, job_id: _Id) -> Response:
        """End a job early. What it computed stays, and is used again when it is retried.

        The job is `cancelling` until its process has stopped. One that is over stays as it is.
        """
        store, jobs, mine = store_of(service), _jobs_of(service), _only_of(request)
        who = by_whom(request)
        found = await anyio.to_thread.run_sync(lambda: store.jobs.cancel(job_id, key_id=mine, **who))
        jobs.nudge()
        return told(request, job_answer(found))

    @router.post(
        "/v1/jobs/{job_id}/retry",
        summary="Retry a job",
        responses=with_status(answers("JobOut", 404, 409, 422)),
        dependencies=[needs("label")],
    )
    async def retry(request: Request, job_id: _Id) -> Response:
        """Try the failed rows of a completed job again, or go on with one that failed or was cancelled.

        Only rows whose failure may pass are tried: what is no image stays an error.
        """
        store, jobs, mine = store_of(service), _jobs_of(service), _only_of(request)
        who = by_whom(request)
        found = await anyio.to_thread.run_sync(lambda: store.jobs.retry(job_id, key_id=mine, **who))
        jobs.nudge()
        return told(request, job_answer(found))

    @router.get(
        "/v1/jobs/{job_id}/logs",
        summary="What happened to a job",
        responses=with_status(answers("JobLog", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def logs(request: Request, job_id: _Id, limit: Limit = 100, cursor: Position = None) -> Response:
        """Return changes of status and what went wrong on the way, the oldest first."""
        store, mine = store_of(service), _only_of(request)

        def work() -> dict[str, Any]:
            store.jobs.get(job_id, key_id=mine)
            found = store.jobs.events(
                job_id, after=int(cursor or 0), limit=limit + 1, kinds=("status", "log")
            )
            shown = found[:limit]
            more = len(found) > limit
            return {
                "data": [line_answer(event) for event in shown],
                "has_more": more,
                "next_cursor": str(shown[-1].number) if more else None,
            }

        return told(request, await anyio.to_thread.run_sync(work))

    @router.get(
        "/v1/jobs/{job_id}/events",
        summary="Follow a job",
        responses=answers(None, 404, 422, others=_STREAM),
        dependencies=[needs("read")],
    )
    async def events(
        request: Request, job_id: _Id, last_event_id: _Last = None, after: Position = None
    ) -> Response:
        """Send how far the job is as server-sent events, until it is over.

        `status`, `progress` and `log` have ids; after a break, send the last as `Last-Event-ID` (or `after`), and
        none is missed. `end` holds the job when it is over, and the stream ends. A stream that ends without it, as when
        this replica stops, is to be asked for again.
        """
        store, mine = store_of(service), _only_of(request)
        _jobs_of(service).start()
        found = await anyio.to_thread.run_sync(lambda: store.jobs.get(job_id, key_id=mine))
        return listeners.stream(found, after=int(last_event_id or after or 0))

    @router.get(
        "/v1/jobs/{job_id}/labels",
        summary="The labels of a job",
        responses=with_status(answers("JobLabels", 404, 422, 502), 304),
        dependencies=[needs("read")],
    )
    async def labels(request: Request, job_id: _Id, limit: Limit = 100, cursor: Position = None) -> Response:
        """Return the published labels of a completed job, in the order of its rows.

        For all of a large job, read the Parquet files that `output` names.
        """
        store, mine = store_of(service), _only_of(request)

        def work() -> Response:
            found = store.jobs.get(job_id, key_id=mine)
            return told(request, read_labels(found, buckets, start=int(cursor or 0), limit=limit))

        return await anyio.to_thread.run_sync(work, limiter=places)

    return router


def _jobs_of(service: Service) -> ServiceJobs:
    if service.jobs is None:
        raise NotFound("this service keeps nothing (MANYEYES_STORE_URL=none), and so runs no jobs")
    return service.jobs


def _only_of(request: Request) -> str | None:
    """Return whose jobs a caller sees: its own, or with the scope ``admin`` all."""
    return None if (caller_of(request) or LOCAL).may("admin") else key_id_of(request)
