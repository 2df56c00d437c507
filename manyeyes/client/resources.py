"""Groups of calls, such as ``client.recipes``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manyeyes.client import resource_routes as routes


class Group:
    """Calls of one client. ask: sends one and returns its answer."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask


class Recipes(Group):
    """The recipes that a service stores."""

    def __call__(self) -> list[dict[str, Any]]:
        """Return the stored recipes: name, version, description, classes, whether a fitted label model is there."""
        told: list[dict[str, Any]] = self._ask(routes.recipes())
        return told


class LabelModels(Group):
    """The fitted label models that a service keeps."""


class Batches(Group):
    """The calls whose labels a service keeps."""


class Keys(Group):
    """The API keys of a service."""
