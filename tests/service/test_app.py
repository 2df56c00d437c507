"""The app as a whole: what it says of itself, and how it is started and stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from manyeyes import Client
from manyeyes.errors import InvalidSettings
from manyeyes.service.app import create_app, listen
from manyeyes.service.schemas.labels import EXAMPLE_ANSWER, LabelAnswer
from manyeyes.service.settings import ServiceSettings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


def _openapi(**options: Any) -> dict[str, Any]:
    return create_app(ServiceSettings(**options)).openapi()


def test_every_reference_in_the_schema_leads_somewhere() -> None:
    told = _openapi()
    refs = set(re.findall(r"#/components/schemas/(\w+)", str(told)))
    assert refs <= told["components"]["schemas"].keys()
    assert {"LabelCall", "LabelAnswer", "Problem"} <= refs


def test_the_schema_tells_each_path_its_refusals_and_examples() -> None:
    told = _openapi()
    assert set(told["paths"]) == {"/healthz", "/v1/label", "/v1/recipes", "/v1/recipes/{name}"}
    label = told["paths"]["/v1/label"]["post"]
    assert set(label["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert set(label["responses"]) >= {"200", "401", "403", "404", "413", "415", "422", "429", "503"}
    assert label["requestBody"]["content"]["application/json"]["example"]["items"]
    for status, answer in label["responses"].items():
        expected = "application/json" if status == "200" else "application/problem+json"
        assert list(answer["content"]) == [expected]
    LabelAnswer.model_validate(EXAMPLE_ANSWER)


def test_the_schema_asks_for_a_key_where_one_is_needed() -> None:
    assert "security" not in _openapi()
    told = _openapi(api_keys="a-key-that-is-long-enough")
    assert told["security"] == [{"key": []}]
    assert told["paths"]["/healthz"]["get"]["security"] == []


def test_whatever_is_sent_the_answer_is_one_of_those_described(url: str) -> None:
    described = schemathesis.openapi.from_url(f"{url}/openapi.json")
    asked = 0
    for found in described.get_all_operations():
        operation = found.ok()

        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
        def sound(case: Any) -> None:
            nonlocal asked
            case.call_and_validate(checks=CHECKS)
            asked += 1

        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        def unsound(case: Any) -> None:
            nonlocal asked
            case.call_and_validate(checks=CHECKS)
            asked += 1

        sound()
        if operation.method == "post" or operation.path_parameters:
            unsound()
    assert asked > 60


def test_an_answer_does_not_wait_for_an_acknowledgement(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as http:
        waited = []
        for _ in range(15):
            started = time.perf_counter()
            http.get("/healthz")
            waited.append(time.perf_counter() - started)
    # A delayed acknowledgement takes 40 ms, every time.
    assert min(waited) < 0.03


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSettings, match=f"127.0.0.1:{port}"):
            listen(ServiceSettings(port=port))
    with pytest.raises(InvalidSettings, match="cannot listen"):
        listen(ServiceSettings(host="no.such.host.invalid", allow_unauthenticated=True))


def test_a_process_serves_warm_and_stops_when_told(recipes_dir: Path, tmp_path: Path) -> None:
    program = (
        "from manyeyes.service.app import serve\n"
        "from manyeyes.service.settings import ServiceSettings\n"
        "serve(ServiceSettings.from_env(), warm=['paint'])\n"
    )
    environ = os.environ | {"MANYEYES_RECIPES_DIR": str(recipes_dir), "MANYEYES_PORT": "0"}
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-c", program], env=environ, stderr=stream)
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"listening on (http://\S+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with Client(found[1]) as client:
                assert client.label(["a crimson wall"], recipe="paint")[0].label == "red"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) in (0, -signal.SIGTERM)
        finally:
            process.kill()
            process.wait()
    told = log.read_text()
    assert "recipe broken cannot be used" in told
    assert re.search(r'"path": "/v1/label", "status": 200, "ms": [\d.]+, "recipe": "paint"', told)
    assert "crimson" not in told


def test_nothing_is_loaded_before_it_is_needed() -> None:
    program = (
        "import sys\n"
        "from manyeyes.service.app import create_app\n"
        "create_app()\n"
        "print(sorted({'torch', 'open_clip', 'ultralytics', 'transformers'} & set(sys.modules)))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == "[]"


def test_there_is_no_page_that_loads_other_peoples_scripts(url: str) -> None:
    for path in ("/docs", "/redoc"):
        assert httpx.get(url + path, trust_env=False).status_code == 404
