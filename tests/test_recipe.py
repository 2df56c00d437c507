"""Recipes: what a right one means, however it is written, and what a wrong one is told."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.documents import read_document
from manyeyes.errors import InvalidExpression, InvalidRecipe, RecipeNotFound, UntrustedRecipe
from manyeyes.lfs.prompt import PromptSpec
from manyeyes.recipe import MAX_LFS, MAX_SETS, Recipe
from manyeyes.recipe_parts import DEFAULT_PRIMITIVES

GARMENTS = """\
name: garments
classes: [dress, hat, shoes, t-shirt]
abstain_below: 0.6
primitives: {clip: starter, detector: yolo11n}
lfs:
  - {name: looks_like, kind: prompt, threshold: 0.5,
     prompts: {dress: [a photo of a dress, a gown], hat: a photo of a hat, t-shirt: a t-shirt},
     against: [a photo of an empty room]}
  - {name: someone_wears_it, kind: detect, when: "count(person) >= 1 and area(person) > 0.2", vote: dress}
  - {name: title_says_hat, kind: keyword, on: text, any: [hat, cap, beanie], vote: hat}
  - {name: brand, kind: metadata, when: "brand == 'Hatters' or price < 10", vote: hat}
  - {name: code, kind: regex, on: filename, pattern: '^SH-\\d+', vote: shoes}
label_model: auto
"""


def recipe_with(*lfs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    lf = {"name": "l", "kind": "keyword", "any": ["x"], "vote": "a"}
    return {"name": "r", "classes": ["a", "b"], "lfs": list(lfs) or [lf], **fields}


def test_the_example_of_the_design() -> None:
    recipe = Recipe.parse(GARMENTS)
    assert recipe.classes == ("dress", "hat", "shoes", "t-shirt")
    assert [lf.kind for lf in recipe.lfs] == ["prompt", "detect", "keyword", "metadata", "regex"]
    assert recipe.primitives["detector"].model == "yolo11n"
    assert recipe.abstain_below == 0.6
    assert re.fullmatch("[0-9a-f]{16}", recipe.version)


def test_the_version_of_a_recipe_does_not_change_with_the_program() -> None:
    """Labels name the version that made them; when this fails, stored labels no longer name their recipe."""
    assert Recipe.parse(recipe_with()).canonical() == (
        '{"classes":["a","b"],"format":1,"lfs":[{"any":["x"],"kind":"keyword","name":"l","vote":"a"}],"name":"r"}'
    )
    assert Recipe.parse(recipe_with()).version == "73a968e60cfd4715"


def test_the_version_is_the_same_in_every_process() -> None:
    code = f"from manyeyes.recipe import Recipe; print(Recipe.parse({GARMENTS!r}).version)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert told == Recipe.parse(GARMENTS).version


@pytest.mark.parametrize("write", [Recipe.to_yaml, Recipe.to_json, Recipe.canonical])
def test_round_trip(write: Any) -> None:
    recipe = Recipe.parse(GARMENTS)
    again = Recipe.parse(write(recipe))
    assert again == recipe
    assert (again.version, write(again)) == (recipe.version, write(recipe))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"primitives": {"clip": "starter"}}, {"primitives": {"clip": {"kind": "clip", "model": "starter"}}}),
        ({"primitives": {"toy": None}}, {"primitives": {"toy": {}}}),
        ({"abstain_below": 0}, {}),
        ({"description": ""}, {"label_model": "auto"}),
        ({"class_balance": {"b": 0.25, "a": 0.75}}, {"class_balance": {"a": 0.75, "b": 0.25}}),
        ({"format": 1}, {}),
        ({"label_model": {"name": "majority"}}, {"label_model": "majority"}),
        ({"label_model": {}}, {}),
        ({"label_model": {"embeddings": "toy", "name": "auto"}}, {"label_model": {"embeddings": "toy"}}),
        ({"label_model": {"name": "one_coin", "abstentions": "auto"}}, {"label_model": "one_coin"}),
        (
            {"label_model": {"name": "one_coin", "prior_votes": 7, "max_iterations": 3}},
            {"label_model": {"max_iterations": 3, "prior_votes": 7.0, "name": "one_coin"}},
        ),
        (
            {"label_model": {"embeddings": "toy"}},
            {"label_model": {"embeddings": "toy"}, "primitives": {"toy": {}}},
        ),
        ({"class_balance": None, "default_class": None}, {}),
    ],
)
def test_other_ways_to_write_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = Recipe.parse(recipe_with(**one)), Recipe.parse(recipe_with(**other))
    assert (a, a.version, a.to_yaml()) == (b, b.version, b.to_yaml())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            {"kind": "keyword", "any": "x", "vote": "a"},
            {"kind": "keyword", "any": ["x", "x"], "vote": "a", "on": "text"},
        ),
        (
            {"kind": "metadata", "when": "x<1", "vote": "a"},
            {"kind": "metadata", "when": "(x < 1)", "vote": "a"},
        ),
        (
            {"kind": "metadata", "when": "x<1", "vote": "a"},
            {"kind": "metadata", "when": "x < 1", "vote": {"not": "b"}},
        ),
        (
            {"kind": "metadata", "when": "x<1", "vote": "a"},
            {"kind": "metadata", "rules": [{"when": "x < 1", "vote": "a"}]},
        ),
        ({"kind": "regex", "pattern": "x", "vote": "a"}, {"kind": "regex", "votes": {"a": ["x"]}}),
        (
            {"kind": "prompt", "prompts": {"a": "x", "b": "y"}},
            {"kind": "prompt", "prompts": {"b": ["y"], "a": ["x"]}},
        ),
        ({"kind": "prompt"}, {"kind": "prompt", "using": "clip", "on": "image", "pool": "mean"}),
        ({"kind": "prompt", "on": "text"}, {"kind": "prompt", "on": "text", "using": "text"}),
        (
            {"kind": "prompt", "on": "text", "using": "clip"},
            {"kind": "prompt", "on": "text", "using": "clip.text"},
        ),
        (
            {"kind": "detect", "when": "count(dog)>0", "vote": "a"},
            {"kind": "detect", "when": "count('dog') > 0", "vote": "a"},
        ),
    ],
)
def test_other_ways_to_write_the_same_lf(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = (Recipe.parse(recipe_with({"name": "l", **lf})) for lf in (one, other))
    assert (a, a.version, a.to_yaml()) == (b, b.version, b.to_yaml())


@pytest.mark.parametrize("kind", ["keyword", "regex", "metadata", "detect", "rules"])
def test_a_vote_may_name_several_classes(kind: str) -> None:
    said = {
        "keyword": {"kind": "keyword", "any": "x"},
        "regex": {"kind": "regex", "pattern": "x"},
        "metadata": {"kind": "metadata", "when": "x < 1"},
        "detect": {"kind": "detect", "when": "count(dog) > 0"},
    }

    def recipe(vote: Any) -> Recipe:
        lf = {"name": "l", **said.get(kind, {"kind": "metadata"})}
        if kind == "rules":
            lf["rules"] = [{"when": "x < 1", "vote": vote}, {"when": "y < 1", "vote": "a"}]
        else:
            lf["vote"] = vote
        return Recipe.parse(recipe_with(lf, classes=["a", "b", "c"]))

    one, other = recipe({"not": " c "}), recipe(["b", "a"])
    assert (one, one.version) == (other, other.version)
    assert Recipe.parse(one.to_yaml()) == Recipe.parse(one.to_json()) == one
    assert "not: c" in one.to_yaml()
    assert one.version != recipe("a").version
    with pytest.raises(InvalidRecipe, match=r"vote: unknown class 'd'; classes: a, b, c"):
        recipe(["a", "d"])
    with pytest.raises(InvalidRecipe, match=r"vote: a vote for every class says nothing"):
        recipe(["a", "b", "c"])


def test_how_many_sets_of_classes_there_may_be_is_limited() -> None:
    classes = [f"c{i}" for i in range(60)]
    pairs = [[a, b] for a in classes for b in classes if a < b][: MAX_SETS + 1]
    rules = [{"when": f"x == {i}", "vote": pair} for i, pair in enumerate(pairs)]
    lfs = [{"name": f"l{i}", "kind": "metadata", "rules": rules[i::2]} for i in range(2)]
    with pytest.raises(InvalidRecipe, match="different sets of classes, got 1001"):
        Recipe.parse({"name": "r", "classes": classes, "lfs": lfs})
    lfs[0]["rules"].pop()
    Recipe.parse({"name": "r", "classes": classes, "lfs": lfs})


def test_what_the_label_model_reads_is_a_primitive_of_the_recipe() -> None:
    recipe = Recipe.parse(recipe_with(label_model={"embeddings": "clip.text", "name": "one_coin"}))
    assert list(recipe.primitives) == ["clip"]
    assert (recipe.label_model.name, recipe.label_model.embeddings) == ("one_coin", "clip.text")
    assert recipe.label_model.hyperparameters == {}


def test_what_matters_changes_the_version() -> None:
    x, y = ({"name": n, "kind": "keyword", "any": ["x"], "vote": "a"} for n in "xy")
    recipes = [
        recipe_with(),
        recipe_with(name="other"),
        recipe_with(classes=["b", "a"]),
        recipe_with(abstain_below=0.5),
        recipe_with(abstain_below={"precision": 0.5}),
        recipe_with(abstain_below={"precision": 0.9}),
        recipe_with(default_class="a"),
        recipe_with(default_class="b"),
        recipe_with(class_balance="estimated"),
        recipe_with(label_model={"name": "one_coin"}),
        recipe_with(label_model={"name": "one_coin", "max_iterations": 7}),
        recipe_with(label_model={"embeddings": "toy"}),
        recipe_with(label_model={"embeddings": "toy.text"}),
        recipe_with(label_model="majority"),
        recipe_with(primitives={"clip": "starter"}),
        recipe_with(class_balance={"a": 0.5, "b": 0.5}),
        recipe_with(x),
        recipe_with(x, y),
        recipe_with(y, x),
    ]
    assert len({Recipe.parse(recipe).version for recipe in recipes}) == len(recipes)


def test_words_that_yaml_1_1_takes_for_booleans_are_words() -> None:
    lf = "{name: l, kind: keyword, on: text, votes: {yes: [y], no: [n, off]}}"
    recipe = Recipe.parse(f"name: r\nclasses: [yes, no, on]\nlfs:\n  - {lf}\n")
    assert recipe.classes == ("yes", "no", "on")
    assert Recipe.parse(recipe.to_yaml()) == recipe


def test_primitives_that_are_read_and_not_declared_are_the_defaults() -> None:
    recipe = Recipe.parse(
        recipe_with(
            {"name": "p", "kind": "prompt"},
            {"name": "t", "kind": "prompt", "on": "text"},
            {"name": "d", "kind": "detect", "when": "count(dog) > 0", "vote": "a"},
            {"name": "m", "kind": "metadata", "when": "width > 3", "vote": "a"},
            {"name": "y", "kind": "prompt", "using": "toy"},
            {"name": "r", "kind": "keyword", "on": "ocr", "any": "sale", "vote": "a"},
            {"name": "c", "kind": "region_prompt"},
            {"name": "f", "kind": "metadata", "when": "n_words < 3", "vote": "a"},
        )
    )
    told = {name: spec.model for name, spec in recipe.primitives.items()}
    assert told == {
        "clip": "starter",
        "detector": "starter",
        "image": "facts",
        "ocr": "rapidocr",
        "regions": "crops",
        "text": "minilm",
        "text_facts": "facts",
        "toy": "colors",
    }
    assert set(told) == set(DEFAULT_PRIMITIVES)
    assert Recipe.parse(recipe_with()).primitives == {}


def test_two_primitives_of_one_kind() -> None:
    recipe = Recipe.parse(
        recipe_with(
            {"name": "p", "kind": "prompt", "using": "large"},
            {"name": "t", "kind": "prompt", "using": "large", "on": "text"},
            primitives={"large": {"kind": "clip", "model": "ViT-L-14/openai", "sha256": "0" * 64}},
        )
    )
    assert [lf.using for lf in recipe.lfs] == ["large", "large.text"]  # type: ignore[attr-defined]
    assert recipe.primitives["large"].sha256 == "0" * 64


def test_a_recipe_can_be_made_of_objects() -> None:
    spec = PromptSpec(name="p", prompts={"a": ("x",), "b": ("y",)})
    recipe = Recipe(name="r", classes=("a", "b"), lfs=(spec,))
    assert recipe == Recipe.parse(
        recipe_with({"name": "p", "kind": "prompt", "prompts": {"a": "x", "b": "y"}})
    )
    with pytest.raises(ValueError, match="unknown class 'a'"):
        Recipe(name="r", classes=("c", "d"), lfs=(spec,))


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        (
            "abstain_below",
            "abstain_bellow",
            "line 3, abstain_bellow: unknown field 'abstain_bellow'; allowed: format, name, description, classes,"
            " abstain_below, unfamiliar_below, default_class, class_balance, primitives, lfs, label_model;"
            " did you mean 'abstain_below'?",
        ),
        ("name: garments\n", "", "line 1, name: name is missing"),
        ("name: garments", "name: my garments", "line 1, name: got 'my garments'; allowed: a name of letters"),
        ("[dress, hat, shoes, t-shirt]", "[dress]", "line 2, classes: expected at least 2, got 1"),
        ("[dress, hat, shoes, t-shirt]", "[dress, hat, shoes, t-shirt, hat]", "line 2, classes[4]: class 'hat' stands"),
        ("hat, shoes, t-shirt]", "hat, shoes, t-shirt, true]", "line 2, classes[4]: expected a text, got true"),
        ("hat, shoes, t-shirt]", "hat, shoes, t-shirt, 42]", "put it between quotes: '42'"),
        ("hat, shoes, t-shirt]", "hat, shoes, t-shirt, null]", "line 2, classes[4]: expected a text, got nothing"),
        ("[dress, hat, shoes, t-shirt]", "dress", "line 2, classes: expected a list, such as [a, b], got 'dress'"),
        ("0.6", "1.6", "line 3, abstain_below: expected less than or equal to 1, got 1.6 (a number)"),
        ("0.6", "true", "line 3, abstain_below: expected a number, got true"),
        ("threshold: 0.5", "threshold: yes", "line 6, lfs[0].threshold: expected a number, got 'yes'"),
        ("0.6", "much", "line 3, abstain_below: expected a number, got 'much'"),
        ("detector: yolo11n", "detektor: yolo11n", "line 4, primitives.detektor: unknown primitive 'detektor'"),
        ("detector: yolo11n", "detektor: yolo11n", "did you mean 'detector'?"),
        ("clip: starter", "clip: {modell: x}", "line 4, primitives.clip.modell: unknown field 'modell'"),
        ("clip: starter", "clip: {modell: x}", "did you mean 'model'?"),
        ("clip: starter", "clip: {sha256: abc}", "line 4, primitives.clip.sha256: got 'abc'; allowed: 64 hexadecimal"),
        ("clip: starter", "clip: 3", "line 4, primitives.clip: a primitive is a model's name, or a mapping"),
        ("clip: starter", "a.b: {kind: clip}", "line 4, primitives['a.b']: a primitive's name is one word"),
        ("kind: prompt", "kind: promt", "line 6, lfs[0].kind: unknown LF kind 'promt'; allowed: prompt, detect"),
        ("kind: prompt", "kind: promt", "did you mean 'prompt'?"),
        ("kind: prompt, ", "", "line 6, lfs[0].kind: kind is missing; allowed: prompt"),
        ("threshold", "treshold", "line 6, lfs[0].treshold: unknown field 'treshold'; allowed: name, kind, on"),
        ("threshold", "treshold", "did you mean 'threshold'?"),
        ("threshold: 0.5", "threshold: -1", "line 6, lfs[0].threshold: expected greater than or equal to 0, got -1"),
        ("hat: a photo", "hatt: a photo", "line 7, lfs[0].prompts.hatt: unknown class 'hatt'; classes: dress, hat"),
        ("hat: a photo", "hatt: a photo", "did you mean 'hat'?"),
        (
            "t-shirt: a t-shirt", "t-shirt: 3",
            "line 7, lfs[0].prompts['t-shirt']: expected a list, such as [a, b], got 3",
        ),
        ("a gown]", "true]", "line 7, lfs[0].prompts.dress[1]: expected a text, got true"),
        ("name: someone_wears_it", "name: looks_like", "line 9, lfs[1].name: another LF is called 'looks_like' too"),
        ("name: someone_wears_it", "name: some one", "line 9, lfs[1].name: got 'some one'; allowed: a name of letters"),
        ("count(person)", "cuont(person)", "line 9, lfs[1].when: unknown function 'cuont'; allowed: count(label)"),
        ("count(person)", "cuont(person)", "did you mean 'count'? (at character 1 of"),
        ("vote: dress", "vote: drss", "line 9, lfs[1].vote: unknown class 'drss'; classes: dress, hat, shoes, t-shirt"),
        ("vote: dress", "vote: drss", "did you mean 'dress'?"),
        ("kind: detect,", "kind: detect, using: detectr,", "line 9, lfs[1].using: unknown primitive 'detectr'"),
        ("kind: detect,", "kind: detect, using: detectr,", "did you mean 'detector'?"),
        (
            "kind: detect,", "kind: detect, using: clip.txt,",
            "line 9, lfs[1].using: primitive 'clip' gives no 'clip.txt'",
        ),
        ("on: text", "on: txt", "line 10, lfs[2].on: on: 'txt' cannot be read; allowed: text, filename"),
        ("on: text", "on: txt", "did you mean 'text'?"),
        ("any: [hat, cap, beanie], ", "", "line 10, lfs[2]: a keyword LF needs words: any, all or none"),
        (
            "any: [hat, cap, beanie]", "any: {hat: 1}",
            "line 10, lfs[2].any: expected a list, such as [a, b], got a mapping",
        ),
        ("brand == 'Hatters'", "brand = 'Hatters'", "line 11, lfs[3].when: cannot read this: invalid syntax"),
        ("brand == 'Hatters'", "brand = 'Hatters'", "compare with =="),
        ("pattern: '^SH", "pattern: '(SH", "line 12, lfs[4].pattern: pattern '(SH"),
        ("label_model: auto", "label_model: atuo", "line 13, label_model: unknown label model 'atuo'; allowed: auto"),
        ("label_model: auto", "label_model: atuo", "did you mean 'auto'?"),
        (
            "label_model: auto", "label_model: auto\nname: x",
            "line 14, name: the key 'name' stands here twice, first on line 1",
        ),
        ("label_model: auto", "class_balance: {dress: 1}", "line 13, class_balance.dress: expected less than 1, got 1"),
        (
            "label_model: auto", "class_balance: {dress: 0.5, hat: 0.5}",
            "line 13, class_balance: class_balance says nothing of",
        ),
        ("label_model: auto", "class_balance: {drss: 0.5}", "line 13, class_balance.drss: unknown class 'drss'"),
        (
            "label_model: auto",
            "class_balance: {dress: 0.5, hat: 0.1, shoes: 0.1, t-shirt: 0.1}",
            "line 13, class_balance: class_balance must sum to 1, got 0.8",
        ),
        ("label_model: auto", "class_balance: estimate", "line 13, class_balance: got 'estimate'; allowed: estimated"),
        ("label_model: auto", "class_balance: 3", "line 13, class_balance: expected a mapping, such as {a: 1}, got 3"),
        ("label_model: auto", "default_class: drss", "line 13, default_class: unknown class 'drss'; classes: dress"),
        ("label_model: auto", "default_class: drss", "did you mean 'dress'?"),
        ("0.6", "{precision: 1}", "line 3, abstain_below.precision: expected less than 1, got 1 (a number)"),
        ("0.6", "{}", "line 3, abstain_below.precision: precision is missing"),
        ("0.6", "{precision: 0.9, recal: 1}", "line 3, abstain_below.recal: unknown field 'recal'; allowed: precision"),
        ("auto", "3", "line 13, label_model: a label model is a name, or a mapping such as {name: auto"),
        ("auto", "{name: atuo}", "line 13, label_model.name: unknown label model 'atuo'; allowed: auto"),
        ("auto", "{name: [x]}", "line 13, label_model.name: expected a name, got ['x']"),
        (
            "auto", "{name: one_coin, prior_vote: 3}",
            "line 13, label_model.prior_vote: label model 'one_coin' has no hyperparameter 'prior_vote'; allowed: name,"
            " embeddings, ",
        ),
        ("auto", "{name: one_coin, prior_vote: 3}", "did you mean 'prior_votes'?"),
        ("auto", "{name: one_coin, prior_votes: x}", "line 13, label_model.prior_votes: expected a valid number, got"),
        ("auto", "{name: one_coin, prior_votes: .inf}", "label_model.prior_votes: expected a finite number"),
        ("auto", "{name: one_coin, max_iterations: true}", "label_model.max_iterations: expected a valid integer"),
        ("auto", "{class_balance: estimated}", "label_model.class_balance: class_balance is no hyperparameter"),
        ("auto", "{embeddings: clp}", "line 13, label_model.embeddings: unknown primitive 'clp'; declare it"),
        ("auto", "{embeddings: clip.txt}", "'clip.txt'; it gives clip, clip.text, clip.map; did you mean"),
        ("auto", "{embeddings: detector}", "label_model.embeddings: 'detector' gives no embedding of an item"),
        ("auto", "{embeddings: image}", "label_model.embeddings: 'image' gives no embedding of an item"),
        ("auto", "{embeddings: [clip]}", "label_model.embeddings: unknown primitive ['clip']"),
        ("vote: dress", "vote: [dress, drss]", "line 9, lfs[1].vote: unknown class 'drss'; classes: dress"),
        ("vote: dress", "vote: {no: dress}", "line 9, lfs[1].vote: a vote is a class, a list of classes, or {not:"),
        ("vote: dress", "vote: 3", "line 9, lfs[1].vote: expected a text, got 3 (a number); put it between quotes"),
        ("label_model: auto", "format: 2", "line 13, format: got 2 (a number); allowed: 1"),
        ("  - {name: code", "  - x\n  - {name: code", "line 12, lfs[4]: an LF is a mapping"),
        (
            "kind: metadata", "kind: python, function: os.system",
            "line 11, lfs[3].function: got 'os.system'; allowed: package.m",
        ),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_told_where_and_what_and_what_else(was: str, becomes: str, told: str) -> None:
    assert was in GARMENTS
    with pytest.raises(InvalidRecipe) as caught:
        Recipe.parse(GARMENTS.replace(was, becomes, 1), source="garments.yaml")
    assert told in str(caught.value)
    assert str(caught.value).startswith("garments.yaml")


def test_every_problem_is_told_at_once_and_in_order() -> None:
    wrong = GARMENTS
    for was, becomes in [
        ("0.6", "6"),
        ("kind: prompt", "kind: promt"),
        ("vote: dress", "vote: drss"),
        ("auto", "atuo"),
    ]:
        wrong = wrong.replace(was, becomes, 1)
    with pytest.raises(InvalidRecipe) as caught:
        Recipe.parse(wrong, source="r.yaml")
    first, *rest = str(caught.value).splitlines()
    assert first == "r.yaml: 4 problems"
    assert [line.split(":")[0] for line in rest] == [
        "  line 3, abstain_below",
        "  line 6, lfs[0].kind",
        "  line 9, lfs[1].vote",
        "  line 13, label_model",
    ]


def test_only_expressions_wrong_is_an_error_of_its_own() -> None:
    with pytest.raises(InvalidExpression):
        Recipe.parse(GARMENTS.replace("count(", "cuont("))
    with pytest.raises(InvalidRecipe) as caught:
        Recipe.parse(GARMENTS.replace("count(", "cuont(").replace("auto", "atuo"))
    assert type(caught.value) is InvalidRecipe


def test_a_mapping_has_paths_but_no_lines() -> None:
    with pytest.raises(InvalidRecipe, match=r"^recipe: lfs\[0\]\.vote: unknown class 'c'"):
        Recipe.parse(recipe_with({"name": "l", "kind": "keyword", "any": ["x"], "vote": "c"}))


def test_json_has_lines_too() -> None:
    text = json.dumps(recipe_with(abstain_below=3), indent=1)
    line = next(i for i, row in enumerate(text.splitlines(), 1) if "abstain_below" in row)
    with pytest.raises(InvalidRecipe, match=f"line {line}, abstain_below"):
        Recipe.parse(text)


@pytest.mark.parametrize(
    "document", ["", "[]", "x", "3", "null", "- a", b"\xff", [], None, 3, {1: 2}, {"name": {1: 2}}]
)
def test_what_is_no_recipe_at_all(document: Any) -> None:
    with pytest.raises(InvalidRecipe):
        Recipe.parse(document)


def test_limits() -> None:
    lf = {"kind": "keyword", "any": ["x"], "vote": "a"}
    many = [{"name": f"l{i}", **lf} for i in range(MAX_LFS + 1)]
    with pytest.raises(InvalidRecipe, match="expected at most 1000, got 1001"):
        Recipe.parse(recipe_with(*many))
    assert len(Recipe.parse(recipe_with(*many[:-1])).lfs) == MAX_LFS
    prompts = {"a": [f"a {i}" for i in range(1_000)], "b": "b"}
    costly = [{"name": f"p{i}", "kind": "prompt", "prompts": prompts} for i in range(21)]
    with pytest.raises(InvalidRecipe, match="20000 prompts"):
        Recipe.parse(recipe_with(*costly))
    with pytest.raises(InvalidRecipe, match="at most 1000, got"):
        Recipe.parse(
            recipe_with({"name": "k", "kind": "keyword", "any": [f"w{i}" for i in range(1_001)], "vote": "a"})
        )


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "garments.yaml"
    path.write_text(GARMENTS)
    assert Recipe.load(path) == Recipe.parse(GARMENTS)
    with pytest.raises(RecipeNotFound, match="no recipe at"):
        Recipe.load(tmp_path / "none.yaml")
    with pytest.raises(InvalidRecipe, match="cannot be read"):
        Recipe.load(tmp_path)
    path.write_text(GARMENTS.replace("auto", "atuo"))
    with pytest.raises(InvalidRecipe, match=r"garments.yaml, line 13, label_model"):
        Recipe.load(path)
    path.write_bytes(b"x" * 2_000_000)
    with pytest.raises(InvalidRecipe, match="at most 1000000 bytes"):
        Recipe.load(path)


def test_a_warm_start_needs_class_names_alone() -> None:
    recipe = Recipe.warm_start(["cat", "traffic light"])
    assert [(lf.kind, lf.on) for lf in recipe.lfs] == [("prompt", "image"), ("prompt", "text")]  # type: ignore[attr-defined]
    assert set(recipe.primitives) == {"clip", "text"}
    assert recipe.lfs[0].against  # type: ignore[attr-defined]
    assert Recipe.parse(recipe.to_yaml()) == recipe
    for wrong in ([], ["cat"], ["cat", "cat"], ["cat", ""]):
        with pytest.raises(InvalidRecipe, match="classes"):
            Recipe.warm_start(wrong)


def test_words_may_come_from_outside_and_who_reads_them_may_not() -> None:
    detector = {"model": "yoloe-11s", "classes": ["red hat"], "text_encoder": "hf-hub:somebody/something"}
    lf = {"name": "d", "kind": "detect", "when": "count('red hat') > 0", "vote": "a"}
    recipe = Recipe.parse(recipe_with(lf, primitives={"detector": detector}))
    with pytest.raises(UntrustedRecipe, match=r"primitives\.detector\.text_encoder: 'hf-hub:some"):
        recipe.check_untrusted({"yoloe-11s"})
    recipe.check_untrusted({"yoloe-11s", "detector:hf-hub:somebody/something"})
    del detector["text_encoder"]
    Recipe.parse(recipe_with(lf, primitives={"detector": detector})).check_untrusted({"yoloe-11s"})


def test_nothing_that_executes_or_opens_comes_from_outside() -> None:
    recipe = Recipe.parse(
        recipe_with(
            {"name": "f", "kind": "python", "function": "os:system"},
            {"name": "p", "kind": "prompt", "using": "large"},
            primitives={
                "large": {"kind": "clip", "model": "/etc/passwd"},
                "other": {"kind": "clip", "model": "ViT-B-32"},
                "boxes": {"kind": "detector", "model": "yolo11n"},
            },
        )
    )
    with pytest.raises(UntrustedRecipe) as caught:
        recipe.check_untrusted({"yolo11n"})
    told = str(caught.value)
    assert "lfs[0].kind: 'python' runs code" in told
    assert "primitives.large.model: '/etc/passwd' is not allowed" in told
    assert (
        "primitives.other.model: 'ViT-B-32' is not allowed from outside; allowed: " in told
        and "starter" in told
    )
    assert "primitives.boxes" not in told


def test_models_are_allowed_by_name_or_by_kind_and_name() -> None:
    recipe = Recipe.parse(
        recipe_with(primitives={"clip": "ViT-B-32", "detector": "starter", "text": "minilm"})
    )
    for allowed in ({"ViT-B-32"}, ["clip:ViT-B-32"]):
        recipe.check_untrusted(allowed)
    for allowed in ({"detector:ViT-B-32"}, (), {"ViT"}):
        with pytest.raises(UntrustedRecipe, match="ViT-B-32"):
            recipe.check_untrusted(allowed)


def test_a_label_model_from_outside_may_not_be_made_to_fit_for_ever() -> None:
    def recipe(**hyperparameters: Any) -> Recipe:
        return Recipe.parse(
            recipe_with(label_model={"name": "one_coin", "embeddings": "toy", **hyperparameters})
        )

    recipe(max_iterations=1_000, prior_votes=3, abstentions=True).check_untrusted()
    for wrong in ({"max_iterations": 1_001}, {"prior_votes": -1e9}):
        with pytest.raises(
            UntrustedRecipe, match=rf"label_model\.{next(iter(wrong))}: .* more than the 1,000"
        ):
            recipe(**wrong).check_untrusted()


def test_a_path_in_any_field_of_a_primitive_is_refused() -> None:
    recipe = Recipe.parse(recipe_with(primitives={"clip": {"model": "ViT-B-32", "arch": "/root/x.pt"}}))
    with pytest.raises(UntrustedRecipe, match=r"primitives\.clip\.arch: a path"):
        recipe.check_untrusted({"ViT-B-32"})


def test_the_schema_for_editors_takes_what_the_parser_takes() -> None:
    import jsonschema_rs  # comes with schemathesis

    validator = jsonschema_rs.validator_for(Recipe.json_schema())
    for right in (
        read_document(GARMENTS).value,
        Recipe.parse(GARMENTS).document(),
        recipe_with(
            {"name": "l", "kind": "keyword", "any": "x", "vote": {"not": ["a"]}},
            {"name": "m", "kind": "metadata", "rules": [{"when": "x > 1", "vote": ["a"]}]},
            label_model={"name": "one_coin", "embeddings": "toy", "prior_votes": 3},
            abstain_below={"precision": 0.9},
            class_balance="estimated",
            default_class="a",
        ),
        recipe_with(primitives={"toy": None}),
    ):
        validator.validate(right)
    for was, becomes in [
        ("threshold", "treshold"),
        ("kind: prompt", "kind: promt"),
        ("auto", "atuo"),
        ("0.6", "'x'"),
        ("0.6", "{precsion: 0.9}"),
        ("vote: dress", "vote: {no: dress}"),
        ("auto", "{name: atuo}"),
    ]:
        assert not validator.is_valid(read_document(GARMENTS.replace(was, becomes, 1)).value)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_\-]{0,10}", fullmatch=True)
text = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn", "Z"]), min_size=1, max_size=8
)
CLASSES = ("no", "t-shirt", "Größe 1e3", "true")
classes = st.sampled_from(CLASSES)
some = st.lists(classes, min_size=1, max_size=3)
votes = classes | some | some.map(lambda listed: {"not": listed})
several = st.lists(text, min_size=1, max_size=3)
lf_fields = st.one_of(
    st.fixed_dictionaries({"kind": st.just("keyword"), "any": several | text, "vote": votes}),
    st.fixed_dictionaries(
        {"kind": st.just("keyword"), "votes": st.dictionaries(classes, several, min_size=1)},
        optional={
            "none": several,
            "on": st.sampled_from(["filename", "metadata.Price (USD)"]),
            "whole_words": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("prompt"),
            "prompts": st.dictionaries(classes, several | text, min_size=2),
            "threshold": st.floats(0, 1),
        },
        optional={
            "against": several,
            "temperature": st.floats(1e-3, 10),
            "using": st.just("toy"),
            "pool": st.just("max"),
        },
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("metadata"),
            "when": st.sampled_from(["price<1 and not(brand=='no')", r"matches(text, '\d')", "width > 3"]),
            "vote": votes,
        }
    ),
)
recipes = st.fixed_dictionaries(
    {
        "name": names.filter(lambda name: not name.startswith(("_", "-"))),
        "classes": st.just(list(CLASSES)),
        "lfs": st.lists(
            st.tuples(names, lf_fields), min_size=1, max_size=4, unique_by=lambda pair: pair[0]
        ).map(lambda pairs: [{"name": name, **fields} for name, fields in pairs]),
    },
    optional={
        "description": text,
        "abstain_below": st.floats(0, 1) | st.fixed_dictionaries({"precision": st.floats(0.1, 0.99)}),
        "class_balance": st.just(dict.fromkeys(CLASSES, 0.25)) | st.just("estimated"),
        "default_class": classes,
        "primitives": st.just({"toy": {}, "clip": "starter"}),
        "label_model": st.sampled_from(["majority", "auto"])
        | st.fixed_dictionaries(
            {"name": st.just("one_coin")},
            optional={
                "embeddings": st.sampled_from(["toy", "text"]),
                "prior_votes": st.floats(0, 50),
                "abstentions": st.booleans(),
            },
        ),
    },
)


@settings(max_examples=150, deadline=None)
@given(recipes)
def test_any_recipe_goes_out_and_comes_back(document: dict[str, Any]) -> None:
    recipe = Recipe.parse(document)
    for written in (recipe.to_yaml(), recipe.to_json(), recipe.canonical(), recipe.document()):
        again = Recipe.parse(written)
        assert again == recipe
        assert again.version == recipe.version


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(recipes, st.data())
def test_a_recipe_with_anything_anywhere_is_read_or_refused(
    document: dict[str, Any], data: st.DataObject
) -> None:
    document = copy.deepcopy(document)  # parts of it are shared between examples
    place: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(anything)
    try:
        Recipe.parse(document)
    except InvalidRecipe:
        return
