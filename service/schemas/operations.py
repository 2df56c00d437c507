"""What probes are answered."""

from __future__ import annotations

from typing import Literal

from manyeyes.service.schemas.base import Shape


class Ready(Shape):
    """The service can do its work. checks: each thing that was looked at."""

    status: Literal["ready"]
    checks: dict[str, Literal["ok"]]
