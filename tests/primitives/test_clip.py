"""CLIPs of every origin load through one class, and say what is wrong where they do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from manyeyes.errors import ModelNotFound, WeightsMismatch
from manyeyes.models.weights import file_sha256
from manyeyes.primitives.base import DecodedImage, Primitive
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.clip import ClipSpec, build
from manyeyes.primitives.extractor import Extractor
from manyeyes.types import Item

ARCH = "manyeyes-test-tiny"
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def clip(**options: object) -> dict[str, Primitive]:
    return dict(build("clip", ClipSpec(kind="clip", **options)))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small CLIP with random weights, of an architecture that open_clip is told of."""
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    (folder / f"{ARCH}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{ARCH}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(ARCH)
    path = folder / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    torch.save(model.state_dict(), folder / "tiny.pt")
    yield path
    (folder / f"{ARCH}.json").unlink()


@pytest.mark.slow
def test_a_local_checkpoint_is_what_open_clip_makes_of_it(
    checkpoint: Path, astronaut: DecodedImage, photos: list[DecodedImage]
) -> None:
    import open_clip
    import torch

    model, _, transform = open_clip.create_model_and_transforms(ARCH, pretrained=str(checkpoint))
    tokens = open_clip.get_tokenizer(ARCH)(["a photo of an astronaut", "a cat"])
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([transform(p.pixels) for p in photos]), normalize=True)
        texts = model.encode_text(tokens, normalize=True)
    ours = clip(model=str(checkpoint), arch=ARCH)
    rows = np.concatenate([row["embedding"] for row in ours["clip"].compute(photos)])
    # Of the resized image only the square that the model sees is made; what is rounded on the way may differ.
    assert rows == pytest.approx(images.numpy(), abs=1e-3)
    assert (rows * images.numpy()).sum(axis=1).min() > 0.99999
    rows = np.concatenate(
        [r["embedding"] for r in ours["clip.text"].compute(["a photo of an astronaut", "a cat"])]
    )
    assert rows == pytest.approx(texts.numpy(), abs=1e-5)
    info = ours["clip"].info
    assert (info["dim"], info["logit_scale"]) == (32, pytest.approx(1 / 0.07, rel=1e-4))
    assert ours["clip"].dtype == np.dtype([("embedding", "<f4", (32,))])


@pytest.mark.slow
def test_a_checkpoint_of_torch_is_the_same_model(checkpoint: Path, astronaut: DecodedImage) -> None:
    left = clip(model=str(checkpoint), arch=ARCH)["clip"]
    right = clip(model=str(checkpoint.with_suffix(".pt")), arch=ARCH)["clip"]
    assert left.compute([astronaut])[0].tobytes() == right.compute([astronaut])[0].tobytes()
    assert left.version != right.version  # another file


@pytest.mark.slow
def test_a_folder_with_a_configuration(checkpoint: Path, astronaut: DecodedImage, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1]}})
    )
    (tmp_path / "open_clip_model.safetensors").write_bytes(checkpoint.read_bytes())
    ours = clip(model=str(tmp_path))["clip"]
    other = clip(model=str(checkpoint), arch=ARCH)["clip"]
    assert ours.compute([astronaut])[0]["embedding"] != pytest.approx(
        other.compute([astronaut])[0]["embedding"]
    )
    assert ours.version != other.version


@pytest.mark.slow
def test_a_pin_is_respected(checkpoint: Path) -> None:
    digest = file_sha256(checkpoint)
    assert digest in clip(model=str(checkpoint), arch=ARCH, sha256=digest)["clip"].version
    for ask in (lambda p: p.version, lambda p: p.setup()):
        with pytest.raises(WeightsMismatch, match=digest):
            ask(clip(model=str(checkpoint), arch=ARCH, sha256="0" * 64)["clip"])
    with pytest.raises(WeightsMismatch, match="starter"):
        clip(model="starter", sha256="0" * 64)["clip"].setup()


@pytest.mark.slow
def test_a_pickle_is_not_run(tmp_path: Path, checkpoint: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsMismatch):
        clip(model=str(evil), arch=ARCH)["clip"].setup()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_weights_of_another_architecture(checkpoint: Path) -> None:
    with pytest.raises(WeightsMismatch, match="ViT-B-32"):
        clip(model=str(checkpoint), arch="ViT-B-32")["clip"].setup()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "ViT-B-33"}, "ViT-B-32"),
        ({"model": "ViT-B-32/no_such_tag"}, "laion2b_s34b_b79k"),
        ({"model": "ViT-B-32"}, "MANYEYES_ALLOW_DOWNLOADS=1"),
        ({"model": "ViT-B/32"}, "MANYEYES_ALLOW_DOWNLOADS=1"),
        ({"model": "hf-hub:nobody/nothing"}, "MANYEYES_ALLOW_DOWNLOADS=1"),
        ({"model": "/nowhere/clip.safetensors", "arch": "ViT-B-32"}, "/nowhere/clip.safetensors"),
        ({"model": __file__.replace(".py", ".safetensors")}, "there is no checkpoint"),
    ],
)
def test_what_is_not_there(options: dict[str, str], words: str) -> None:
    with pytest.raises(ModelNotFound, match=words):
        clip(**options)["clip"].setup()


@pytest.mark.slow
def test_a_checkpoint_needs_an_architecture(checkpoint: Path) -> None:
    with pytest.raises(ModelNotFound, match="arch"):
        clip(model=str(checkpoint))["clip"].setup()


@pytest.mark.slow
def test_the_starter_agrees_with_its_plain_model(photos: list[DecodedImage], texts: list[str]) -> None:
    """Packs, threads and cut padding leave the embeddings what open_clip alone makes of them."""
    import torch

    from manyeyes.models.starter.clip import load_starter_clip

    starter = load_starter_clip()
    with torch.inference_mode():
        images = starter.model.encode_image(
            torch.stack([starter.preprocess(p.pixels) for p in photos]), normalize=True
        )
        said = starter.model.encode_text(starter.tokenizer(texts), normalize=True)
    ours = clip()
    rows = np.concatenate([row["embedding"] for row in ours["clip"].compute(photos)])
    assert rows == pytest.approx(images.numpy(), abs=1e-5)
    rows = np.concatenate([row["embedding"] for row in ours["clip.text"].compute(texts)])
    assert rows == pytest.approx(said.numpy(), abs=1e-5)


@pytest.mark.slow
def test_threads_get_the_same_bits(photos: list[DecodedImage]) -> None:
    primitive = clip()["clip"]
    wanted = [row.tobytes() for row in primitive.compute(photos)]
    results: list[list[bytes]] = []
    threads = [
        threading.Thread(target=lambda: results.append([row.tobytes() for row in primitive.compute(photos)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [wanted] * 4


CACHED_RUN = """
import sys
from pathlib import Path
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.clip import ClipSpec
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.text import TextSpec
from manyeyes.types import Item
specs = {"clip": ClipSpec(kind="clip"), "text": TextSpec(kind="text")}
extractor = Extractor.for_specs(specs, cache=Cache(sys.argv[1]))
picture = Path(sys.argv[2])
items = [Item("a", image=picture, text="a suit"), Item("b", text="a photo of an astronaut")]
features = extractor.extract(items, ["clip", "clip.text", "text"])
extractor.encode("clip", ["a photo of an astronaut"])
extractor.versions(["clip", "text"])
assert extractor.info("clip")["logit_scale"] > 1
print(extractor.counter.total, features.errors, *sorted({"torch", "open_clip", "transformers"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_cached_run_loads_no_model(cache: Cache, astronaut: DecodedImage, tmp_path: Path) -> None:
    """Not even torch: the second process only looks up."""
    path = tmp_path / "astronaut.png"
    astronaut.pixels.save(path)
    said = [
        subprocess.run(
            [sys.executable, "-c", CACHED_RUN, str(cache.path), str(path)],
            check=True, capture_output=True, text=True, timeout=240,
        ).stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert said[0] == ["3", "{}", "open_clip", "torch", "transformers"]
    assert said[1] == ["0", "{}"]


@pytest.mark.slow
def test_words_find_pictures(astronaut: DecodedImage) -> None:
    from skimage import data

    from manyeyes.primitives.images import decode_image

    extractor = Extractor.for_specs({"clip": ClipSpec(kind="clip")})
    cat, cup = (decode_image(_png(pixels)) for pixels in (data.chelsea(), data.coffee()))
    items = [Item("cat", image=cat.pixels), Item("coffee", image=cup.pixels)]
    images = extractor.extract(items, ["clip"])["clip"]["embedding"]
    prompts = extractor.encode("clip", ["a photo of a cat", "a photo of a cup of coffee"])
    assert (images @ prompts.T).argmax(axis=1).tolist() == [0, 1]


def _png(pixels: np.ndarray) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
