"""From a call that asks for a job to what the job's process is told: every address held to the operator's buckets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manyeyes.errors import InvalidRequest, NotPermitted, RequestTooLarge, UntrustedRecipe
from manyeyes.registry import load
from manyeyes.service.context import Service
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.layout import submitted_folder
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Breaker, EngineSpec, JobRequest, Join, Source
from manyeyes.service.recipes import ServedRecipe, resolve
from manyeyes.service.schemas.jobs import JobCall, JobSource
from manyeyes.service.settings import ServiceSettings

PATIENCE_S = 10.0
"""How long a call waits for the bucket that it names."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that may be run. files: what is put below its place first, by name. trusted: of the operator's folder."""

    request: JobRequest
    recipe: ServedRecipe
    files: Mapping[str, bytes]
    trusted: bool
    has_items: bool

    def to_keep(self) -> dict[str, Any]:
        """Return what the store keeps, and the job's process is given."""
        return {
            "request": self.request.model_dump(mode="json"),
            "trusted": self.trusted,
            "submitted": self.has_items,
        }

    def put_files(self, buckets: Buckets) -> None:
        """Put what came with the call where the job finds it. Raises StorageFailed."""
        if self.files:
            place = Storage.open(self.request.out, buckets=buckets, patience_s=PATIENCE_S)
            for name, data in self.files.items():
                place.put(name, data)


def read_submission(asked: JobCall, service: Service, buckets: Buckets) -> Submission:
    """Return the job that a call asks for.

    Raises AddressRefused if an address is in none of the operator's buckets, NotPermitted if jobs may not write to its
    ``out``, RecipeNotFound, InvalidRecipe, UntrustedRecipe, InvalidRequest and RequestTooLarge.
    """
    settings = service.settings
    served = resolve(asked.recipe, store=service.recipes, settings=settings)
    _refuse_code(served)
    _may_write(asked.out, buckets)
    out, files = asked.out.rstrip("/"), dict[str, bytes]()
    label_model: str | None = None
    if served.label_model is not None and not asked.fit:
        # A copy: the job is labeled with it also after another one was fitted, and on whichever replica.
        fitted = {path.name: path.read_bytes() for path in sorted(served.label_model.iterdir())}
        folder = submitted_folder(_digest(fitted))
        files |= {f"{folder}{name}": data for name, data in fitted.items()}
        label_model = f"{out}/{folder.rstrip('/')}"
    if asked.items is None:
        source = _source(asked, buckets)
    else:
        rows = _items(asked, settings)
        name = f"{submitted_folder(_digest({'items.jsonl': rows}))}items.jsonl"
        files[name] = rows
        source = Source(uri=f"{out}/{name}", kind="table")
    if asked.gold is not None:
        buckets.find(asked.gold)
    chosen = {
        name: value for name in ("shard_rows", "attempts") if (value := getattr(asked, name)) is not None
    }
    request = JobRequest(
        source=source,
        recipe=served.recipe.document(),
        out=out,
        label_model=label_model,
        gold=asked.gold,
        breaker=Breaker() if asked.breaker is None else Breaker(**asked.breaker.model_dump()),
        engine=_engine(asked, settings),
        update=asked.update,
        same_rows=asked.same_rows,
        **chosen,
    )
    # A recipe of the folder is the operator's own, and may name any model; all others are looked at again.
    trusted = served.stored and served.version is None
    return Submission(request, served, files, trusted, asked.items is not None)


def _digest(files: Mapping[str, bytes]) -> str:
    told = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(files.items())]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]


def _refuse_code(served: ServedRecipe) -> None:
    for lf in served.recipe.lfs:
        if load("manyeyes.lfs", lf.kind).operator_only:
            raise UntrustedRecipe(
                f"recipe {served.name!r} has a labeling function of kind {lf.kind!r} ({lf.name!r}), which runs code; a"
                " job over HTTP runs none. Whoever has the code can run it with `manyeyes job run`"
            )


def _may_write(out: str, buckets: Buckets) -> None:
    bucket, key = buckets.place(out)
    if not bucket.write:
        raise NotPermitted(
            "jobs may not write there; the operator of this service says with `write: true` in MANYEYES_BUCKETS_FILE"
            " where they may"
        )
    if "_manyeyes" in key.split("/"):
        raise InvalidRequest(
            "`out` leads into what another job keeps for itself; name a folder beside `_manyeyes`"
        )


def _source(asked: JobCall, buckets: Buckets) -> Source:
    told = asked.source if isinstance(asked.source, JobSource) else JobSource(uri=str(asked.source))
    buckets.place(told.uri)
    join = None
    if told.join is not None:
        buckets.find(told.join.table)
        join = Join(**told.join.model_dump())
    return Source(uri=told.uri, kind=told.kind, columns=told.columns, join=join, recursive=told.recursive)


def _items(asked: JobCall, settings: ServiceSettings) -> bytes:
    items = asked.items or []
    if len(items) > settings.max_items:
        raise RequestTooLarge(
            f"the call names {len(items):,} items; it may name {settings.max_items:,}. Put a table of them into a"
            " bucket, and name that as `source`"
        )
    rows = (
        {
            **item.metadata,
            "id": item.id,
            "image": item.url or item.object,
            "text": item.text,
        }
        for item in items
    )
    return b"".join(json.dumps(row, ensure_ascii=True).encode() + b"\n" for row in rows)


def _engine(asked: JobCall, settings: ServiceSettings) -> EngineSpec:
    wanted, most = asked.engine, settings.jobs_max_workers
    workers = None if wanted is None else wanted.workers
    if most and workers is not None and workers > most:
        raise InvalidRequest(f"`engine.workers` is {workers}; a job of this service may have {most}")
    if wanted is None or wanted.name == "local":
        return EngineSpec(workers=workers)
    if settings.jobs_ray_address is None:
        raise InvalidRequest(
            "this service runs jobs on its own machine alone: its operator names no Ray cluster"
            " (MANYEYES_JOBS_RAY_ADDRESS). Leave `engine` out"
        )
    return EngineSpec(name="ray", workers=workers, address=settings.jobs_ray_address)
