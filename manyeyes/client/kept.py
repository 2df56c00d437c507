"""What a service keeps, as small values that never change. Times are UTC and aware."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Generic, TypeVar

from manyeyes.types import Label, Reason, Versions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list. next_cursor: asks for what comes after; None at its end."""

    items: tuple[T, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class RecipeLine:
    """A recipe in the list. fitted: whether a fitted label model labels for it. source: "folder" or "store".

    number: which version of the store; None in the operator's folder.
    """

    name: str
    version: str
    description: str
    classes: tuple[str, ...]
    fitted: bool
    source: str = "folder"
    number: int | None = None


@dataclass(frozen=True, slots=True)
class RecipeVersion:
    """One version of a recipe. version: what its text hashes to. number: 1, 2, … in the store; None in the folder.

    recipe: the recipe as a mapping, where one version was asked for; empty in lists.
    """

    name: str
    version: str
    number: int | None
    is_active: bool
    source: str
    author: str | None = None
    note: str = ""
    created_at: datetime | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecipeDiff:
    """What differs between two versions. unified: the same as a unified diff of the YAML.

    classes: added, removed, reordered. lfs, primitives: added, removed, changed. settings: a list of changed fields.
    """

    name: str
    before: str
    after: str
    same: bool
    classes: Mapping[str, Any]
    lfs: Mapping[str, Any]
    primitives: Mapping[str, Any]
    settings: tuple[Mapping[str, Any], ...]
    unified: str

    def __str__(self) -> str:
        return self.unified


@dataclass(frozen=True, slots=True)
class RecipeProblem:
    """One thing that is wrong. path: where, such as ``lfs[2].prompts``; line: of the text, counted from 1."""

    path: str
    code: str
    message: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class RecipeCheck:
    """Whether a recipe can be used, and all that is wrong with it. True where it can."""

    valid: bool
    problems: tuple[RecipeProblem, ...] = ()
    name: str | None = None
    version: str | None = None

    def __bool__(self) -> bool:
        return self.valid


@dataclass(frozen=True, slots=True)
class Batch:
    """One call whose labels are kept. has_votes: whether a label model can be fitted from it."""

    id: str
    created_at: datetime
    recipe: str
    versions: Versions
    n_items: int
    n_errors: int
    has_votes: bool
    key_id: str
    request_id: str | None = None

    def label_id(self, position: int) -> str:
        """Return the id of the label at a position of the call, to ``explain`` it by."""
        return f"{self.id}-{position}"


@dataclass(frozen=True, slots=True)
class LabelModel:
    """A fitted label model. batches: what it was fitted on. is_active: whether it labels for its recipe version.

    metrics: ``n_items``, ``n_errors``, ``coverage``, ``mean_confidence``; with gold also ``n_gold``, and ``accuracy``
    and ``log_loss`` (nats) on known labels that the label model had not seen.
    """

    id: str
    created_at: datetime
    recipe: str
    recipe_version: str
    kind: str
    version: str
    batches: tuple[str, ...]
    metrics: Mapping[str, Any]
    author: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """One label model on some items. accuracy, log_loss (nats): where known labels were given."""

    id: str
    version: str
    coverage: float
    mean_confidence: float | None
    n_gold: int = 0
    accuracy: float | None = None
    log_loss: float | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two label models hold the same class for the most probable."""

    a: str
    b: str
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Label models beside each other, on the same items."""

    n_items: int
    label_models: tuple[Compared, ...]
    agreement: tuple[Agreement, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """An API key. secret: of a new one, shown this once; None afterwards."""

    id: str
    name: str
    scopes: tuple[str, ...]
    author: str
    created_at: datetime
    expires_at: datetime | None = None
    rate_per_minute: int | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AuditLine:
    """Who changed what. actor: the id of a key. subject: such as ``recipe:paint``."""

    id: str
    created_at: datetime
    actor: str
    action: str
    subject: str
    request_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a label is what it is.

    ``prior`` and what the reasons ``moved`` add up to ``log_odds``: log(probability of top / of runner_up). reasons:
    those that moved most first. An item with an error has a label and nothing else.
    """

    label_id: str
    batch: Batch
    label: Label
    top: str | None = None
    runner_up: str | None = None
    prior: float | None = None
    reasons: tuple[Reason, ...] = ()
    log_odds: float | None = None


def as_record(kind: Callable[..., T], row: Mapping[str, Any], **read: Any) -> T:
    """Return a row as a record: its members by name, times as times; what a newer service adds is passed over.

    read: members that are already what they should be. Raises TypeError, ValueError if members are missing or no times.
    """
    told: dict[str, Any] = {}
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name in row:
            value = row[one.name]
            if one.name.endswith("_at") and value is not None:
                value = datetime.fromisoformat(value)
            told[one.name] = tuple(value) if isinstance(value, list) else value
    return kind(**(told | read))
