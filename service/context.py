"""What the routes of one service share."""

from __future__ import annotations

from dataclasses import dataclass

from manyeyes.service.pipeline.engine import Engine
from manyeyes.service.recipes import RecipeStore
from manyeyes.service.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Service:
    """One service: what the operator decided, the recipes, and what labels.

    settings: of the operator. recipes: those that callers may name. engine: labels items and computes features.
    """

    settings: ServiceSettings
    recipes: RecipeStore
    engine: Engine
