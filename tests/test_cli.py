"""The command line: what it prints, what it writes, and with which code it ends."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner, Result

from manyeyes import Item, Labeler, Recipe
from manyeyes.cli import app
from manyeyes.errors import InvalidRequest
from manyeyes.report import spread
from manyeyes.sinks import find_label, read_labels, read_versions

RECIPE = """
name: paint
classes: [red, green, blue]
primitives: {toy: {kind: toy, model: colors}}
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
  - {name: shelf, kind: metadata, when: "shelf == 'R'", vote: red}
  - {name: wide, kind: metadata, when: "width > 100", vote: blue}
"""


def call(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    told = f"{result.stdout}\n{result.stderr}"
    assert result.exit_code == code, f"{told}\n{result.exception!r}"
    assert "Traceback" not in told
    return result


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "paint.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine paintings in three folders, a text, and a file that is damaged."""
    root = tmp_path / "paintings"
    for i in range(9):
        colour = ("red", "green", "blue")[i % 3]
        (root / colour).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16 + i, 16), colour).save(root / colour / f"{i}.png")
    (root / "note.txt").write_text("a crimson wall\n")
    (root / "red" / "0.json").write_text('{"shelf": "R"}')
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff half a photo")
    (root / "README.md").write_text("no data")
    return root


def test_a_folder_becomes_labels_a_report_and_a_table(tmp_path: Path, folder: Path, recipe: Path) -> None:
    out, report = tmp_path / "labels.parquet", tmp_path / "report.html"
    result = call("label", folder, "--recipe", recipe, "--out", out, "--report", report)

    rows = {label.id: label for label in read_labels(out)}
    assert list(rows) == sorted(rows, key=lambda name: name.split("/"))
    assert {name: row.label for name, row in rows.items() if row.status == "labeled"} == {
        **{f"{c}/{i}.png": c for i in range(9) for c in [("red", "green", "blue")[i % 3]]},
        "note.txt": "red",
    }
    broken = rows["broken.jpg"]
    assert broken.error is not None
    assert broken.error.code == "undecodable_image"

    assert re.search(r"looks +red, green, blue +90\.0%", result.stdout)
    assert re.search(r"says +red +10\.0%", result.stdout)
    assert re.search(r"wide +– +0\.0%", result.stdout)
    assert re.search(r"red +4 +40\.0%", result.stdout)
    assert re.search(r"\(abstained\) +0 +0\.0%", result.stdout)
    assert re.search(r"broken\.jpg +undecodable_image", result.stdout)
    assert "Wrote 11 rows (10 labeled, 0 abstained, 1 error)" in result.stderr
    assert "1 .md" in result.stderr
    page = report.read_text()
    assert page.count("data:image/jpeg;base64,") == 9
    assert "showing 11 of 11 items" in page


def test_the_same_labels_as_from_python(tmp_path: Path, folder: Path, recipe: Path) -> None:
    call("label", folder, "--recipe", recipe, "--out", tmp_path / "l.jsonl")
    cli = [label.to_dict() for label in read_labels(tmp_path / "l.jsonl") if label.id != "broken.jpg"]
    items = [
        Item(
            id=row["id"],
            image=None if row["id"] == "note.txt" else folder / row["id"],
            text="a crimson wall\n" if row["id"] == "note.txt" else None,
            metadata={"shelf": "R"} if row["id"] == "red/0.png" else {},
        )
        for row in cli
    ]
    labels = Labeler(Recipe.load(recipe)).label(items)
    assert cli == [label.to_dict() for label in labels]
    assert read_versions(tmp_path / "l.jsonl") == labels.versions


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_every_kind_of_file_holds_the_same(tmp_path: Path, folder: Path, recipe: Path, suffix: str) -> None:
    call("label", folder, "-r", recipe, "-o", tmp_path / f"l{suffix}")
    call("label", folder, "-r", recipe, "-o", tmp_path / "again.jsonl")
    assert [label.to_dict() for label in read_labels(tmp_path / f"l{suffix}")] == [
        label.to_dict() for label in read_labels(tmp_path / "again.jsonl")
    ]


def test_labels_go_to_the_working_directory_by_default(
    working_directory: Path, folder: Path, recipe: Path
) -> None:
    call("label", folder, "--recipe", recipe)
    assert [path.name for path in working_directory.iterdir()] == ["labels.parquet"]


def test_a_table_is_read_where_it_is_named(tmp_path: Path, folder: Path, recipe: Path) -> None:
    table = folder / "shelf.csv"
    table.write_text("id,image,text,shelf\na,red/0.png,,R\nb,,navy,\nc,,,\n")
    result = call("label", table, "--recipe", recipe, "--out", tmp_path / "l.csv")
    assert [(row.id, row.label, row.status) for row in read_labels(tmp_path / "l.csv")] == [
        ("a", "red", "labeled"),
        ("b", "blue", "labeled"),
        ("c", None, "error"),
    ]
    assert "empty_item" in result.stdout


def test_limit_and_recursion(tmp_path: Path, folder: Path, recipe: Path) -> None:
    out = tmp_path / "l.csv"
    call("label", folder, "--recipe", recipe, "--out", out, "--limit", "2")
    assert [row.id for row in read_labels(out)] == ["blue/2.png", "blue/5.png"]
    call("label", folder, "--recipe", recipe, "--out", out, "--no-recursive")
    assert [row.id for row in read_labels(out)] == ["broken.jpg", "note.txt"]


def test_gold_helps_to_fit_and_says_how_often_a_function_is_right(
    tmp_path: Path, folder: Path, recipe: Path
) -> None:
    gold = tmp_path / "gold.csv"
    gold.write_text("id,label\nred/0.png,red\ngreen/1.png,green\nblue/2.png,red\nbroken.jpg,red\nnote.txt,\n")
    result = call("label", folder, "--recipe", recipe, "--out", tmp_path / "l.csv", "--gold", gold)
    assert re.search(r"function .* right", result.stdout)
    assert re.search(r"looks .* 66\.7%", result.stdout)


WORDS = """
name: words
classes: [red, green, blue]
abstain_below: {precision: 0.8}
default_class: green
lfs:
  - {name: says, kind: keyword, votes: {red: [crimson, ruby], blue: [navy]}}
  - {name: cold, kind: keyword, any: [ice], vote: {not: red}}
  - {name: loud, kind: regex, pattern: "!", vote: [red, green]}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Sixty texts whose class is known, and one of which nothing is said."""
    rows = [("red", "a crimson wall!"), ("blue", "navy and ice"), ("blue", "a navy wall")] * 20
    lines = [f"{i},{text}" for i, (_, text) in enumerate(rows)]
    (tmp_path / "texts.csv").write_text("\n".join(["id,text", *lines, "silent,nothing", "cold,ice"]) + "\n")
    gold = [f"{i},{name}" for i, (name, _) in enumerate(rows)]
    (tmp_path / "gold.csv").write_text("\n".join(["id,label", *gold]) + "\n")
    (tmp_path / "words.yaml").write_text(WORDS)
    return tmp_path / "texts.csv"


def test_a_precision_takes_gold_and_is_kept_with_the_label_model(table: Path, tmp_path: Path) -> None:
    recipe, gold, out, model = (tmp_path / name for name in ("words.yaml", "gold.csv", "l.parquet", "model"))
    refused = call("label", table, "-r", recipe, "-o", out, code=2)
    assert "precision: 0.8" in refused.stderr and "--gold gold.csv" in refused.stderr
    assert not out.exists()
    report = tmp_path / "r.html"
    result = call(
        "label",
        table,
        "-r",
        recipe,
        "-o",
        out,
        "--gold",
        gold,
        "--save-label-model",
        model,
        "--report",
        report,
    )
    said = " ".join(result.stderr.split())
    assert re.search(
        r"Labels below a confidence of 0\.\d+ are withheld, so that 80\.0% of the others are right", said
    )
    assert "found on 60 known labels (held out, 100.0% of them are labeled right)" in said
    assert "1 item got the default class green, because no function voted." in said
    assert "are withheld, so that 80.0%" in report.read_text()
    rows = {label.id: label for label in read_labels(out)}
    assert [rows[key].label for key in ("0", "1", "2", "silent")] == ["red", "blue", "blue", "green"]
    again = tmp_path / "again.parquet"
    call("label", table, "-r", recipe, "-o", again, "--label-model", model)
    assert [label.to_dict() for label in read_labels(again)] == [label.to_dict() for label in rows.values()]
    assert read_versions(again) == read_versions(out)


def test_gold_that_supports_no_precision_withholds_every_label(table: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("id,label\n0,blue\n1,red\n2,red\n3,blue\n")
    out = tmp_path / "l.csv"
    result = call("label", table, "-r", tmp_path / "words.yaml", "-o", out, "--gold", few)
    assert "No confidence gives a precision of 80.0% on 4 known labels" in " ".join(result.stderr.split())
    assert [label.id for label in read_labels(out) if label.status == "labeled"] == ["silent"]


def test_votes_for_several_classes_and_default_classes_are_told_in_words(table: Path, tmp_path: Path) -> None:
    recipe, gold, report = tmp_path / "words.yaml", tmp_path / "gold.csv", tmp_path / "r.html"
    out = tmp_path / "l.jsonl"
    result = call("label", table, "-r", recipe, "-o", out, "--gold", gold, "--report", report)
    assert re.search(r"cold +not red +\d", result.stdout) and re.search(r"loud +not blue +\d", result.stdout)
    told = call("explain", "cold").stdout
    assert re.search(r"cold +not red +[+-]", told)
    told = call("explain", "silent").stdout
    assert (
        "silent is green, the recipe's default class, because no function voted; before any vote it is"
        in told
    )
    page = report.read_text()
    assert "no function voted: this is the recipe's default class" in page
    assert '<td class="vote">not red</td>' in page
    shown = json.loads(call("analyze", table, "-r", recipe, "--gold", gold, "--json").stdout)
    polarity = {lf["name"]: lf["polarity"] for lf in shown["lfs"]}
    assert polarity == {"says": ["red", "blue"], "cold": ["not red"], "loud": ["not blue"]}
    right = {lf["name"]: (lf["correct"], lf["incorrect"]) for lf in shown["lfs"]}
    assert right == {"says": (60, 0), "cold": (20, 0), "loud": (20, 0)}
    shown = json.loads(call("analyze", table, "-r", recipe, "--json").stdout)  # no threshold, so no gold
    assert {lf["name"]: lf["polarity"] for lf in shown["lfs"]} == polarity


def test_explain_tells_what_neighbours_lent(tmp_path: Path, folder: Path) -> None:
    recipe = tmp_path / "lend.yaml"
    recipe.write_text(
        RECIPE + "label_model: {name: embedding_aware, base: majority, embeddings: toy, n_neighbors: 3}\n"
    )
    for i in range(9, 60):
        colour = ("red", "green", "blue")[i % 3]
        Image.new("RGB", (16 + i, 16), colour).save(folder / colour / f"{i}.png")
    (folder / "brown.png").write_bytes((folder / "red" / "0.png").read_bytes())
    report = tmp_path / "r.html"
    call("label", folder, "--recipe", recipe, "--out", tmp_path / "l.parquet", "--report", report)
    label, _ = find_label(tmp_path / "l.parquet", "brown.png")
    looks = label.reasons[0]
    assert looks.lent is not None and looks.lent.neighbors == 3
    told = call("explain", "brown.png").stdout
    assert (
        f"looks: 3 neighbours, nearest cosine {looks.lent.nearest:.2f}, lent {looks.lent.votes:.1f} of a vote"
        in told
    )
    assert f"<small>{looks.lent}</small>" in report.read_text()


def test_a_saved_label_model_labels_one_item_as_it_labeled_all(
    tmp_path: Path, folder: Path, recipe: Path
) -> None:
    all_out, one_out, model = tmp_path / "all.csv", tmp_path / "one.csv", tmp_path / "model"
    call("label", folder, "--recipe", recipe, "--out", all_out, "--save-label-model", model)
    call("label", folder / "red" / "0.png", "--recipe", recipe, "--out", one_out, "--label-model", model)
    (one,) = read_labels(one_out)
    every, versions = find_label(all_out, "red/0.png")
    assert one.probs == every.probs
    assert read_versions(one_out).label_model == versions.label_model


def test_the_cache_is_kept_or_not(tmp_path: Path, folder: Path, recipe: Path, manyeyes_home: Path) -> None:
    call("label", folder, "--recipe", recipe, "--out", tmp_path / "a.csv", "--no-cache")
    assert not (manyeyes_home / "cache").exists()
    call("label", folder, "--recipe", recipe, "--out", tmp_path / "b.csv")
    assert (manyeyes_home / "cache").exists()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_nothing_that_could_be_labeled_is_exit_code_one(tmp_path: Path, folder: Path, recipe: Path) -> None:
    out = tmp_path / "l.csv"
    call("label", folder / "broken.jpg", "--recipe", recipe, "--out", out, code=1)
    assert [row.status for row in read_labels(out)] == ["error"]
    (tmp_path / "empty").mkdir()
    result = call("label", tmp_path / "empty", "--recipe", recipe, "--out", out, code=1)
    assert "nothing to label" in result.stderr
    assert list(read_labels(out)) == []


def test_many_errors_are_counted_and_the_first_are_shown(tmp_path: Path, recipe: Path) -> None:
    for i in range(25):
        (tmp_path / f"{i:02}.jpg").write_bytes(b"")
    result = call("label", *sorted(tmp_path.glob("*.jpg")), "-r", recipe, "-o", tmp_path / "l.csv", code=1)
    assert "Errors: 25 (the first 10)" in result.stdout
    assert "09.jpg" in result.stdout
    assert "10.jpg" not in result.stdout


def test_explain_shows_a_sum_that_can_be_checked(tmp_path: Path, folder: Path, recipe: Path) -> None:
    call("label", folder, "--recipe", recipe, "--out", tmp_path / "l.parquet")
    result = call("explain", "red/0.png")
    label, versions = find_label(tmp_path / "l.parquet", "red/0.png")
    assert result.stdout.startswith(
        f"red/0.png is red at {label.confidence:.1%}; runner-up: {label.runner_up}."
    )
    numbers = {
        words[0]: float(words[-1])
        for line in result.stdout.splitlines()
        if (words := line.split()) and re.fullmatch(r"[+-]\d+\.\d{4}", words[-1])
    }
    parts = [numbers[name] for name in ("(prior)", "looks", "says", "shelf", "wide")]
    assert sum(parts) == pytest.approx(numbers["="], abs=3e-4)
    assert numbers["="] == pytest.approx(numbers["from"], abs=3e-4)
    assert numbers["says"] == 0
    assert versions.recipe in result.stdout
    assert versions.label_model in result.stdout


def test_explain_an_error_and_an_unknown_id(tmp_path: Path, folder: Path, recipe: Path) -> None:
    call("label", folder, "--recipe", recipe, "--out", tmp_path / "l.csv")
    result = call("explain", "broken.jpg")
    assert "could not be labeled" in result.stdout
    assert "[undecodable_image]" in result.stdout
    assert "not an abstention" in result.stdout
    result = call("explain", "0.png", "--labels", tmp_path / "l.csv", code=2)
    assert "[label_not_found]" in result.stderr
    assert "nearest: 'red/0.png'" in result.stderr


def test_explain_an_abstention(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "t.txt").write_text("nothing about paint")
    call("label", tmp_path / "t.txt", "--recipe", recipe, "--out", tmp_path / "l.csv", code=1)
    assert "t.txt has no label" in call("explain", "t.txt").stdout


def test_explain_before_any_label(tmp_path: Path, folder: Path, recipe: Path) -> None:
    assert "run manyeyes label first" in call("explain", "x", code=2).stderr
    out = tmp_path / "l.csv"
    call("label", folder, "--recipe", recipe, "--out", out)
    out.unlink()
    assert "are gone" in call("explain", "x", code=2).stderr


def test_recipe_check(tmp_path: Path, recipe: Path) -> None:
    result = call("recipe", "check", recipe)
    assert "paint: 3 classes, 4 labeling functions; it can be used." in result.stdout
    assert re.search(r"looks +prompt +toy", result.stdout)
    assert f"version {Recipe.load(recipe).version}" in result.stdout
    bad = tmp_path / "bad.yaml"
    bad.write_text(RECIPE.replace("vote: blue", "vote: bleu"))
    result = call("recipe", "check", bad, code=2)
    assert "[invalid_recipe]" in result.stderr
    assert "did you mean 'blue'?" in result.stderr


def test_models_as_a_table_and_as_json() -> None:
    table = call("models").stdout
    rows = json.loads(call("models", "--json").stdout)
    assert {(row["kind"], row["model"]) for row in rows} >= {
        ("clip", "starter"),
        ("clip", "MobileCLIP2-S2"),
        ("detector", "starter"),
        ("text", "minilm"),
    }
    for row in rows:
        assert row["model"][:16] in table
        assert row["licence"]
        assert row["source"]
        for digest in row["files"].values():
            assert re.fullmatch(r"[0-9a-f]{64}", digest)
            assert digest in table
        if row["packages"] and not row["problem"]:
            assert row["here"]
            assert set(row["packages"].values()) <= set(row["files"].values())


def test_models_that_were_put_on_this_machine_are_seen(
    manyeyes_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (manyeyes_home / "weights").mkdir(parents=True)
    (manyeyes_home / "weights" / "yolo11n.pt").write_bytes(b"weights")
    snapshot = tmp_path / "hub" / "models--laion--CLIP-ViT-B-32-DataComp.XL-s13B-b90K" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    rows = {(row["kind"], row["model"]): row for row in json.loads(call("models", "--json").stdout)}
    found = rows["detector", "yolo11n"]
    assert found["here"]
    assert list(found["files"].values()) == [hashlib.sha256(b"weights").hexdigest()]
    assert rows["clip", "ViT-B-32"]["here"]
    assert not rows["clip", "MobileCLIP2-S2"]["here"]
    assert not rows["detector", "yolo26n"]["here"]


@pytest.mark.slow
def test_the_catalogue_says_where_open_clip_would_look() -> None:
    from manyeyes.models.catalogue import CATALOGUE
    from manyeyes.primitives.clip_models import _open_clip, _tag_of

    open_clip = _open_clip()

    entries = [entry for entry in CATALOGUE if entry.kind == "clip" and entry.source.startswith("hub:")]
    assert entries
    for entry in entries:
        _, _, config = _tag_of(open_clip, entry.model)
        assert entry.source == f"hub:{config['hf_hub'].rstrip('/')}"


def test_another_model_takes_the_place_of_the_recipes(tmp_path: Path, folder: Path, recipe: Path) -> None:
    from manyeyes.commands.recipe import chosen_recipe

    path = tmp_path / "clip.yaml"
    path.write_text(
        "name: c\nclasses: [a, b]\nprimitives: {eye: {kind: clip, model: starter, sha256: "
        + "0" * 64
        + "}}\nlfs:\n  - {name: looks, kind: prompt, using: eye, prompts: {a: one, b: two}}\n"
    )
    changed = chosen_recipe(file=path, classes=None, models={"clip": "ViT-B-32", "detector": None})
    assert (changed.primitives["eye"].model, changed.primitives["eye"].sha256) == ("ViT-B-32", None)
    assert changed.version != Recipe.load(path).version
    result = call("label", folder, "--recipe", recipe, "--clip", "ViT-B-32", code=2)
    assert "has no primitive of kind 'clip'" in result.stderr


def test_a_warm_start_needs_only_classes() -> None:
    from manyeyes.commands.recipe import chosen_recipe

    recipe = chosen_recipe(file=None, classes=" cat, dog ,bird,")
    assert recipe.classes == ("cat", "dog", "bird")
    with pytest.raises(InvalidRequest, match="neither of --recipe and --classes"):
        chosen_recipe(file=None, classes=None)


def test_serve_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    result = call("serve", "--recipes", tmp_path / "nowhere", code=2)
    assert "[invalid_settings]" in result.stderr
    assert "is not a folder" in result.stderr
    result = call("serve", "--host", "0.0.0.0", code=2)
    assert "MANYEYES_API_KEYS" in result.stderr


def test_version_and_help_load_no_model_library() -> None:
    program = (
        "import sys; from manyeyes.cli import app; sys.argv = ['manyeyes', sys.argv[1]]\n"
        "try: app()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'PIL', 'pyarrow', 'jinja2', 'fastapi', 'manyeyes.labeler'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for option, words in (("--version", "manyeyes 0."), ("--help", "explain")):
        result = subprocess.run(
            [sys.executable, "-c", program, option], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert words in result.stdout


def test_the_program_as_it_is_installed(
    tmp_path: Path, folder: Path, recipe: Path, manyeyes_home: Path
) -> None:
    program = Path(sys.executable).with_name("manyeyes")
    out = tmp_path / "l.jsonl"
    result = subprocess.run(
        [program, "label", folder, "--recipe", recipe, "--out", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Labeling functions" in result.stdout
    assert "Wrote" not in result.stdout
    assert len(list(read_labels(out))) == 11
    result = subprocess.run(
        [program, "label", folder, "--recipe", "nowhere.yaml"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error [recipe_not_found]")


def test_every_command_and_option_is_in_the_docs_and_the_docs_name_no_other(root: Path) -> None:
    told = (root / "docs" / "cli.md").read_text(encoding="utf-8")
    command = get_command(app)
    sections = dict(
        re.findall(r"^## `manyeyes ([a-z ]+?)(?: [A-Z…]+)?`\n(.*?)(?=^## |\Z)", told, re.M | re.S)
    )
    commands = {name: sub for name, sub in command.commands.items() if not hasattr(sub, "commands")}  # type: ignore[attr-defined]
    for name, group in command.commands.items():  # type: ignore[attr-defined]
        commands |= {f"{name} {sub}": found for sub, found in getattr(group, "commands", {}).items()}
    assert sections.keys() == commands.keys()
    for name, found in commands.items():
        options = {o for p in found.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
        documented = set(re.findall(r"`(--?[a-z][a-z-]*)[ `]", sections[name]))
        assert options == documented, name


def test_the_quick_start_uses_only_what_exists(root: Path, tmp_path: Path) -> None:
    told = (root / "docs" / "quickstart.md").read_text(encoding="utf-8")
    command = get_command(app)
    for line in re.findall(r"^manyeyes (.*)$", told, re.M):
        words = line.split()
        found = command.commands[words[0]]  # type: ignore[attr-defined]
        if hasattr(found, "commands"):
            found = found.commands[words[1]]
        options = {o for p in found.params for o in p.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", told, re.M | re.S)
    assert Recipe.parse(recipe).name == "pets"


def test_the_rows_of_a_report_are_spread_over_the_run() -> None:
    assert spread(7, 3) == [0, 2, 4]
