"""A service with a store in either database, called without a socket."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from manyeyes.service.app import create_app
from manyeyes.service.settings import ServiceSettings

PAINT = {
    "name": "paint",
    "classes": ["red", "blue"],
    "lfs": [
        {"name": "says_red", "kind": "keyword", "on": "text", "any": ["red", "crimson"], "vote": "red"},
        {"name": "says_blue", "kind": "keyword", "on": "text", "any": ["blue", "navy"], "vote": "blue"},
        {"name": "dark", "kind": "keyword", "on": "text", "any": ["dark", "navy"], "vote": "blue"},
    ],
}
TEXTS = ["a red wall", "a navy coat", "a dark red flag", "nothing", "crimson and navy", "blue", "red", "dark"]


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store, in SQLite and then in PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/service.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an operator's folder with one recipe."""
    made = tmp_path / "recipes"
    made.mkdir()
    (made / "operators.yaml").write_text(
        "name: operators\nclasses: [a, b]\nlfs:\n  - {name: l, kind: keyword, any: [x], vote: a}\n"
    )
    return made


@pytest.fixture
def running(store_url: str, folder: Path) -> Callable[..., AbstractContextManager[TestClient]]:
    """Return what makes clients of a service on the store; each call another replica."""

    def make(**options: Any) -> AbstractContextManager[TestClient]:
        told = {"store_url": store_url, "recipes_dir": folder} | options
        return TestClient(create_app(ServiceSettings(**told)), raise_server_exceptions=False)

    return make


@pytest.fixture
def http(running: Callable[..., AbstractContextManager[TestClient]]) -> Iterator[TestClient]:
    """Return a client of a service."""
    with running() as client:
        yield client


@pytest.fixture
def paint() -> dict[str, Any]:
    """Return a recipe of three labeling functions, as plain values."""
    return copy.deepcopy(PAINT)


@pytest.fixture
def call() -> dict[str, Any]:
    """Return a call that labels eight texts as the recipe `paint` says."""
    return {"recipe": "paint", "items": [{"id": f"t{n}", "text": text} for n, text in enumerate(TEXTS)]}
