"""Somebody with a key sends what was meant for an interpreter, a file system or a database. Nothing of it runs.

Recipes of the store are the widest door: they are parsed, kept, shown to others, and used again and again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from manyeyes.service.app import create_app
from manyeyes.service.settings import ServiceSettings
from tests.service.routes.conftest import PAINT

MAX_S = 5.0
INJECTIONS = (
    "'; DROP TABLE recipes; --",
    "1 OR 1=1",
    "%00",
    "..%2f..%2f..%2fetc%2fpasswd",
    "../../../etc/passwd",
    "....//....//etc/passwd",
    "%2e%2e%2fsecret",
    "file:///etc/passwd",
    "{{7*7}}",
    "${jndi:ldap://127.0.0.1/x}",
    "\u202e\u0000",
    "a" * 5_000,
    "-1",
    "9" * 400,
)
MARK = "the-file-that-must-not-be-there"


@pytest.fixture
def http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (tmp_path / "secret.yaml").write_text("name: secret\nclasses: [root, toor]\nlfs: []\n")
    monkeypatch.chdir(tmp_path)
    settings = ServiceSettings(recipes_dir=recipes, store_url=f"sqlite:///{tmp_path}/service.db")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def nested(depth: int) -> Any:
    made: Any = "x"
    for _ in range(depth):
        made = [made]
    return made


RECIPES: dict[str, Any] = {
    "an object of Python": f"!!python/object/apply:os.system ['touch {MARK}']",
    "an object inside": f"name: x\nclasses: !!python/object/new:os.system ['touch {MARK}']\nlfs: []",
    "a bomb of aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)),
    "a deep list": "[" * 50_000,
    "a deep document": {**PAINT, "description": nested(900)},
    "a function": {**PAINT, "lfs": [{"name": "f", "kind": "python", "function": "os:system"}]},
    "a file of words": {
        **PAINT,
        "lfs": [{"name": "f", "kind": "dictionary", "on": "text", "file": "/etc/passwd", "vote": "red"}],
    },
    "a pickle for a detector": {
        **PAINT,
        "primitives": {"detector": {"kind": "detector", "model": "/tmp/evil.pt"}},
        "lfs": [{"name": "d", "kind": "detect", "when": "count('person') > 0", "vote": "red"}],
    },
    "a model from elsewhere": {
        **PAINT,
        "primitives": {"clip": {"kind": "clip", "model": "hf-hub:somebody/evil"}},
        "lfs": [{"name": "p", "kind": "prompt", "on": "image", "using": "clip"}],
    },
    "code in a condition": {
        **PAINT,
        "lfs": [
            {
                "name": "c",
                "kind": "metadata",
                "when": "__import__('os').system('touch " + MARK + "')",
                "vote": "red",
            }
        ],
    },
    "attributes in a condition": {
        **PAINT,
        "lfs": [{"name": "c", "kind": "metadata", "when": "().__class__.__bases__[0]", "vote": "red"}],
    },
    "a template in a prompt": {
        **PAINT,
        "lfs": [
            {
                "name": "p",
                "kind": "prompt",
                "on": "text",
                "prompts": {"red": "{0.__class__}"},
                "templates": ["{.__init__.__globals__}"],
            }
        ],
    },
    "an endpoint": {
        **PAINT,
        "lfs": [{"name": "c", "kind": "chat", "endpoint": "http://169.254.169.254/", "ask": "?"}],
    },
    "examples in files": {
        **PAINT,
        "lfs": [{"name": "n", "kind": "neighbors", "on": "image", "examples": {"red": ["/etc/passwd"]}}],
    },
    "a name that is a path": {**PAINT, "name": "../../secret"},
    "a slow pattern": {
        **PAINT,
        "lfs": [{"name": "r", "kind": "regex", "on": "text", "pattern": "(a+)+$", "vote": "red"}],
    },
    "a heavy label model": {**PAINT, "label_model": {"name": "dawid_skene", "max_iterations": 10**9}},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_brings_nothing_that_runs(http: TestClient, name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    calls: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/v1/recipes/validate", {"recipe": recipe}),
        ("/v1/recipes", {"recipe": recipe}),
        ("/v1/label", {"recipe": recipe, "items": [{"text": "a" * 40 + "!"}]}),
    )
    for path, body in calls:
        started = time.perf_counter()
        answer = http.post(path, json=body)
        assert time.perf_counter() - started < MAX_S
        assert answer.status_code < 500, answer.text[:500]
        assert "root:" not in answer.text
        if path.endswith("validate") and name not in ("a slow pattern",):
            assert answer.json().get("valid") is not True, answer.text[:500]
        elif name not in ("a slow pattern",):
            assert answer.status_code in (403, 404, 413, 422), answer.text[:500]
            assert len(answer.content) < 10_000, "what was sent is not sent back"
    assert not list(tmp_path.rglob(MARK))
    if name not in ("a slow pattern",):
        assert http.get("/v1/recipes").json()["recipes"] == []


@pytest.mark.parametrize("value", INJECTIONS)
def test_names_and_ids_are_words_and_nothing_else(http: TestClient, value: str) -> None:
    http.post("/v1/recipes", json={"recipe": PAINT})
    reads = [
        f"/v1/recipes/{value}",
        f"/v1/recipes/{value}/versions",
        f"/v1/recipes/paint/versions/{value}",
        f"/v1/recipes/paint@{value}",
        f"/v1/batches/{value}",
        f"/v1/batches/{value}/labels",
        f"/v1/explain/{value}",
        f"/v1/label-models/{value}",
        f"/v1/keys/{value}",
    ]
    queries = [
        ("/v1/recipes/paint/diff", "from"),
        ("/v1/recipes", "cursor"),
        ("/v1/batches", "recipe"),
        ("/v1/batches", "cursor"),
        ("/v1/label-models", "recipe_version"),
        ("/v1/audit", "subject"),
        ("/v1/audit", "actor"),
    ]
    answers = [http.get(path.replace("\u0000", "%00").replace("#", "%23")) for path in reads]
    answers += [http.get(path, params={name: value}) for path, name in queries]
    answers += [http.delete(f"/v1/recipes/{value}".replace("\u0000", "%00"))]
    answers += [
        http.post("/v1/recipes/paint/activate", json={"version": value}),
        http.post("/v1/label", json={"recipe": value, "items": [{"text": "x"}]}),
        http.post("/v1/label-models", json={"recipe": value, "batches": [value]}),
        http.post("/v1/label-models/compare", json={"ids": [value, "b"], "batches": [value]}),
        http.post("/v1/keys", json={"name": value, "scopes": [value]}),
    ]
    for answer in answers:
        assert answer.status_code in (200, 400, 404, 405, 413, 422), answer.text[:500]
        assert "root" not in answer.text.replace("root:x", "root") or "toor" not in answer.text
        assert "Traceback" not in answer.text
    # Nothing was dropped, emptied or made.
    assert [one["name"] for one in http.get("/v1/recipes").json()["recipes"]] == ["paint"]
    assert http.get("/v1/keys").json()["data"] == []


def test_answers_name_no_path_of_the_machine(http: TestClient, tmp_path: Path) -> None:
    for path in ("/v1/recipes/nobody", "/v1/batches/x", "/v1/recipes/..", "/v1/recipes/%2e%2e/versions"):
        assert str(tmp_path) not in http.get(path).text
