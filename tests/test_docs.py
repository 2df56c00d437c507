"""The documentation says what is so: its examples run, its links lead somewhere, its commands and settings exist."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

from manyeyes import registry
from manyeyes.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "models").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# These are run by tests of their own, against a running service and by the recipe's parser.
ELSEWHERE = {"docs/models_http.md", "docs/service.md", "docs/guide_sdk.md", "docs/recipes.md"}
MODELS = {"README.md", "docs/detection.md"}  # their examples load the starter CLIP


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the fenced blocks of a page in some languages, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), flags=re.M | re.S)
    return [code for language, code in found if language in languages]


def runnable() -> list[object]:
    return [
        pytest.param(ROOT / name, id=name, marks=[pytest.mark.slow] if name in MODELS else [])
        for name in NAMES
        if name not in ELSEWHERE and blocks(ROOT / name, "python")
    ]


@pytest.mark.parametrize("page", runnable())
def test_python_examples_run(
    page: Path, working_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page's examples share their names, from top to bottom; one that begins with a file's name becomes that file."""
    monkeypatch.syspath_prepend(str(working_directory))
    Image.new("RGB", (64, 48), (120, 90, 60)).save("cap.jpg")
    names: dict[str, object] = {"__name__": "docs"}
    for code in blocks(page, "python"):
        if file := re.match(r"# (\w+)\.py\n", code):
            Path(f"{file[1]}.py").write_text(code)
            monkeypatch.delitem(sys.modules, file[1], raising=False)
        else:
            exec(compile(code, str(page), "exec", dont_inherit=True), names)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_first_example_says_hat(working_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 48), (120, 90, 60)).save("cap.jpg")
    exec(blocks(ROOT / "README.md", "python")[0], {})
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["1", "hat"],
        ["2", "shoes"],
    ]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    titles = [re.sub(r"[^\w\- ]", "", title.lower()) for title in re.findall(r"^#+ (.*)$", text, flags=re.M)]
    return {title.strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        leads_to = page if not path else (page.parent / path).resolve()
        assert leads_to.exists(), f"{name} links to {target}"
        assert leads_to.is_relative_to(ROOT), f"{name} links outside the repository: {target}"
        if anchor:
            assert anchor in anchors(leads_to), f"{name} links to {target}, which has no such heading"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, (
            f"docs/index.md does not name {page.name}"
        )


@pytest.mark.parametrize("name", NAMES)
def test_shell_examples_use_only_what_exists(name: str) -> None:
    for line in [line for code in blocks(ROOT / name, "sh", "bash", "") for line in code.splitlines()]:
        words = shlex.split(line, comments=True) if line.startswith(("scripts/", "manyeyes ", "pip ")) else []
        if words and words[0].startswith("scripts/"):
            assert os.access(ROOT / words[0], os.X_OK), line
            source = (ROOT / words[0]).read_text()
            assert all(word in source for word in words[1:] if word.startswith("--")), line
        elif words and words[0] == "manyeyes":
            command = get_command(app)
            for word in words[1:]:
                command = getattr(command, "commands", {}).get(word, command)
            allowed = {option for parameter in command.params for option in parameter.opts}
            assert command.name in words, f"{name}: no such command: {line}"
            assert {word for word in words if word.startswith("--")} <= allowed, f"{name}: {line}"
            recipes = [words[words.index("--recipe") + 1]] if "--recipe" in words else []
            assert all((ROOT / r).is_file() for r in recipes if r.startswith("examples/")), line
        elif words:
            extras = set(re.findall(r"manyeyes\[([\w,]+)\]", line))
            assert {e for group in extras for e in group.split(",")} <= set(
                project()["optional-dependencies"]
            )


def project() -> dict[str, dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


def test_the_readme_explains_every_extra_that_users_install() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for extra in set(project()["optional-dependencies"]) - {"dev", "demo", "bench"}:
        assert re.search(rf"^\| `{extra}` \|", readme, flags=re.M), f"README.md does not explain [{extra}]"


def test_the_readme_says_what_the_agpl_means() -> None:
    licence = (ROOT / "README.md").read_text("utf-8").partition("## Licence")[2]
    for word in ("Apache-2.0", "AGPL-3.0", "`detect`", "network service", "sells licences"):
        assert word in licence


@pytest.mark.parametrize("group", sorted(registry.BUILT_IN))
def test_contributing_names_every_extension_point(group: str) -> None:
    assert f"in `{group}`" in (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_the_changelog_has_this_version() -> None:
    assert f"## [{project()['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_picture_is_drawn_and_described() -> None:
    picture = ET.parse(ROOT / "docs" / "pipeline.svg").getroot()
    inside = [element.tag.rpartition("}")[2] for element in picture.iter()]
    assert inside[:3] == ["svg", "title", "desc"]
    assert "script" not in inside and "image" not in inside


def test_no_page_names_a_place_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(work|root|tmp|home)/\w", page.read_text("utf-8")), page
