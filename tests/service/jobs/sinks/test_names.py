"""Names of files and folders: safe everywhere, and never the same twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.service.jobs.sinks.names import class_folders, needs_digest, stem_of, suffix_of, unmistakable

SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,96}")


@pytest.mark.parametrize(
    ("given_id", "stem"),
    [
        ("train/cat/0001.jpg", "train_cat_0001"),
        ("IMG 0001.v2.JPEG", "IMG_0001_v2"),
        ("../../etc/passwd", "etc_passwd"),
        ("图片.png", "item"),
        ("con.png", "_con"),
        ("a.txt", "a_txt"),
        ("x" * 300, "x" * 80),
        ("...", "item"),
    ],
)
def test_ids_become_names(given_id: str, stem: str) -> None:
    assert stem_of(given_id) == stem


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_are_safe_and_digests_keep_them_apart(one: str, other: str) -> None:
    one, other = (text.encode("utf-8", "replace").decode() for text in (one, other))
    for text in (one, other):
        assert SAFE.fullmatch(stem_of(text)) and SAFE.fullmatch(unmistakable(text))
        assert needs_digest(unmistakable(text))
    assert one == other or unmistakable(one).lower() != unmistakable(other).lower()


@given(st.lists(st.text(min_size=1, max_size=100), min_size=2, max_size=20, unique=True))
def test_class_folders_are_safe_and_different(classes: list[str]) -> None:
    folders = class_folders(classes)
    assert list(folders) == classes
    assert len({folder.casefold() for folder in folders.values()}) == len(classes)
    for folder in folders.values():
        assert not set(folder) & set('/\\:*?"<>|\0') and folder == folder.strip(" .") and len(folder) < 100


def test_a_class_keeps_its_name_where_it_can() -> None:
    folders = class_folders(["t-shirt", "café", "red car", "a/b", "Hat", "hat", "aux"])
    assert [folders[name] for name in ("t-shirt", "café", "red car")] == ["t-shirt", "café", "red car"]
    assert folders["a/b"].startswith("a_b-") and folders["aux"].startswith("_aux-")
    assert folders["Hat"].casefold() != folders["hat"].casefold()


def test_a_file_ends_in_what_it_is() -> None:
    assert suffix_of(b"\xff\xd8\xff\xe0") == ".jpg" and suffix_of(b"RIFF\0\0\0\0WEBPVP8 ") == ".webp"
    assert suffix_of(b"<svg>") is None and suffix_of(b"") is None and suffix_of(b"RIFF\0\0\0\0WAVE") is None
