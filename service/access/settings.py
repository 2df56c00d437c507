"""What the operator decides about who may call, and how often."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BaseModel, BeforeValidator, Field

from manyeyes.service.access.scopes import SCOPES

MIN_KEY_CHARS: Final = 16
_CONFIGURED: Final = re.compile(r"sha256:[0-9a-f]{64}(?:=[a-z+]+)?")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def _split(value: Any) -> Any:
    # The environment has no lists, so a list is written with commas there.
    return (
        tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    )


def _digests(value: Any) -> Any:
    keys = _split(value)
    return tuple(_configured(key) for key in keys) if isinstance(keys, (tuple, list)) else keys


def _configured(key: Any) -> str:
    """Return ``sha256:<hex>``, or with scopes ``sha256:<hex>=label+read``, for a key as the operator wrote it."""
    if not isinstance(key, str):
        raise ValueError(f"a key is a string, got {type(key).__name__}")
    secret, scopes = _with_scopes(key)
    if _DIGEST.fullmatch(secret):
        return secret + scopes
    if not secret.isascii() or not secret.isprintable():
        raise ValueError("a key travels in an HTTP header, so it is made of printable ASCII characters")
    if len(secret) < MIN_KEY_CHARS:
        # The key itself must not reach a terminal or a log.
        raise ValueError(
            f"a key has at least {MIN_KEY_CHARS} characters; one of those given has {len(secret)}"
        )
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest() + scopes


def _with_scopes(key: str) -> tuple[str, str]:
    """Return the key and its ``=scope+scope``, which is empty where none are written."""
    secret, sign, written = key.rpartition("=")
    asked = written.split("+")
    if not sign or not written:
        return key, ""  # such as base64, which may end with "="
    known = [scope in SCOPES for scope in asked]
    if all(known):
        return secret, "=" + "+".join(sorted(set(asked)))
    if any(known) or _DIGEST.fullmatch(secret):
        wrong = asked[known.index(False)] if any(known) else "one"
        raise ValueError(f"the scopes of a key are {', '.join(SCOPES)}, joined with +; {wrong!r} is none")
    return key, ""


def _networks(value: Any) -> Any:
    parts = _split(value)
    if not isinstance(parts, (tuple, list)):
        return parts
    try:
        return tuple(ipaddress.ip_network(part) for part in parts)
    except ValueError as error:
        raise ValueError(f"{error}; write addresses or networks, such as 10.0.0.5 or 10.0.0.0/8") from None


class AccessSettings(BaseModel):
    """Who may call, and how often.

    api_keys: keys that callers must bring; each is written plainly, or as ``sha256:`` and the hex digest of the key,
        and opens everything, or what is written behind it: ``sha256:…=label+read``.
    rate_per_minute: how many calls a key may make that says nothing of its own; 0 for as many as it likes.
    rate_burst: how many of them at once; by default a minute's.
    failures_per_minute: how many wrong keys one address may try before it is told to wait.
    key_cache_s: for how long a key that was found in the store is believed without asking again, and so how long one
        that was revoked may still work.
    trusted_proxies: addresses whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed.
    idempotency_hours: for how long an answer is kept under its ``Idempotency-Key``.
    idempotency_max_bytes: of an answer that is kept; a larger one is not.
    """

    api_keys: Annotated[tuple[str, ...], BeforeValidator(_digests)] = Field(default=(), repr=False)
    rate_per_minute: int = Field(default=0, ge=0)
    rate_burst: int = Field(default=0, ge=0)
    failures_per_minute: int = Field(default=10, ge=1)
    key_cache_s: float = Field(default=5.0, ge=0, le=300)
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = ()
    idempotency_hours: float = Field(default=24.0, gt=0)
    idempotency_max_bytes: int = Field(default=16 * 2**20, ge=1024)
