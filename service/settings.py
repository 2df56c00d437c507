"""What the operator of a service decides: from the environment (``MANYEYES_…``) or in Python.

Nothing here comes from a request. Keys are kept as digests only, so that no log, dump or traceback can show one.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, ByteSize, ConfigDict, Field, ValidationError, model_validator

from manyeyes.errors import InvalidSettings
from manyeyes.service.access.settings import AccessSettings
from manyeyes.service.decoding.settings import DecodeSettings
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.settings import JobSettings
from manyeyes.service.middleware.settings import ConnectionSettings
from manyeyes.service.operations.settings import OperationsSettings
from manyeyes.service.pipeline.settings import PipelineSettings
from manyeyes.service.routes.settings import RouteSettings
from manyeyes.service.store.settings import StoreSettings
from manyeyes.settings import Limits

ENV_PREFIX: Final = "MANYEYES_"


def _split(value: Any) -> Any:
    # The environment has no lists, so a list is written with commas there.
    return (
        tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    )


class ServiceSettings(
    StoreSettings,
    AccessSettings,
    OperationsSettings,
    RouteSettings,
    FetchSettings,
    PipelineSettings,
    DecodeSettings,
    ConnectionSettings,
    JobSettings,
):
    """How a service behaves.

    recipes_dir: the folder of recipe files that callers may use by name; None where there are none.
    allowed_models: the checkpoints that a recipe from a caller may name beside the defaults, each as "model" or
        "kind:model"; stored recipes may name any.
    max_body_bytes: of one request. max_held_bytes: of all requests at once; more are told to come back.
    max_items: in one call. max_recipe_bytes: of a recipe that comes with a call.
    body_timeout_s: how long a caller may take to send a request.
    max_image_bytes, max_image_pixels, max_text_chars: what one item may cost.
    host, port: where to listen. Beyond this machine only with keys, or where allow_unauthenticated says so.

    >>> ServiceSettings.from_env({"MANYEYES_PORT": "9000", "MANYEYES_MAX_BODY_BYTES": "64MiB"}).max_body_bytes
    67108864
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    recipes_dir: Path | None = None
    allowed_models: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    max_body_bytes: ByteSize = Field(default=ByteSize(256 * 2**20), ge=1024)
    max_held_bytes: ByteSize = Field(default=ByteSize(2**30), ge=1024)
    max_items: int = Field(default=1000, ge=1)
    max_recipe_bytes: ByteSize = Field(default=ByteSize(64 * 2**10), ge=256)
    body_timeout_s: float = Field(default=120.0, gt=0)
    max_image_bytes: ByteSize = Field(default=ByteSize(Limits().max_bytes), ge=1)
    max_image_pixels: int = Field(default=Limits().max_pixels, ge=1)
    max_text_chars: int = Field(default=Limits().max_text, ge=1)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    allow_unauthenticated: bool = False

    def __init__(self, **values: Any) -> None:
        """Take settings by name. Raises InvalidSettings, with the name and what is allowed."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidSettings(_told(error)) from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **overrides: Any) -> Self:
        """Read ``MANYEYES_<NAME>`` for every setting; what is passed by name and is not None wins.

        A variable that is set to nothing counts as not set. ``MANYEYES_<NAME>_FILE`` names a file that holds the value
        instead, which is how Docker and Kubernetes hand secrets over; several lines are a list. Raises InvalidSettings.
        """
        read = {
            name: value
            for name in cls.model_fields
            if (value := _from(environ, ENV_PREFIX + name.upper())) is not None
        }
        return cls(**(read | {name: value for name, value in overrides.items() if value is not None}))

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> Self:
        if not (is_loopback(self.host) or self.api_keys or self.allow_unauthenticated):
            raise ValueError(
                f"host {self.host!r} can be reached from other machines, and no key is configured; set"
                f" {ENV_PREFIX}API_KEYS, listen on 127.0.0.1, or set {ENV_PREFIX}ALLOW_UNAUTHENTICATED=1 where"
                " something in front of the service checks who calls"
            )
        return self

    @model_validator(mode="after")
    def _recipes_are_there(self) -> Self:
        if self.recipes_dir is not None and not self.recipes_dir.is_dir():
            raise ValueError(
                f"recipes_dir {str(self.recipes_dir)!r} is not a folder; make it, or name another"
            )
        return self

    @property
    def limits(self) -> Limits:
        """What one item may cost."""
        return Limits(
            max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels, max_text=self.max_text_chars
        )


def _from(environ: Mapping[str, str], variable: str) -> str | None:
    """Return what a variable holds, or the file that its twin ``…_FILE`` names; None where neither is set."""
    value, file = environ.get(variable, "").strip(), environ.get(f"{variable}_FILE", "").strip()
    if value and file:
        raise InvalidSettings(f"both {variable} and {variable}_FILE are set; set one of them")
    if not file:
        return value or None
    try:
        lines = [line.strip() for line in Path(file).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{variable}_FILE names {file!r}, which cannot be read: {error}") from None
    if not any(lines):
        # Taken as not set, it could open what was to be closed.
        raise InvalidSettings(f"{variable}_FILE names {file!r}, which is empty")
    return ",".join(line for line in lines if line)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "example.org", "")]
    [True, True, True, False, False, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _told(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{name} ({ENV_PREFIX}{name.split('.')[0].upper()}): {message}" if name else message)
    return "these settings cannot be used: " + "; ".join(lines)
