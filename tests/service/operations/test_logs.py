"""The log: one JSON object a line whoever writes it, with the request that it is about, and never with a secret."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.errors import InvalidSettings
from manyeyes.service.access.callers import Caller
from manyeyes.service.app import create_app
from manyeyes.service.operations.logs import STATE, configure, release
from manyeyes.service.operations.secrets import HIDDEN, Redactor
from manyeyes.service.settings import ServiceSettings

KEY = "correct-horse-battery-staple"
OURS = "me_0123456789abcdef_Zm9vYmFyYmF6cXV4"
PASSWORD = "s3cr%40t-pass+word"
DATABASE = f"postgresql+psycopg://ann:{PASSWORD}@db.example:5432/labels"
ALWAYS = {"time", "level", "logger", "message", "request_id", "key_id", "trace_id"}


@contextlib.contextmanager
def writing(environ: dict[str, str] | None = None, **settings: Any) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    handler = configure(ServiceSettings(**settings), environ=environ or {}, stream=stream)
    try:
        yield stream
    finally:
        release(handler)
        root.setLevel(level)
        for old in before:
            root.addHandler(old)


def warn(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(text, UserWarning, stacklevel=1)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_logger_writes_one_object_a_line() -> None:
    with writing() as stream:
        logging.getLogger("manyeyes.service").info("first\nsecond %s", "x", extra={"facts": {"n_items": 3}})
        logging.getLogger("uvicorn.error").warning("uvicorn says")
        logging.getLogger("somebody.else").error("else", extra={"more": [1, {"a": object}]})
        warn("careful")
        try:
            raise ZeroDivisionError("why")
        except ZeroDivisionError:
            logging.getLogger("manyeyes.service").exception("broken %s")
        thread = threading.Thread(target=lambda: 1 / 0, name="worker-7")
        thread.start()
        thread.join()
        logging.getLogger("x").info("%d", "no number")
        logging.getLogger("x").debug("not written")
    told = lines(stream)
    assert len(told) == 7
    assert all(line.keys() >= ALWAYS for line in told)
    assert told[0]["message"] == "first\nsecond x" and told[0]["n_items"] == 3
    assert [line["logger"] for line in told[:4]] == [
        "manyeyes.service",
        "uvicorn.error",
        "somebody.else",
        "py.warnings",
    ]
    assert [line["level"] for line in told[:3]] == ["info", "warning", "error"]
    assert told[0]["time"].endswith("+00:00") and "T" in told[0]["time"]
    assert "ZeroDivisionError: why" in told[4]["exception"]
    assert "worker-7" in told[5]["message"] and "ZeroDivisionError" in told[5]["exception"]
    assert "no number" in told[6]["message"]


def test_what_libraries_keep_in_records_for_themselves_is_not_told() -> None:
    with writing() as stream:
        logging.getLogger("x").info("x", extra={"_ray_timestamp_ns": 1, "n_items": 3})
    (told,) = lines(stream)
    assert told["n_items"] == 3
    assert "_ray_timestamp_ns" not in told


def test_text_for_people_is_one_line_too() -> None:
    with writing(log_format="text", log_level="warning") as stream:
        logging.getLogger("a").info("not written")
        logging.getLogger("a").warning("one\n\x1b[31mtwo", extra={"facts": {"path": "/x\nERROR forged"}})
    (line,) = stream.getvalue().splitlines()
    assert "WARNING a one\\n\\x1b[31mtwo" in line and "path=/x\\nERROR forged" in line


def test_settings_are_checked() -> None:
    assert (
        ServiceSettings.from_env({"MANYEYES_LOG_FORMAT": "TEXT", "MANYEYES_LOG_LEVEL": "Debug"}).log_level
        == "debug"
    )
    for wrong in ({"log_format": "xml"}, {"log_level": "loud"}):
        with pytest.raises(InvalidSettings):
            ServiceSettings(**wrong)


def test_lines_name_the_request_also_from_worker_threads() -> None:
    async def work() -> None:
        await anyio.to_thread.run_sync(lambda: logging.getLogger("deep.below").info("working"))

    state = {"request_id": "r1", "caller": Caller("k1", frozenset({"read"})), "trace_id": "t1"}
    with writing() as stream:
        token = STATE.set(state)
        anyio.run(work)
        STATE.reset(token)
        logging.getLogger("deep.below").info("idle")
    during, after = lines(stream)
    assert (during["request_id"], during["key_id"], during["trace_id"]) == ("r1", "k1", "t1")
    assert (after["request_id"], after["key_id"], after["trace_id"]) == (None, None, None)


SECRETS: dict[str, str] = {
    "a bearer token": f"headers: Authorization: Bearer {KEY}",
    "a header as bytes": f"[(b'authorization', b'Bearer {KEY}'), (b'accept', b'*/*')]",
    "a header in a mapping": f"{{'X-Api-Key': '{KEY}', 'accept': '*/*'}}",
    "a header in JSON": json.dumps({"x-api-key": KEY}),
    "basic": "sent Basic " + base64.b64encode(KEY.encode()).decode(),
    "a URL of a database": f"could not connect to {DATABASE}",
    "a URL without a user": f"redis://:{KEY}@cache:6379/0",
    "a URL of a proxy": f"http://ann:{KEY}@proxy:3128 refused",
    "a key of the store": f"unknown key {OURS}!",
    "a parameter": f"GET /x?api_key={KEY}&page=2",
    "a signed URL": f"https://b.s3.example/o?X-Amz-Signature={KEY}&X-Amz-Credential={KEY}",
    "a DSN": f"connection failed: host=db user=ann password={KEY} dbname=x",
    "a cookie": f"Set-Cookie: {KEY}; Path=/",
}
BARE = [KEY, OURS, PASSWORD, base64.b64encode(KEY.encode()).decode()]


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_what_looks_like_a_secret_is_not_written(text: str, log_format: str) -> None:
    """In a message, its arguments, its facts, what a record adds, a traceback and the errors behind it."""
    with writing(log_format=log_format) as stream:
        log = logging.getLogger("some.library")
        log.warning(text)
        log.warning("%s", text)
        log.warning("x", extra={"facts": {"deep": [{"deeper": text}]}, "more": (text,)})
        try:
            try:
                raise RuntimeError(text)
            except RuntimeError as error:
                raise ValueError("outer") from error
        except ValueError:
            log.exception("failed")
        warn(text)

        def die() -> None:
            raise RuntimeError(text)

        thread = threading.Thread(target=die)
        thread.start()
        thread.join()
    written = stream.getvalue()
    assert HIDDEN in written and written.count(HIDDEN) >= 6
    assert not [secret for secret in BARE if secret in written]


def test_what_the_environment_and_the_request_hold_is_not_written_wherever_it_stands(tmp_path: Path) -> None:
    environ = {
        "MANYEYES_API_KEYS": f"{KEY}=read,another-key-of-mine",
        "MANYEYES_STORE_URL": DATABASE,
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-tok=0a1b2c3d4e",
        "MANYEYES_LABEL_STUDIO_KEY_FILE": str(tmp_path / "key"),
        "GONE_KEY_FILE": str(tmp_path / "gone"),
        "PATH": "/usr/bin",
    }
    (tmp_path / "key").write_text("in-a-file-of-its-own\n")
    with writing(environ) as stream:
        token = STATE.set({"sent_secrets": ("Basic opaque==", "opaque==")})
        for text in (
            KEY,
            "another-key-of-mine",
            PASSWORD,
            "s3cr@t-pass+word",
            "wJalrXUtnFEMI",
            "0a1b2c3d4e",
            "opaque==",
            "in-a-file-of-its-own",
        ):
            logging.getLogger("x").info("it is <%s> they say, in /usr/bin", text)
        STATE.reset(token)
    assert [line["message"] for line in lines(stream)] == [f"it is <{HIDDEN}> they say, in /usr/bin"] * 8


def test_what_is_no_secret_stays() -> None:
    told = [
        "POST /v1/label: 200",
        "recipe 'tokens' has no key",
        "https://example.org:8443/a?b=c#d",
        "the password is wrong",
        "authorization failed for key_id=k1",
        "me_and_you",
        "C:\\Users\\ann",
        "at 10:20:30 ann@example.org wrote",
    ]
    assert Redactor().clean(told) == told
    assert Redactor().clean({"n_items": 3, "key_id": "k1", "ok": None}) == {
        "n_items": 3,
        "key_id": "k1",
        "ok": None,
    }
    assert Redactor(["", "no"]).clean("nothing short is hidden: no") == "nothing short is hidden: no"


@given(st.text(), st.lists(st.text(max_size=20), max_size=4))
def test_any_text_can_be_written(text: str, known: list[str]) -> None:
    with writing() as stream:
        logging.getLogger("x").info("%s", text, extra={"facts": {text or "name": text}})
    (line,) = lines(stream)
    assert line.keys() >= ALWAYS
    cleaned = Redactor(known).clean(text)
    assert not [secret for secret in known if len(secret) >= 6 and secret in cleaned and secret not in HIDDEN]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_service_that_is_fed_secrets_writes_none(log_format: str) -> None:
    """Every way in which a request can bring one, with a bug behind the route that quotes all of it."""
    settings = ServiceSettings(api_keys=KEY, log_format=log_format)
    app = create_app(settings)

    @app.get("/bug")
    async def bug(request: Any = None) -> None:
        raise RuntimeError(f"headers were {KEY} and {DATABASE}")

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            wrong = "wrong-key-that-nobody-has"
            return [
                await client.get("/bug", headers={"Authorization": f"Bearer {KEY}"}),
                await client.get("/v1/recipes", headers={"X-Api-Key": KEY}),
                await client.get("/v1/recipes", headers={"X-Api-Key": wrong}),
                await client.get("/v1/recipes", headers={"Authorization": f"Bearer {OURS}"}),
                await client.get(
                    f"/v1/recipes?api_key={KEY}", headers={"X-Api-Key": KEY, "Cookie": f"a={OURS}"}
                ),
                await client.get(f"/{KEY}", headers={"X-Api-Key": KEY, "X-Request-Id": KEY}),
                await client.post(
                    "/v1/label",
                    headers={"X-Api-Key": KEY},
                    json={"recipe": DATABASE, "items": [{"text": KEY}]},
                ),
            ]

    with writing(log_format=log_format, environ={}) as stream:
        answers = anyio.run(send)
    assert [answer.status_code for answer in answers[:4]] == [500, 200, 401, 401]
    written = stream.getvalue()
    assert written.count("RuntimeError") >= 1
    if log_format == "json":
        told = [(line["status"], line["key_id"] is not None) for line in lines(stream) if "status" in line]
        assert told[:4] == [(500, True), (200, True), (401, False), (401, False)]
    for secret in (KEY, OURS, PASSWORD, "wrong-key-that-nobody-has"):
        assert secret not in written


def test_serving_writes_nothing_but_json(tmp_path: Any, root: Any, free_port: Callable[[], int]) -> None:
    import os
    import signal
    import time

    port = free_port()
    environ = os.environ | {"MANYEYES_API_KEYS": KEY, "MANYEYES_OTEL_ENDPOINT": ""}
    command = [sys.executable, "-m", "manyeyes.cli", "serve", "--port", str(port)]
    server = subprocess.Popen(
        command, env=environ, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                    break
            assert server.poll() is None and time.monotonic() < deadline, server.communicate()
            time.sleep(0.1)
        httpx.get(f"http://127.0.0.1:{port}/v1/recipes", headers={"X-Api-Key": KEY, "X-Request-Id": "mine"})
    finally:
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=60)
    assert out == ""
    told = [json.loads(line) for line in err.splitlines()]
    assert all(line.keys() >= ALWAYS for line in told)
    assert {"uvicorn.error", "manyeyes.service"} <= {line["logger"] for line in told}
    # Beside the request's own line there may be others that were written for it, such as of a query that was slow.
    mine = [line for line in told if line["request_id"] == "mine"]
    assert [line["path"] for line in mine if "path" in line] == ["/v1/recipes"]
    assert KEY not in err
