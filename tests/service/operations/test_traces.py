"""Traces arrive at a collector that speaks OTLP over HTTP, hang together across threads, and are off unless wanted."""

from __future__ import annotations

import base64
import gzip
import http.server
import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from PIL import Image

from manyeyes.errors import MissingDependency
from manyeyes.service.app import create_app
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.operations.spans import here, record, span
from manyeyes.service.operations.statements import watch
from manyeyes.service.operations.tracing import asked_for, make_tracing
from manyeyes.service.settings import ServiceSettings

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_STREAM = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(_STREAM, "PNG")
IMAGE = base64.b64encode(_STREAM.getvalue()).decode()
CALL = {"recipe": "paint", "items": [{"text": "a crimson wall", "image": IMAGE}, {"text": "a navy wall"}]}


class Collector:
    """A collector: takes what exporters send, and gives it back as plain facts."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.resources: list[dict[str, str]] = []
        self.spans: list[dict[str, Any]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.headers["content-type"] == "application/x-protobuf"
                collector.take(self.path, ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def take(self, path: str, sent: ExportTraceServiceRequest) -> None:
        self.paths.append(path)
        for resource in sent.resource_spans:
            self.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.spans += [
                    {
                        "name": one.name,
                        "trace": one.trace_id.hex(),
                        "id": one.span_id.hex(),
                        "parent": one.parent_span_id.hex(),
                        "started": one.start_time_unix_nano / 1e9,
                        "ended": one.end_time_unix_nano / 1e9,
                        "status": one.status.code,
                        "events": len(one.events),
                        "attributes": {
                            a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in one.attributes
                        },
                    }
                    for one in scope.spans
                ]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.spans if one["name"] == name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_a_request_is_one_trace_with_its_stages(
    collector: Collector, recipes_dir: Path, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with serving(ServiceSettings(recipes_dir=recipes_dir)) as url:
        answer = httpx.post(f"{url}/v1/label", json=CALL, headers={"traceparent": PARENT})
        assert answer.status_code == 200, answer.text
        httpx.get(f"{url}/v1/recipes/nothing")
    # Stopping sends what was left.
    assert set(collector.paths) == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "manyeyes"
    assert collector.resources[0]["deployment.environment"] == "test"
    (request,) = collector.named("POST /v1/label")
    assert (request["trace"], request["parent"]) == (PARENT.split("-")[1], PARENT.split("-")[2])
    assert request["attributes"]["http.response.status_code"] == 200
    assert request["attributes"]["http.route"] == "/v1/label"
    assert request["attributes"]["manyeyes.n_items"] == 2
    assert answer.headers["traceparent"] == f"00-{request['trace']}-{request['id']}-01"
    mine = [one for one in collector.spans if one["trace"] == request["trace"]]
    assert {"see", "decode", "queue", "infer", "vote", "fuse", "store"} <= {one["name"] for one in mine}
    for one in mine:
        assert request["started"] - 0.01 <= one["started"] <= one["ended"] <= request["ended"] + 0.01
        if one is not request:
            assert one["parent"] in {other["id"] for other in mine}
    (infer, *_) = [one for one in mine if one["name"] == "infer"]
    assert infer["attributes"]["batch"] >= 1 and infer["attributes"]["line"]
    (other,) = collector.named("GET /v1/recipes/{name}")
    assert other["trace"] != request["trace"] and other["parent"] == ""
    assert not any("crimson" in str(one) for one in collector.spans)


def test_spans_hang_together_across_threads(collector: Collector) -> None:
    tracing = make_tracing(ServiceSettings(otel_endpoint=collector.url), {})
    assert tracing is not None

    async def answer() -> None:
        with tracing.request("POST", "/v1/label", {}) as request:
            with span("decode", n_items=3):
                await anyio.to_thread.run_sync(_below)
            place = here()
            thread = threading.Thread(target=_elsewhere, args=(place,))
            thread.start()
            thread.join()
            request.answered("/v1/label", 500, {"n_items": 3, "recipe": None, "list": [1]})

    def _below() -> None:
        with pytest.raises(ValueError, match="private"), span("fuse"):
            raise ValueError("a private text")

    def _elsewhere(place: Any) -> None:
        assert here() is None  # A thread of the pipeline serves several requests, and belongs to none.
        started = time.perf_counter()
        time.sleep(0.05)
        record(place, "inference", started, time.perf_counter(), batch=4)

    anyio.run(answer)
    tracing.close()
    by_name = {one["name"]: one for one in collector.spans}
    assert by_name.keys() == {"POST /v1/label", "decode", "fuse", "inference"}
    root = by_name["POST /v1/label"]
    assert by_name["decode"]["parent"] == by_name["inference"]["parent"] == root["id"]
    assert by_name["fuse"]["parent"] == by_name["decode"]["id"]
    assert len({one["trace"] for one in collector.spans}) == 1
    assert 0.04 < by_name["inference"]["ended"] - by_name["inference"]["started"] < 0.5
    assert root["started"] - 0.01 <= by_name["inference"]["started"] <= root["ended"]
    assert by_name["inference"]["attributes"]["batch"] == 4
    assert (root["status"], by_name["fuse"]["status"], by_name["decode"]["status"]) == (2, 2, 0)
    assert by_name["fuse"]["attributes"]["error.type"] == "ValueError"
    assert "private" not in str(collector.spans)


def test_statements_are_spans_without_their_text(collector: Collector) -> None:
    from sqlalchemy import create_engine, text

    tracing = make_tracing(ServiceSettings(otel_endpoint=collector.url), {})
    assert tracing is not None
    engine = create_engine("sqlite://")
    watch(engine, Metrics())
    with tracing.request("GET", "/x", {}), engine.connect() as connection:
        connection.execute(text("SELECT 'a private text'"))
    engine.dispose()
    tracing.close()
    (store,) = collector.named("store")
    assert store["attributes"] == {"operation": "select", "failed": False}


def test_a_collector_that_is_down_stops_nothing(recipes_dir: Path, serving: Any, free_port: Any) -> None:
    settings = ServiceSettings(recipes_dir=recipes_dir, otel_endpoint=f"http://127.0.0.1:{free_port()}")
    with serving(settings) as url:
        assert httpx.post(f"{url}/v1/label", json=CALL).status_code == 200


def test_who_asks_for_traces() -> None:
    off = ServiceSettings()
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert not asked_for(off, {})
    assert not asked_for(off, {"OTEL_EXPORTER_OTLP_ENDPOINT": " "})
    assert asked_for(off, endpoint)
    assert asked_for(off, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"})
    assert asked_for(ServiceSettings(otel_endpoint="http://collector:4318"), {})
    assert not asked_for(off, endpoint | {"OTEL_SDK_DISABLED": "true"})
    assert not asked_for(off, endpoint | {"OTEL_TRACES_EXPORTER": "none"})


def test_nothing_is_imported_unless_asked_for() -> None:
    code = """
import sys
from manyeyes.service.app import create_app
create_app()
ours = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "manyeyes.service.operations.otel")
print([name for name in sys.modules if name.startswith(ours)])  # FastAPI itself imports the bare interface.
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_our_setting_is_an_error_and_a_cluster_wide_one_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "manyeyes.service.operations.otel", None)
    with pytest.raises(MissingDependency, match=r"manyeyes\[otel\]"):
        make_tracing(ServiceSettings(otel_endpoint="http://collector:4318"), {})
    assert make_tracing(ServiceSettings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}) is None
    assert "nothing is traced" in caplog.text


def test_log_lines_name_the_trace(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(ServiceSettings(otel_endpoint=collector.url))
    seen: list[Any] = []

    @app.get("/look")
    async def look(request: Any = None) -> dict[str, Any]:
        from manyeyes.service.operations.logs import STATE

        seen.append((STATE.get() or {}).get("trace_id"))
        return {}

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client:
            return await client.get("/look", headers={"traceparent": PARENT})

    answer = anyio.run(send)
    assert answer.status_code == 200
    assert seen == [PARENT.split("-")[1]]
    assert answer.headers["traceparent"].split("-")[1] == PARENT.split("-")[1]
