"""What was acknowledged is there, whatever is killed: the service under load, or its database."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

Photo = Callable[..., bytes]

RECIPE = """
name: {name}
classes: [red, blue]
lfs: [{{name: says, kind: keyword, on: text, votes: {{red: [crimson], blue: [navy]}}}}]
"""


class Load:
    """Callers who label and who create recipes, and all that the service told them it has done."""

    def __init__(self, server: Any, photo: Photo) -> None:
        self.server, self.photo = server, photo
        self.batches: dict[str, list[dict[str, Any]]] = {}
        self.recipes: dict[str, str] = {}
        self.statuses: list[tuple[float, str, int]] = []
        self._stop = threading.Event()

    @contextmanager
    def running(self, n_labeling: int = 4, n_creating: int = 2) -> Iterator[None]:
        """Let callers call until the block ends."""
        work = [*[self.label] * n_labeling, *[self.create] * n_creating]
        threads = [threading.Thread(target=self._go_on, args=(one, n)) for n, one in enumerate(work)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(timeout=60)
            assert not any(thread.is_alive() for thread in threads), "a call was never answered"
            self._stop.clear()

    def _go_on(self, call: Callable[[httpx.Client, int], int], caller: int) -> None:
        number = 1_000_000 * caller
        with httpx.Client(base_url=self.server.address, timeout=40, trust_env=False) as client:
            while not self._stop.is_set():
                number += 1
                try:
                    status = call(client, number)
                except httpx.TransportError:
                    status = 0
                    time.sleep(0.05)
                self.statuses.append((time.monotonic(), call.__name__, status))
                if status != 200:
                    time.sleep(0.02)

    def label(self, client: httpx.Client, number: int, *, store: bool | None = None) -> int:
        image = self.photo(("red", "green", "blue")[number % 3], number)
        fields = {"recipe": (None, "looks")} | (
            {} if store is None else {"store": (None, str(store).lower())}
        )
        answer = client.post("/v1/label", files={**fields, "files": ("a.png", image)})
        if answer.status_code == 200:
            told = answer.json()
            if store is not False:
                self.batches[told["batch_id"]] = told["labels"]
        return answer.status_code

    def create(self, client: httpx.Client, number: int) -> int:
        name = f"recipe-{number}-{time.monotonic_ns()}"
        answer = client.post("/v1/recipes", json={"recipe": RECIPE.format(name=name)})
        if answer.status_code == 201:
            self.recipes[name] = answer.json()["version"]
        return 200 if answer.status_code == 201 else answer.status_code

    def wait_for(self, n_batches: int, n_recipes: int) -> None:
        """Wait until more than so many batches and recipes have been acknowledged."""
        wait_until(lambda: len(self.batches) > n_batches and len(self.recipes) > n_recipes, 60)

    def lost(self) -> list[str]:
        """Return what was acknowledged and is not there, or not as it was told."""
        lost = []
        with httpx.Client(base_url=self.server.address, timeout=40, trust_env=False) as client:
            for batch, labels in self.batches.items():
                answer = client.get(f"/v1/batches/{batch}/labels")
                if answer.status_code != 200 or answer.json()["data"] != labels:
                    lost.append(batch)
            for name, version in self.recipes.items():
                answer = client.get(f"/v1/recipes/{name}/versions/{version}")
                if answer.status_code != 200 or answer.json()["version"] != version:
                    lost.append(name)
        return lost


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_kill_9_keeps_every_acknowledged_recipe_and_label(
    serve: Callable[..., Any], photo: Photo, database: str, request: pytest.FixtureRequest
) -> None:
    settings = {}
    if database == "postgresql":
        settings["MANYEYES_STORE_URL"] = request.getfixturevalue("postgres_url")
    server = serve(**settings)
    load = Load(server, photo)
    for round_ in range(1, 3):
        with load.running():
            load.wait_for(20 * round_, 5 * round_)
            server.kill()
        server.start()
        assert not load.lost()
    assert 0 in {status for _, _, status in load.statuses}  # some were in the middle of a call


@pytest.mark.slow
@pytest.mark.parametrize("how", ["crash", "stop", "hang"])
def test_the_database_gone_and_back_loses_nothing_acknowledged(
    serve: Callable[..., Any], photo: Photo, postgres: Any, postgres_url: str, how: str
) -> None:
    server = serve(MANYEYES_STORE_URL=postgres_url, MANYEYES_STORE_TIMEOUT_S="2")
    load = Load(server, photo)
    with load.running():
        load.wait_for(20, 5)
        try:
            if how == "hang":
                postgres.freeze()
            else:
                postgres.stop(signal.SIGQUIT if how == "crash" else signal.SIGINT)
            gone = time.monotonic()
            wait_until(lambda: not server.answers("/readyz"), 10)
            time.sleep(6 if how == "hang" else 3)  # longer than anybody waits for an answer
            with httpx.Client(base_url=server.address, timeout=40, trust_env=False) as client:
                # Labels that nobody wants kept need no database.
                assert load.label(client, 5, store=False) == 200
                assert server.answers("/healthz")
        finally:
            back = time.monotonic()
            if how == "hang":
                postgres.thaw()
            else:
                postgres.start()
        load.wait_for(len(load.batches) + 20, len(load.recipes) + 5)
        wait_until(lambda: server.answers("/readyz"), 10)
    meanwhile = Counter(status for at, _, status in load.statuses if gone + 1 < at < back)
    assert set(meanwhile) == {503}, meanwhile
    assert {status for _, _, status in load.statuses} <= {200, 503}
    assert not load.lost()
    assert server.process.poll() is None
