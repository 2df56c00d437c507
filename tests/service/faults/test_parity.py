"""Labels over HTTP are those of a Labeler in this process, to the last bit, whoever else is calling."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from manyeyes import Client, Item, Labeler, Recipe

Photo = Callable[..., bytes]


def differing(address: str, recipes: Path, name: str, calls: Sequence[Sequence[Item]]) -> int:
    """Return how many calls, made by 32 clients at once, are answered other than by a Labeler."""
    alone = Labeler(Recipe.load(recipes / f"{name}.yaml")).load_label_model(recipes / f"{name}.label_model")
    expected = [[label.to_dict() for label in alone.label(items)] for items in calls]

    def ask(items: Sequence[Item]) -> list[dict[str, Any]]:
        with Client(address, timeout_s=120, max_retries=20) as client:
            return [label.to_dict() for label in client.label(items, recipe=name)]

    with ThreadPoolExecutor(32) as pool:
        return sum(got != wanted for got, wanted in zip(pool.map(ask, calls), expected, strict=True))


def test_32_clients_get_the_labels_of_a_labeler(server: Any, recipes: Path, photo: Photo) -> None:
    colours, words = ("red", "green", "blue", "white", "brown"), ("a crimson wall", "a navy wall", None)
    calls = [
        [
            Item(f"{i}", image=photo(colours[(n + i) % 5], 100 * n + i), text=words[(n + i) % 3])
            for i in range(1 + n % 7)
        ]
        for n in range(128)
    ]
    assert differing(server.address, recipes, "looks", calls) == 0


@pytest.mark.slow
def test_they_do_with_real_models(serve: Callable[..., Any], recipes: Path, root: Path) -> None:
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    def cut(n: int) -> bytes:
        """Return a photograph of its own: a piece of one of five."""
        whole = (data.astronaut, data.chelsea, data.coffee, data.rocket, data.cat)[n % 5]()
        stream = io.BytesIO()
        Image.fromarray(whole[n : n + 260, 2 * n : 2 * n + 300]).save(stream, "JPEG")
        return stream.getvalue()

    recipe = Recipe.load(root / "examples" / "garments.yaml")
    (recipes / "garments.yaml").write_text(recipe.to_yaml())
    Labeler(recipe).fit([Item(f"{n}", image=cut(n)) for n in range(20)]).save_label_model(
        recipes / "garments.label_model"
    )
    calls = [[Item(f"{i}", image=cut(8 + (n * 3 + i) % 12)) for i in range(1 + n % 3)] for n in range(40)]
    assert differing(serve().address, recipes, "garments", calls) == 0
