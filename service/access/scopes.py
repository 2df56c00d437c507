"""What a key can open."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Scope: TypeAlias = Literal["label", "read", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("label", "read", "admin")
"""label: items are labeled, embedded, searched. read: recipes, labels, metrics. admin: changes; opens all."""
