"""The scripts that everybody starts with, and that the hooks and the checks are the same tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SCRIPTS = [
    "scripts/setup",
    "scripts/demo",
    "scripts/label_studio",
    "scripts/postgres",
    "scripts/test",
    "scripts/check",
    ".ci/run",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_run_and_shellcheck_finds_nothing(root: Path, script: str) -> None:
    assert os.access(root / script, os.X_OK)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, root / script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_hooks_call_what_the_checks_call(root: Path) -> None:
    config = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())
    check = (root / "scripts" / "check").read_text()
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    for hook in hooks:
        assert " ".join(hook["entry"].split()[:2]) in check, hook["id"]
    # Each tool of the checks has its hook.
    assert {hook["id"] for hook in hooks} == {
        "format", "lint", "types", "imports", "shell", "dockerfile", "tests",
    }  # fmt: skip


def test_check_explains_a_wrong_argument(root: Path) -> None:
    done = subprocess.run([root / "scripts" / "check", "--statc"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "check: unknown argument '--statc'; allowed: --static, --fix\n"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Return a folder with what any system has, and no Python: a PATH on which setup finds nothing to work with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in (
        "bash",
        "env",
        "dirname",
        "basename",
        "readlink",
        "cat",
        "cut",
        "grep",
        "id",
        "mv",
        "sha256sum",
    ):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    return folder


def test_setup_without_a_python_says_what_to_do(root: Path, tools: Path, tmp_path: Path) -> None:
    env = {"PATH": str(tools), "MANYEYES_VENV": str(tmp_path / "venv")}
    done = subprocess.run([root / "scripts" / "setup"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no Python 3.11 or newer" in done.stderr and "PYTHON=" in done.stderr


def test_setup_passes_over_an_older_python(root: Path, tools: Path, tmp_path: Path) -> None:
    (tools / "python3.11").write_text("#!/usr/bin/env bash\nexit 1\n")
    (tools / "python3.11").chmod(0o755)
    env = {"PATH": str(tools), "MANYEYES_VENV": str(tmp_path / "venv")}
    done = subprocess.run([root / "scripts" / "setup"], capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "no Python 3.11 or newer" in done.stderr


def test_setup_makes_an_environment_once(root: Path, tools: Path, tmp_path: Path) -> None:
    """A stand-in for pip notes what would be installed; everything else is the script and a real environment."""
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(root / "scripts" / "setup", checkout / "scripts" / "setup")
    for name in ("pyproject.toml", "constraints.txt"):
        (checkout / name).write_text("first\n")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "pip.py").write_text(
        f"import sys; open({str(tmp_path / 'log')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
    )
    log = tmp_path / "log"
    env = {"PATH": str(tools), "MANYEYES_VENV": str(venv)}

    def setup(*extras: str) -> list[str]:
        log.write_text("")
        done = subprocess.run(
            [checkout / "scripts" / "setup", *extras], capture_output=True, text=True, env=env, check=True
        )
        assert done.stdout == f"{venv}\n"
        return log.read_text().splitlines()

    installed = setup("demo")
    assert len(installed) == 1
    assert installed[0].endswith(f"--constraint {checkout}/constraints.txt --editable {checkout}[demo]")
    assert setup("demo") == []
    assert len(setup("dev")) == 1
    assert setup() == setup("dev") == setup("demo") == setup("serve") == []  # dev holds everything
    (checkout / "constraints.txt").write_text("second\n")
    assert len(setup("demo")) == 1
    assert len(setup("serve")) == 1
