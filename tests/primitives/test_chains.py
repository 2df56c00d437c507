"""Features of texts that are not the item's own: read once, cached by content, wrong for one item alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from manyeyes.errors import InvalidRecipe
from manyeyes.primitives.base import DecodedImage, Rows
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.chains import sort_out
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.lines import LINE_COLUMN, TEXT_COLUMN, rows_of_lines
from manyeyes.primitives.naming import families, parts, split
from manyeyes.primitives.toy import ToyImage, ToyText
from manyeyes.settings import Limits
from manyeyes.types import Item

DTYPE = np.dtype([LINE_COLUMN, TEXT_COLUMN])
COLORS = {(255, 0, 0): "red", (0, 0, 255): "blue", (0, 255, 0): "red", (9, 9, 9): ""}


class Sign:
    """Reads the colour of an image as the word for it; green ones say red, grey ones nothing."""

    name = "sign"
    version = "sign 1"
    modality = "image"
    dtype = DTYPE
    ragged = True
    gives_text = True
    info: ClassVar[dict[str, Any]] = {}

    def setup(self) -> None: ...

    def compute(self, batch: Sequence[DecodedImage]) -> list[Rows]:
        said = [COLORS[image.pixels.getpixel((0, 0))] for image in batch]  # type: ignore[index]
        return [rows_of_lines([word] if word else [], DTYPE)[0] for word in said]


class Fragile(ToyText):
    """A toy that cannot read blue."""

    version = "fragile 1"  # type: ignore[assignment]

    def compute(self, batch: Sequence[str]) -> list[Rows]:
        if any("blue" in text for text in batch):
            raise ValueError("blue")
        return super().compute(batch)


def plain(color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (8, 8), color)


@pytest.fixture
def items() -> list[Item]:
    return [
        Item("red", image=plain((255, 0, 0)), metadata={"title": "a blue hat"}),
        Item("blue", image=plain((0, 0, 255)), text="green"),
        Item("says red", image=plain((0, 255, 0)), metadata={"title": 7}),
        Item("says nothing", image=plain((9, 9, 9))),
        Item("no image", text="red"),
        Item("broken", image=b"no image at all"),
    ]


@pytest.fixture
def extractor() -> Callable[..., Extractor]:
    def make(text: ToyText | None = None, **options: Any) -> Extractor:
        primitives = {"sign": Sign(), "toy": ToyImage("toy"), "toy.text": text or ToyText("toy.text")}
        return Extractor(primitives, **options)  # type: ignore[arg-type]

    return make


def rounded(block: Any) -> list[list[float] | None]:
    vectors = block["embedding"].astype(np.float64).round(2).tolist()
    return [vector if here else None for vector, here in zip(vectors, block.present.tolist(), strict=True)]


RED, BLUE, GREEN, WHITE = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.58, 0.58, 0.58]


def test_a_text_is_read_where_it_stands(items: list[Item], extractor: Callable[..., Extractor]) -> None:
    features = extractor().extract(
        items, ["toy.text@sign", "toy.text", "toy.text@metadata.title", "toy.text@filename"]
    )
    assert rounded(features["toy.text@sign"]) == [RED, BLUE, RED, None, None, None]
    assert rounded(features["toy.text"]) == [None, GREEN, None, None, RED, None]
    assert rounded(features["toy.text@metadata.title"]) == [BLUE, None, WHITE, None, None, None]
    assert rounded(features["toy.text@filename"])[:4] == [RED, BLUE, RED, WHITE]
    assert list(features.errors) == [5]
    assert features["sign"].present.tolist() == [True, True, True, True, False, False]


def test_equal_texts_are_computed_once_and_kept(
    items: list[Item], extractor: Callable[..., Extractor], cache: Cache
) -> None:
    text = ToyText("toy.text")
    first = extractor(text, cache=cache).extract(items[:5], ["toy.text@sign"])
    assert text.batches == 1
    again = extractor(text, cache=cache)
    second = again.extract(items[:5], ["toy.text@sign"])
    assert text.batches == 1 and again.counter.total == 0
    assert first["toy.text@sign"].rows.tobytes() == second["toy.text@sign"].rows.tobytes()
    # "red" and "blue" are known by now, whoever says them.
    again.extract([Item("x", text="red"), Item("y", text="blue")], ["toy.text"])
    assert text.batches == 1


def test_what_fails_on_a_text_is_that_items_error(
    items: list[Item], extractor: Callable[..., Extractor]
) -> None:
    features = extractor(Fragile("toy.text")).extract(items, ["toy.text@sign", "toy"])
    assert sorted(features.errors) == [1, 5]
    assert "blue" in str(features.errors[1])
    assert rounded(features["toy.text@sign"]) == [RED, None, RED, None, None, None]
    assert features["toy"].present.tolist() == [True, False, True, True, False, False]
    sign = features["sign"]
    assert sign.offsets is not None and sign.offsets.tolist() == [0, 1, 1, 2, 2, 2, 2]
    assert sign.rows["text"].tolist() == [b"red", b"red"]


def test_a_given_text_is_held_to_the_limits(extractor: Callable[..., Extractor]) -> None:
    items = [
        Item("a", text="x", metadata={"title": "t" * 30}),
        Item("b", text="x", metadata={"title": "red"}),
    ]
    features = extractor(limits=Limits(max_text=20)).extract(items, ["toy.text@metadata.title"])
    assert list(features.errors) == [0]
    assert rounded(features["toy.text@metadata.title"]) == [None, RED]


def test_what_cannot_be_chained_is_refused(items: list[Item], extractor: Callable[..., Extractor]) -> None:
    for feature, told in [
        ("toy@sign", "reads no texts"),
        ("toy.text@toy", "gives no text"),
        ("toy.text@nobody", "no primitive gives 'nobody'"),
    ]:
        with pytest.raises(InvalidRecipe, match=told):
            extractor().extract(items, [feature])


def test_a_version_names_both(extractor: Callable[..., Extractor]) -> None:
    versions = extractor().versions(["toy.text@sign", "toy.text@metadata.title"])
    assert versions == {
        "toy.text@metadata.title": "toy/colors/text 1",
        "toy.text@sign": "toy/colors/text 1@sign 1",
    }


def test_names_come_apart() -> None:
    assert sort_out(["clip", "text@ocr", "lf:a@ocr", "text@filename"]) == (
        ["clip", "ocr"],
        {"ocr": ["text@ocr", "lf:a@ocr"], "filename": ["text@filename"]},
    )
    assert split("clip.text@metadata.a.b") == ("clip.text", "metadata.a.b")
    assert parts("lf:a@ocr") == ("lf:a", "ocr")
    assert families("clip.text@ocr") == ("clip", "ocr") and families("lf:a") == ()
