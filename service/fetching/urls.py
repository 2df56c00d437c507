"""URLs from strangers, read so strictly that no two programs could read them differently.

What a browser would forgive is refused: user names, spaces and control characters, backslashes, numbers that stand for
addresses (``2130706433``, ``0x7f.1``, ``0177.0.0.1``), zones, names that are not ASCII. What is left has one meaning.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

from manyeyes.errors import AddressRefused

MAX_URL_CHARS: Final = 4096
ANY_HOST: Final = "*"
"""Listed, it lets any host be called. Settings refuse it: only who runs a job on this machine may do so."""
_PORTS: Final = {"http": 80, "https": 443}

_URL: Final = re.compile(r"(?i:(https?))://([^/?#]*)(/[^?#]*)?(\?[^#]*)?(?:#.*)?")
_PLAIN: Final = re.compile(r"[!-~]+")
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::([1-9][0-9]{0,4}))?")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in parts. host: in lower case, an IPv6 address without brackets. target: path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """What goes into the Host header: the port only where it is not that of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_url(text: str) -> Url:
    """Return a URL in parts. Raises AddressRefused if it is none, or written so that it could be read in two ways.

    >>> parse_url("https://Example.org:8443/a.jpg?w=2#top")
    Url(scheme='https', host='example.org', port=8443, target='/a.jpg?w=2')
    """
    if len(text) > MAX_URL_CHARS:
        raise AddressRefused(f"the URL has {len(text):,} characters; at most {MAX_URL_CHARS:,} are allowed")
    if not _PLAIN.fullmatch(text) or "\\" in text:
        raise AddressRefused(
            "a URL is written in printable ASCII without spaces and backslashes; percent-encode its path, and write"
            " a name with other letters as xn--…"
        )
    matched = _URL.fullmatch(text)
    if matched is None:
        raise AddressRefused(f"{_shown(text)} is not an http or https URL, such as https://example.org/a.jpg")
    scheme, authority, path, query = matched.groups()
    if "@" in authority:
        raise AddressRefused("a URL with a user name or a password in it is not fetched; leave them out")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise AddressRefused(
            f"{_shown(authority)} is not a host with an optional port, such as example.org:8443"
        )
    host, port = parts.groups()
    scheme = scheme.lower()
    if port is not None and int(port) > 65535:
        raise AddressRefused(f"there is no port {port}; ports go up to 65535")
    return Url(
        scheme=scheme,
        host=_host(host.lower()),
        port=_PORTS[scheme] if port is None else int(port),
        target=(path or "/") + (query or ""),
    )


def redirected(url: Url, location: str) -> Url:
    """Return where a redirect leads. Raises AddressRefused as ``parse_url`` does."""
    # urljoin would drop tabs and line ends without a word.
    if not _PLAIN.fullmatch(location):
        raise AddressRefused("a redirect of it leads to something that is no URL")
    try:
        return parse_url(urljoin(str(url), location))
    except ValueError as error:  # AddressRefused is none
        raise AddressRefused("a redirect of it leads to something that is no URL") from error


def is_listed(url: Url, hosts: Sequence[str]) -> bool:
    """Return whether a host, with its port, is one of those that the operator listed.

    >>> listed = ["example.org", "*.example.net", "example.com:8443"]
    >>> [is_listed(parse_url(told), listed) for told in ("https://example.org/a", "https://example.org:444/a")]
    [True, False]
    >>> [is_listed(parse_url(told), listed) for told in ("https://a.b.example.net", "https://example.net")]
    [True, False]
    """
    return any(_fits(url, host) for host in hosts)


def _fits(url: Url, listed: str) -> bool:
    if listed == ANY_HOST:
        return True
    name, colon, port = listed.rpartition(":") if not listed.endswith("]") else (listed, "", "")
    if not colon:
        name = listed
    if url.port != (int(port) if colon else _PORTS[url.scheme]):
        return False
    if name.startswith("*."):
        # An address has no names below it.
        return url.host.endswith(name[1:]) and not _is_address(url.host)
    return url.host == name.strip("[]")


def _host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise AddressRefused(f"{_shown(host)} is not an IPv6 address") from None
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressRefused(f"{_shown(host)} is not the name of a host")
    # https://url.spec.whatwg.org/#ends-in-a-number-checker: such a host is an IPv4 address in one of many spellings.
    if _NUMBER.fullmatch(labels[-1]) and not _is_address(host):
        raise AddressRefused(
            f"{_shown(host)} stands for an address, in an unusual spelling; write four decimal numbers"
        )
    return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 100 else text[:100] + "…")
