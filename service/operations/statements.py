"""What the database is asked: counted and traced, statement by statement, without what they say."""

from __future__ import annotations

import time
from typing import Any, Final

from sqlalchemy import Engine, event

from manyeyes.service.operations.metrics import OTHER, Metrics
from manyeyes.service.operations.spans import here, record

_STARTED: Final = "manyeyes_started"
_KNOWN: Final = frozenset({"select", "insert", "update", "delete", "with", "begin", "pragma"})


def watch(engine: Engine, metrics: Metrics) -> None:
    """Tell the metrics, and whoever traces, of every statement that an engine sends."""

    def before(
        _connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
    ) -> None:
        if context is not None:
            setattr(context, _STARTED, time.perf_counter())

    def after(
        _connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool
    ) -> None:
        tell(statement, getattr(context, _STARTED, None), failed=False)

    def failed(context: Any) -> None:
        tell(
            context.statement or "connect",
            getattr(context.execution_context, _STARTED, None),
            failed=True,
        )

    def tell(statement: str, started: float | None, *, failed: bool) -> None:
        ended = time.perf_counter()
        operation = operation_of(statement)
        began = ended if started is None else started
        metrics.queried(operation, ended - began, failed=failed)
        record(here(), "store", began, ended, operation=operation, failed=failed)

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    event.listen(engine, "handle_error", failed)


def operation_of(statement: str) -> str:
    """Return what a statement does, by its first word.

    >>> operation_of("SELECT 1"), operation_of("VACUUM"), operation_of("connect")
    ('select', 'other', 'connect')
    """
    word = statement.split(None, 1)[0].lower() if statement.strip() else OTHER
    return word if word in _KNOWN or word == "connect" else OTHER
