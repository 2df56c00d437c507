"""A bucket that fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.jobs.faulty_s3 import FaultyS3, faulty_s3, nothing

WAIT_S = 0.25
"""How long a client waits for an answer here; a hanging one takes longer."""


@pytest.fixture(scope="session")
def server() -> Iterator[FaultyS3]:
    with faulty_s3(hang_s=2 * WAIT_S) as s3:
        s3.make_bucket("jobs")
        yield s3


@pytest.fixture
def s3(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Return a bucket ``jobs``, which this process's environment leads to; it fails as soon as there is a plan."""
    for name, value in {**server.env(), "MANYEYES_STORAGE_TIMEOUT_S": str(WAIT_S)}.items():
        monkeypatch.setenv(name, value)
    server.forget()
    yield server
    server.plan = nothing
