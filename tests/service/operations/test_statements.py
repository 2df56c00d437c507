"""Statements to the database are counted, and timed, where they succeed and where they do not."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.operations.statements import watch


def test_every_statement_counts() -> None:
    engine, metrics = create_engine("sqlite://"), Metrics()
    watch(engine, metrics)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (:n)"), [{"n": 1}, {"n": 2}])
        assert connection.execute(text("SELECT count(*) FROM t")).scalar_one() == 2
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(text("SELECT secret FROM nowhere"))
    engine.dispose()
    page = metrics.page()[0].decode()
    assert 'manyeyes_store_query_duration_seconds_count{operation="insert"} 1.0' in page
    assert 'manyeyes_store_query_duration_seconds_count{operation="select"} 2.0' in page
    assert 'manyeyes_store_query_duration_seconds_count{operation="other"} 1.0' in page
    assert 'manyeyes_store_errors_total{operation="select"} 1.0' in page
    assert "nowhere" not in page


def test_a_connection_that_fails_counts(tmp_path: object) -> None:
    engine, metrics = create_engine(f"sqlite:///{tmp_path}/no/such/folder.db"), Metrics()
    watch(engine, metrics)
    with pytest.raises(DBAPIError):
        engine.connect()
    assert 'manyeyes_store_errors_total{operation="connect"} 1.0' in metrics.page()[0].decode()
