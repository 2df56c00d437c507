"""What can be asked of recipes, label models, batches and keys: one function a route, which returns the call."""

from __future__ import annotations

from typing import Any

from manyeyes.client.calls import Call, place


def recipes() -> Call[list[dict[str, Any]]]:
    """List the stored recipes."""
    return Call(
        "GET",
        place("recipes"),
        lambda answer: answer.read(lambda told: [dict(line) for line in told["recipes"]]),
    )


def recipe(name: str) -> Call[dict[str, Any]]:
    """Read one stored recipe."""
    return Call("GET", place("recipes", name), lambda answer: answer.read(lambda told: dict(told)))
