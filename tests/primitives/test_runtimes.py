"""A faster way to run a tower is used only if it gives the same answers, and then by every process of one home."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manyeyes.errors import InvalidSettings, MissingDependency

torch = pytest.importorskip("torch", reason="the reference runs in torch")

from manyeyes.primitives import runtime_choice, runtimes  # noqa: E402
from manyeyes.primitives.clip import ClipSpec, build  # noqa: E402
from manyeyes.primitives.runtime_choice import choose, fastest  # noqa: E402
from manyeyes.primitives.runtime_gate import agreement_of, directions, judge, made_photos  # noqa: E402
from manyeyes.primitives.runtime_torch import float32  # noqa: E402
from manyeyes.primitives.runtimes import RUNTIMES, Runtime, run_packs, told  # noqa: E402
from manyeyes.primitives.towers import Tower  # noqa: E402

SIZE = (32, 32)
DIM = 16


def small_tower(*, delay_s: float = 0.0) -> Tower:
    """A tower of one matrix over small pixels, slow if wanted."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((3 * 8 * 8, DIM), generator=generator)
    prompts = torch.nn.functional.normalize(torch.randn((12, DIM), generator=generator), dim=1).numpy()

    class Visual(torch.nn.Module):
        def forward(self, values: Any) -> Any:
            if delay_s and torch.jit.is_tracing():
                raise RuntimeError("no tracer follows a sleep")
            time.sleep(delay_s)
            return torch.nn.functional.avg_pool2d(values, 4).flatten(1) @ weight.to(values.dtype)

    visual = Visual()
    return Tower(visual, visual, (0.5,) * 3, (0.25,) * 3, SIZE, pack=4, prompts=lambda: prompts)


@dataclass(frozen=True)
class Fake(Runtime):
    """A runtime whose runner is the reference's, with something done to its answers."""

    change: Callable[[np.ndarray], np.ndarray] = lambda vectors: vectors

    def build(self, tower: Tower, folder: Path) -> Any:
        exact = float32(replace(tower, embed=small_tower().embed), folder)
        change = self.change

        class Changed:
            pack = 2

            def __call__(self, pixels: np.ndarray) -> np.ndarray:
                return change(exact(pixels))

        return Changed()


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave torch and one other runtime, called "fake"."""

    def leave(change: Callable[[np.ndarray], np.ndarray] = lambda vectors: vectors) -> None:
        monkeypatch.setattr(
            runtime_choice,
            "RUNTIMES",
            table := {"torch": RUNTIMES["torch"], "fake": Fake("fake", "", change=change)},
        )
        monkeypatch.setattr(runtimes, "RUNTIMES", table)

    return leave


def measured(home: Path) -> dict[str, Any]:
    (file,) = (home / "runtimes").glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def swapped(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors[:, ::-1])


def blurred(vectors: np.ndarray) -> np.ndarray:
    """Rounded so that the cosine stays, and that close answers change."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.round(vectors / lengths / 0.08) * 0.08, dtype=np.float32)


def sociable(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors + 1e-6 * vectors.mean(axis=0), dtype=np.float32)


def crash(vectors: np.ndarray) -> np.ndarray:
    raise RuntimeError("unsupported operator")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (swapped, "cosine"),
        (blurred, "of the answers"),
        (sociable, "depend on which others"),
        (crash, "unsupported operator"),
        (lambda vectors: vectors * np.nan, "NaN"),
        (lambda vectors: vectors[:, :3], "shape"),
    ],
)
def test_a_wrong_runtime_is_refused(
    only: Callable[..., None], manyeyes_home: Path, change: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    only(change)
    # Far faster than the reference, and not used all the same.
    assert choose("auto", "tower", lambda: small_tower(delay_s=0.01)) == "torch"
    assert why in measured(manyeyes_home)["measured"]["fake"]["refused"]
    assert "fake is not used" in caplog.text
    # Nor is it used by its own name.
    assert choose("fake", "tower", lambda: small_tower()) == "torch"


def test_a_right_and_faster_one_is_used_and_remembered(
    only: Callable[..., None], manyeyes_home: Path
) -> None:
    only()
    assert choose("auto", "tower", lambda: small_tower(delay_s=0.01)) == "fake"
    found = measured(manyeyes_home)["measured"]
    assert found["fake"]["cosine"] == pytest.approx(1)
    assert found["fake"]["agreement"] == 1
    assert found["fake"]["images_per_s"] > found["torch"]["images_per_s"]

    def load() -> Tower:
        raise AssertionError("the choice is known, nothing has to be loaded")

    assert choose("auto", "tower", load) == "fake"
    with pytest.raises(AssertionError, match="the choice is known"):
        choose("auto", "another tower", load)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"key": {}, "chosen": "fake"}', b"\xff\xfe", b'{"chosen": "evil"}'],
)
def test_a_damaged_file_is_measured_again(
    only: Callable[..., None], manyeyes_home: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    only()
    choose("auto", "tower", lambda: small_tower(delay_s=0.01))
    (file,) = (manyeyes_home / "runtimes").glob("*.json")
    good = json.loads(file.read_bytes())
    file.write_bytes(content)
    assert choose("auto", "tower", lambda: small_tower(delay_s=0.01)) == "fake"
    assert "measured again" in caplog.text
    assert json.loads(file.read_bytes())["key"] == good["key"]


def test_many_ask_and_one_measures(only: Callable[..., None]) -> None:
    only()
    loads: list[int] = []
    chosen: list[str] = []

    def load() -> Tower:
        loads.append(1)
        return small_tower(delay_s=0.005)

    threads = [
        threading.Thread(target=lambda: chosen.append(choose("auto", "tower", load))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (chosen, loads) == (["fake"] * 6, [1])


def test_one_process_waits_for_the_other(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with runtime_choice._one_process(tmp_path / "lock"):
            order.append("second")

    with runtime_choice._one_process(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_home_that_cannot_be_written(
    only: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    only()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MANYEYES_HOME", str(tmp_path / "file"))
    assert choose("auto", "tower", small_tower) == "torch"
    assert "cannot be kept" in caplog.text


def test_other_cores_or_packages_are_measured_anew(
    only: Callable[..., None], manyeyes_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only()
    choose("auto", "tower", lambda: small_tower(delay_s=0.005))
    monkeypatch.setattr(runtime_choice, "package_version", lambda package: "another")
    choose("auto", "tower", lambda: small_tower(delay_s=0.005))
    assert len(list((manyeyes_home / "runtimes").glob("*.json"))) == 2


def test_simpler_is_kept_where_little_is_gained() -> None:
    assert fastest({"torch": 10, "onnx": 10.9}) == "torch"
    assert fastest({"torch": 10, "onnx": 11.1}) == "onnx"
    assert fastest({"torch": 10, "onnx": 20, "openvino": 21}) == "onnx"
    assert fastest({}) == "torch"


@pytest.mark.parametrize("family", ["openvino", "onnx"])
def test_a_runtime_that_is_not_installed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "package_version", lambda package: None)
    with pytest.raises(MissingDependency, match=rf"manyeyes\[{family}\]"):
        choose(family, "tower", small_tower)
    monkeypatch.setattr(runtimes, "processor_flags", frozenset)
    assert choose("auto", "tower", small_tower) == "torch"  # which takes what is there


def test_the_operator_may_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtimes.asked_for(None) == "torch"
    monkeypatch.setenv("MANYEYES_RUNTIME", "Auto")
    assert runtimes.asked_for(None) == "auto"
    assert runtimes.asked_for("onnx") == "onnx"  # the recipe's own word goes first
    monkeypatch.setenv("MANYEYES_RUNTIME", "openvin")
    with pytest.raises(InvalidSettings, match="openvino"):
        runtimes.asked_for(None)
    with pytest.raises(ValueError, match="runtime"):
        ClipSpec(kind="clip", runtime="tensorrt")


def test_versions_name_what_may_differ() -> None:
    assert told("openvino-bf16").startswith("openvino-bf16@20")
    assert told("torch-bf16") == f"torch-bf16@{torch.__version__}"


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_packs_are_filled_up_and_cut(n: int) -> None:
    tower = small_tower()
    photos = made_photos(SIZE, n)
    runner = float32(tower, Path())
    vectors = run_packs(lambda packs: map(runner, packs), runner, photos)
    assert vectors.shape == (n, DIM)
    for photo, vector in zip(photos, vectors, strict=True):
        values = (torch.from_numpy(photo).permute(2, 0, 1).float().div(255) - 0.5) / 0.25
        assert vector == pytest.approx(tower.embed(values[None])[0].numpy(), abs=1e-4)


def test_photographs_are_made_the_same_each_time() -> None:
    first, second = made_photos((48, 64), 4), made_photos((48, 64), 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert {photo.shape for photo in first} == {(48, 64, 3)}
    assert not np.array_equal(first[0], first[1])
    assert all(photo.std() > 10 for photo in first)


def test_agreement_is_the_share_of_answers() -> None:
    prompts = np.eye(3, dtype=np.float32)
    wanted = directions(np.array([[3, 2, 1]], dtype=np.float32))
    assert agreement_of(wanted, wanted, prompts) == 1
    # Two of three questions are answered otherwise where the first and the last change places… and the third, too.
    assert agreement_of(directions(np.array([[1, 2, 3]], np.float32)), wanted, prompts) == 0
    assert agreement_of(directions(np.array([[2, 3, 1]], np.float32)), wanted, prompts) == pytest.approx(
        2 / 3
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["openvino", "onnx", "auto"])
def test_the_starter_in_other_runtimes(
    family: Any, photos: list[Any], manyeyes_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers as torch's, equal bits in any company, and no second measuring."""
    plain = build("clip", ClipSpec(kind="clip"))["clip"]
    other = build("clip", ClipSpec(kind="clip", runtime=family))["clip"]
    assert other.version.startswith(plain.version)
    if family != "auto":
        assert family in other.version
    wanted = np.concatenate([row["embedding"] for row in plain.compute(photos)])
    rows = other.compute(photos)
    said = np.concatenate([row["embedding"] for row in rows])
    assert (said * wanted).sum(axis=1).min() >= 0.99
    bits = [row.tobytes() for row in rows]
    assert [other.compute([photo])[0].tobytes() for photo in photos[:3]] == bits[:3]
    assert [row.tobytes() for row in other.compute(photos[::-1])] == bits[::-1]
    monkeypatch.setattr(runtime_choice, "_measure", crash)
    again = build("clip", ClipSpec(kind="clip", runtime=family))["clip"]
    assert again.version == other.version


@pytest.mark.slow
def test_a_cut_conversion_is_made_again(manyeyes_home: Path, photos: list[Any]) -> None:
    from manyeyes.primitives.clip_models import load_clip
    from manyeyes.primitives.towers import tower_of

    tower = tower_of(load_clip("starter", None))
    made = made_photos(tower.size, 2)
    folder = runtime_choice.folder_of("starter")
    first = RUNTIMES["openvino"].build(tower, folder)
    wanted = run_packs(lambda packs: map(first, packs), first, made)
    (file,) = folder.glob("*.xml")
    file.write_bytes(file.read_bytes()[:1000])
    again = RUNTIMES["openvino"].build(tower, folder)
    assert np.array_equal(run_packs(lambda packs: map(again, packs), again, made), wanted)
    verdict = judge(tower, wanted, again, made, run=lambda packs: map(again, packs))
    assert verdict.refused is None


@pytest.mark.slow
def test_real_photographs_get_the_same_labels(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the gate lets through on made photographs holds on real ones, class by class."""
    import io
    import zipfile

    from PIL import Image

    from manyeyes.primitives.extractor import Extractor
    from manyeyes.types import Item

    caplog.set_level(logging.ERROR)
    with zipfile.ZipFile(shared_data / "clothing_validation.zip") as source:
        # All 341: of fewer than 200, a single one that lies between two classes is more than the share allowed.
        names = sorted(name for name in source.namelist() if name.endswith(".jpg"))
        photos = [Image.open(io.BytesIO(source.read(name))).convert("RGB") for name in names]
    classes = sorted({name.split("/")[0] for name in names})
    items = [Item(name, image=photo) for name, photo in zip(names, photos, strict=True)]
    seen = {}
    for runtime in ("torch", "auto"):
        extractor = Extractor.for_specs({"clip": ClipSpec(kind="clip", runtime=runtime)})
        prompts = extractor.encode("clip", [f"a photo of a {name}" for name in classes])
        seen[runtime] = extractor.extract(items, ["clip"])["clip"]["embedding"], prompts
    (wanted, prompts), (said, _) = seen["torch"], seen["auto"]
    assert (wanted * said).sum(axis=1).min() >= 0.99
    assert ((wanted @ prompts.T).argmax(axis=1) == (said @ prompts.T).argmax(axis=1)).mean() >= 0.995
