"""What the routes of one service share."""

from __future__ import annotations

from dataclasses import dataclass, field

from manyeyes.service.access.keyring import Keyring
from manyeyes.service.fetching.fetcher import Fetcher
from manyeyes.service.jobs.serving.service_jobs import ServiceJobs
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.operations.readiness import Readiness
from manyeyes.service.pipeline.engine import Engine
from manyeyes.service.recipes import RecipeStore
from manyeyes.service.settings import ServiceSettings
from manyeyes.service.store.store import Store


@dataclass(frozen=True, slots=True)
class Service:
    """One service: what the operator decided, the recipes, and what labels.

    settings: of the operator. recipes: those that callers may name. engine: labels items and computes features.
    fetcher: gets the images that items name by address. store: what is kept; None where nothing is to be.
    keys: what opens the service. jobs: runs batch jobs; None where there is no store.
    metrics: what is counted. readiness: what must work before calls are sent here.
    """

    settings: ServiceSettings
    recipes: RecipeStore
    engine: Engine
    fetcher: Fetcher
    store: Store | None = None
    keys: Keyring | None = None
    jobs: ServiceJobs | None = None
    metrics: Metrics = field(default_factory=Metrics)
    readiness: Readiness = field(default_factory=lambda: Readiness({}))
