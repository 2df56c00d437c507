"""What the operator decides of the pipeline."""

from __future__ import annotations

from pydantic import BaseModel, Field


class PipelineSettings(BaseModel):
    """max_waiting: calls that are labeled or wait for it; more are told to come back.

    max_queued_items: items of these calls together; a call that finds nothing before it is taken, however large.
    max_wait_s: a call that would wait longer than this before its turn is told to come back.
    deadline_s: how long a call may take from when it was taken.
    max_batch: inputs that a model is given at once.
    max_active_items: items of all calls that are decoded or wait in front of a model; a large call counts as a part.
    max_labelers: recipes kept ready at once. workers: calls at once that need no model, as all is cached.
    decode_threads: threads that decode, for all calls together; 0 for one a core, at most eight.
    drain_timeout_s: how long a service that is told to stop works on what it has taken.
    """

    max_waiting: int = Field(default=256, ge=1)
    max_queued_items: int = Field(default=4000, ge=1)
    max_wait_s: float = Field(default=20.0, gt=0)
    deadline_s: float = Field(default=120.0, gt=0)
    max_batch: int = Field(default=32, ge=1)
    max_active_items: int = Field(default=64, ge=1)
    max_labelers: int = Field(default=16, ge=1)
    workers: int = Field(default=8, ge=1)
    decode_threads: int = Field(default=0, ge=0, le=64)
    drain_timeout_s: float = Field(default=30.0, gt=0)
