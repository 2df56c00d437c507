"""Labels over a real socket: the same as in Python, one row for each bad item, a clear refusal of a bad call."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from manyeyes import Client, Item, Label, Labeler, Recipe
from manyeyes.errors import (
    EmptyItem,
    ImageTooLarge,
    InvalidExpression,
    InvalidItem,
    InvalidRecipe,
    InvalidRequest,
    ItemError,
    RecipeNotFound,
    RequestTooLarge,
    UndecodableImage,
    UnreadableItem,
    UnsupportedFormat,
    UntrustedRecipe,
)
from manyeyes.models.base import load_label_model
from manyeyes.service.schemas.base import Problem
from manyeyes.service.schemas.labels import EXAMPLE_CALL, LabelAnswer

MakeItems = Callable[[int], list[Item]]

WORDS = {
    "name": "words",
    "classes": ["red", "blue"],
    "lfs": [{"name": "says", "kind": "keyword", "on": "text", "any": ["crimson"], "vote": "red"}],
}


def _rows(labels: Any) -> list[dict[str, Any]]:
    return [label.to_dict() for label in labels]


def _recipe(recipes_dir: Path, name: str) -> Recipe:
    return Recipe.load(recipes_dir / f"{name}.yaml")


def _png(size: tuple[int, int] = (4, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "PNG")
    return stream.getvalue()


def _bomb(side: int = 30_000) -> bytes:
    """Return a PNG of a few kilobytes that claims, and would decode to, almost a gigapixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = zlib.compress(b"\0" * 10_000_000, 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


# The same labels everywhere


def test_labels_over_http_are_the_labelers_bit_for_bit(
    client: Client, recipes_dir: Path, make_items: MakeItems
) -> None:
    items = make_items(300)
    expected = Labeler(_recipe(recipes_dir, "paint")).label(items)
    answered = client.label(items, recipe="paint")
    assert _rows(answered) == _rows(expected)
    assert answered.versions == expected.versions
    assert answered.recipe == "paint"
    assert {label.label for label in answered} == {"red", "green", "blue"}


def test_stored_or_brought_along_in_any_form_a_recipe_labels_alike(
    client: Client, recipes_dir: Path, make_items: MakeItems
) -> None:
    recipe = _recipe(recipes_dir, "paint")
    told = [
        _rows(client.label(make_items(20), recipe=asked))
        for asked in (
            "paint",
            recipe,
            recipe.to_yaml(),
            json.loads(recipe.to_json()),
            recipes_dir / "paint.yaml",
        )
    ]
    assert all(rows == told[0] for rows in told)


PARTIAL = {
    "name": "partial",
    "classes": ["red", "green", "blue"],
    "default_class": "blue",
    "label_model": {
        "name": "embedding_aware",
        "embeddings": "toy.text",
        "base": "majority",
        "n_neighbors": 2,
    },
    "lfs": [
        {"name": "says", "kind": "keyword", "any": ["crimson", "red"], "vote": "red"},
        {"name": "cold", "kind": "keyword", "any": "ice", "vote": {"not": "red"}},
        {"name": "leaf", "kind": "regex", "pattern": "lea(f|ves)", "vote": ["blue", "green"]},
    ],
}


def test_votes_for_several_classes_and_lent_ones_travel(client: Client, url: str) -> None:
    items = [Item(f"{i}", text=("a red wall", "red ice", "green leaves")[i % 3]) for i in range(60)]
    items += [Item("red thing", text="another red car, no crimson"), Item("silent", text="nothing")]
    answered = client.label(items, recipe=PARTIAL)
    recipe = Recipe.parse(PARTIAL)
    labels = Labeler(recipe).label(items)
    assert _rows(answered) == _rows(labels)
    assert {reason.vote for label in answered for reason in label.reasons} == {None, "red", "not red"}
    assert any(reason.lent is not None for label in answered for reason in label.reasons)
    body = {"recipe": PARTIAL, "items": [{"id": item.id, "text": item.text} for item in items]}
    LabelAnswer.model_validate(_post(url, json=body).json())


def test_a_precision_takes_a_label_model_that_was_fitted_with_gold(
    url: str, recipes_dir: Path, make_items: MakeItems
) -> None:
    sure = WORDS | {"abstain_below": {"precision": 0.5}}
    answer = _post(url, json={"recipe": sure, "items": [{"text": "crimson"}]})
    assert (answer.status_code, _told(answer)["code"]) == (422, "invalid_request")
    assert "give gold labels" in _told(answer)["detail"]
    text = (recipes_dir / "paint.yaml").read_text().replace("name: paint", "name: sure")
    recipe = Recipe.parse(text + "abstain_below: {precision: 0.5}\n")
    (recipes_dir / "sure.yaml").write_text(recipe.to_yaml())
    folder = recipes_dir / "sure.label_model"
    items = make_items(60)
    gold = {item.id: ("red", "green", "blue")[i % 3] for i, item in enumerate(items)}
    labeler = Labeler(recipe).fit(items, gold=gold)
    labeler.save_label_model(folder)
    try:
        with Client(url, max_retries=0) as client:
            answered = client.label(items[:9], recipe="sure")
            assert _rows(answered) == _rows(labeler.label(items[:9]))
            assert answered.versions.label_model.endswith(f"@{labeler.least_confidence:.9g}")
    finally:
        (recipes_dir / "sure.yaml").unlink()
        shutil.rmtree(folder)


def test_a_fitted_label_model_beside_a_recipe_is_used(
    client: Client, recipes_dir: Path, make_items: MakeItems
) -> None:
    model = load_label_model(recipes_dir / "fitted.label_model")
    expected = Labeler(_recipe(recipes_dir, "fitted"), label_model=model).label(make_items(9))
    answered = client.label(make_items(9), recipe="fitted")
    assert _rows(answered) == _rows(expected)
    assert answered.versions.label_model == model.version
    # Fitted, so that an item's label does not depend on its neighbours.
    alone = [client.label([item], recipe="fitted")[0] for item in make_items(9)]
    assert _rows(alone) == _rows(expected)


def test_paths_bytes_and_pil_images_are_labeled_as_the_labeler_labels_them(
    client: Client, recipes_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "blau.png").write_bytes(_png())
    mixed = [
        Item("a", image=tmp_path / "blau.png"),
        Item("b", image=str(tmp_path / "blau.png"), text="crimson"),
        Item("c", image=Image.new("CMYK", (120, 9), (0, 255, 255, 0))),
        Item("d", image=Image.new("RGBA", (9, 9), (0, 0, 255, 128))),
        Item("e", text="navy", metadata={"shelf": None, "price": 1e-320, "n": 2**62}),
    ]
    recipe = _recipe(recipes_dir, "paint")
    assert _rows(client.label(mixed, recipe=recipe)) == _rows(Labeler(recipe).label(mixed))


def test_bad_items_are_the_same_rows_as_the_labelers(
    client: Client, recipes_dir: Path, make_items: MakeItems, tmp_path: Path
) -> None:
    good = make_items(12)
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(noise, "JPEG")
    bad = [
        Item("neither"),
        Item("no bytes", image=b""),
        Item("no photo", image=b"MZ\x90\x00 an executable"),
        Item("svg", image=b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        Item("cut", image=noise.getvalue()[:-200]),
        Item("bomb", image=_bomb()),
        Item("gone", image=tmp_path / "gone.png"),
        Item("folder", image=tmp_path),
    ]
    items = [*good[:6], *bad, *good[6:]]
    answered = client.label(items, recipe="paint")
    expected = Labeler(_recipe(recipes_dir, "paint")).label(items)
    assert [type(label.error) for label in answered[6:14]] == [
        EmptyItem,
        EmptyItem,
        UnsupportedFormat,
        UnsupportedFormat,
        UndecodableImage,
        ImageTooLarge,
        UnreadableItem,
        UnreadableItem,
    ]
    assert [type(label.error) for label in expected] == [type(label.error) for label in answered]
    # Errors are left out of the fit, wherever they are found.
    sound = [row for row in _rows(answered) if row["status"] != "error"]
    assert sound == [row for row in _rows(expected) if row["status"] != "error"]
    assert sound == _rows(client.label(good, recipe="paint"))


def test_a_call_of_errors_alone_is_answered(client: Client) -> None:
    answered = client.label([b"no photo", Path("/no/such.png")], recipe="paint")
    assert [label.status for label in answered] == ["error", "error"]


# As curl would send it


def _post(url: str, **sent: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/label", timeout=60, trust_env=False, **sent)


def _told(answer: httpx.Response) -> dict[str, Any]:
    """Return an answer of the promised shape as JSON."""
    shape = LabelAnswer if answer.status_code == 200 else Problem
    media_type = "application/json" if answer.status_code == 200 else "application/problem+json"
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-request-id"]
    told = answer.json()
    shape.model_validate(told)
    assert isinstance(told, dict)
    return told


def test_json_and_a_form_say_the_same(url: str) -> None:
    png = _png()
    item = {"id": "a.png", "image": base64.b64encode(png).decode(), "text": "navy"}
    # Kept, each would have an id of its own.
    as_json = _told(_post(url, json={"recipe": "paint", "items": [item], "store": False}))
    form = {"recipe": "paint", "texts": "navy", "store": "false"}
    as_form = _told(_post(url, data=form, files=[("files", ("a.png", png, "image/png"))]))
    as_items = _told(
        _post(
            url,
            data={"recipe": "paint", "items": '[{"id": "a.png", "file": 0, "text": "navy"}]'},
            files=[("files", ("other.png", png, "image/png"))],
        )
    )
    assert as_json == as_form
    # A file of another name than the id says so, and an LF may read it.
    assert as_items["labels"][0]["label"] == as_json["labels"][0]["label"]


def test_the_example_in_the_schema_is_answered(url: str) -> None:
    told = _told(_post(url, json=EXAMPLE_CALL))
    assert [row["label"] for row in told["labels"]] == ["blue", "red"]


def test_texts_alone(url: str) -> None:
    files = [
        ("recipe", (None, json.dumps(WORDS))),
        *[("texts", (None, text)) for text in ("crimson", "né", b"\xe9")],
    ]
    told = _told(_post(url, files=files))
    assert [row["status"] for row in told["labels"]] == ["labeled", "abstained", "error"]
    assert told["labels"][2]["error"]["code"] == "invalid_item"


def test_a_bad_item_of_any_kind_stops_no_other(url: str) -> None:
    good = {"text": "a crimson wall"}
    bad: list[tuple[Any, type[ItemError]]] = [
        ({"image": "%%%"}, InvalidItem),
        ({"image": "/etc/passwd"}, ItemError),
        ({"image": "https://example.org/a.png"}, InvalidItem),
        ({"image": base64.b64encode(b"no photo").decode()}, UnsupportedFormat),
        ({"image": base64.b64encode(_png()[:-20]).decode()}, UndecodableImage),
        ({"image": base64.b64encode(_bomb()).decode()}, ImageTooLarge),
        ({"image": ""}, EmptyItem),
        ({"image": 7}, InvalidItem),
        ({"text": ["crimson"]}, InvalidItem),
        ({"text": "x" * 100_001}, InvalidItem),
        ({}, EmptyItem),
        ({"metadata": {"a": [1]}}, InvalidItem),
        ({"txet": "crimson"}, InvalidItem),
        ("crimson", InvalidItem),
    ]
    items = [good, *(item for item, _ in bad), good]
    labels = [
        Label.from_dict(row) for row in _told(_post(url, json={"recipe": "paint", "items": items}))["labels"]
    ]
    assert [labels[0].label, labels[-1].label] == ["red", "red"]
    for label, (item, kind) in zip(labels[1:-1], bad, strict=True):
        assert isinstance(label.error, kind), (item, label)


@pytest.mark.parametrize(
    ("sent", "status", "told"),
    [
        ({"content": b""}, 415, "send application/json"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "text/plain"),
        ({"data": {"recipe": "paint"}}, 415, "x-www-form-urlencoded"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "not JSON"),
        ({"json": {"recipe": "paint", "items": []}}, 422, "no items"),
        ({"json": {"recipe": "paint"}}, 422, "no items"),
        ({"json": [1]}, 422, "one JSON object"),
        ({"json": {"items": [{"text": "t"}]}}, 422, "names no recipe"),
        ({"json": {"recipe": "piant", "items": [{"text": "t"}]}}, 404, "did you mean 'paint'?"),
        ({"json": {"recipe": "../paint", "items": [{"text": "t"}]}}, 404, "no recipe"),
        ({"json": {"recipe": "/etc/passwd", "items": [{"text": "t"}]}}, 404, "no recipe"),
        ({"json": {"recipe": "notes.txt", "items": [{"text": "t"}]}}, 404, "no recipe"),
        ({"json": {"recipe": "paint\0", "items": [{"text": "t"}]}}, 404, "no recipe"),
        ({"json": {"recipe": "broken", "items": [{"text": "t"}]}}, 422, "stored recipe 'broken'"),
        ({"json": {"recipe": "name: [", "items": [{"text": "t"}]}}, 422, "line"),
        ({"json": {"recipe": {"name": "x"}, "items": [{"text": "t"}]}}, 422, "classes"),
        (
            {"json": {"recipe": "paint", "items": [{"text": "t"}] * 401}},
            413,
            "401 items; this service takes 400",
        ),
        (
            {"json": {"recipe": WORDS | {"description": "x" * 70_000}, "items": [{"text": "t"}]}},
            413,
            "65,536",
        ),
        ({"json": {"recipe": "paint", "items": [{"text": "x" * 2**21}]}}, 413, "2,097,152"),
        (
            {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            422,
            "cut off",
        ),
        (
            {
                "content": gzip.compress(b'{"recipe": "paint"}'),
                "headers": {"content-type": "application/json"},
            },
            422,
            "not JSON",
        ),
    ],
)
def test_a_bad_call_is_a_problem_that_says_what_to_do(
    url: str, sent: dict[str, Any], status: int, told: str
) -> None:
    answer = _post(url, **sent)
    problem = _told(answer)
    assert answer.status_code == status == problem["status"]
    assert told in problem["detail"]


def test_a_refused_call_shows_a_valid_one(url: str) -> None:
    problem = _told(_post(url, json={"recipe": "paint", "items": []}))
    assert _post(url, json=problem["example"]).status_code == 200


def test_the_sdk_raises_what_the_service_refused_with(client: Client) -> None:
    bad = [
        ("piant", RecipeNotFound),
        ("name: [", InvalidRecipe),
        (
            WORDS | {"lfs": [{"name": "a", "kind": "metadata", "when": "a ==", "vote": "red"}]},
            InvalidExpression,
        ),
        (WORDS | {"lfs": [{"name": "a", "kind": "python", "function": "os:getcwd"}]}, UntrustedRecipe),
        (WORDS | {"description": "x" * 70_000}, RequestTooLarge),
    ]
    for recipe, kind in bad:
        with pytest.raises(kind) as caught:
            client.label(["a text"], recipe=recipe)
        assert type(caught.value) is kind
    with pytest.raises(RequestTooLarge, match="401 items"):
        client.label(["t"] * 401, recipe="paint")
    with pytest.raises(InvalidRequest):
        client.label([], recipe="paint")


# Recipes from outside


@pytest.mark.parametrize(
    "change",
    [
        {"lfs": [{"name": "a", "kind": "python", "function": "os:system"}]},
        {"lfs": [{"name": "a", "kind": "python", "function": "time_wasters:wait"}]},
        {"primitives": {"clip": "ViT-B-32"}, "lfs": [{"name": "a", "kind": "prompt", "using": "clip"}]},
        {"primitives": {"clip": "/etc"}, "lfs": [{"name": "a", "kind": "prompt", "using": "clip"}]},
        {
            "primitives": {"detector": "/etc/passwd"},
            "lfs": [{"name": "a", "kind": "detect", "when": "count(cat) > 0", "vote": "red"}],
        },
        {"primitives": {"detector": "https://example.org/yolo.pt"}},
        {"label_model": {"name": "one_coin", "max_iterations": 10**9}},
    ],
)
def test_what_only_the_operator_may_ask_for_is_refused(url: str, change: dict[str, Any]) -> None:
    answer = _post(url, json={"recipe": WORDS | change, "items": [{"text": "t"}]})
    assert (answer.status_code, _told(answer)["code"]) == (403, "untrusted_recipe")


@pytest.mark.parametrize(
    "recipe",
    [
        "a: &a [x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)),
        "name: !!python/object/apply:os.system ['true']\n",
        "name: " + "[" * 30_000,
        "{" * 30_000 + ":",
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        json.dumps(
            WORDS
            | {"lfs": [{"name": "a", "kind": "metadata", "when": "(" * 500 + "a" + ")" * 500, "vote": "red"}]}
        ),
        json.dumps(
            WORDS | {"lfs": [{"name": "a", "kind": "metadata", "when": "9**9**9 > 1", "vote": "red"}]}
        ),
        json.dumps(
            WORDS
            | {"lfs": [{"name": "a", "kind": "metadata", "when": "__import__('os').getcwd()", "vote": "red"}]}
        ),
        json.dumps(WORDS | {"lfs": [{"name": "a", "kind": "regex", "pattern": "(a)\\1", "vote": "red"}]}),
        json.dumps(
            WORDS
            | {
                "lfs": [
                    {"name": "a", "kind": "regex", "pattern": "((a{1,100}){1,100}){1,100}", "vote": "red"}
                ]
            }
        ),
    ],
)
def test_a_hostile_recipe_is_refused_at_once(url: str, recipe: str) -> None:
    answer = httpx.post(
        f"{url}/v1/label", json={"recipe": recipe, "items": [{"text": "t"}]}, timeout=10, trust_env=False
    )
    assert answer.status_code == 422, _told(answer)


def test_a_pattern_that_would_hang_a_backtracking_engine_does_not(url: str) -> None:
    recipe = WORDS | {"lfs": [{"name": "a", "kind": "regex", "pattern": "(a+)+$", "vote": "red"}]}
    answer = httpx.post(
        f"{url}/v1/label",
        json={"recipe": recipe, "items": [{"text": "a" * 50_000 + "b"}]},
        timeout=10,
        trust_env=False,
    )
    assert _told(answer)["labels"][0]["status"] == "abstained"


# The stored recipes


def test_the_stored_recipes_are_listed_with_what_is_wrong(
    client: Client, url: str, recipes_dir: Path
) -> None:
    listed = {line["name"]: line for line in client.recipes()}
    assert set(listed) == {"paint", "fitted", "slow"}
    assert listed["paint"]["version"] == _recipe(recipes_dir, "paint").version
    assert (listed["paint"]["fitted"], listed["fitted"]["fitted"]) == (False, True)
    told = httpx.get(f"{url}/v1/recipes", trust_env=False).json()
    assert [(line["name"], line["code"]) for line in told["broken"]] == [("broken", "invalid_recipe")]
    assert str(recipes_dir) not in json.dumps(told)


def test_one_stored_recipe_as_json_and_as_yaml(client: Client, url: str, recipes_dir: Path) -> None:
    recipe = _recipe(recipes_dir, "paint")
    assert Recipe.parse(client.recipe("paint")) == recipe
    answer = httpx.get(f"{url}/v1/recipes/paint?format=yaml", trust_env=False)
    assert answer.headers["content-type"].startswith("application/yaml")
    assert answer.headers["etag"] == f'"{recipe.version}"'
    assert Recipe.parse(answer.text) == recipe
    with pytest.raises(RecipeNotFound, match="did you mean 'paint'"):
        client.recipe("piant")
    with pytest.raises(RecipeNotFound):
        client.recipe("../paint")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/recipes/..%2f..%2fetc%2fpasswd",
        "/v1/recipes/%2e%2e%2fpaint",
        "/v1/recipes/paint.yaml",
        "/v1/recipes/%00",
        "/v1/recipes/" + "a" * 199,
        "/v1/recipes/fitted.label_model",
    ],
)
def test_no_name_leads_out_of_the_folder(url: str, path: str) -> None:
    answer = httpx.get(url + path, trust_env=False)
    assert answer.status_code == 404
    Problem.model_validate(answer.json())


def test_other_paths_and_methods_are_problems(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        for answer, status in [
            (http.get("/"), 404),
            (http.get("/docs"), 404),
            (http.get("/v1/label"), 405),
            (http.delete("/v1/recipes"), 405),
            (http.get("/v1/recipes/paint?format=xml"), 422),
            (http.get("/v1/recipes/" + "a" * 201), 422),
        ]:
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
            Problem.model_validate(answer.json())
