"""Keys, and the log of changes."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from manyeyes.service.schemas.base import Shape

EXAMPLE_CREATE: Final[dict[str, Any]] = {
    "name": "annotation team",
    "scopes": ["label", "read"],
    "expires_at": "2030-01-01T00:00:00Z",
    "rate_per_minute": 600,
}
EXAMPLE_KEY: Final[dict[str, Any]] = EXAMPLE_CREATE | {
    "id": "01a2087235a972199e0e12e0faf7d7a2",
    "author": "env-1f2e3d4c",
    "created_at": "2026-11-23T12:47:12.297119Z",
    "revoked_at": None,
    "last_used_at": None,
}
EXAMPLE_AUDIT: Final[dict[str, Any]] = {
    "id": "01a2087235b57de4919a448d9bbe7d0f",
    "created_at": "2026-11-23T12:47:12.297119Z",
    "actor": "env-1f2e3d4c",
    "action": "recipe.activate",
    "subject": "recipe:paint",
    "request_id": "9f7a3c5e1b2d4f60",
    "details": {"from": "0f1e2d3c4b5a6978", "to": "1f2e3d4c5b6a7988"},
}


class KeyCreate(Shape):
    """A key to make. scopes: label, read, admin. rate_per_minute: calls; left out, as the settings say."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_CREATE]})

    name: str = Field(
        min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$", description="What it is for; no secret."
    )
    scopes: list[Literal["label", "read", "admin"]] = Field(min_length=1, max_length=3)
    expires_at: AwareDatetime | None = None
    rate_per_minute: int | None = Field(default=None, ge=1, le=1_000_000)


class KeyOut(Shape):
    """A key, without its secret, which nobody can read again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_KEY]})

    id: str
    name: str
    scopes: list[str]
    author: str
    created_at: str
    expires_at: str | None = None
    rate_per_minute: int | None = None
    revoked_at: str | None = None
    last_used_at: str | None = None


class NewKey(KeyOut):
    """A new key. secret: shown this once; send it as `Authorization: Bearer <secret>`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [EXAMPLE_KEY | {"secret": "me_01a2…_…"}]}
    )

    secret: str


class KeyList(Shape):
    """Keys, the newest first."""

    data: list[KeyOut]
    has_more: bool
    next_cursor: str | None = None


class AuditLine(Shape):
    """Who changed what. actor: the id of a key. subject: such as `recipe:paint`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_AUDIT]})

    id: str
    created_at: str
    actor: str
    action: str
    subject: str
    request_id: str | None = None
    details: dict[str, Any]


class AuditList(Shape):
    """Changes, the newest first."""

    data: list[AuditLine]
    has_more: bool
    next_cursor: str | None = None
