"""The service's log: one JSON object a line, whoever writes it, with the request that it is about and without secrets.

Nothing is configured on import: ``configure`` is called by whoever runs the service.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from manyeyes.service.operations.secrets import Redactor
from manyeyes.service.operations.settings import OperationsSettings

STATE: Final[ContextVar[Mapping[str, Any] | None]] = ContextVar("manyeyes_request_state", default=None)
"""``scope["state"]`` of the request that is being answered, also on the worker threads that work for it."""

_OF_RECORDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "facts",
    "taskName",
    "color_message",  # uvicorn's, for terminals
}


class Told:
    """What both formats say of a record: times in UTC, the request, and no secret."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor

    def of(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the members of a line, in their order."""
        state = STATE.get() or {}
        caller = state.get("caller")
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            "request_id": state.get("request_id"),
            "key_id": getattr(caller, "key_id", None),
            "trace_id": state.get("trace_id"),
        }
        told |= {
            name: value
            for name, value in vars(record).items()
            # A name with an underscore is a library's own business: Ray gives one to every record.
            if name not in _OF_RECORDS and name not in told and not name.startswith("_")
        }
        told |= {name: value for name, value in getattr(record, "facts", {}).items() if name not in told}
        if record.exc_info and record.exc_info[0] is not None:
            told["exception"] = logging.Formatter().formatException(record.exc_info)
        if record.stack_info:
            told["stack"] = record.stack_info
        sent = state.get("sent_secrets", ())
        return {name: self.redactor.clean(value, also=sent) for name, value in told.items()}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, key_id, trace_id, and what a record adds."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._told = Told(redactor)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, in ASCII: no text that came in can end it or forge another one."""
        return json.dumps(self._told.of(record), default=str)


class TextFormatter(logging.Formatter):
    """The same for people: time, level, logger, message, then ``name=value``."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._told = Told(redactor)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and a traceback below it."""
        told = self._told.of(record)
        below = [told.pop(name) for name in ("exception", "stack") if name in told]
        head = [told.pop(name) for name in ("time", "level", "logger", "message")]
        head = [str(head[0]), str(head[1]).upper(), *(_one_line(part) for part in head[2:])]
        rest = [f"{name}={_one_line(value)}" for name, value in told.items() if value is not None]
        return "\n".join([" ".join(head + rest), *below])


def configure(
    settings: OperationsSettings,
    *,
    environ: MutableMapping[str, str] | None = None,
    stream: TextIO | None = None,
) -> logging.Handler:
    """Send every logger's lines to the error output, as the settings say; return the handler that does it.

    Loggers of libraries keep their own handlers out of it: uvicorn's, warnings, and what ends a thread come here, too.
    """
    redactor = Redactor.from_env(environ)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        JsonFormatter(redactor) if settings.log_format == "json" else TextFormatter(redactor)
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Each says one line a call of its own, at a level that is meant for the program that made the call.
    for name in ("httpx", "httpcore", "urllib3"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    threading.excepthook = _thread_died
    return handler


def release(handler: logging.Handler) -> None:
    """Undo ``configure``: for tests, and for a program that goes on after serving."""
    logging.getLogger().removeHandler(handler)
    logging.captureWarnings(False)
    threading.excepthook = threading.__excepthook__


def _thread_died(died: threading.ExceptHookArgs) -> None:
    if died.exc_type is SystemExit or died.exc_value is None:
        return
    name = died.thread.name if died.thread else "?"
    logging.getLogger("manyeyes.threads").error(
        "the thread %s died", name, exc_info=(died.exc_type, died.exc_value, died.exc_traceback)
    )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # Arguments that do not fit their format: say both, and lose no line.
        return f"{record.msg} {record.args}"


def _one_line(value: Any) -> str:
    # Nobody forges a line by sending a line break, or moves the cursor of a terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
