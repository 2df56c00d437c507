"""What the operator decides about batch jobs that come over HTTP."""

from __future__ import annotations

from pydantic import BaseModel, Field


class JobSettings(BaseModel):
    """Which jobs are run, and at what cost.

    jobs_at_once: that this replica runs; others wait. 0 for a replica that takes jobs and leaves them to others.
    jobs_max_open: of one key that are under way or wait.
    jobs_max_workers: shards of a job at once that a caller may ask for; 0 leaves it to the engine.
    jobs_ray_address: of the Ray cluster that callers may have jobs run on; none without it.
    jobs_niceness: how far a job stands back behind calls that wait for an answer: 0 not at all, 19 as far as it can.
    jobs_lease_s: how long whoever runs a job may give no sign of life before another replica takes it over.
    jobs_max_listeners: who follow the progress of jobs through one replica.
    """

    jobs_at_once: int = Field(default=1, ge=0, le=1000)
    jobs_max_open: int = Field(default=20, ge=1)
    jobs_max_workers: int = Field(default=0, ge=0)
    jobs_ray_address: str | None = Field(default=None, max_length=1000)
    jobs_niceness: int = Field(default=10, ge=0, le=19)
    jobs_lease_s: float = Field(default=30.0, gt=0)
    jobs_max_listeners: int = Field(default=200, ge=1)
