"""What one item or one model does must not reach the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from manyeyes import Client, Item, Labeler, Recipe
from manyeyes.errors import ManyeyesError

Photo = Callable[..., bytes]


def of_colours(photo: Photo, n: int, *, first: int) -> list[Item]:
    return [Item(f"{i:02}", image=photo(("red", "green", "blue")[i % 3], first + i)) for i in range(n)]


@pytest.mark.parametrize(
    ("poison", "code"),
    [("corrupt", "undecodable_image"), ("yellow", "primitive_failed")],
)
def test_one_poison_image_among_64_errors_alone(
    client: Client, recipes: Path, photo: Photo, poison: str, code: str
) -> None:
    alone = Labeler(Recipe.load(recipes / "looks.yaml")).load_label_model(recipes / "looks.label_model")
    items, others = of_colours(photo, 64, first=1000), of_colours(photo, 64, first=2000)
    expected = [[label.to_dict() for label in alone.label(some)] for some in (items, others)]
    items[37] = Item("37", image=photo("red")[:60] if poison == "corrupt" else photo(poison))
    with ThreadPoolExecutor(2) as pool:  # another caller's items may be in the same batch
        answers = pool.map(lambda some: client.label(some, recipe="looks"), (items, others))
        labels = [[label.to_dict() for label in answer] for answer in answers]
    poisoned = labels[0].pop(37)
    del expected[0][37]
    assert poisoned["status"] == "error" and poisoned["error"]["code"] == code
    assert labels == expected


def test_a_model_thread_that_dies_is_replaced(server: Any, client: Client, photo: Photo) -> None:
    items = of_colours(photo, 8, first=0)
    clean = [label.label for label in client.label(items, recipe="looks")]
    for round_ in range(3):
        try:
            answer = client.label([Item("killer", image=photo("cyan", round_))], recipe="looks")
            assert answer[0].status == "error"
        except ManyeyesError:
            pass  # whoever was in the batch that was lost may be told that the service failed
        deadline = time.monotonic() + 10
        while not server.answers("/readyz"):
            assert time.monotonic() < deadline, httpx.get(f"{server.address}/readyz", trust_env=False).text
            time.sleep(0.1)
        fresh = of_colours(photo, 8, first=100 * (round_ + 1))
        assert [label.label for label in client.label(fresh, recipe="looks")] == clean
    assert server.metric("manyeyes_stage_restarts_total") >= 3
    assert server.process.poll() is None
