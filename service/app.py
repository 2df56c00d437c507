"""The service: an ASGI app made from settings, and a server that runs it."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from manyeyes import __version__
from manyeyes.errors import InvalidSettings
from manyeyes.service.access.callers import Needs, OpenToAll
from manyeyes.service.access.keyring import Keyring
from manyeyes.service.context import Service
from manyeyes.service.decoding.decoders import decoder_for
from manyeyes.service.errors import handle_errors
from manyeyes.service.fetching.fetcher import Fetcher
from manyeyes.service.jobs.serving.service_jobs import ServiceJobs
from manyeyes.service.middleware.bodies import BodyLimit
from manyeyes.service.middleware.connections import connection_class
from manyeyes.service.middleware.door import Door
from manyeyes.service.middleware.encodings import Encodings
from manyeyes.service.middleware.front import Front
from manyeyes.service.middleware.idempotency import Idempotency
from manyeyes.service.middleware.keys import KeyCheck, Worked
from manyeyes.service.middleware.log import RequestLog
from manyeyes.service.middleware.observe import Observe
from manyeyes.service.middleware.openai import OpenAIErrors
from manyeyes.service.middleware.proxies import Forwarded
from manyeyes.service.operations import logs
from manyeyes.service.operations.allocator import keep_freed_memory
from manyeyes.service.operations.canary import Canaries
from manyeyes.service.operations.checks import drain_check, stages_check, store_check
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.operations.readiness import Check, Readiness
from manyeyes.service.operations.statements import watch
from manyeyes.service.operations.tracing import make_tracing
from manyeyes.service.pipeline.engine import Engine
from manyeyes.service.pipeline.stopping import DrainingServer
from manyeyes.service.recipes import RecipeStore
from manyeyes.service.routes import (
    access,
    batches,
    features,
    health,
    jobs,
    label_models,
    label_studio,
    labels,
    models,
    openai,
    operations,
    recipe_changes,
    recipes,
    search,
    votes,
)
from manyeyes.service.routes.description import describe_all
from manyeyes.service.schemas.base import Problem
from manyeyes.service.settings import ServiceSettings, is_loopback
from manyeyes.service.store.store import Store

if TYPE_CHECKING:
    from manyeyes.service.operations.otel import Tracing

log: Final = logging.getLogger("manyeyes.service")

NO_STORE: Final = "none"
"""The ``store_url`` of a service that keeps nothing: no recipes, keys or labels but those of files and settings."""

GROUPS: Final = (
    health,
    labels,
    votes,
    features,
    search,
    models,
    openai,
    label_studio,
    operations,
    recipe_changes,
    recipes,
    batches,
    label_models,
    jobs,
    access,
)
"""The groups of routes. Each module has ``make_router(service)`` and SHAPES, what its calls and answers look like."""


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """Return the service as an ASGI app; without settings, they come from the environment.

    No model is loaded before the first call needs it. There is no page at /docs: FastAPI's would load scripts from
    other people's servers; /openapi.json holds everything that such a page shows.

    Raises InvalidSettings if the environment cannot be used.
    """
    settings = settings or ServiceSettings.from_env()
    metrics, tracing = Metrics(), make_tracing(settings)
    store = open_store(settings)
    keys = Keyring(settings, None if store is None else store.keys)
    engine = Engine(settings, observer=metrics, decode=decoder_for(settings, settings.limits))
    canaries = Canaries(
        engine.lines.all,
        engine.sing,
        every_s=settings.canary_every_s,
        timeout_s=settings.canary_timeout_s,
        metrics=metrics,
    )
    checks: dict[str, Check] = {
        "accepting": drain_check(lambda: engine.draining),
        "pipeline": stages_check(
            engine.stages, stale_after_s=settings.stale_after_s, busy_for_s=settings.deadline_s
        ),
        "models": canaries.check,
    }
    if store is not None:
        watch(store.database.engine, metrics)
        checks["store"] = store_check(store)
    service = Service(
        settings=settings,
        recipes=RecipeStore(settings.recipes_dir, store, allowed_models=settings.allowed_models),
        engine=engine,
        fetcher=Fetcher(settings),
        store=store,
        keys=keys,
        jobs=None if store is None else ServiceJobs(store, settings, metrics),
        metrics=metrics,
        readiness=Readiness(checks, metrics=metrics),
    )
    app = FastAPI(
        title="manyeyes",
        version=__version__,
        summary="Labels images and texts with programs instead of clicks.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # told below, where it is written once and not for every caller
        lifespan=lambda _: _lifespan(service, canaries, tracing),
    )
    app.state.service = service
    routers = [group.make_router(service) for group in GROUPS]
    for router in routers:
        app.include_router(router)
    open_paths = _open_paths(routers)
    handle_errors(app)
    # The last one added is the outermost.
    app.add_middleware(Idempotency, settings=settings, store=store)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(Encodings, settings=settings)
    app.add_middleware(Door, engine=engine)
    worked: Worked = OrderedDict()
    app.add_middleware(KeyCheck, settings=settings, keys=keys, open_paths=open_paths, worked=worked)
    app.add_middleware(OpenAIErrors)
    app.add_middleware(RequestLog)
    app.add_middleware(Forwarded, trusted=settings.trusted_proxies)
    routes = app.state.routes = [route for router in routers for route in router.routes]
    app.add_middleware(Observe, metrics=metrics, tracing=tracing, routes=routes)
    # Where requests are traced, each goes the whole way.
    app.state.front = None if tracing is not None else Front(engine, settings, keys, worked, metrics)
    app.openapi = lambda: _openapi(app, keys=bool(settings.api_keys))  # type: ignore[method-assign]
    told = cache(lambda: json.dumps(app.openapi()).encode())
    app.add_route(
        "/openapi.json",
        lambda _: Response(told(), media_type="application/json"),
        include_in_schema=False,
    )
    return app


def open_store(settings: ServiceSettings) -> Store | None:
    """Return the store of the settings, ready to be used; None where they say ``none``."""
    if settings.store_url == NO_STORE:
        return None
    return Store.open(settings=settings, upgrade=settings.store_upgrade)


@asynccontextmanager
async def _lifespan(service: Service, canaries: Canaries, tracing: Tracing | None) -> AsyncIterator[None]:
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(canaries.run)
            if service.jobs is not None:
                service.jobs.start()
            yield
            group.cancel_scope.cancel()
    finally:
        if service.jobs is not None:
            await anyio.to_thread.run_sync(service.jobs.drain)
        await anyio.to_thread.run_sync(service.engine.close)
        if service.store is not None:
            await anyio.to_thread.run_sync(service.store.close)
        if tracing is not None:
            await anyio.to_thread.run_sync(tracing.close)


def serve(settings: ServiceSettings, *, warm: Sequence[str] = ()) -> None:
    """Run the service until it is told to stop.

    warm: names of stored recipes whose models are loaded before the first call is taken.
    Raises InvalidSettings if the address cannot be listened on, RecipeNotFound if a recipe to warm is not stored.
    """
    listener = listen(settings)
    logs.configure(settings)
    keep_freed_memory()
    app = create_app(settings)
    _, broken = app.state.service.recipes.survey()
    for name, error in broken.items():
        log.warning("recipe %s cannot be used: %s", name, error)
    if not is_loopback(settings.host) and not settings.api_keys:
        log.warning("anybody who can reach %s may use this service: no key is configured", settings.host)
    for name in warm:
        app.state.service.engine.warm(app.state.service.recipes.get(name))
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    make_server(app).run(sockets=[listener])


def listen(settings: ServiceSettings) -> socket.socket:
    """Return a listening socket at the address of the settings; port 0 takes a free one. Raises InvalidSettings."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        # Not socket.create_server, which leaves the protocol unsaid: asyncio turns Nagle's algorithm off only where it
        # reads TCP there, and with it on every answer waits 40 ms for an acknowledgement.
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise InvalidSettings(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}); another program may have"
            " it: choose another port, or 0 for a free one"
        ) from error


def make_server(app: FastAPI) -> uvicorn.Server:
    """Return the server for an app; ``run(sockets=[…])`` runs it."""
    service: Service = app.state.service
    return DrainingServer(
        uvicorn.Config(
            app,
            http=connection_class(service.settings, app.state.front),
            log_config=None,
            access_log=False,  # RequestLog writes one line a request, with more in it.
            server_header=False,
            proxy_headers=False,  # Forwarded believes those whom the operator names.
            timeout_graceful_shutdown=30,
        ),
        lambda: _drain(service),
    )


def _drain(service: Service) -> bool:
    """Finish the calls that were taken, and stop the jobs, which go on elsewhere or later; return whether all did."""
    if service.jobs is None:
        return service.engine.drain()
    stopping = threading.Thread(target=service.jobs.drain, name="manyeyes-jobs-drain")
    stopping.start()
    done = service.engine.drain()
    stopping.join()
    return done


def _open_paths(routers: Sequence[APIRouter]) -> frozenset[str]:
    """Return the paths that need no key.

    Refuses a route that does not say whom it is for: forgetting must not open anything.
    """
    found = set()
    # Of the app's own list FastAPI makes one entry a router, behind which the routes cannot be seen.
    for route in (one for router in routers for one in router.routes):
        assert isinstance(route, APIRoute), (
            f"{route} is no route of FastAPI, and says nothing of who may call it"
        )
        declared = [one.dependency for one in route.dependencies]
        if any(isinstance(one, OpenToAll) for one in declared):
            assert not route.param_convertors, f"{route.path} is open to all, so its path is one path"
            found.add(route.path)
        elif not any(isinstance(one, Needs) for one in declared):
            raise AssertionError(
                f"{route.path} does not say which scope it needs; see service/access/callers.py"
            )
    return frozenset(found)


def _openapi(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    """Return the description of an app. keys: whether callers need one."""
    if app.openapi_schema is None:
        told = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        _, shapes = models_json_schema(
            [
                (shape, "validation")
                for shape in (Problem, *(one for group in GROUPS for one in group.SHAPES))
            ],
            ref_template="#/components/schemas/{model}",
        )
        components = told.setdefault("components", {})
        components["schemas"] = shapes["$defs"]
        describe_all(told, app.state.routes, keys=keys)
        app.openapi_schema = told
    return app.openapi_schema
