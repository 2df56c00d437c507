"""What the operator decides of the store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, Field, ValidationError

from manyeyes.errors import InvalidSettings

_PREFIX: Final = "MANYEYES_"


class StoreSettings(BaseModel):
    """store_url: of a PostgreSQL database, ``postgresql://user:password@host/name``; None for SQLite in a file.

    store_timeout_s: how long the database may take to answer before a call is told that it does not.
    store_connections: to PostgreSQL, of one process.
    store_upgrade: whether a start makes or changes the tables where that is needed; else it refuses to start then.
    keep_days: how long labels and votes of calls are kept; None for always.
    """

    store_url: str | None = Field(default=None, repr=False)  # It may hold a password.
    store_timeout_s: float = Field(default=5.0, ge=1.0)
    store_connections: int = Field(default=8, ge=2)
    store_upgrade: bool = True
    keep_days: float | None = Field(default=None, gt=0)


def read_store_settings(environ: Mapping[str, str] = os.environ) -> StoreSettings:
    """Return what the environment says of the store, whatever it says of the rest of the service.

    Raises InvalidSettings.
    """
    read = {
        name: environ[variable]
        for name in StoreSettings.model_fields
        if environ.get(variable := _PREFIX + name.upper(), "").strip()
    }
    try:
        return StoreSettings(**read)  # type: ignore[arg-type]
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        variable = _PREFIX + str(problem["loc"][0]).upper()
        raise InvalidSettings(f"these settings cannot be used: {variable}: {problem['msg']}") from None
