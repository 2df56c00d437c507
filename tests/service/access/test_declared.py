"""No route opens by oversight: each says whom it is for, and the app refuses one that does not."""

from __future__ import annotations

import types
from typing import Any

import pytest
from fastapi import APIRouter

from manyeyes.service import app as app_module
from manyeyes.service.access.callers import needs
from manyeyes.service.app import create_app
from manyeyes.service.settings import ServiceSettings


def _group(**options: Any) -> Any:
    def make_router(_: object) -> APIRouter:
        router = APIRouter()

        @router.get("/v1/forgotten", **options)
        async def forgotten() -> dict[str, str]:
            return {}

        return router

    return types.SimpleNamespace(make_router=make_router, SHAPES=())


def test_a_route_that_does_not_say_whom_it_is_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "GROUPS", (*app_module.GROUPS, _group()))
    with pytest.raises(AssertionError, match="/v1/forgotten"):
        create_app(ServiceSettings())
    monkeypatch.setattr(
        app_module, "GROUPS", (*app_module.GROUPS[:-1], _group(dependencies=[needs("admin")]))
    )
    create_app(ServiceSettings())
