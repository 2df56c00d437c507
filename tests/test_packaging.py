"""What a user installs: one wheel with all that is ours, under one name, and no torch unless it is asked for."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import Parser
from importlib import metadata as importlib_metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOMS = ("lfs", "models", "primitives", "service")
COMMAND_LINE = (
    "from manyeyes.cli import main; main()"  # what the `manyeyes` script of an installed wheel does
)


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, so that nothing is left behind in the checkout; no network."""
    source, out = tmp_path_factory.mktemp("source") / "manyeyes", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    for name in ("manyeyes", *ROOMS):
        shutil.copytree(root / name, source / name, symlinks=True, ignore=ignore)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    done = subprocess.run([*command, "--wheel-dir", str(out), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("manyeyes-*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python that has the wheel and what the base install depends on, and nothing else.

    The dependencies are those installed here, linked in by name, so that no network is needed.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for distribution in base_closure():
        for file in distribution.files or ():
            top = file.parts[0]
            if top != ".." and not top.endswith(".pth") and not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    return python


def base_closure() -> list[importlib_metadata.Distribution]:
    """Return what ``pip install manyeyes`` brings, followed through the installed packages' own requirements."""
    found: dict[str, importlib_metadata.Distribution] = {}
    pyproject = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())
    todo = [Requirement(text) for text in pyproject["project"]["dependencies"]]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found[name] = importlib_metadata.distribution(name)
        further = [Requirement(text) for text in found[name].requires or ()]
        todo += [r for r in further if r.marker is None or r.marker.evaluate({"extra": ""})]
    return list(found.values())


def run(python: Path, *arguments: str) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, env=env, cwd=python.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_owns_one_name(names: list[str]) -> None:
    """Another wheel that owns a top-level `models/` could delete ours, or ours its."""
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"manyeyes"}


def test_every_module_is_in_once(names: list[str], root: Path) -> None:
    front_door = [str(path.relative_to(root)) for path in (root / "manyeyes").rglob("*.py")]
    rooms = [f"manyeyes/{path.relative_to(root)}" for room in ROOMS for path in (root / room).rglob("*.py")]
    assert sorted(name for name in names if name.endswith(".py")) == sorted(front_door + rooms)


def test_data_files_are_in(names: list[str], root: Path) -> None:
    starter = {
        f"manyeyes/{path.relative_to(root)}"
        for path in (root / "models" / "starter").iterdir()
        if path.suffix in {".safetensors", ".pt", ".json", ".md", ".yaml"}
    }
    templates = {
        f"manyeyes/{path.relative_to(root / 'manyeyes')}" for path in (root / "manyeyes").rglob("*.html")
    }
    assert {Path(name).suffix for name in starter} >= {".safetensors", ".pt", ".json", ".md"}
    assert templates
    words = {f"manyeyes/{path.relative_to(root)}" for path in (root / "lfs").rglob("*.yaml")}
    assert words
    assert starter | templates | words | {"manyeyes/py.typed"} <= set(names)


def test_the_tables_of_the_store_can_be_made(names: list[str], root: Path) -> None:
    folder = root / "service" / "store" / "migrations"
    needed = {path.relative_to(root) for path in (folder / "env.py", *(folder / "versions").glob("*.py"))}
    assert len(needed) >= 3 and {f"manyeyes/{path}" for path in needed} <= set(names)


def test_the_starter_weights_stay_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        weights = [i for i in archive.infolist() if i.filename.endswith((".safetensors", ".pt"))]
    assert 0 < sum(info.file_size for info in weights) < 25e6


def test_the_licence_travels_along(names: list[str], metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_only_one_extra_brings_agpl_software(metadata: Message) -> None:
    asking = [r for r in metadata.get_all("Requires-Dist", []) if r.startswith("ultralytics")]
    assert len(asking) == 1 and asking[0].endswith('extra == "detect"')


def imported_by(files: Iterable[Path]) -> dict[str, str]:
    """Return the third-party top-level modules that some sources import, anywhere in them, and one place of each."""
    found: dict[str, str] = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            else:
                continue
            found |= {module.partition(".")[0]: f"{file.name}:{node.lineno}" for module in modules}
    ours = {"manyeyes", "__future__", *sys.stdlib_module_names}
    return {module: where for module, where in found.items() if module not in ours}


def test_every_import_is_a_requirement_of_ours(metadata: Message, root: Path) -> None:
    """Or of one that we ask for, as pydantic-core is of pydantic: what comes from further away may stay away."""
    sources = [path for folder in ("manyeyes", *ROOMS) for path in (root / folder).rglob("*.py")]
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    declared = {canonicalize_name(r.name) for r in asked if 'extra == "dev"' not in str(r.marker)} - {
        "manyeyes"
    }
    near = declared | {
        canonicalize_name(Requirement(text).name)
        for name in declared
        for text in importlib_metadata.requires(name) or ()
        if "extra ==" not in text
    }
    owners = importlib_metadata.packages_distributions()
    found = imported_by(sources)
    assert {"torch", "PIL", "lmdb"} <= set(found)
    strays = {
        where: module
        for module, where in found.items()
        if not {canonicalize_name(name) for name in owners.get(module, [])} & near
    }
    assert strays == {}


def test_constraints_pin_every_requirement(metadata: Message, root: Path) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())
    assert (pins["torch"], pins["torchvision"]) == ("2.13.0", "0.28.0")
    for text in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name != "manyeyes":
            assert name in pins, f"{name} is not pinned in constraints.txt"
            assert pins[name] in requirement.specifier, (
                f"{text} rules out the version that is tested, {pins[name]}"
            )


def test_the_base_install_runs_without_torch(bare_python: Path) -> None:
    code = (
        "import importlib.util as u, manyeyes\n"
        "assert all(u.find_spec(name) is None for name in ('torch', 'PIL', 'fastapi', 'ultralytics', 'pyarrow'))\n"
        "from manyeyes import *\n"
        "print(manyeyes.__file__)\n"
        "recipe = Recipe.parse({'name': 'r', 'classes': ['hat', 'shoe'], 'lfs': [\n"
        "    {'name': 'title', 'kind': 'keyword', 'on': 'text', 'any': ['cap'], 'vote': 'hat'}]})\n"
        "print(recipe.version)\n"
    )
    where, version = run(bare_python, "-c", code).split()
    assert str(bare_python.parent.parent) in where
    assert re.fullmatch(r"[0-9a-f]{16}", version)


def test_the_command_line_runs_without_torch(bare_python: Path) -> None:
    shown = run(bare_python, "-c", COMMAND_LINE, "--help")
    assert all(command in shown for command in ("label", "serve", "models", "explain"))


def test_a_missing_extra_is_named(bare_python: Path) -> None:
    done = subprocess.run(
        [str(bare_python), "-c", COMMAND_LINE, "serve"],
        capture_output=True,
        text=True,
        cwd=bare_python.parent,
    )
    assert done.returncode != 0
    assert "manyeyes[serve]" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
