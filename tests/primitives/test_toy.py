"""The toy's vectors, checked by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.toy import COLORS, LOGIT_SCALE, ToyImage, ToySpec, ToyText
from manyeyes.types import Item

ROOT2, ROOT3, ROOT5 = 2**-0.5, 3**-0.5, 5**-0.5


@pytest.mark.parametrize(
    ("text", "vector"),
    [
        ("red", (1, 0, 0)),
        ("A RED hat, and a blue one!", (ROOT2, 0, ROOT2)),
        ("red red green", (2 * ROOT5, ROOT5, 0)),
        ("yellow", (ROOT2, ROOT2, 0)),
        ("nothing at all", (ROOT3, ROOT3, ROOT3)),
        ("redder", (ROOT3, ROOT3, ROOT3)),
    ],
)
def test_texts(text: str, vector: tuple[float, float, float]) -> None:
    assert ToyText("t").compute([text])[0]["embedding"][0] == pytest.approx(np.array(vector))


@pytest.mark.parametrize(
    ("color", "vector"),
    [
        ("#ff0000", (1, 0, 0)),
        ("#00ff00", (0, 1, 0)),
        ("#808080", (ROOT3, ROOT3, ROOT3)),
        ("#000000", (ROOT3, ROOT3, ROOT3)),
    ],
)
def test_images(color: str, vector: tuple[float, float, float], png: Callable[..., bytes]) -> None:
    features = Extractor({"toy": ToyImage("toy")}).extract([Item("a", image=png(color))], ["toy"])
    assert features["toy"]["embedding"][0] == pytest.approx(np.array(vector), abs=1e-6)


def test_prompts_match_images(png: Callable[..., bytes]) -> None:
    extractor = Extractor.for_specs({"toy": ToySpec(kind="toy")})
    words = ["red", "green", "blue", "yellow", "cyan", "magenta"]
    images = [Item(word, image=png(word if word != "green" else "lime")) for word in words]
    cosines = extractor.extract(images, ["toy"])["toy"]["embedding"] @ extractor.encode("toy", words).T
    assert cosines.argmax(axis=1).tolist() == list(range(len(words)))
    assert extractor.info("toy")["logit_scale"] == LOGIT_SCALE
    assert set(words) < set(COLORS)


def test_batches_are_counted(png: Callable[..., bytes]) -> None:
    toy = ToyImage("toy")
    Extractor({"toy": toy}, batch_size=4).extract([Item(str(i), image=png(i)) for i in range(10)], ["toy"])
    assert toy.batches == 3


def test_there_is_one_model() -> None:
    with pytest.raises(ValidationError):
        ToySpec(kind="toy", model="other")  # type: ignore[arg-type]
