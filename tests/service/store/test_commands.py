"""``manyeyes key`` and ``manyeyes store``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from manyeyes.cli import app
from manyeyes.service.store.store import Store
from manyeyes.types import Label, Versions


def call(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(autouse=True)
def _named(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYEYES_STORE_URL", store_url)


def test_a_key_from_its_making_to_its_end() -> None:
    made = call("key", "create", "ci", "--scope", "label", "--scope", "read", "--days", "90", "--rate", "600")
    secret = made.stdout.strip()
    assert re.fullmatch(r"me_[0-9a-f]{32}_[\w-]{43}", secret)  # nothing else, for a pipe
    assert secret not in made.stderr and "keep it now" in made.stderr
    id = secret.split("_")[1]
    call("key", "create", "forever")
    listed = call("key", "list").stdout
    assert id in listed and secret not in listed
    assert re.search(r"ci +label, read +live .*600/min", listed) and re.search(
        r"forever +label +live", listed
    )
    assert "opens nothing" in call("key", "revoke", id).stdout
    assert re.search(r"ci +label, read +revoked", call("key", "list").stdout)
    assert "not_found" in call("key", "revoke", "0" * 32, code=2).stderr


def test_a_key_that_cannot_be_made() -> None:
    assert "label, read, admin" in call("key", "create", "x", "--scope", "root", code=2).stderr
    assert "time to come" in call("key", "create", "x", "--days", "-1", code=2).stderr


def test_the_store_is_looked_after(store_url: str) -> None:
    assert "revision 0002" in call("store", "upgrade").stdout
    with Store.open(store_url) as store:
        store.recipes.create("r", "text", author="a")
        long_ago = datetime.now(UTC) - timedelta(days=40)
        for time in (long_ago, datetime.now(UTC)):
            store.database.clock = lambda time=time: time  # type: ignore[misc]
            store.batches.add(
                key_id="k",
                recipe_name="r",
                versions=Versions("v"),
                labels=[Label(id="x", status="abstained")],
            )
        store.database.clock = lambda: long_ago
        store.idempotency.begin("k", "a", body_digest="d", route="r")
    told = call("store", "status").stdout
    assert re.search(r"^recipes +1$", told, re.M) and re.search(r"^batches +2$", told, re.M)
    first = call("store", "purge")
    assert "removed 0 batches and 1 answers" in first.stdout and "MANYEYES_KEEP_DAYS" in first.stderr
    assert "removed 1 batches" in call("store", "purge", "--older-than-days", "30").stdout
    with Store.open(store_url) as store:
        assert [row.actor for row in store.audit.list(action="batch.purge")] == ["cli"]


def test_days_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYEYES_KEEP_DAYS", "30")
    assert call("store", "purge").stderr == ""


def test_no_password_is_shown(store_url: str) -> None:
    told = call("store", "status").stdout + call("store", "upgrade").stdout
    password = re.search(r":([0-9a-f]{32})@", store_url)
    assert password is None or (password[1] not in told and "***" in told)


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYEYES_STORE_URL", "postgresql://nobody:s3cret@127.0.0.1:1/none")
    told = call("store", "status", code=2).stderr
    assert "store_unavailable" in told and "s3cret" not in told


def test_the_rest_of_the_service_need_not_be_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first key is made before there is any, so that settings that ask for keys must not get in its way."""
    monkeypatch.setenv("MANYEYES_HOST", "0.0.0.0")
    call("key", "create", "first", "--scope", "admin")
