"""Recipes over HTTP: kept, versioned, compared, checked, put to use, taken out of use."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from starlette.testclient import TestClient

from manyeyes import Recipe
from manyeyes.service.schemas.recipes import (
    RecipeDiff,
    RecipeList,
    RecipeValidated,
    RecipeVersionFull,
    RecipeVersionList,
    RecipeVersionOut,
)

Running = Callable[..., AbstractContextManager[TestClient]]


def test_a_recipe_is_kept_and_labels_by_its_name(http: TestClient, paint: Any, call: Any) -> None:
    made = http.post("/v1/recipes", json={"recipe": paint, "note": "first"})
    assert made.status_code == 201
    told = RecipeVersionFull.model_validate(made.json())
    assert (told.number, told.is_active, told.author, told.note) == (1, True, "local", "first")
    version = Recipe.parse(paint).version
    assert told.version == version
    assert made.headers["etag"] == f'"{version}"'
    assert http.get(made.headers["location"]).json() == made.json()
    labels = http.post("/v1/label", json=call).json()
    assert labels["versions"]["recipe"] == version
    assert labels["labels"][0]["label"] == "red"
    again = http.post("/v1/recipes", json={"recipe": Recipe.parse(paint).to_yaml()})
    assert (again.status_code, again.json()["number"]) == (200, 1)


def test_versions_are_listed_compared_and_put_to_use(http: TestClient, paint: Any, call: Any) -> None:
    first = http.post("/v1/recipes", json={"recipe": paint}).json()["version"]
    paint["lfs"][0]["any"].append("ruby")
    paint["lfs"].pop()
    paint["classes"].append("green")
    paint["abstain_below"] = 0.9
    second = http.post("/v1/recipes", json={"recipe": paint}).json()
    assert (second["number"], second["is_active"]) == (2, False)
    assert http.get("/v1/recipes/paint").headers["etag"] == f'"{first}"'

    listed = RecipeVersionList.model_validate(http.get("/v1/recipes/paint/versions?limit=1").json())
    assert [one.number for one in listed.data] == [2]
    rest = http.get(f"/v1/recipes/paint/versions?limit=1&cursor={listed.next_cursor}").json()
    assert ([one["number"] for one in rest["data"]], rest["has_more"]) == ([1], False)

    found = RecipeDiff.model_validate(http.get("/v1/recipes/paint/diff?from=2").json())
    assert (found.before, found.after) == (second["version"], first)
    told = http.get(f"/v1/recipes/paint/diff?from={first}&to=2").json()
    assert told["classes"] == {"added": ["green"], "removed": [], "reordered": False}
    assert told["lfs"]["removed"] == ["dark"]
    assert told["lfs"]["changed"] == [
        {
            "name": "says_red",
            "fields": [{"field": "any", "from": ["red", "crimson"], "to": ["red", "crimson", "ruby"]}],
        }
    ]
    assert told["settings"] == [{"field": "abstain_below", "from": None, "to": 0.9}]
    assert "+abstain_below: 0.9" in told["unified"]
    assert http.get("/v1/recipes/paint/diff?from=1&to=1").json()["same"] is True

    stale = http.post(
        "/v1/recipes/paint/activate", json={"version": 2}, headers={"If-Match": f'"{second["version"]}"'}
    )
    assert (stale.status_code, stale.json()["code"]) == (412, "version_conflict")
    done = http.post("/v1/recipes/paint/activate", json={"version": 2}, headers={"If-Match": f'"{first}"'})
    assert RecipeVersionOut.model_validate(done.json()).is_active
    assert http.post("/v1/label", json=call).json()["versions"]["recipe"] == second["version"]
    old = http.post("/v1/label", json=call | {"recipe": f"paint@{first}"}).json()
    assert (old["versions"]["recipe"], old["recipe"]) == (first, "paint")
    assert http.post("/v1/label", json=call | {"recipe": "paint@1"}).json()["versions"]["recipe"] == first
    assert http.post("/v1/label", json=call | {"recipe": "paint@7"}).status_code == 404
    assert http.post("/v1/recipes/paint/activate", json={"version": 9}).status_code == 404


def test_the_list_holds_the_folder_and_the_store(http: TestClient, paint: Any, folder: Any) -> None:
    (folder / "damaged.yaml").write_text("name: damaged\n")
    for n in range(3):
        http.post("/v1/recipes", json={"recipe": paint | {"name": f"paint{n}"}})
    first = RecipeList.model_validate(http.get("/v1/recipes?limit=2").json())
    assert [(one.name, one.source) for one in first.recipes] == [
        ("operators", "folder"),
        ("paint2", "store"),
        ("paint1", "store"),
    ]
    assert [one.name for one in first.broken] == ["damaged"]
    second = http.get(f"/v1/recipes?limit=2&cursor={first.next_cursor}").json()
    assert ([one["name"] for one in second["recipes"]], second["broken"]) == (["paint0"], [])
    assert http.get("/v1/recipes?cursor=nonsense").status_code == 422
    assert http.get("/v1/recipes?limit=0").status_code == 422


def test_the_operators_folder_is_not_changed_over_http(http: TestClient, paint: Any) -> None:
    taken = http.post("/v1/recipes", json={"recipe": paint | {"name": "operators"}})
    assert (taken.status_code, taken.json()["code"]) == (409, "already_exists")
    assert http.delete("/v1/recipes/operators").status_code == 403
    assert http.post("/v1/recipes/operators/activate", json={"version": 1}).status_code == 403
    (line,) = http.get("/v1/recipes/operators/versions").json()["data"]
    assert (line["source"], line["number"], line["is_active"]) == ("folder", None, True)
    assert http.get(f"/v1/recipes/operators@{line['version']}").status_code == 200
    gone = http.get("/v1/recipes/operators@0000000000000000")
    assert (gone.status_code, "no older versions" in gone.json()["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"lfs": [{"name": "x", "kind": "python", "function": "os:system"}]}, 403, "untrusted_recipe"),
        (
            {"lfs": [{"name": "x", "kind": "dictionary", "file": "/etc/passwd", "vote": "red"}]},
            None,
            None,
        ),
        ({"classes": ["only"]}, 422, "invalid_recipe"),
        ({"name": "../../etc/passwd"}, 422, "invalid_recipe"),
        ({"name": "paint@2"}, 422, "invalid_recipe"),
        ({"description": "x" * 10_000_000}, 413, "request_too_large"),
    ],
)
def test_what_comes_over_http_is_not_trusted(
    http: TestClient, paint: Any, change: Any, status: int | None, code: str | None
) -> None:
    refused = http.post("/v1/recipes", json={"recipe": paint | change})
    assert refused.status_code in ({status} if status else {403, 422})
    assert code is None or refused.json()["code"] == code
    assert "root:" not in refused.text
    assert http.get("/v1/recipes/paint").status_code == 404


def test_what_the_operator_allows_no_longer_is_not_used(running: Running, paint: Any, call: Any) -> None:
    paint["primitives"] = {"clip": {"kind": "clip", "model": "ViT-L-14"}}
    paint["lfs"].append({"name": "looks", "kind": "prompt", "on": "image", "using": "clip"})
    with running(allowed_models="ViT-L-14") as first:
        assert first.post("/v1/recipes", json={"recipe": paint}).status_code == 201
    with running() as second:
        assert second.post("/v1/label", json=call).status_code == 403
        assert [one["name"] for one in second.get("/v1/recipes").json()["broken"]] == ["paint"]


def test_what_is_wrong_is_told_place_by_place(http: TestClient) -> None:
    text = "name: x\nclasses: [a]\nlfs:\n  - {name: q, kind: keywrd}\n"
    told = RecipeValidated.model_validate(http.post("/v1/recipes/validate", json={"recipe": text}).json())
    assert not told.valid
    assert [(one.path, one.line) for one in told.problems] == [("classes", 2), ("lfs[0].kind", 4)]
    assert "did you mean 'keyword'" in told.problems[1].message
    sound = http.post(
        "/v1/recipes/validate",
        json={"recipe": "name: x\nclasses: [a, b]\nlfs:\n  - {name: q, kind: keyword, any: [z], vote: a}\n"},
    ).json()
    assert (sound["valid"], sound["name"]) == (True, "x")
    assert http.get("/v1/recipes/x").status_code == 404
    code = "name: x\nclasses: [a, b]\nlfs:\n  - {name: q, kind: python, function: 'os:getcwd'}\n"
    (problem,) = http.post("/v1/recipes/validate", json={"recipe": code}).json()["problems"]
    assert problem["code"] == "untrusted_recipe"
    assert http.post("/v1/recipes/validate", json={"recipe": "x: [", "stray": 1}).status_code == 422
    assert http.post("/v1/recipes/validate", content=b"x: [").status_code == 415


def test_a_recipe_that_is_taken_out_of_use_can_come_back(http: TestClient, paint: Any, call: Any) -> None:
    first = http.post("/v1/recipes", json={"recipe": paint}).json()["version"]
    wrong = http.delete("/v1/recipes/paint", headers={"If-Match": '"other"'})
    assert wrong.status_code == 412
    gone = http.delete("/v1/recipes/paint")
    assert (gone.status_code, gone.content) == (204, b"")
    assert http.get("/v1/recipes/paint").status_code == 404
    unused = http.post("/v1/label", json=call)
    assert (unused.status_code, "archived" in unused.json()["detail"]) == (404, True)
    assert http.get("/v1/recipes").json()["recipes"][-1]["name"] == "operators"
    assert http.post("/v1/label", json=call | {"recipe": f"paint@{first}"}).status_code == 200
    assert http.post("/v1/recipes", json={"recipe": paint}).status_code in (200, 201)
    assert http.post("/v1/label", json=call).status_code == 200
    assert http.delete("/v1/recipes/paint?purge=true").status_code == 204
    assert http.get(f"/v1/recipes/paint@{first}").status_code == 404
    assert http.delete("/v1/recipes/paint").status_code == 404


def test_what_has_not_changed_is_not_sent_again(http: TestClient, paint: Any) -> None:
    http.post("/v1/recipes", json={"recipe": paint})
    for path in (
        "/v1/recipes",
        "/v1/recipes/paint",
        "/v1/recipes/paint/versions",
        "/v1/recipes/paint?format=yaml",
    ):
        first = http.get(path)
        assert "no-cache" in first.headers["cache-control"]
        again = http.get(path, headers={"If-None-Match": f'"x", {first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert http.get(path, headers={"If-None-Match": '"x"'}).status_code == 200


def test_another_replica_uses_what_is_put_to_use_within_seconds(
    running: Running, paint: Any, call: Any
) -> None:
    with running() as one, running() as other:
        first = one.post("/v1/recipes", json={"recipe": paint}).json()["version"]
        assert other.post("/v1/label", json=call).json()["versions"]["recipe"] == first
        paint["abstain_below"] = 0.1
        second = one.post("/v1/recipes", json={"recipe": paint, "activate": True}).json()
        assert second["is_active"]
        assert one.post("/v1/label", json=call).json()["versions"]["recipe"] == second["version"]
        deadline = time.monotonic() + 5
        while other.post("/v1/label", json=call).json()["versions"]["recipe"] != second["version"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_version_is_named_before_it_is_replaced(http: TestClient, paint: Any) -> None:
    first = http.post("/v1/recipes", json={"recipe": paint}).json()["version"]
    paint["abstain_below"] = 0.1
    body = {"recipe": paint, "activate": True}
    assert http.post("/v1/recipes", json=body, headers={"If-Match": '"other"'}).status_code == 412
    assert http.get("/v1/recipes/paint").headers["etag"] == f'"{first}"'
    assert http.post("/v1/recipes", json=body, headers={"If-Match": f'"{first}"'}).status_code == 201
    assert http.get("/v1/recipes/paint").headers["etag"] != f'"{first}"'


def test_without_a_store_nothing_is_kept_and_the_folder_still_labels(
    running: Running, paint: Any, call: Any
) -> None:
    with running(store_url="none") as http:
        assert [one["name"] for one in http.get("/v1/recipes").json()["recipes"]] == ["operators"]
        assert http.post("/v1/recipes", json={"recipe": paint}).status_code == 404
        assert http.get("/v1/batches").status_code == 404
        answer = http.post("/v1/label", json=call | {"recipe": paint}).json()
        assert "batch_id" not in answer
        refused = http.post("/v1/label", json=call | {"recipe": paint, "store": True})
        assert (refused.status_code, "keeps nothing" in refused.json()["detail"]) == (422, True)
