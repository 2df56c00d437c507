"""A backend that Label Studio's server asks for predictions, one for each stored recipe.

Its address is ``/label-studio/<recipe>``. Where the operator names a recipe for it, the address of the service itself
is one, too. Nothing is remembered from one call to the next, so that any replica can answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from manyeyes.errors import InvalidRequest, ItemError
from manyeyes.recipe_parts import default_primitive
from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.errors import Refusal
from manyeyes.service.fetching.label_studio import LabelStudioFiles
from manyeyes.service.intake.body import fetch_rows, read_json
from manyeyes.service.intake.items import kind_of
from manyeyes.service.intake.label_config import LabelConfig, read_label_config
from manyeyes.service.intake.tasks import fetch_held, read_tasks
from manyeyes.service.pipeline.versions import versions_of
from manyeyes.service.recipes import ServedRecipe, resolve
from manyeyes.service.routes.answers import WITH_ITEMS, answers, as_json, ref
from manyeyes.service.routes.predictions import Plan, plan, prediction
from manyeyes.service.schemas.label_studio import (
    EXAMPLE_CONFIG,
    EXAMPLE_PREDICT,
    BackendHealth,
    BackendPredict,
    BackendPredictions,
    BackendSetup,
    BackendVersion,
    BackendVersions,
)
from manyeyes.types import Item, Label, Versions

SHAPES: Final = (
    BackendHealth,
    BackendPredict,
    BackendPredictions,
    BackendSetup,
    BackendVersion,
    BackendVersions,
)

_NAME: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}(@[0-9a-z]{1,64})?$"
_TO_RECIPE: Final = "/label-studio/{recipe}"
_Recipe = Annotated[
    str,
    Path(pattern=_NAME, description="The name of a stored recipe, or `name@version`.", examples=["paint"]),
]


@dataclass(frozen=True, slots=True)
class _Backend:
    """A recipe, and the versions of what makes its labels."""

    served: ServedRecipe
    versions: Versions

    @property
    def model_version(self) -> str:
        """Names everything that decides a prediction; Label Studio asks again for tasks that have another one."""
        return f"{self.served.name}@{self.versions.recipe}/{self.versions.label_model}"


def make_router(service: Service) -> APIRouter:
    """Return the routes of the backends."""
    router = APIRouter(tags=["label studio"])
    settings = service.settings
    files = None
    if settings.label_studio_url is not None:
        files = LabelStudioFiles(
            settings.label_studio_url,
            settings.label_studio_key,
            max_bytes=int(settings.max_image_bytes),
            timeout_s=settings.fetch_timeout_s,
        )
    asked = _Asked(service, files)
    _add_routes(router, asked)
    if settings.label_studio_recipe is not None:
        _add_root_routes(router, asked, settings.label_studio_recipe)
    return router


class _Asked:
    """Answers what Label Studio asks of a recipe."""

    def __init__(self, service: Service, files: LabelStudioFiles | None) -> None:
        self.service = service
        self.files = files

    async def health(self, recipe: str) -> Response:
        await self._backend(recipe)
        return as_json({"status": "UP", "model_class": "manyeyes", "recipe": recipe})

    async def versions(self, recipe: str) -> Response:
        return as_json({"versions": [(await self._backend(recipe)).model_version]})

    async def setup(self, recipe: str, request: Request) -> Response:
        told = _object(await read_json(request), {"schema": EXAMPLE_CONFIG})
        extra = told.get("extra_params")
        other = extra.get("recipe") if isinstance(extra, dict) else None
        if other not in (None, recipe):
            raise InvalidRequest(
                f"`extra_params` asks for recipe {str(other)[:100]!r}, and predictions are asked for without them;"
                f" connect Label Studio to /label-studio/{str(other)[:100]} instead"
            )
        backend = await self._backend(recipe)
        await anyio.to_thread.run_sync(self._read_config, told.get("schema"), backend)
        return as_json({"model_version": backend.model_version})

    async def predict(self, recipe: str, request: Request) -> Response:
        engine, settings = self.service.engine, self.service.settings
        engine.admit()
        told = _object(await read_json(request), EXAMPLE_PREDICT)
        tasks = told.get("tasks")
        if not isinstance(tasks, list):
            raise Refusal(
                InvalidRequest(f"`tasks` must be a list, got {kind_of(tasks)}"), example=EXAMPLE_PREDICT
            )
        backend = await self._backend(recipe)

        def begin() -> Any:
            config, planned = self._read_config(told.get("label_config"), backend)
            return planned, *read_tasks(tasks, config, max_items=settings.max_items)

        planned: Plan
        planned, rows, paths = await anyio.to_thread.run_sync(begin)
        hold = request.scope.get("state", {}).get("hold", lambda _: None)
        rows = await fetch_rows(request, await fetch_held(rows, paths, self.files, hold=hold))
        labels: list[Label] | None = None
        seen = None
        if planned.choices is not None and rows:
            labels = (await engine.label(rows, backend.served, is_gone=request.is_disconnected)).labels
        if planned.detector is not None and rows:
            kind = planned.detector.kind
            images = [
                (name, Item(id=name, image=read.image) if isinstance(read, Item) else read)
                for name, read in rows
            ]
            seen = await engine.see(
                images,
                {kind: planned.detector, "image": default_primitive("image")},
                [kind, "image"],
                is_gone=request.is_disconnected,
            )
        results = await anyio.to_thread.run_sync(
            lambda: [
                prediction(
                    n,
                    planned,
                    label=None if labels is None else labels[n],
                    seen=seen,
                    error=read if isinstance(read, ItemError) else None,
                    model_version=backend.model_version,
                )
                for n, (_, read) in enumerate(rows)
            ]
        )
        request.state.facts |= {
            "recipe": backend.served.name,
            "recipe_version": backend.versions.recipe,
            "n_items": len(rows),
            "n_errors": sum("error" in one for one in results),
        }
        versions = backend.versions
        return as_json(
            {
                "results": results,
                "model_version": backend.model_version,
                "versions": {
                    "recipe": versions.recipe,
                    "primitives": dict(versions.primitives),
                    "label_model": versions.label_model,
                },
            }
        )

    async def _backend(self, recipe: str) -> _Backend:
        service = self.service

        def find() -> _Backend:
            served = resolve(recipe, store=service.recipes, settings=service.settings)
            return _Backend(served, versions_of(served, service.settings))

        return await anyio.to_thread.run_sync(find)

    @staticmethod
    def _read_config(text: Any, backend: _Backend) -> tuple[LabelConfig, Plan]:
        config = read_label_config(text)
        return config, plan(config, backend.served.recipe)


def _add_routes(router: APIRouter, asked: _Asked) -> None:
    @router.get(f"{_TO_RECIPE}/health", **_like("health"))
    async def health(recipe: _Recipe) -> Response:
        return await asked.health(recipe)

    @router.get(f"{_TO_RECIPE}/versions", **_like("versions"))
    async def versions(recipe: _Recipe) -> Response:
        return await asked.versions(recipe)

    @router.post(f"{_TO_RECIPE}/setup", **_like("setup"))
    async def setup(recipe: _Recipe, request: Request) -> Response:
        """Check that the labeling config has a choice for every class of the recipe; no model is loaded."""
        return await asked.setup(recipe, request)

    @router.post(f"{_TO_RECIPE}/predict", **_like("predict"))
    async def predict(recipe: _Recipe, request: Request) -> Response:
        """Label tasks. One that cannot be labeled has an `error` in the place of a `result`."""
        return await asked.predict(recipe, request)

    @router.post(f"{_TO_RECIPE}/webhook", **_like("webhook"))
    async def webhook(recipe: _Recipe) -> Response:
        """Take notice of an event in Label Studio, which changes nothing here."""
        await asked.health(recipe)
        return Response(status_code=204)


def _add_root_routes(router: APIRouter, asked: _Asked, recipe: str) -> None:
    @router.get("/health", **_like("health"))
    async def root_health() -> Response:
        return await asked.health(recipe)

    @router.get("/versions", **_like("versions"))
    async def root_versions() -> Response:
        return await asked.versions(recipe)

    @router.post("/setup", **_like("setup"))
    async def root_setup(request: Request) -> Response:
        return await asked.setup(recipe, request)

    @router.post("/predict", **_like("predict"))
    async def root_predict(request: Request) -> Response:
        return await asked.predict(recipe, request)

    @router.post("/webhook", **_like("webhook"))
    async def root_webhook() -> Response:
        return Response(status_code=204)


def _body(shape: str, example: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": ref(shape), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _like(what: str) -> dict[str, Any]:
    """Return what OpenAPI says of a route, and whom it is for."""
    told: dict[str, Callable[[], dict[str, Any]]] = {
        "health": lambda: {
            "summary": "Label Studio: is the backend there?",
            "responses": answers("BackendHealth", 404, 422),
        },
        "versions": lambda: {
            "summary": "Label Studio: which version makes predictions?",
            "responses": answers("BackendVersions", 404, 422),
        },
        "setup": lambda: {
            "summary": "Label Studio: does the backend fit a project?",
            "responses": answers("BackendVersion", 404, 408, 413, 415, 422),
            "openapi_extra": _body("BackendSetup", {"project": "1.1700000000", "schema": EXAMPLE_CONFIG}),
        },
        "predict": lambda: {
            "summary": "Label Studio: predict tasks",
            "responses": answers("BackendPredictions", *WITH_ITEMS),
            "openapi_extra": _body("BackendPredict", EXAMPLE_PREDICT),
        },
        "webhook": lambda: {
            "summary": "Label Studio: something happened in a project",
            "responses": answers(None, 404, 422, status=204),
            "status_code": 204,
        },
    }
    return {**told[what](), "dependencies": [needs("label")]}


def _object(told: Any, example: Any) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise Refusal(
            InvalidRequest(f"the body must be one JSON object, got {kind_of(told)}"), example=example
        )
    return told
