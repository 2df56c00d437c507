"""A service with everything that its description names: recipes, an index, a store, a Label Studio backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from manyeyes import Item
from manyeyes.search import Finder
from manyeyes.service.schemas.labels import EXAMPLE_RECIPE
from manyeyes.service.settings import ServiceSettings


@pytest.fixture
def key() -> str:
    """Return a key that opens everything."""
    return "an-admin-key-for-the-contract"


@pytest.fixture
def settings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ServiceSettings]:
    """Return a maker of settings for a service on which the examples of the description work."""
    monkeypatch.setenv("MANYEYES_HOME", str(tmp_path / "home"))
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name in ("paint", "garments"):
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(EXAMPLE_RECIPE | {"name": name}))
    finder = Finder(clip="toy", on="text")
    finder.index([Item("a", text="a red car"), Item("b", text="a blue door")]).save(
        tmp_path / "indexes" / "photos"
    )

    def make(**more: Any) -> ServiceSettings:
        return ServiceSettings(
            **{
                "recipes_dir": recipes,
                "indexes_dir": tmp_path / "indexes",
                "label_studio_recipe": "paint",
                "store_url": f"sqlite:///{tmp_path / 'store.db'}",
                "failures_per_minute": 1_000_000,
                **more,
            }
        )

    return make
