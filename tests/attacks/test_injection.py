"""Recipes, names and files that are to run something, or to open what they should not. Nothing runs, nothing opens."""

from __future__ import annotations

import json
import os
import pickle
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.attacks.conftest import RED, Victim, a_victim

OPENED = "the-file-that-is-not-there"
# Long enough that no id holds the product by chance.
FACTORS = (12_345_701, 98_765_411)
TEMPLATE = "{{{{ {0}*{1} }}}} ${{{0}*{1}}} <%= {0}*{1} %>".format(*FACTORS)
RENDERED = str(FACTORS[0] * FACTORS[1])


class Runs:
    """What a pickle does when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def paths_out() -> list[str]:
    """Names that lead out of the folder of recipes."""
    return ["../secret", "..", ".", "", "/etc/passwd", "....//secret", "..\\secret", "paint/../../secret", "~/secret",
           "../secret.yaml", "../../../../../../etc/passwd", "file:///etc/passwd", "secret\x00", "paint\x00.txt",
           "/proc/self/environ", "C:\\secret", "\\\\host\\share", "．．/secret", "..%2fsecret",
            "%2e%2e/secret"]  # fmt: skip


def test_names_of_recipes(victim: Victim) -> None:
    with victim.costs_little(), httpx.Client() as client:
        for name in paths_out():
            for path in {urllib.parse.quote(name, safe=""), urllib.parse.quote(name, safe="/")}:
                # As a raw request target: libraries tidy paths up.
                answer = client.get(victim.url, extensions={"target": f"/v1/recipes/{path}".encode()})
                # An empty name, and dots, are other paths.
                assert answer.status_code in (404, 405, 422) or path in ("", ".", ".."), (name, answer.text)
                assert "crimson" not in answer.text
                assert "root:" not in answer.text
            answer = victim.post(json={"recipe": name, "items": [{"text": "crimson"}]})
            assert answer.status_code in (404, 422), (name, answer.text)
            assert "root:" not in answer.text


def test_ids_and_names_of_files_are_only_words(victim: Victim) -> None:
    before = sorted(path for path in victim.home.rglob("*") if "cache" not in str(path))
    with victim.costs_little():
        for name in [one for one in paths_out() if one]:
            answer = victim.post(json={"recipe": "says", "items": [{"id": name, "text": "crimson"}]})
            assert answer.json()["labels"][0]["id"] == name
        answer = victim.post(
            data={"recipe": "says"}, files=[("files", ("../../../etc/cron.d/evil", b"x", "image/png"))]
        )
        assert answer.json()["labels"][0]["id"] == "evil"
        for key in ("file", "path", "filename", "source", "uri"):
            assert victim.codes({key: "/etc/passwd"}, recipe="says") == ["invalid_item"]
        assert victim.codes({"image": "/etc/passwd"}, recipe="says") == ["invalid_item"]
    after = sorted(path for path in victim.home.rglob("*") if "cache" not in str(path))
    assert {path.name for path in after} - {path.name for path in before} <= {
        "service.db-wal", "service.db-shm", "service.db-journal"
    }  # fmt: skip


def recipes_that_run(mark: str) -> dict[str, Any]:
    """Recipes that touch a file, or read one, if anything in them is taken at its word."""

    def with_lf(**fields: Any) -> dict[str, Any]:
        return {"name": "a", "classes": ["red", "blue"], "lfs": [{"name": "x", "vote": "red", **fields}]}

    def when(expression: str) -> dict[str, Any]:
        return with_lf(kind="metadata", when=expression)

    run = f"__import__('os').system('touch {mark}')"
    return {
        "python": with_lf(kind="python", function="os:system"),
        "python path": with_lf(kind="python", function="../../tmp/evil:run"),
        "call": when(run),
        "attributes": when("().__class__.__bases__[0].__subclasses__()"),
        "lambda": when(f"(lambda: {run})()"),
        "comprehension": when(f"[{run} for _ in (1,)]"),
        "walrus": when(f"(x := {run})"),
        "format": when("'{0.__class__}'.format(price) == 'a'"),
        "f-string": when(f"f'{{{run}}}' == 'a'"),
        "await": when("await x"),
        "null": when("price == 1\x00"),
        "shell": when(f"`touch {mark}`"),
        "words in a file": with_lf(kind="keyword", on="text", file="/etc/passwd"),
        "dictionary": with_lf(kind="keyword", on="text", dictionary={"file": "/etc/passwd"}),
        "examples": {
            **with_lf(kind="neighbors", examples={"red": ["/etc/passwd"], "blue": ["../secret.yaml"]}),
            "primitives": {"clip": "starter"},
        },
        "model": {**with_lf(kind="prompt", prompts={"red": "a", "blue": "b"}), "primitives": {"clip": "/tmp/evil.pt"}},
        "model of a hub": {
            **with_lf(kind="prompt", prompts={"red": "a", "blue": "b"}), "primitives": {"clip": "hf-hub:evil/model"},
        },
        "model by name": {
            **with_lf(kind="detect", when="count(x) > 0"), "primitives": {"detector": {"model": f"{mark}.pt"}},
        },
        "model by url": {
            **with_lf(kind="detect", when="count(x) > 0"), "primitives": {"detector": "https://evil.test/yolo.pt"},
        },
        "endpoint": with_lf(kind="chat", endpoint="http://127.0.0.1/", question="?", answers={"a": "red"}),
        "label model": {**with_lf(kind="keyword", on="text", any=["a"]), "label_model": "/tmp/evil.label_model"},
        "label model in parts": {
            **with_lf(kind="keyword", on="text", any=["a"]), "label_model": {"kind": "os:system", "path": "/tmp/evil"},
        },
        "yaml object": f"!!python/object/apply:os.system ['touch {mark}']",
        "yaml object inside": f"name: a\nclasses: [red, blue]\nlfs: !!python/object/apply:os.system ['touch {mark}']",
        "yaml name": "name: !!python/name:os.system\nclasses: [a, b]",
        "yaml module": "name: !!python/module:os\nclasses: [a, b]",
        "yaml new": f"!!python/object/new:subprocess.Popen [[touch, {mark}]]",
        "yaml merge": "a: &a {name: x}\n<<: *a\nclasses: [a, b]",
        "yaml two": f"name: a\nclasses: [a, b]\n---\n!!python/object/apply:os.system ['touch {mark}']",
        "yaml include": "name: a\nclasses: !include /etc/passwd",
        "template": {**with_lf(kind="keyword", on="text", any=["a"]), "description": TEMPLATE},
    }  # fmt: skip


@pytest.mark.parametrize("name", recipes_that_run(""))
def test_recipes(victim: Victim, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    recipe = recipes_that_run(str(mark))[name]
    with victim.costs_little():
        answer = victim.post(json={"recipe": recipe, "items": [{"text": "a", "metadata": {"price": 1}}]})
        if not isinstance(recipe, str):
            as_text = yaml.safe_dump(recipe)
            again = victim.post(json={"recipe": as_text, "items": [{"text": "a", "metadata": {"price": 1}}]})
            assert again.status_code == answer.status_code
    if name == "template":  # nothing renders it
        assert answer.status_code == 200
    else:
        assert answer.status_code in (403, 404, 422), answer.text
    assert not mark.exists()
    assert "root:" not in answer.text
    assert RENDERED not in answer.text


PATTERNS = ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*a){30}", "([a-z]+)*[0-9]", "^(([a-z])+.)+[A-Z]([a-z])+$"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_that_never_end_elsewhere(victim: Victim, pattern: str) -> None:
    recipe = {
        "name": "a", "classes": ["red", "blue"],
        "lfs": [{"name": "x", "kind": "keyword", "on": "text", "patterns": [pattern], "vote": "red"}],
    }  # fmt: skip
    with victim.costs_little():
        answer = victim.post(json={"recipe": recipe, "items": [{"text": "a" * 90_000 + "!"}] * 3})
        assert answer.status_code in (200, 422)


@pytest.mark.parametrize(
    "pattern", ["(?=a)", "(?<!a)b", r"(a)\1", "(?(1)a|b)", "(?#" + "a" * 5000, "[[:evil:]]"]
)
def test_patterns_that_are_not_read(victim: Victim, pattern: str) -> None:
    recipe = {
        "name": "a", "classes": ["red", "blue"],
        "lfs": [{"name": "x", "kind": "keyword", "on": "text", "patterns": [pattern], "vote": "red"}],
    }  # fmt: skip
    with victim.costs_little():
        assert victim.post(json={"recipe": recipe, "items": [{"text": "a"}]}).status_code == 422


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Victim, Path]]:
    """Return a service in whose folder lie files that somebody else put there, and what they would touch."""
    home = tmp_path_factory.mktemp("poisoned")
    mark = home / "mark"
    recipes = home / "recipes"
    recipes.mkdir()
    evil = pickle.dumps(Runs(mark))
    for name, data in {"pickled": evil, "zipped": b"PK\x03\x04" + evil}.items():
        (recipes / f"{name}.yaml").write_text(RED.replace("says", name))
        (recipes / f"{name}.label_model").write_bytes(data)
    folder = recipes / "folder.label_model"
    folder.mkdir()
    (recipes / "folder.yaml").write_text(RED.replace("says", "folder"))
    for name in ("model.safetensors", "model.pt", "label_model.json", "data.pkl", "__init__.py"):
        (folder / name).write_bytes(
            evil if not name.endswith(".py") else f"import os; os.system('touch {mark}')".encode()
        )
    (recipes / "evil.pt").write_bytes(evil)
    (recipes / "weights.yaml").write_text(
        "name: weights\nclasses: [red, blue]\n"
        f"primitives: {{detector: {json.dumps(str(recipes / 'evil.pt'))}}}\n"
        "lfs: [{name: x, kind: detect, when: 'count(dog) > 0', vote: red}]\n"
    )
    (recipes / "tagged.yaml").write_text(f"!!python/object/apply:os.system ['touch {mark}']\n")
    with a_victim(home) as running:
        yield running, mark


@pytest.mark.slow
def test_pickled_label_models_and_weights(poisoned: tuple[Victim, Path]) -> None:
    victim, mark = poisoned
    # To refuse a detector's weights, its library has to be loaded, which is what takes the memory here, and once only.
    with victim.costs_little(max_s=60, max_bytes=800 * 2**20):
        for name in ("pickled", "zipped", "folder", "tagged"):
            answer = victim.post(json={"recipe": name, "items": [{"text": "crimson"}]})
            # Where nothing but a label model of ours is looked for, a file of that name is not even read.
            assert answer.status_code in (200, 404, 422, 500), (name, answer.text)
        weights = victim.post(json={"recipe": "weights", "items": [{"text": "crimson"}]})
        assert weights.status_code in (422, 500, 501), weights.text
        assert httpx.get(victim.url + "/v1/recipes").status_code == 200
    assert not mark.exists()


@pytest.mark.parametrize(
    "content_type", ["application/x-python-pickle", "application/octet-stream", "text/yaml", ""]
)
def test_pickled_bodies(victim: Victim, tmp_path: Path, content_type: str) -> None:
    mark = tmp_path / "mark"
    evil = pickle.dumps(Runs(mark))
    with victim.costs_little():
        refused = victim.post(content=evil, headers={"Content-Type": content_type})
        assert refused.status_code == 415
        assert victim.post(content=evil, headers={"Content-Type": "application/json"}).status_code == 422
        image = victim.post(data={"recipe": "paint"}, files=[("files", ("a.png", evil, "image/png"))])
        assert image.json()["labels"][0]["error"]["code"] == "unsupported_format"
    assert not mark.exists()
