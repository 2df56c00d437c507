"""What the operator decides about connections."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ConnectionSettings(BaseModel):
    """How long a connection may keep the service waiting, and how many there may be.

    head_timeout_s: for the line and the headers of a request to arrive, all together.
    answer_timeout_s: for the last of an answer to be taken, once it is written.
    max_connections: beyond it, the one that has waited longest for its request to begin is closed.
    """

    head_timeout_s: float = Field(default=10.0, gt=0)
    answer_timeout_s: float = Field(default=60.0, gt=0)
    max_connections: int = Field(default=1000, ge=1)
