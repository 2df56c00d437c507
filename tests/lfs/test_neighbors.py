"""``kind: neighbors``: a few examples of each class vote for what looks or reads like them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from manyeyes import Item, Labeler, Recipe
from manyeyes.errors import InvalidRecipe, UntrustedRecipe
from manyeyes.lfs.neighbors import NeighborsLF, learn_reach
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.nearest import Nearest

COLORS = {"red": (200, 0, 0), "blue": (0, 0, 200), "green": (0, 200, 0), "dark red": (90, 5, 5)}


def picture(color: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, color in COLORS.items():
        (tmp_path / f"{name}.png").write_bytes(picture(color))
    return tmp_path


def document(**fields: Any) -> dict[str, Any]:
    lf = {"name": "like", "kind": "neighbors", "using": "toy", **fields}
    return {"name": "paint", "classes": ["red", "blue"], "lfs": [lf]}


def labels(recipe: Recipe, *items: Item) -> list[str | None]:
    return [label.label for label in Labeler(recipe).label(items)]


FILES = {"red": ["red.png", "dark red.png"], "blue": "blue.png"}


def test_images_vote_like_the_files_that_they_are_near(folder: Path) -> None:
    recipe = Recipe.parse(document(examples=FILES, cutoff=0.9), folder=folder)
    items = [Item(str(i), image=picture(c)) for i, c in enumerate([(150, 1, 3), (9, 9, 190), (0, 99, 0)])]
    labeled = Labeler(recipe).label(items)
    assert [label.label for label in labeled] == ["red", "blue", None]
    scores = labeled.votes.scores[:, 0]
    assert (scores[:2] > 0.5).all() and np.isnan(scores[2])


def test_texts_vote_like_the_texts_that_they_are_near() -> None:
    recipe = Recipe.parse(
        document(on="text", using="toy", examples={"red": "red", "blue": "blue"}, cutoff=0.9)
    )
    assert labels(recipe, *(Item(t, text=t) for t in ("a red thing", "blue", "red and blue", "green"))) == [
        "red",
        "blue",
        None,
        None,
    ]


def test_base64_and_embeddings_stand_in_the_recipe_itself() -> None:
    inline = base64.b64encode(picture(COLORS["red"])).decode()
    recipe = Recipe.parse(
        document(examples={"red": {"base64": inline}, "blue": {"embedding": [0, 0, 2]}}, cutoff=0.8)
    )
    recipe.check_untrusted()
    assert labels(recipe, Item("r", image=picture((99, 0, 0))), Item("b", image=picture((0, 0, 99)))) == [
        "red",
        "blue",
    ]


def test_what_looks_more_like_nothing_gets_no_vote(folder: Path) -> None:
    recipe = Recipe.parse(document(examples=FILES, against="green.png", cutoff=-1.0), folder=folder)
    assert labels(recipe, Item("g", image=picture((30, 90, 20))), Item("r", image=picture((90, 30, 20)))) == [
        None,
        "red",
    ]


def test_the_version_follows_the_content_not_only_the_name(folder: Path) -> None:
    before = Recipe.parse(document(examples=FILES), folder=folder)
    assert Recipe.parse(document(examples=FILES), folder=folder).version == before.version
    assert (
        Recipe.parse(before.to_yaml()) == before and Recipe.parse(before.to_yaml()).version == before.version
    )
    (folder / "red.png").write_bytes(picture((210, 0, 0)))
    assert Recipe.parse(document(examples=FILES), folder=folder).version != before.version


def test_a_recipe_that_was_written_out_still_finds_its_files(folder: Path) -> None:
    again = Recipe.parse(Recipe.parse(document(examples=FILES), folder=folder).to_json())
    assert labels(again, Item("r", image=picture((99, 0, 0)))) == ["red"]


def test_a_recipe_file_names_paths_from_its_own_folder(folder: Path, working_directory: Path) -> None:
    (folder / "recipe.yaml").write_text(Recipe.parse(document(examples=FILES), folder=folder).to_yaml())
    assert labels(Recipe.load(folder / "recipe.yaml"), Item("b", image=picture((1, 1, 80)))) == ["blue"]


def test_a_file_that_changed_since_is_refused(folder: Path) -> None:
    recipe = Recipe.parse(document(examples=FILES), folder=folder)
    (folder / "blue.png").write_bytes(picture((0, 9, 222)))
    with pytest.raises(InvalidRecipe, match=r"blue\.png.*changed since"):
        labels(recipe, Item("r", image=picture((99, 0, 0))))
    with pytest.raises(InvalidRecipe, match="is not the file that the recipe names"):
        Recipe.parse(recipe.document(), folder=folder)


def test_files_are_opened_only_where_somebody_says_where(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    recipe = Recipe.parse(document(examples=FILES))
    with pytest.raises(InvalidRecipe, match="which folder"):
        labels(recipe, Item("r", image=picture((99, 0, 0))))


@pytest.mark.parametrize("pinned", [False, True])
def test_a_recipe_from_outside_names_no_file(folder: Path, pinned: bool) -> None:
    recipe = Recipe.parse(document(examples=FILES), folder=folder if pinned else None)
    with pytest.raises(UntrustedRecipe, match=r"red\.png.*is a file of this machine"):
        recipe.check_untrusted()


def test_a_large_image_from_outside_is_refused_unseen() -> None:
    out = io.BytesIO()
    Image.new("L", (2_500, 2_500)).save(out, "PNG")
    for data in (out.getvalue(), b"no image"):
        given = {"red": {"base64": base64.b64encode(data).decode()}, "blue": {"embedding": [0, 0, 2]}}
        with pytest.raises(UntrustedRecipe, match="make it smaller"):
            Recipe.parse(document(examples=given)).check_untrusted()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"examples": {}}, "examples are missing"),
        ({"examples": {"red": []}}, "has no examples"),
        ({"examples": {"red": "a.png"}}, "one example of 'red' alone"),
        ({"examples": {"red": {"text": "red"}, "blue": "b.png"}}, "on: image compares images"),
        ({"examples": {"red": {"path": "a", "text": "b"}, "blue": "b.png"}}, "path and text"),
        ({"examples": {"red": {"base64": "§"}, "blue": "b.png"}}, "no base64"),
        ({"examples": {"red": {"embedding": [0, 0]}, "blue": "b.png"}}, "needs a direction"),
        ({"examples": {"rde": "a.png", "blue": "b.png"}}, "did you mean 'red'"),
        ({"on": "text", "examples": {"red": {"path": "a"}, "blue": "b"}}, "on: text compares texts"),
        ({"examples": {"red": "a", "blue": "b"}, "k": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        Recipe.parse(document(**fields))


def test_a_missing_file_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match=r"No such file.*paths begin in"):
        Recipe.parse(document(examples=FILES), folder=tmp_path)


def test_embeddings_of_another_encoder_are_refused() -> None:
    vectors = {"red": {"embedding": [1, 0, 0, 0]}, "blue": {"embedding": [0, 0, 1]}}
    with pytest.raises(InvalidRecipe, match="numbers"):
        labels(Recipe.parse(document(examples=vectors)), Item("r", image=picture((9, 0, 0))))


def clouds(rng: np.random.Generator, spread: float, n: int) -> list[np.ndarray[Any, Any]]:
    found = []
    for axis in range(3):
        points = rng.normal(size=(n, 8)) * spread
        points[:, axis] += 1
        found.append(points / np.linalg.norm(points, axis=1, keepdims=True))
    return found


def test_the_reach_follows_the_examples() -> None:
    rng = np.random.default_rng(0)
    tight = learn_reach(clouds(rng, 0.05, 8), np.empty((0, 0)), k=5, cutoff=None)
    loose = learn_reach(clouds(rng, 0.3, 8), np.empty((0, 0)), k=5, cutoff=None)
    assert tight.cutoff > loose.cutoff > 0
    assert learn_reach(clouds(rng, 0.3, 8), np.empty((0, 0)), k=5, cutoff=0.5).cutoff == 0.5


def test_few_and_many_examples_are_found_alike() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(2_000, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:50].astype(np.float32)
    place, cosine = Nearest(vectors).search(queries, 5)  # through faiss
    exact = (queries.astype(np.float64) @ vectors.T).round(6)
    assert (place[:, 0] == np.arange(50)).all()
    assert np.array_equal(cosine, -np.sort(-exact, axis=1)[:, :5])
    assert Nearest(vectors[:7]).cosines(queries, 20).shape == (50, 7)


def test_an_item_gets_the_same_vote_alone_and_among_others(tools: Any) -> None:
    rng = np.random.default_rng(2)
    embeddings = [vector for cloud in clouds(rng, 0.3, 1_000) for vector in cloud]
    items = [Item(str(i), text="t") for i in range(len(embeddings))]
    features = FeatureSet(items, {"clip": tools.embeddings(embeddings)})
    examples = {
        name: [{"embedding": vector.tolist()} for vector in cloud]
        for name, cloud in zip(("dress", "hat"), clouds(rng, 0.3, 1_100), strict=False)
    }
    lf: NeighborsLF = tools.make_lf(kind="neighbors", examples=examples)
    lf.prepare(tools.Encoder({}))
    whole = lf.vote(features)
    for i in range(0, 3_000, 97):
        alone = lf.vote(tools.slice_features(features, i, i + 1))
        assert alone.classes[0] == whole.classes[i]
        assert np.array_equal(alone.scores[0], whole.scores[i], equal_nan=True)
