"""docs/recipes.md is the program's own account of itself: every example runs, every word that exists is explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from manyeyes.documents import read_document
from manyeyes.lfs import boxes, metadata
from manyeyes.recipe import Recipe
from manyeyes.registry import load, names

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, flags=re.M | re.S)


@pytest.mark.parametrize("block", [code for language, code in BLOCKS if language == "yaml"])
def test_every_recipe_and_every_lf_can_be_used(block: str) -> None:
    value: Any = read_document(block).value
    if isinstance(value, list):
        value = {"name": "page", "classes": ["dress", "hat", "shoes", "t-shirt"], "lfs": value}
    recipe = Recipe.parse(value)
    assert Recipe.parse(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("block", [code for language, code in BLOCKS if language == "python"])
def test_every_python_example_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, str(PAGE), "exec"), {})
    assert Recipe.parse(capsys.readouterr().out)


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, flags=re.M | re.S)
    assert found, f"docs/recipes.md has no section {title!r}"
    return found[1]


@pytest.mark.parametrize("kind", names("manyeyes.lfs"))
def test_every_field_of_every_kind_is_explained(kind: str) -> None:
    fields = set(load("manyeyes.lfs", kind).Spec.model_fields) - {"name", "kind"}
    told = set(
        re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", section(f"kind: {kind}"), flags=re.M)))
    )
    assert told >= fields, fields - told


def test_every_field_of_a_recipe_is_explained() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", TEXT.partition("## Version")[0], flags=re.M))
    assert told == set(Recipe.model_fields)


@pytest.mark.parametrize(
    ("kind", "vocabulary"), [("detect", boxes.VOCABULARY), ("metadata", metadata.VOCABULARY)]
)
def test_every_function_is_explained_as_it_is_called(kind: str, vocabulary: Any) -> None:
    rows = " ".join(re.findall(r"^\| (`.*?) \|", section(f"kind: {kind}"), flags=re.M))
    told = {name: arguments.split(", ") for name, arguments in re.findall(r"`(\w+)\(([^)]*)\)`", rows)}
    assert set(told) == set(vocabulary.functions)
    for name, arguments in told.items():
        assert len(arguments) == len(vocabulary.functions[name].takes), name


def test_every_label_model_is_named() -> None:
    row = re.search(r"^\| `label_model` \|(.*)$", TEXT, flags=re.M)
    assert row and set(re.findall(r"`(\w+)`", row[1])) == set(names("manyeyes.label_models"))
