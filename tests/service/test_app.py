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
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from manyeyes import Client
from manyeyes.errors import InvalidSettings
from manyeyes.service.app import create_app, listen
from manyeyes.service.settings import ServiceSettings

KEY = "a-key-that-is-long-enough"


def _operations(told: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, operations in told["paths"].items()
        for method, operation in operations.items()
    ]


def _openapi(**options: Any) -> dict[str, Any]:
    return create_app(ServiceSettings(**options)).openapi()


def test_every_reference_in_the_schema_leads_somewhere() -> None:
    told = _openapi()
    refs = set(re.findall(r"#/components/schemas/(\w+)", str(told)))
    assert refs <= told["components"]["schemas"].keys()
    assert {"LabelCall", "LabelAnswer", "Problem"} <= refs


def test_the_schema_is_sound() -> None:
    validate(_openapi())
    validate(_openapi(api_keys=KEY, label_studio_recipe="paint"))


def test_every_operation_tells_its_refusals_in_problem_documents() -> None:
    told = _openapi(label_studio_recipe="paint")
    assert set(told["paths"]) >= {
        *(
            "/healthz",
            "/readyz",
            "/metrics",
            "/v1/label",
            "/v1/votes",
            "/v1/embed",
            "/v1/detect",
            "/v1/search",
        ),
        *(
            "/v1/indexes",
            "/v1/models",
            "/v1/models/{id}",
            "/v1/embeddings",
            "/v1/recipes",
            "/v1/recipes/{name}",
        ),
        *("/label-studio/{recipe}/predict", "/label-studio/{recipe}/setup", "/label-studio/{recipe}/health"),
        *("/predict", "/setup", "/health"),
    }
    for path, method, operation in _operations(told):
        assert set(operation["responses"]) >= {"401", "403", "429", "500", "503"}, (path, method)
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and path != "/readyz":
                assert list(answer["content"]) == ["application/problem+json"], (path, method, status)
            assert "X-Request-Id" in answer["headers"], (path, method, status)
        for status in ("429", "503"):
            assert "Retry-After" in operation["responses"][status]["headers"], (path, method)
        assert operation["summary"], (path, method)


def test_every_example_in_the_schema_is_one() -> None:
    told = _openapi(label_studio_recipe="paint")

    def check(example: Any, schema: dict[str, Any]) -> None:
        Draft202012Validator({**schema, "components": told["components"]}).validate(example)

    n_checked = 0
    for name, shape in told["components"]["schemas"].items():
        for example in shape.get("examples", ()):
            check(example, {"$ref": f"#/components/schemas/{name}"})
            n_checked += 1
    for _, _, operation in _operations(told):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            if "example" in media:
                check(media["example"], media["schema"])
                n_checked += 1
    assert n_checked > 25


def test_every_call_with_a_body_shows_an_example() -> None:
    for path, method, operation in _operations(_openapi(label_studio_recipe="paint")):
        content = operation.get("requestBody", {}).get("content", {})
        assert "application/json" not in content or content["application/json"]["example"], (path, method)


def test_the_schema_names_the_scope_of_each_operation_where_keys_are_needed() -> None:
    assert not any("security" in operation for _, _, operation in _operations(_openapi()))
    told = _openapi(api_keys=KEY)
    assert set(told["components"]["securitySchemes"]) == {"key", "password", "header"}
    scopes = {
        (path, method): {
            scope for way in operation["security"] for scopes in way.values() for scope in scopes
        }
        for path, method, operation in _operations(told)
    }
    assert scopes["/healthz", "get"] == set()
    assert scopes["/v1/label", "post"] == {"label"}
    assert scopes["/v1/models", "get"] == {"read"}
    assert scopes["/v1/keys", "post"] == {"admin"}
    assert all(len(told) == 1 for (path, _), told in scopes.items() if path not in ("/healthz", "/readyz"))


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
            while not (found := re.search(r'listening on (http://[^\s"]+)', log.read_text())):
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
