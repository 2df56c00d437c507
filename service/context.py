"""What the routes of one service share."""

from __future__ import annotations

from dataclasses import dataclass, field

from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.operations.readiness import Readiness
from manyeyes.service.pipeline.engine import Engine
from manyeyes.service.recipes import RecipeStore
from manyeyes.service.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Service:
    """One service: what the operator decided, the recipes, and what labels.

    settings: of the operator. recipes: those that callers may name. engine: labels items and computes features.
    metrics: what is counted. readiness: what must work before calls are sent here.
    """

    settings: ServiceSettings
    recipes: RecipeStore
    engine: Engine
    metrics: Metrics = field(default_factory=Metrics)
    readiness: Readiness = field(default_factory=lambda: Readiness({}))
