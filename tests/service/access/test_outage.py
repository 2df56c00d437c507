"""The database goes, stands still, and comes back: nobody gets in who should not, nobody is locked out for good."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from benchmarks.postgres import PostgresServer
from manyeyes.service.app import create_app
from manyeyes.service.settings import ServiceSettings
from tests.service.routes.conftest import PAINT

pytestmark = pytest.mark.slow

ADMIN = "the-operators-own-key"
ITEMS = [{"id": "coat", "text": "a navy coat"}]


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """Return a server of the test's own, which it may stop."""
    with PostgresServer() as own:
        yield own


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_database_that_is_gone_neither_opens_nor_locks(server: PostgresServer, how: str) -> None:
    settings = ServiceSettings(
        api_keys=ADMIN, store_url=server.make_database(), store_timeout_s=1.0, key_cache_s=0.5
    )
    operator = {"Authorization": f"Bearer {ADMIN}"}
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        made = http.post("/v1/keys", json={"name": "team", "scopes": ["label"]}, headers=operator).json()
        team = {"Authorization": f"Bearer {made['secret']}"}
        http.post("/v1/recipes", json={"recipe": PAINT}, headers=operator)
        call = {"recipe": "paint", "items": ITEMS, "store": False}
        for headers in (team, operator):
            assert http.post("/v1/label", json=call, headers=headers).status_code == 200
        time.sleep(0.6)  # what was remembered of the key is over

        if how == "stopped":
            server.stop(signal.SIGQUIT)
        else:
            server.freeze()
        started = time.monotonic()
        # A recipe that was in use is used on.
        assert http.post("/v1/label", json=call, headers=operator).status_code == 200
        known = http.post("/v1/label", json=call, headers=team)
        assert (known.status_code, known.json()["code"]) == (503, "store_unavailable")
        assert "retry-after" in known.headers
        guess = {"Authorization": f"Bearer {made['secret'][:-1]}_"}
        assert http.post("/v1/label", json=call, headers=guess).status_code == 503
        assert http.post("/v1/label", json=call, headers={"X-Api-Key": "nobody"}).status_code == 401
        assert http.post("/v1/label", json=call).status_code == 401
        kept = http.post("/v1/label", json=call | {"store": True}, headers=operator)
        assert (kept.status_code, kept.json()["code"]) == (503, "store_unavailable")
        assert http.get("/healthz").status_code == 200
        assert time.monotonic() - started < 12

        if how == "stopped":
            server.start()
        else:
            server.thaw()
        deadline = time.monotonic() + 15
        while http.post("/v1/label", json=call | {"store": True}, headers=team).status_code != 200:
            assert time.monotonic() < deadline, "the key does not work again"
            time.sleep(0.2)
        assert http.get("/v1/recipes", headers=team).status_code == 403
