"""The tables of the store, as this version of manyeyes needs them; migrations/versions says how they came about."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

METADATA: Final = MetaData(
    # Names that migrations can rely on, in every database.
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """An aware time in UTC. SQLite knows no zones, so that it is written without one there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """A JSON document as ASCII text, since PostgreSQL's own types refuse NUL and lone surrogates."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


recipes: Final = Table(
    "recipes",
    METADATA,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("active_number", Integer, nullable=False),
    Column("n_versions", Integer, nullable=False),
    Column("author", String, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("archived_at", UtcTime),
)

recipe_versions: Final = Table(
    "recipe_versions",
    METADATA,
    Column("id", String, primary_key=True),
    Column("recipe_id", String, ForeignKey("recipes.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("version", String, nullable=False),
    Column("author", String, nullable=False),
    Column("note", Text, nullable=False),
    Column("request_id", String),
    Column("created_at", UtcTime, nullable=False),
    Column("text", Text, nullable=False),
    UniqueConstraint("recipe_id", "number"),
    UniqueConstraint("recipe_id", "version"),
)

batches: Final = Table(
    "batches",
    METADATA,
    Column("id", String, primary_key=True),
    Column("created_at", UtcTime, nullable=False, index=True),
    Column("key_id", String, nullable=False),
    Column("request_id", String),
    # By name, not by reference: labels outlive the recipe, and a recipe may have come with its call.
    Column("recipe_name", String, nullable=False),
    Column("recipe_version", String, nullable=False),
    Column("primitives", Json, nullable=False),
    Column("label_model", String, nullable=False),
    Column("n_items", Integer, nullable=False),
    Column("n_errors", Integer, nullable=False),
    Column("has_votes", Boolean, nullable=False),
    # Last, so that SQLite need not read past them for the rest of a row.
    Column("labels", LargeBinary, nullable=False),
    Column("votes", LargeBinary),
    Index(None, "recipe_name", "recipe_version", "id"),
    Index(None, "key_id", "id"),
)

label_models: Final = Table(
    "label_models",
    METADATA,
    Column("id", String, primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    Column("recipe_name", String, nullable=False),
    Column("recipe_version", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("version", String, nullable=False),
    Column("batches", Json, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("author", String, nullable=False),
    Column("request_id", String),
    Column("active", Boolean, nullable=False),
    Index(None, "recipe_name", "recipe_version", "id"),
    # Whatever the code does, one label model at most labels for a version of a recipe.
    Index(
        "uq_label_models_active",
        "recipe_name",
        "recipe_version",
        unique=True,
        sqlite_where=text("active"),
        postgresql_where=text("active"),
    ),
)

label_model_files: Final = Table(
    "label_model_files",
    METADATA,
    Column(
        "label_model_id",
        String,
        ForeignKey("label_models.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("name", String, primary_key=True),
    Column("sha256", String, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

keys: Final = Table(
    "keys",
    METADATA,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("name", String, nullable=False),
    Column("scopes", Json, nullable=False),
    Column("author", String, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("rate_per_minute", Integer),
    Column("revoked_at", UtcTime),
    Column("last_used_at", UtcTime),
)

audit: Final = Table(
    "audit",
    METADATA,
    Column("id", String, primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("request_id", String),
    Column("details", Json, nullable=False),
    Index(None, "subject", "id"),
    Index(None, "actor", "id"),
)

idempotency: Final = Table(
    "idempotency",
    METADATA,
    Column("key_id", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("token", String, nullable=False, unique=True),
    Column("body_digest", String, nullable=False),
    Column("route", String, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("lease_until", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False, index=True),
    Column("status", Integer),
    Column("headers", Json),
    Column("body", LargeBinary),
)

jobs: Final = Table(
    "jobs",
    METADATA,
    Column("id", String, primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    Column("key_id", String, nullable=False),
    Column("request_id", String),
    Column("recipe_name", String, nullable=False),
    Column("recipe_version", String, nullable=False),
    # What was asked for, ready to be handed to whoever runs it; it holds no secret.
    Column("request", Json, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("status", String, nullable=False),
    # What is to happen at the next chance: run, cancel, retry or resume.
    Column("wish", String, nullable=False),
    # Who runs it, and a number that grows for as long as it does: clocks of two machines are never compared.
    Column("claim", String),
    Column("beat", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("n_events", Integer, nullable=False),
    Column("progress", Json),
    Column("errors", Json, nullable=False),
    Column("in_progress_at", UtcTime),
    Column("finalizing_at", UtcTime),
    Column("completed_at", UtcTime),
    Column("failed_at", UtcTime),
    Column("cancelling_at", UtcTime),
    Column("cancelled_at", UtcTime),
    Index(None, "status", "id"),
    Index(None, "key_id", "id"),
)

job_events: Final = Table(
    "job_events",
    METADATA,
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    Column("kind", String, nullable=False),
    Column("data", Json, nullable=False),
)
