"""Votes, embeddings, boxes and search over a real socket: the same as in Python, and each item by itself."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from manyeyes import Item, Labeler, Recipe
from manyeyes.primitives.extractor import Extractor
from manyeyes.recipe_parts import default_primitive
from manyeyes.search import Finder
from manyeyes.service.schemas.features import DetectAnswer, EmbedAnswer
from manyeyes.service.schemas.search import IndexList, SearchAnswer
from manyeyes.service.schemas.votes import VotesAnswer
from manyeyes.service.settings import ServiceSettings

WORDS = {"a": "a red car", "b": "a blue door", "c": "green and blue"}


def png(colour: str, size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def indexes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of indexes: of texts, of photos, of a model that is not offered, and a damaged one."""
    folder = tmp_path_factory.mktemp("indexes")
    texts = Finder(clip="toy", on="text")
    index = texts.index([Item(name, text=text) for name, text in WORDS.items()])
    index.save(folder / "words")
    photos = Finder(clip="toy")
    photos.index([Item(colour, image=png(colour)) for colour in ("red", "lime", "blue")]).save(
        folder / "photos"
    )
    index.version = "clip/of somebody else/text 1"
    index.save(folder / "foreign")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "index.json").write_text("{")
    return folder


@pytest.fixture(scope="module")
def http(
    recipes_dir: Path,
    indexes_dir: Path,
    serving: Callable[[ServiceSettings], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYEYES_HOME", str(tmp_path_factory.mktemp("home")))
        settings = ServiceSettings(
            recipes_dir=recipes_dir,
            indexes_dir=indexes_dir,
            allowed_models=("detector:yolo11n", "ViT-B-32"),
            max_items=150,
            store_url="none",
        )
        with (
            serving(settings) as url,
            httpx.Client(base_url=url, trust_env=False, timeout=60) as made,
        ):
            yield made


def asked(http: httpx.Client, path: str, status: int = 200, **call: Any) -> Any:
    answer = http.post(path, json=call)
    assert answer.status_code == status, answer.text
    return answer.json()


# --- votes


def test_votes_are_those_of_python(
    http: httpx.Client, recipes_dir: Path, make_items: Callable[[int], list[Item]]
) -> None:
    items = make_items(12)
    told = asked(
        http,
        "/v1/votes",
        recipe="paint",
        items=[
            {"id": one.id, "image": b64(one.image), "text": one.text, "metadata": dict(one.metadata)}  # type: ignore[arg-type]
            for one in items
        ],
    )
    answer = VotesAnswer.model_validate(told)
    labeler = Labeler(Recipe.load(recipes_dir / "paint.yaml"))
    votes, _, ids = labeler.votes(items)
    assert [row.id for row in answer.votes] == list(ids)
    assert answer.lfs == list(votes.lf_names)
    assert answer.classes == ["red", "green", "blue"]
    for i, row in enumerate(answer.votes):
        for j, one in enumerate(row.votes):
            voted = int(votes.classes[i, j])
            assert one.vote == (None if voted < 0 else votes.value_names[voted])
            assert one.score == (None if np.isnan(votes.scores[i, j]) else float(votes.scores[i, j]))
    assert answer.versions.recipe == labeler.recipe.version
    assert answer.versions.primitives == labeler.extractor.versions(labeler.needs)


def test_an_item_without_votes_is_a_row(http: httpx.Client) -> None:
    told = asked(
        http, "/v1/votes", recipe="paint", items=[{"id": "x", "image": b64(b"none")}, {"text": "navy"}]
    )
    assert [row["status"] for row in told["votes"]] == ["error", "voted"]
    assert told["votes"][0]["error"]["code"] == "unsupported_format"


def test_votes_come_by_form_too(http: httpx.Client) -> None:
    answer = http.post("/v1/votes", data={"recipe": "paint"}, files={"files": ("r.png", png("red"))})
    row = answer.json()["votes"][0]
    assert row["id"] == "r.png"
    assert {one["lf"]: one["vote"] for one in row["votes"]}["looks"] == "red"


# --- embeddings


def test_embeddings_are_those_of_python(http: httpx.Client) -> None:
    told = asked(
        http,
        "/v1/embed",
        primitive="toy",
        items=[
            {"id": "t", "text": "red and blue"},
            {"id": "i", "image": b64(png("lime"))},
            {"id": "both", "image": b64(png("blue")), "text": "red"},
            {"id": "neither", "metadata": {"price": 3}},
            {"id": "bad", "image": "?"},
        ],
    )
    answer = EmbedAnswer.model_validate(told)
    assert [(row.id, row.status, row.on) for row in answer.embeddings] == [
        ("t", "embedded", "text"),
        ("i", "embedded", "image"),
        ("both", "embedded", "image"),
        ("neither", "error", None),
        ("bad", "error", None),
    ]
    assert answer.dim == 3
    extractor = Extractor.for_specs({"toy": default_primitive("toy")}, cache=None)
    expected = extractor.encode("toy", ["red and blue"])[0]
    assert np.float32(answer.embeddings[0].embedding).tobytes() == expected.tobytes()
    assert answer.embeddings[2].embedding == [0, 0, 1]
    assert answer.versions.primitives == extractor.versions(["toy", "toy.text"])


def test_base64_is_the_same_numbers(http: httpx.Client) -> None:
    items = [{"text": "red and green"}]
    numbers = asked(http, "/v1/embed", primitive="toy", items=items)["embeddings"][0]["embedding"]
    coded = asked(http, "/v1/embed", primitive="toy", items=items, encoding="base64")["embeddings"][0]
    assert np.frombuffer(base64.b64decode(coded["embedding"]), "<f4").tolist() == numbers


def test_one_half_can_be_asked_for(http: httpx.Client) -> None:
    items = [{"image": b64(png("blue")), "text": "red"}, {"image": b64(png("blue"))}]
    rows = asked(http, "/v1/embed", primitive={"kind": "toy"}, items=items, on="text")["embeddings"]
    assert rows[0]["embedding"] == [1, 0, 0]
    assert rows[1]["error"]["code"] == "empty_item"


def test_a_form_can_name_an_object_as_primitive(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/embed",
        data={"primitive": json.dumps({"kind": "toy", "model": "colors"}), "encoding": "float"},
        files=[("files", ("a.png", png("red"))), ("files", ("b.png", png("blue")))],
    )
    assert [row["embedding"] for row in answer.json()["embeddings"]] == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("primitive", "status", "code", "told"),
    [
        ("tyo", 404, "not_found", "did you mean 'toy'"),
        ("detector", 422, "invalid_request", "gives no embeddings"),
        ({"kind": "image"}, 422, "invalid_request", "gives no embeddings"),
        ({"model": "starter"}, 422, "invalid_request", "primitive.kind"),
        ({"kind": "clip", "modle": "x"}, 422, "invalid_request", "primitive.modle"),
        ({"kind": "clip", "model": "ViT-L-14"}, 403, "untrusted_recipe", "ViT-L-14"),
        ({"kind": "clip", "model": "/etc/passwd"}, 403, "untrusted_recipe", "not allowed"),
        ({"kind": "text", "model": "../../x"}, 403, "untrusted_recipe", "not allowed"),
        ({"kind": "python"}, 422, "invalid_request", "primitive.kind"),
        (3, 422, "invalid_request", "primitive"),
        ("", 404, "not_found", "no model"),
    ],
)
def test_what_callers_may_not_name(
    http: httpx.Client, primitive: Any, status: int, code: str, told: str
) -> None:
    answer = asked(http, "/v1/embed", status, primitive=primitive, items=[{"text": "red"}])
    assert answer["code"] == code
    assert told in answer["detail"]


@pytest.mark.parametrize(
    "wrong",
    [{"on": "sound"}, {"encoding": "utf-8"}, {"items": []}, {"itmes": [{"text": "a"}]}, {"encoding": 1}],
)
def test_a_wrong_option_is_named_and_an_example_shown(http: httpx.Client, wrong: dict[str, Any]) -> None:
    answer = asked(http, "/v1/embed", 422, **({"primitive": "toy", "items": [{"text": "a"}]} | wrong))
    assert next(iter(wrong)) in answer["detail"]
    assert answer["example"]["primitive"] == "toy"


def test_many_items_are_refused(http: httpx.Client) -> None:
    asked(http, "/v1/embed", 413, primitive="toy", items=[{"text": "a"}] * 151)


# --- boxes


@pytest.mark.slow
def test_boxes_are_those_of_the_detector(http: httpx.Client) -> None:
    from importlib.resources import files

    photo = (files("ultralytics") / "assets" / "bus.jpg").read_bytes()
    told = asked(
        http,
        "/v1/detect",
        items=[{"id": "bus", "image": b64(photo)}, {"id": "t", "text": "a bus"}, {"image": "?"}],
    )
    answer = DetectAnswer.model_validate(told)
    assert [row.status for row in answer.detections] == ["looked", "error", "error"]
    bus = answer.detections[0]
    extractor = Extractor.for_specs({"detector": default_primitive("detector")}, cache=None)
    found = extractor.extract([Item("bus", image=photo)], ["detector"])["detector"]
    assert [box.score for box in bus.boxes] == found["score"].tolist()
    assert [box.xyxy for box in bus.boxes] == found["box"].tolist()
    assert [answer.classes[label] for label in found["label"]] == [box.label for box in bus.boxes]
    with Image.open(io.BytesIO(photo)) as opened:
        assert (bus.width, bus.height) == opened.size
    assert bus.boxes
    for box in bus.boxes:
        size = (bus.width, bus.height) * 2
        assert np.allclose(box.xyxy, np.multiply(box.relative, size), atol=0.01)
        assert box.mask_area is None
    some = asked(http, "/v1/detect", items=[{"image": b64(photo)}], classes=["bus"], min_score=0.5)
    kept = [box for box in bus.boxes if box.label == "bus" and box.score >= 0.5]
    assert [box["score"] for box in some["detections"][0]["boxes"]] == [box.score for box in kept]
    wrong = asked(http, "/v1/detect", 422, items=[{"image": b64(photo)}], classes=["buss"])
    assert "did you mean 'bus'" in wrong["detail"]


@pytest.mark.parametrize(("field", "value"), [("image_size", 333), ("classes", ["bus"])])
def test_callers_cannot_have_a_detector_loaded_in_endless_variations(
    http: httpx.Client, field: str, value: Any
) -> None:
    primitive = {"kind": "detector", field: value}
    answer = asked(http, "/v1/detect", 403, primitive=primitive, items=[{"image": b64(png("red"))}])
    assert f"primitives.detector.{field}" in answer["detail"]
    recipe = {
        "name": "buses",
        "classes": ["bus", "other"],
        "primitives": {"detector": {field: value}},
        "lfs": [{"name": "sees", "kind": "detect", "when": "count(bus) >= 1", "vote": "bus"}],
    }
    answer = asked(http, "/v1/label", 403, recipe=recipe, items=[{"image": b64(png("red"))}])
    assert f"primitives.detector.{field}" in answer["detail"]


@pytest.mark.parametrize("primitive", ["clip", "toy", {"kind": "image"}])
def test_only_a_detector_detects(http: httpx.Client, primitive: Any) -> None:
    answer = asked(http, "/v1/detect", 422, primitive=primitive, items=[{"image": b64(png("red"))}])
    assert "finds no objects" in answer["detail"]


def test_a_detector_that_is_not_here_is_told(http: httpx.Client) -> None:
    answer = asked(http, "/v1/detect", 422, primitive="detector:yolo11n", items=[{"image": b64(png("red"))}])
    assert answer["code"] == "model_not_found"


# --- search


def test_search_by_words_and_by_example(http: httpx.Client) -> None:
    one = SearchAnswer.model_validate(asked(http, "/v1/search", index="words", text="something red", k=2))
    assert one.results[0].matches[0].id == "a"
    assert (len(one.results[0].matches), one.n_items) == (2, 3)
    alike = asked(http, "/v1/search", index="photos", image=b64(png("red")), k=1)
    assert alike["results"][0]["matches"] == [{"id": "red", "cosine": pytest.approx(1, abs=1e-3)}]
    assert set(alike["versions"]["primitives"]) == {"toy"}


def test_search_is_that_of_python(http: httpx.Client, indexes_dir: Path) -> None:
    from manyeyes.primitives.index import VectorIndex

    finder = Finder(clip="toy", on="text")
    index = VectorIndex.open(indexes_dir / "words", version=finder.version)
    expected = index.search(finder.words("green door"), 3)[0]
    told = asked(http, "/v1/search", index="words", text="green door", k=3)["results"][0]["matches"]
    assert [(match["id"], match["cosine"]) for match in told] == [(hit.id, hit.cosine) for hit in expected]


def test_many_queries_fail_one_by_one(http: httpx.Client) -> None:
    rows = asked(
        http,
        "/v1/search",
        index="photos",
        items=[
            {"id": "w", "text": "blue"},
            {"id": "bad", "image": "?"},
            {"image": b64(png("lime"))},
            {"text": " "},
        ],
        k=1,
    )["results"]
    assert [row["status"] for row in rows] == ["searched", "error", "searched", "error"]
    assert [row["matches"][0]["id"] for row in rows if "matches" in row] == ["blue", "lime"]


def test_search_by_form(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/search", data={"index": "photos", "k": "1"}, files={"files": ("q.png", png("blue"))}
    )
    assert answer.json()["results"][0]["matches"][0]["id"] == "blue"


def test_an_answer_of_endless_matches_is_refused(http: httpx.Client) -> None:
    answer = asked(http, "/v1/search", 413, index="words", items=[{"text": "red"}] * 101, k=1000)
    assert "101,000 matches" in answer["detail"]


def test_an_index_that_cannot_be_searched(http: httpx.Client) -> None:
    assert "did you mean 'words'" in asked(http, "/v1/search", 404, index="word", text="red")["detail"]
    assert asked(http, "/v1/search", 404, index="../words", text="red")["code"] == "not_found"
    foreign = asked(http, "/v1/search", 500, index="foreign", text="red")
    assert foreign["code"] == "index_unusable"
    assert "MANYEYES_ALLOWED_MODELS" in foreign["detail"]
    damaged = asked(http, "/v1/search", 500, index="damaged", text="red")
    assert "/" not in damaged["detail"]


def test_indexes_are_listed(http: httpx.Client) -> None:
    told = IndexList.model_validate(http.get("/v1/indexes").json())
    assert [(line.name, line.n_items, line.model) for line in told.indexes] == [
        ("foreign", 3, None),
        ("photos", 3, "toy:colors"),
        ("words", 3, "toy:colors"),
    ]
    assert [fault.name for fault in told.broken] == ["damaged"]


def test_an_index_that_was_written_again_is_opened_again(http: httpx.Client, indexes_dir: Path) -> None:
    shutil.copytree(indexes_dir / "words", indexes_dir / "growing")
    try:
        assert asked(http, "/v1/search", index="growing", text="red")["n_items"] == 3
        finder = Finder(clip="toy", on="text")
        index = finder.index([Item("z", text="red red red"), Item("y", text="blue")])
        index.save(indexes_dir / "growing")
        told = asked(http, "/v1/search", index="growing", text="red", k=1)
        assert (told["n_items"], told["results"][0]["matches"][0]["id"]) == (2, "z")
    finally:
        shutil.rmtree(indexes_dir / "growing")


def test_a_link_out_of_the_folder_is_not_followed(
    http: httpx.Client, indexes_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(indexes_dir / "words", tmp_path / "secret")
    link = indexes_dir / "linked"
    link.symlink_to(tmp_path / "secret")
    try:
        asked(http, "/v1/search", 404, index="linked", text="red")
    finally:
        link.unlink()
