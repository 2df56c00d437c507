"""Endpoints that LFs may ask questions of: what the operator wrote into the file that ``MANYEYES_ENDPOINTS`` names.

::

    local-vlm: {base_url: "http://127.0.0.1:8080/v1", model: qwen2.5-vl}
    hosted:
      base_url: https://api.example.org/v1
      model: large
      key_env: EXAMPLE_KEY
      prices: {input: 0.15, output: 0.60}
      max_cost: 5

A recipe names an endpoint and nothing else of it. Keys stand in the environment only: the file says in which variable.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from manyeyes.documents import read_document
from manyeyes.errors import InvalidRecipe, InvalidSettings, nearest
from manyeyes.settings import home

VARIABLE: Final = "MANYEYES_ENDPOINTS"
NAME: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}$"
_OURS: Final = frozenset({"messages", "model", "stream", "n", "logprobs", "top_logprobs", "tools"})

Tokens = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Prices(BaseModel):
    """What a million tokens cost, in whatever currency ``max_cost`` is in."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    input: Tokens = 0.0
    output: Tokens = 0.0


class Endpoint(BaseModel):
    """One service that speaks OpenAI's ``/chat/completions``.

    base_url: what stands before ``/chat/completions``. model: as the service calls it.
    key_env: the environment variable that holds the key; without one, none is sent.
    concurrency: calls at once. timeout_s: of one call, from its start to the last byte.
    retries: further tries of a call that failed in passing. backoff_s: before the first of them; doubled each time.
    max_wait_s: the longest ``Retry-After`` that is waited for.
    give_up_after: items in a row without an answer, after which the endpoint is left alone for ``rest_s``.
    max_calls, max_cost: of this process, over all LFs; what goes beyond is not asked. prices: per million tokens.
    max_side: pixels of the longer side of an image that is sent. max_text_chars: of a text; what follows is cut off.
    logprobs: whether log-probabilities are asked for. parameters: more members of the request, as the service has them.
    version: anything; changed, everything is asked again, as when the model behind the name is another one.
    from_outside: whether a recipe that comes over HTTP may name it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, str_strip_whitespace=True
    )

    base_url: str = Field(max_length=2_000)
    model: str = Field(min_length=1, max_length=200)
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")
    concurrency: int = Field(default=8, ge=1, le=256)
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    retries: int = Field(default=4, ge=0, le=20)
    backoff_s: float = Field(default=0.5, ge=0, le=60)
    max_wait_s: float = Field(default=60.0, ge=0, le=3600)
    give_up_after: int = Field(default=10, ge=1)
    rest_s: float = Field(default=60.0, ge=0)
    max_calls: int | None = Field(default=None, ge=0)
    max_cost: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    prices: Prices | None = None
    max_side: int = Field(default=768, ge=32, le=8_192)
    max_text_chars: int = Field(default=8_000, ge=1, le=1_000_000)
    logprobs: bool = True
    parameters: dict[str, Any] = Field(default_factory=lambda: {"temperature": 0, "max_tokens": 16})
    version: str = Field(default="", max_length=200)
    from_outside: bool = False

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or parts.query or parts.fragment:
            raise ValueError("a base_url is http:// or https://, a host and a path, as https://host/v1")
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "no name and no key stand in base_url; put the key into a variable and name it in key_env"
            )
        return value.rstrip("/").removesuffix("/chat/completions")

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(_OURS & value.keys())
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot stand in parameters; manyeyes sets it")
        return value

    @model_validator(mode="after")
    def _costs_are_known(self) -> Self:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs prices: {input: …, output: …}, per million tokens")
        return self

    @property
    def identity(self) -> str:
        """What answers depend on, as JSON: the service, its model and what it is sent; neither limits nor prices."""
        told = self.model_dump(
            mode="json",
            include={
                "base_url",
                "model",
                "max_side",
                "max_text_chars",
                "logprobs",
                "parameters",
                "version",
            },
        )
        return json.dumps(told, sort_keys=True)

    @property
    def key(self) -> str | None:
        """The key, from the environment. Raises InvalidSettings if it should be there and is not."""
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise InvalidSettings(
                f"the endpoint for {self.model!r} takes its key from the environment variable {self.key_env}, which is"
                " not set; set it, or take key_env out of the endpoint"
            )
        if not (key.isascii() and key.isprintable()):
            raise InvalidSettings(
                f"the key in the environment variable {self.key_env} holds a character that no key has; set it again"
            )
        return key


def endpoints() -> Mapping[str, Endpoint]:
    """Return the configured endpoints by name; the file is read again when it has changed.

    The file is ``$MANYEYES_ENDPOINTS``, else ``endpoints.yaml`` in ``settings.home()`` where there is one.
    Raises InvalidSettings if it cannot be read or is not what it should be.
    """
    told = os.environ.get(VARIABLE, "").strip()
    path = Path(told).expanduser() if told else home() / "endpoints.yaml"
    try:
        stat = path.stat()
    except OSError as error:
        if not told:
            return {}
        raise InvalidSettings(
            f"{VARIABLE} names {str(path)!r}, which cannot be read: {error.strerror}"
        ) from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


def endpoint(name: str) -> Endpoint:
    """Return one configured endpoint. Raises InvalidRecipe if there is none of that name."""
    known = endpoints()
    if name not in known:
        raise InvalidRecipe(
            f"no endpoint {name!r} is configured; there are: {', '.join(sorted(known)) or 'none'}{nearest(name, known)}"
            f". The operator writes them into the file that {VARIABLE} names"
        )
    return known[name]


@lru_cache(maxsize=8)
def _read(path: Path, _mtime_ns: int, _size: int) -> Mapping[str, Endpoint]:
    try:
        document = read_document(path.read_bytes())
    except OSError as error:
        raise InvalidSettings(f"the endpoints in {str(path)!r} cannot be read: {error.strerror}") from None
    except InvalidRecipe as error:
        raise InvalidSettings(f"the endpoints in {str(path)!r} cannot be read: {error}") from None
    value = document.value
    if document.problems:
        problem = document.problems[0]
        raise InvalidSettings(
            f"the endpoints in {str(path)!r} cannot be read: line {problem.line}: {problem.message}"
        )
    if not isinstance(value, Mapping):
        raise InvalidSettings(f"{str(path)!r} must map names of endpoints to {{base_url: …, model: …}}")
    return {str(name): _endpoint(str(name), told, path) for name, told in value.items()}


def _endpoint(name: str, told: Any, path: Path) -> Endpoint:
    if not re.match(NAME, name):
        raise InvalidSettings(
            f"{str(path)!r}: {name[:80]!r} cannot be an endpoint's name; use letters and digits"
        )
    try:
        return Endpoint.model_validate(told)
    except ValidationError as error:
        problems = [
            f"{name}.{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise InvalidSettings(f"{str(path)!r} cannot be used: {'; '.join(problems)}") from None


def digest(*parts: str) -> str:
    """Return a short name for what some strings say together."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
