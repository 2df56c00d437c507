"""Where a call comes from: the peer of the connection, or what a proxy that the operator trusts says."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from manyeyes.service.access.settings import Network


def caller_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """Return the address of a caller.

    peer: the other end of the connection. forwarded_for: all of X-Forwarded-For. Each proxy appends whom it heard, so
    the list is read from the right, for as long as a trusted proxy says it: what stands further left could be written
    by anybody.

    >>> inside = [ipaddress.ip_network("10.0.0.0/8")]
    >>> caller_address("10.0.0.1", "6.6.6.6, 203.0.113.9, 10.0.0.2", inside)
    '203.0.113.9'
    >>> caller_address("203.0.113.9", "127.0.0.1", inside)
    '203.0.113.9'
    """
    address = peer
    for said in reversed([part.strip() for part in forwarded_for.split(",")]):
        if not said or not is_trusted(address, trusted):
            break
        parsed = _parsed(said)
        if parsed is None:
            break
        address = str(parsed)
    return address


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Return whether an address is that of a proxy that the operator trusts."""
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in trusted)


def counted_as(address: str) -> str:
    """Return what an address is counted under: an IPv6 caller has a whole /64 to itself.

    >>> [counted_as(address) for address in ("203.0.113.9", "2001:db8::1:2", "::ffff:203.0.113.9", "")]
    ['203.0.113.9', '2001:db8::/64', '203.0.113.9', '']
    """
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    host = address
    if host.startswith("["):  # [2001:db8::1]:443
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:  # 203.0.113.9:443
        host = host.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (getattr(parsed, "ipv4_mapped", None)) or parsed
