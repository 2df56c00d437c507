"""Primitives that can be made to wait, to fail and to die, and an engine over them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from manyeyes import Recipe
from manyeyes.primitives.base import Rows
from manyeyes.primitives.toy import ToyText
from manyeyes.service.pipeline.engine import Engine
from manyeyes.service.pipeline.stage import Watch
from manyeyes.service.recipes import ServedRecipe
from manyeyes.service.settings import ServiceSettings

WORDS = """
name: %s
classes: [red, green, blue]
primitives: {toy: {}}
lfs:
  - {name: looks, kind: prompt, using: toy, on: text, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
"""


class Controlled(ToyText):
    """A toy whose batches can be looked at, held up and poisoned. seen: the texts of each batch that was begun."""

    version = "controlled 1"

    def __init__(self, name: str = "toy.text") -> None:
        super().__init__(name)
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        self.seen: list[list[str]] = []
        self.deadly = "deadly"

    def compute(self, batch: Sequence[str]) -> list[Rows]:
        self.seen.append(list(batch))
        self.begun.set()
        assert self.open.wait(20)
        if any(self.deadly in text for text in batch):
            raise SystemExit("as a crash in native code would end it")
        if any("poison" in text for text in batch):
            raise ValueError("this text is poison")
        return super().compute(batch)

    def hold(self) -> None:
        """Let no batch get through, from now on."""
        self.open.clear()
        self.begun.clear()


@pytest.fixture
def controlled() -> Controlled:
    """Return a primitive that does what the test wants."""
    return Controlled()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Return what looks after stages, ten times as often as in a service."""
    made = Watch(every_s=0.1)
    yield made
    made.close()
    for stage in made.stages:
        stage.close()


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    """Return a maker of engines, which are closed in the end."""
    made: list[Engine] = []

    def make(**settings: Any) -> Engine:
        observer, decode = settings.pop("observer", None), settings.pop("decode", None)
        options = {"decode": decode} | ({} if observer is None else {"observer": observer})
        made.append(Engine(ServiceSettings(**settings), **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def served() -> Callable[..., ServedRecipe]:
    """Return a maker of recipes over texts, by name."""

    def make(name: str = "words", text: str = WORDS, label_model: Path | None = None) -> ServedRecipe:
        told = text % name if "%s" in text else text
        return ServedRecipe(name=name, recipe=Recipe.parse(told), label_model=label_model, stored=True)

    return make


async def _never() -> bool:
    return False


@pytest.fixture
def stays() -> Callable[[], Any]:
    """Return an `is_gone` of a caller who waits."""
    return _never


def until(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.005)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Return a function that waits until something is true."""
    return until
