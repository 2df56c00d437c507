"""The extractor computes each content once, isolates what is broken, and needs no model for what is cached."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from manyeyes.errors import (
    EmptyItem,
    ImageTooLarge,
    InvalidItem,
    InvalidRecipe,
    InvalidRequest,
    ModelNotFound,
    PrimitiveFailed,
    UndecodableImage,
    UnreadableItem,
    UnsupportedFormat,
)
from manyeyes.primitives.base import DecodedImage, FeatureSet, Modality, Rows
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.image import ImageSpec
from manyeyes.primitives.toy import ToyImage, ToySpec, ToyText
from manyeyes.settings import Limits
from manyeyes.types import Item

Png = Callable[..., bytes]


class Boxes:
    """A ragged primitive: one row for each 16 columns of pixels; fails where the image is plain magenta."""

    name, version, ragged = "boxes", "boxes 1", True
    dtype = np.dtype([("left", "<i4"), ("mean", "<f4")])

    def __init__(self) -> None:
        self.info = {"names": ["stripe"]}
        self.batch_sizes: list[int] = []

    modality: Modality = "image"

    def setup(self) -> None:
        pass

    def compute(self, batch: Sequence[DecodedImage]) -> list[Rows]:
        self.batch_sizes.append(len(batch))
        rows = []
        for image in batch:
            values = np.asarray(image.pixels)
            if (values == (255, 0, 255)).all():
                raise RuntimeError("no magenta, please")
            lefts = range(0, image.width // 16 * 16, 16)
            row = np.zeros(len(lefts), dtype=self.dtype)
            row["left"] = lefts
            row["mean"] = [values[:, left : left + 16].mean() for left in lefts]
            rows.append(row)
        return rows


def toys(cache: Cache | None = None, **options: Any) -> Extractor:
    primitives = {"toy": ToyImage("toy"), "toy.text": ToyText("toy.text"), "boxes": Boxes()}
    return Extractor(primitives, cache=cache, **options)


ALL = ["toy", "toy.text", "boxes"]


def same(left: FeatureSet, right: FeatureSet) -> bool:
    assert left.blocks.keys() == right.blocks.keys()
    for name, block in left.blocks.items():
        other = right[name]
        assert block.rows.dtype == other.rows.dtype
        assert block.rows.tobytes() == other.rows.tobytes()
        assert block.present.tolist() == other.present.tolist()
        assert (block.offsets is None) == (other.offsets is None)
        if block.offsets is not None and other.offsets is not None:
            assert block.offsets.tolist() == other.offsets.tolist()
    assert {i: str(e) for i, e in left.errors.items()} == {i: str(e) for i, e in right.errors.items()}
    return True


def test_columns_of_a_mixed_call(png: Png) -> None:
    items = [
        Item("both", image=png("red"), text="blue"),
        Item("image", image=png("green", width=40)),
        Item("text", text="red and blue"),
    ]
    features = toys().extract(items, ALL)
    assert features.errors == {}
    assert features["toy"].present.tolist() == [True, True, False]
    assert features["toy"]["embedding"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert features["toy.text"].present.tolist() == [True, False, True]
    assert features["toy.text"]["embedding"] == pytest.approx(
        np.array([[0, 0, 1], [0, 0, 0], [2**-0.5, 0, 2**-0.5]])
    )
    boxes = features["boxes"]
    assert boxes.offsets is not None
    assert boxes.offsets.tolist() == [0, 4, 6, 6]
    assert boxes["left"].tolist() == [0, 16, 32, 48, 0, 16]
    assert boxes.row_items().tolist() == [0, 0, 0, 0, 1, 1]
    assert boxes.info == {"names": ["stripe"]}
    assert features.items is items


def test_features_cannot_be_changed(png: Png) -> None:
    features = toys().extract([Item("a", image=png(0), text="red"), Item("b", text="red")], ALL)
    for block in features.blocks.values():
        with pytest.raises(ValueError, match="read-only"):
            block.rows[:] = block.rows
        with pytest.raises(ValueError, match="read-only"):
            block.present[:] = True


def test_nothing_in_nothing_out() -> None:
    features = toys().extract([], ALL)
    assert len(features) == 0
    assert features["toy"]["embedding"].shape == (0, 3)
    assert features["boxes"].offsets is not None
    assert features["boxes"].offsets.tolist() == [0]
    assert toys().extract([Item("a", text="x")], []).blocks == {}


def test_every_way_to_be_broken(tmp_path: Path, png: Png) -> None:
    """Each broken item has an error of its own, and the others have their features."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(png(0)[:-30])
    (tmp_path / "text.png").write_text("I am no image")
    broken: list[tuple[Item, type[Exception]]] = [
        (Item("neither"), EmptyItem),
        (Item("blank", text=" \n"), EmptyItem),
        (Item("zero bytes", image=b""), EmptyItem),
        (Item("empty file", image=tmp_path / "empty.png"), EmptyItem),
        (Item("directory", image=tmp_path), UnreadableItem),
        (Item("missing", image="nowhere.png"), UnreadableItem),
        (Item("loop", image=loop), UnreadableItem),
        (Item("pipe", image=tmp_path / "pipe"), UnreadableItem),
        (Item("device", image="/dev/zero"), UnreadableItem),
        (Item("cut file", image=tmp_path / "cut.png"), UndecodableImage),
        (Item("cut bytes", image=png(1)[:-30]), UndecodableImage),
        (Item("no image file", image=tmp_path / "text.png"), UnsupportedFormat),
        (Item("no image", image=b"I am no image"), UnsupportedFormat),
        (Item("too many pixels", image=png(0, width=400, height=400)), ImageTooLarge),
        (Item("too many pixels in memory", image=Image.new("RGB", (400, 400))), ImageTooLarge),
        (Item("number", image=7), InvalidItem),  # type: ignore[arg-type]
        (Item("list", image=[b"x"]), InvalidItem),  # type: ignore[arg-type]
        (Item("text is a number", text=7), InvalidItem),  # type: ignore[arg-type]
        (Item("text is bytes", text=b"red"), InvalidItem),  # type: ignore[arg-type]
        (Item("surrogate", text="\ud800"), InvalidItem),
        (Item("long text", text="x" * 1001), InvalidItem),
        (Item("metadata", text="x", metadata=["a"]), InvalidItem),  # type: ignore[arg-type]
        (Item("poison", image=png("magenta")), PrimitiveFailed),
    ]
    sound = [Item(f"sound {i}", image=png(i), text="red") for i in range(len(broken))]
    items = [item for pair in zip((item for item, _ in broken), sound, strict=True) for item in pair]
    features = toys(limits=Limits(max_pixels=100_000, max_text=1000)).extract(items, ALL)
    assert {items[i].id: type(error) for i, error in features.errors.items()} == {
        item.id: kind for item, kind in broken
    }
    assert all(str(error) for error in features.errors.values())
    for block in features.blocks.values():
        assert block.present.tolist() == [False, True] * len(broken)


def test_broken_items_do_not_change_the_others(png: Png, cache: Cache) -> None:
    sound = [Item(str(i), image=png(i), text="red") for i in range(6)]
    alone = toys().extract(sound, ALL)
    mixed = toys(cache).extract([Item("x", image=b"?"), *sound, Item("y", image=png("magenta"))], ALL)
    assert mixed["toy"].rows[1:-1].tobytes() == alone["toy"].rows.tobytes()
    assert mixed["boxes"].rows.tobytes() == alone["boxes"].rows.tobytes()


def test_the_poison_is_found_by_halving(png: Png) -> None:
    extractor = toys(batch_size=16)
    boxes = extractor.primitives["boxes"]
    assert isinstance(boxes, Boxes)
    items = [Item(str(i), image=png("magenta" if i == 5 else i)) for i in range(16)]
    features = extractor.extract(items, ["boxes"])
    assert list(features.errors) == [5]
    assert "no magenta" in str(features.errors[5])
    assert boxes.batch_sizes == [16, 8, 4, 4, 2, 1, 1, 2, 8]
    assert extractor.counter.passes["boxes"] == 9


def test_an_items_bad_image_leaves_its_text_out_too(png: Png) -> None:
    features = toys().extract(
        [Item("a", image=b"?", text="red"), Item("b", image=png("magenta"), text="red")], ALL
    )
    assert list(features.errors) == [0, 1]
    assert not features["toy.text"].present.any()


def test_equal_contents_are_computed_once(png: Png, tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "b.png").write_bytes(png(0))
    sources = [png(0), tmp_path / "a.png", str(tmp_path / "b.png"), tmp_path / "a.png", png(0)]
    for kept in (None, cache):
        extractor = toys(kept)
        features = extractor.extract([Item(str(i), image=s, text="red") for i, s in enumerate(sources)], ALL)
        assert extractor.counter.items == {"toy": 1, "boxes": 1, "toy.text": 1}
        assert features["toy"].present.all()
        assert features["boxes"].row_items().tolist() == [i for i in range(5) for _ in range(4)]


def test_equal_broken_contents_are_all_errors(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    for kept in (None, cache):
        items = [
            Item("0", image=b"no image"),
            Item("1", image=tmp_path / "a.png"),
            Item("2", image=b"no image"),
        ]
        assert list(toys(kept).extract(items, ["toy"]).errors) == [0, 1, 2]


def test_what_is_cached_needs_no_pass(png: Png, tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    picture = Image.open(tmp_path / "a.png").convert("L")
    items = [
        Item("bytes", image=png(0), text="red"),
        Item("file", image=tmp_path / "a.png"),
        Item("pil", image=picture),
        Item("text", text="green"),
    ]
    first = toys(cache)
    features = first.extract(items, ALL)
    assert first.counter.total == 3
    second = toys(cache)
    assert same(second.extract(items, ALL), features)
    assert second.counter.total == 0


def test_what_is_new_computes_alone(png: Png, cache: Cache) -> None:
    class Other(ToyImage):
        version = "other 1"

    items = [Item(str(i), image=png(i), text="red") for i in range(3)]
    toys(cache).extract(items, ALL)
    extractor = Extractor({**toys().primitives, "other": Other("other")}, cache=cache)
    extractor.extract([*items, Item("new", image=png(5))], [*ALL, "other"])
    assert extractor.counter.items == {"toy": 1, "boxes": 1, "other": 4}


def test_a_remembered_file_is_not_read_again(
    png: Png, tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(0))
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 3_000_000_000)
    toys(cache).extract([Item("a", image=path)], ["toy"])

    def read(*_: object) -> bytes:
        raise AssertionError("the file was read")

    with monkeypatch.context() as patched:
        patched.setattr("manyeyes.primitives.reading.read_file", read)
        features = toys(cache).extract([Item("a", image=str(path))], ["toy"])
        assert features["toy"].present.all()
    # New bytes under the same name are seen, whatever mtime they claim.
    stat = path.stat()
    path.write_bytes(png("red"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    features = toys(cache).extract([Item("a", image=path)], ["toy"])
    assert features["toy"]["embedding"].tolist() == [[1, 0, 0]]


def test_a_relative_path_is_remembered_as_it_is_spelt(
    png: Png, cache: Cache, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (working_directory / "a.png").write_bytes(png(0))
    now = time.time_ns()
    spellings = ["a.png", "./a.png", "../here/a.png"]
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: now + 3_000_000_000)
        toys(cache).extract([Item(name, image=name) for name in spellings], ["toy"])
        patched.setattr("manyeyes.primitives.reading.read_file", lambda *_: pytest.fail("the file was read"))
        toys(cache).extract([Item(name, image=name) for name in spellings], ["toy"])
    # The same words in another folder are another file.
    (working_directory / "below").mkdir()
    (working_directory / "below" / "a.png").write_bytes(png("red"))
    monkeypatch.chdir(working_directory / "below")
    features = toys(cache).extract([Item("a", image="a.png")], ["toy"])
    assert features["toy"]["embedding"].tolist() == [[1, 0, 0]]


def test_a_file_that_goes_away_is_an_error_again(png: Png, tmp_path: Path, cache: Cache) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(0))
    assert toys(cache).extract([Item("a", image=path)], ["toy"]).errors == {}
    path.unlink()
    assert isinstance(toys(cache).extract([Item("a", image=path)], ["toy"]).errors[0], UnreadableItem)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from([None, "red", "blue thing", "x"])), max_size=20
    ),
    batch_size=st.integers(1, 9),
    threads=st.integers(1, 3),
)
def test_batches_threads_and_caches_change_nothing(
    png: Png, cache: Cache, chosen: list[tuple[int, str | None]], batch_size: int, threads: int
) -> None:
    pictures = [*(png(i, width=40 + i) for i in range(5)), b"broken", png("magenta"), None]
    items = [Item(str(i), image=pictures[which], text=text) for i, (which, text) in enumerate(chosen)]
    plain = toys(batch_size=32, decode_threads=1).extract(items, ALL)
    assert same(toys(batch_size=batch_size, decode_threads=threads).extract(items, ALL), plain)
    assert same(toys(cache, batch_size=batch_size, decode_threads=threads).extract(items, ALL), plain)
    assert same(toys(cache).extract(items, ALL), plain)


def test_many_threads_share_an_extractor(png: Png, cache: Cache) -> None:
    extractor = toys(cache)
    calls = [[Item(str(i), image=png(start + i), text="red") for i in range(6)] for start in range(12)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda items: extractor.extract(items, ALL), calls))
    for items, features in zip(calls, results, strict=True):
        assert same(features, toys().extract(items, ALL))


def test_only_a_few_images_are_decoded_at_a_time(png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most, lock = 0, 0, threading.Lock()

    class Slow(ToyImage):
        def compute(self, batch: Sequence[DecodedImage]) -> list[Rows]:
            nonlocal alive
            time.sleep(0.02)
            rows = super().compute(batch)
            with lock:
                alive -= len(batch)
            return rows

    from manyeyes.primitives import reading

    original = reading.decode_image

    def counting(*arguments: Any, **options: Any) -> DecodedImage:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return original(*arguments, **options)

    monkeypatch.setattr(reading, "decode_image", counting)
    extractor = Extractor({"toy": Slow("toy")}, batch_size=4, decode_threads=2)
    features = extractor.extract([Item(str(i), image=png(i, width=8, height=8)) for i in range(100)], ["toy"])
    assert features["toy"].present.all()
    assert most <= 4 + 4 + 2  # a batch that is computed, and as many ahead of it


def test_prompts_are_counted_apart_and_cached(cache: Cache) -> None:
    extractor = toys(cache)
    prompts = ["red", "green and blue", "red"]
    embeddings = extractor.encode("toy", prompts)
    assert embeddings.dtype == np.float32
    assert embeddings == pytest.approx(np.array([[1, 0, 0], [0, 2**-0.5, 2**-0.5], [1, 0, 0]]))
    assert (extractor.counter.total, extractor.counter.prompt_passes, extractor.counter.prompt_items) == (
        0, {"toy.text": 1}, {"toy.text": 2},
    )  # fmt: skip
    again = toys(cache)
    assert again.encode("toy.text", prompts).tobytes() == embeddings.tobytes()
    assert again.counter.prompt_passes == {}
    # A prompt and an item's text are the same content.
    assert again.extract([Item("a", text="red")], ["toy.text"])["toy.text"]["embedding"].tolist() == [
        [1, 0, 0]
    ]
    assert again.counter.total == 0
    assert again.encode("toy", []).shape == (0, 3)


def test_words_for_what_cannot_be() -> None:
    extractor = toys()
    with pytest.raises(InvalidRecipe, match="did you mean 'toy'"):
        extractor.extract([Item("a", text="x")], ["toyy"])
    with pytest.raises(InvalidRecipe, match="those that do: toy"):
        extractor.encode("boxes", ["a box"])
    with pytest.raises(InvalidRecipe, match="there are"):
        extractor.encode("nothing", ["x"])
    with pytest.raises(InvalidRecipe, match="is empty"):
        extractor.encode("toy", ["red", " "])
    with pytest.raises(InvalidRecipe, match="str"):
        extractor.encode("toy", [7])  # type: ignore[list-item]
    with pytest.raises(InvalidRecipe, match="unknown"):
        extractor.info("unknown")
    with pytest.raises(InvalidRequest, match="batch_size"):
        toys(batch_size=0)


def test_a_model_that_is_missing_stops_the_call(png: Png) -> None:
    """It is nobody's fault among the items, so it is not reported as theirs."""

    class Missing(ToyImage):
        def setup(self) -> None:
            raise ModelNotFound("no weights")

    with pytest.raises(ModelNotFound, match="no weights"):
        Extractor({"toy": Missing("toy")}).extract([Item(str(i), image=png(i)) for i in range(50)], ["toy"])


@pytest.mark.parametrize("wrong", ["count", "dtype", "shape"])
def test_a_primitive_that_breaks_its_contract(png: Png, wrong: str) -> None:
    class Wrong(ToyImage):
        def compute(self, batch: Sequence[DecodedImage]) -> list[Rows]:
            rows = super().compute(batch)
            if wrong == "count":
                return rows[1:]
            return [
                np.zeros(1, dtype="<f8") if wrong == "dtype" else np.concatenate([row, row]) for row in rows
            ]

    features = Extractor({"toy": Wrong("toy")}).extract([Item("a", image=png(0))], ["toy"])
    assert isinstance(features.errors[0], PrimitiveFailed)


def test_what_a_primitive_says_is_known_without_it(cache: Cache, png: Png) -> None:
    first = toys(cache)
    first.extract([Item("a", image=png(0))], ["boxes"])

    class Unasked(Boxes):
        dtype = property(lambda self: pytest.fail("the model was asked"))  # type: ignore[assignment]
        info = property(lambda self: pytest.fail("the model was asked"))  # type: ignore[assignment]

        def __init__(self) -> None:
            pass

        def setup(self) -> None:
            pytest.fail("the model was loaded")

    second = Extractor({"boxes": Unasked()}, cache=cache)
    assert second.info("boxes") == {"names": ["stripe"]}
    assert same(
        second.extract([Item("a", image=png(0))], ["boxes"]),
        first.extract([Item("a", image=png(0))], ["boxes"]),
    )


def test_for_specs_and_versions() -> None:
    specs = {"toy": ToySpec(kind="toy"), "image": ImageSpec(kind="image")}
    extractor = Extractor.for_specs(specs)
    assert sorted(extractor.primitives) == ["image", "toy", "toy.text"]
    assert extractor.versions(["image", "toy.text"]) == {
        "image": "image/facts 1",
        "toy.text": "toy/colors/text 1",
    }


def test_the_columns_survive_the_cache(cache: Cache, png: Png) -> None:
    """A dtype with texts, numbers and arrays is rebuilt from JSON as it was."""
    items = [Item("a", image=png(3))]
    first = Extractor.for_specs({"image": ImageSpec(kind="image")}, cache=cache).extract(items, ["image"])
    second = Extractor.for_specs({"image": ImageSpec(kind="image")}, cache=cache)
    assert same(second.extract(items, ["image"]), first)
    assert second.counter.total == 0


def test_toys_never_load_torch() -> None:
    program = (
        "import sys\n"
        "from manyeyes.primitives.extractor import Extractor\n"
        "from manyeyes.primitives.toy import ToySpec\n"
        "from manyeyes.types import Item\n"
        "extractor = Extractor.for_specs({'toy': ToySpec(kind='toy')})\n"
        "extractor.extract([Item('a', text='red')], ['toy', 'toy.text'])\n"
        "assert not {'torch', 'PIL'} & set(sys.modules), 'loaded'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
