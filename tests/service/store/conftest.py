"""A store in either database, and things to keep in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from manyeyes import Item, Labeler, Recipe
from manyeyes.fitting import Collected
from manyeyes.labeler import extractor_for
from manyeyes.primitives.cache import Cache
from manyeyes.service.store.store import Store
from manyeyes.types import Labels

SHELVES = """
name: shelves
classes: [dress, hat]
lfs:
  - {name: says, kind: keyword, votes: {dress: [gown, dress], hat: [cap, hat]}}
  - {name: shelf, kind: metadata, when: "shelf == 'H'", vote: hat}
"""


class Clock:
    """The time, which tests move by hand."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.time

    def pass_by(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store, in SQLite and then in PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/service.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture
def clock(store: Store) -> Clock:
    """Return the clock of the store, which stands still unless it is moved."""
    store.database.clock = clock = Clock()
    return clock


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe.parse(SHELVES)


@pytest.fixture(scope="session")
def label_some(recipe: Recipe) -> Callable[[list[Item]], tuple[Labels, Collected]]:
    """Return a function that labels items, for their labels and for what the LFs said of them."""
    items = [
        Item("a", text="a gown"),
        Item("b", text="a cap", metadata={"shelf": "H"}),
        Item("c", text="a dress"),
    ]
    labeler = Labeler(recipe, extractor=extractor_for(recipe, cache=Cache())).fit(items)

    def label(some: list[Item]) -> tuple[Labels, Collected]:
        collected = labeler.collect(some)
        return labeler.fuse(collected), collected

    return label
