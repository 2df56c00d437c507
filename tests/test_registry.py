"""The page of extension points: built-ins are found, other packages' additions too, and mistakes are explained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from manyeyes import registry
from manyeyes.errors import InvalidRecipe

GROUPS: tuple[registry.Group, ...] = ("manyeyes.primitives", "manyeyes.lfs", "manyeyes.label_models")
EVERY_BUILT_IN = [(group, name) for group in GROUPS for name in registry.BUILT_IN[group]]


@pytest.mark.parametrize(("group", "name"), EVERY_BUILT_IN, ids=lambda value: str(value))
def test_every_built_in_loads(group: registry.Group, name: str) -> None:
    loaded = registry.load(group, name)
    if group == "manyeyes.primitives":
        assert callable(loaded.build) and "kind" in loaded.Spec.model_fields
    elif group == "manyeyes.lfs":
        assert loaded.kind == name and "kind" in loaded.Spec.model_fields
    else:
        assert loaded.name == name and callable(loaded().fit)


def test_loading_every_built_in_imports_no_model_library() -> None:
    """A recipe can be checked, and its version told, on a machine that could not run it."""
    code = (
        "import sys\n"
        "from manyeyes import registry\n"
        "for group, names in registry.BUILT_IN.items():\n"
        "    for name in names: registry.load(group, name)\n"
        "print(*sorted({'torch', 'torchvision', 'open_clip', 'transformers', 'ultralytics', 'onnxruntime', 'PIL'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("group", "wrong", "what", "hint"),
    [
        ("manyeyes.primitives", "detectr", "unknown primitive 'detectr'", "did you mean 'detector'?"),
        ("manyeyes.lfs", "Prompt", "unknown LF kind 'Prompt'", "did you mean 'prompt'?"),
        ("manyeyes.label_models", "one-coin", "unknown label model 'one-coin'", "did you mean 'one_coin'?"),
    ],
)
def test_an_unknown_name_is_explained(group: registry.Group, wrong: str, what: str, hint: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        registry.load(group, wrong)
    message = str(caught.value)
    assert message.startswith(what) and message.endswith(hint)
    assert all(name in message for name in registry.BUILT_IN[group])


@pytest.fixture
def foreign_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package that adds a label model, and tries to take over a built-in name."""
    folder = tmp_path / "site"
    info = folder / "brighteyes-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "brighteyes.py").write_text("class Sharp:\n    name = 'sharp'\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brighteyes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[manyeyes.label_models]\nsharp = brighteyes:Sharp\nmajority = brighteyes:Sharp\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.usefixtures("foreign_package")
def test_another_package_adds_to_a_group() -> None:
    assert registry.names("manyeyes.label_models") == [*registry.BUILT_IN["manyeyes.label_models"], "sharp"]
    assert registry.load("manyeyes.label_models", "sharp").name == "sharp"
    assert "sharp" not in registry.names("manyeyes.lfs")


@pytest.mark.usefixtures("foreign_package")
def test_another_package_cannot_replace_a_built_in() -> None:
    assert registry.load("manyeyes.label_models", "majority").__module__ == "manyeyes.models.majority"
    assert registry.names("manyeyes.label_models").count("majority") == 1


def test_built_ins_stay_inside_manyeyes() -> None:
    assert all(
        target.startswith("manyeyes.") for group in GROUPS for target in registry.BUILT_IN[group].values()
    )
