"""What the operator decides about items that are named by address."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, Field

from manyeyes.service.access.settings import Network

_LABEL: Final = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*(?::[1-9][0-9]{{0,4}})?")
_V6_HOST: Final = re.compile(r"\[[0-9a-f:.]+\](?::[1-9][0-9]{0,4})?")


def _split(value: Any) -> Any:
    # The environment has no lists, so a list is written with commas there.
    return (
        tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    )


def _hosts(value: Any) -> Any:
    parts = _split(value)
    return tuple(_host(part) for part in parts) if isinstance(parts, (tuple, list)) else parts


def _host(value: Any) -> str:
    written = value.lower() if isinstance(value, str) else ""
    if _V6_HOST.fullmatch(written):
        literal, _, port = written.rpartition("]")
        return f"[{ipaddress.IPv6Address(literal[1:])}]{port}"
    if not _HOST.fullmatch(written) or len(written) > 253:
        raise ValueError(
            f"{value!r} is not a host that images may be fetched from; write names such as images.example.org,"
            " *.example.org or images.example.org:8443"
        )
    return written


def _networks(value: Any) -> Any:
    parts = _split(value)
    if not isinstance(parts, (tuple, list)):
        return parts
    try:
        return tuple(ipaddress.ip_network(part) for part in parts)
    except ValueError as error:
        raise ValueError(f"{error}; write addresses or networks, such as 10.0.0.5 or 10.0.0.0/8") from None


class FetchSettings(BaseModel):
    """Where images of items that are named by address may come from.

    fetch_hosts: hosts whose URLs are fetched: exact names, or ``*.example.org`` for every name below one, each with a
        port where it is not that of the scheme. None are by default, so no URL is fetched.
    fetch_http: whether ``http://`` URLs are fetched, too.
    fetch_networks: networks that are not public and may be called all the same, such as ``10.1.0.0/16``.
    fetch_timeout_s: for one item, from its name's look-up to its last byte, redirects included.
    fetch_concurrency: items of all calls that are fetched at once.
    buckets_file: a YAML file of the buckets whose objects are read; none are without it.
    """

    fetch_hosts: Annotated[tuple[str, ...], BeforeValidator(_hosts)] = ()
    fetch_http: bool = False
    fetch_networks: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = ()
    fetch_timeout_s: float = Field(default=20.0, gt=0)
    fetch_concurrency: int = Field(default=16, ge=1)
    buckets_file: Path | None = None
