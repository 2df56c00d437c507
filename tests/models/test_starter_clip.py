"""The starter CLIP: what can be said without weights, and, marked slow, the real model."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import yaml

from manyeyes.errors import ManyeyesError, WeightsMismatch
from manyeyes.models.starter.clip import HEAD_FILE, StarterClip, load_starter_clip, starter_clip_digest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from manyeyes.models.starter.clip_captions import (  # noqa: E402
    CAPTIONS_FILE,
    Vocabulary,
    describe_contents,
    read_numbers,
)

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def test_the_digest_names_the_head(tmp_path: Path) -> None:
    other = tmp_path / "head.safetensors"
    other.write_bytes(b"another head")
    digests = {starter_clip_digest(), starter_clip_digest(other), starter_clip_digest(None)}
    assert len(digests) == 3
    assert all(len(digest) == 64 for digest in digests)
    assert starter_clip_digest() == starter_clip_digest(HEAD_FILE)


def test_the_committed_head_is_small() -> None:
    assert HEAD_FILE.stat().st_size < 6_000_000


def test_training_never_says_what_is_held_out() -> None:
    raw = yaml.safe_load(CAPTIONS_FILE.read_text(encoding="utf-8"))
    groups = [group for level in raw["groups"].values() for group in level]
    taught = {name.lower() for group in groups for name in group["names"]}
    taught |= {name.lower() for names in raw["imagenet"].values() for name in names}
    held_out = {name.lower() for group in groups for name in group.get("held_out", ())}
    assert len(held_out) > 40
    assert not held_out & taught
    assert not set(raw["templates"]) & set(raw["held_out_templates"])


def test_no_imagenet_class_is_in_two_groups_of_a_level() -> None:
    raw = yaml.safe_load(CAPTIONS_FILE.read_text(encoding="utf-8"))
    for name, groups in raw["groups"].items():
        members = [number for group in groups for number in read_numbers(group.get("imagenet", ""))]
        assert len(members) == len(set(members)), name
        assert all(0 <= number < 1000 for number in members)


def test_captions_have_articles() -> None:
    raw = {"no_article": ["grass"]}
    vocabulary = Vocabulary(raw, [])
    assert vocabulary.caption("a photo of {a} {}", "apple") == "a photo of an apple"
    assert vocabulary.caption("a photo of {a} small {}", "apple") == "a photo of a small apple"
    assert vocabulary.caption("{a} {}", "pants") == "pants"
    assert vocabulary.caption("this is {a} {}", "grass") == "this is grass"
    assert vocabulary.caption("{a} {}", "dress") == "a dress"


def test_scenes_are_described_from_their_boxes() -> None:
    rng = np.random.default_rng(0)
    captions = {describe_contents('{"person": 2, "dog": 1}', rng) for _ in range(30)}
    assert "two people and a dog in a photo" in captions
    assert describe_contents("{}", rng)


@pytest.fixture(scope="module")
def starter() -> StarterClip:
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
            patch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
            return load_starter_clip()
    except ManyeyesError as error:
        pytest.skip(str(error))


def embed_image(starter: StarterClip, pixels: np.ndarray) -> torch.Tensor:
    batch = starter.preprocess(Image.fromarray(pixels).convert("RGB"))[None]
    with torch.inference_mode():
        return starter.model.encode_image(batch, normalize=True)[0]


def embed_texts(starter: StarterClip, *texts: str) -> torch.Tensor:
    with torch.inference_mode():
        return starter.model.encode_text(starter.tokenizer(list(texts)), normalize=True)


@pytest.mark.slow
def test_embeddings_are_unit_float32_and_deterministic(starter: StarterClip) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    first, second = embed_image(starter, pixels), embed_image(starter, pixels)
    texts = embed_texts(starter, "a photo of a cat", "a truck")
    assert first.shape == (384,)
    assert texts.shape == (2, 384)
    assert first.dtype == texts.dtype == torch.float32
    assert first.norm().item() == pytest.approx(1, abs=1e-5)
    assert texts.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert torch.equal(first, second)


@pytest.mark.slow
def test_texts_keep_the_geometry_of_the_text_model(starter: StarterClip) -> None:
    cat, kitten, truck = embed_texts(starter, "a photo of a cat", "a photo of a kitten", "a photo of a truck")
    assert cat @ kitten > cat @ truck + 0.2


@pytest.mark.slow
def test_the_published_towers_are_not_trained(starter: StarterClip) -> None:
    assert not any(parameter.requires_grad for parameter in starter.model.parameters())
    assert not starter.model.training


@pytest.mark.slow
def test_the_digest_is_that_of_the_files(starter: StarterClip) -> None:
    assert starter.digest == starter_clip_digest()


@pytest.mark.slow
def test_a_file_that_is_no_head_is_refused(starter: StarterClip, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"visual.proj": torch.zeros(2)}, tmp_path / "no_head.safetensors")
    with pytest.raises(WeightsMismatch, match="not a head of the starter CLIP"):
        load_starter_clip(tmp_path / "no_head.safetensors")


PHOTOS = [
    ("chelsea", "a photo of a cat"),
    ("coffee", "a photo of a cup of coffee"),
    ("rocket", "a photo of a rocket"),
    ("page", "a photo of a printed page"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("photo", "prompt"), PHOTOS)
def test_everyday_photographs_are_recognised(starter: StarterClip, photo: str, prompt: str) -> None:
    """None of them was trained on; some come with scikit-image only after a download, and are skipped then."""
    data = pytest.importorskip("skimage.data")
    try:
        pixels = getattr(data, photo)()
    except (OSError, RuntimeError, ModuleNotFoundError) as error:
        pytest.skip(f"scikit-image has no {photo} at hand: {error}")
    prompts = [p for _, p in PHOTOS] + ["a photo of a truck", "a photo of a dress"]
    similarities = embed_texts(starter, *prompts) @ embed_image(starter, pixels)
    assert prompts[int(similarities.argmax())] == prompt


@pytest.mark.slow
def test_clothing_is_told_apart(starter: StarterClip) -> None:
    if not (DATA / "clothing_validation.zip").exists():
        pytest.skip("../shared/data/clothing_validation.zip is not there")
    import zipfile

    classes = ["dress", "hat", "pants", "shoes", "shorts", "t-shirt"]
    prompts = embed_texts(starter, *(f"someone sells this: {name}" for name in classes))
    correct = []
    with zipfile.ZipFile(DATA / "clothing_validation.zip") as archive:
        for label in classes:
            for name in [n for n in sorted(archive.namelist()) if n.startswith(f"{label}/")][:4]:
                with archive.open(name) as file:
                    similarities = prompts @ embed_image(starter, np.asarray(Image.open(file).convert("RGB")))
                correct.append(classes[int(similarities.argmax())] == label)
    assert np.mean(correct) >= 0.75
