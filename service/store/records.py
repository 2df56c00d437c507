"""What the store keeps, as records that never change. Times are UTC and aware; ids sort by when they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar

from manyeyes.types import Label

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some records, newest first. next_cursor: asks for what comes after them; None where nothing does."""

    items: tuple[T, ...]
    next_cursor: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class RecipeVersion:
    """One text of a recipe, which never changes.

    number: 1, 2, … within its recipe. version: of the recipe, the first 16 hexadecimal digits of the SHA-256 of its
    text. text: the canonical form. is_active: whether this is what ``get(name)`` gave when this was read.
    """

    id: str
    name: str
    number: int
    version: str
    text: str
    author: str
    note: str
    request_id: str | None
    created_at: datetime
    is_active: bool


@dataclass(frozen=True, slots=True)
class RecipeSummary:
    """A recipe by its name. version, number: of the active version. updated_at: of the last change of any kind."""

    name: str
    version: str
    number: int
    n_versions: int
    author: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One call that was labeled, without its labels and votes.

    key_id: of the caller. primitives: feature → version. label_model: its version. n_errors: of n_items.
    has_votes: whether a label model can be fitted from it.
    """

    id: str
    created_at: datetime
    key_id: str
    request_id: str | None
    recipe_name: str
    recipe_version: str
    primitives: Mapping[str, str]
    label_model: str
    n_items: int
    n_errors: int
    has_votes: bool

    def label_id(self, position: int) -> str:
        """Return the id of the label at a position of the call."""
        return f"{self.id}-{position}"


@dataclass(frozen=True, slots=True)
class StoredLabel:
    """One label of a batch. id: ``<batch id>-<position>``."""

    id: str
    position: int
    label: Label
    batch: Batch


@dataclass(frozen=True, slots=True)
class LabelModelRecord:
    """A fitted label model, without its files.

    version: as ``LabelModel.version``. kind: such as "dawid_skene". batches: ids of those it was fitted from.
    metrics: what was measured of it, JSON-ready. is_active: whether it labels for its recipe version.
    """

    id: str
    created_at: datetime
    recipe_name: str
    recipe_version: str
    kind: str
    version: str
    batches: tuple[str, ...]
    metrics: Mapping[str, Any]
    author: str
    request_id: str | None
    is_active: bool


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key, without its secret. id: no secret. scopes: what it opens. rate_per_minute: None for no limit.

    last_used_at: to the minute.
    """

    id: str
    name: str
    scopes: frozenset[str]
    author: str
    created_at: datetime
    expires_at: datetime | None = None
    rate_per_minute: int | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who changed what. actor: a key id, "local" or "cli". action: such as "recipe.activate".

    subject: what was changed, such as "recipe:garments". details: JSON-ready.
    """

    id: str
    created_at: datetime
    actor: str
    action: str
    subject: str
    request_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class New:
    """The call is to be made, and ``finish`` or ``abandon`` called with the token before the lease ends."""

    token: str


@dataclass(frozen=True, slots=True)
class Replay:
    """The call was made; this was its answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class InFlight:
    """The call is under way. retry_after_s: when its lease ends at the latest."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key of idempotency came before, with another body or on another route."""


Begun: TypeAlias = New | Replay | InFlight | Mismatch


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """database: "sqlite" or "postgresql". address: the URL without its password.

    revision: of the tables that are there, None where there are none; head: of those that this version needs.
    rows: how many each table holds.
    """

    database: str
    address: str
    revision: str | None
    head: str
    rows: Mapping[str, int] = field(default_factory=dict)
