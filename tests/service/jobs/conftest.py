"""What tests of jobs share: one S3 server with a proxy that can fail, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.jobs.faulty_s3 import FaultyS3, faulty_s3


@pytest.fixture(scope="session")
def shared_s3() -> Iterator[FaultyS3]:
    """Return a server with a bucket ``data``; tests write below prefixes of their own."""
    with faulty_s3(hang_s=2.0) as server:
        server.make_bucket("data")
        yield server


@pytest.fixture
def data_s3(shared_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Return the server, which this process's environment leads to; it fails as soon as there is a plan."""
    for name, value in shared_s3.env().items():
        monkeypatch.setenv(name, value)
    shared_s3.forget()
    yield shared_s3
    shared_s3.forget()
