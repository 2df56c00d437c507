"""Which network addresses may be called on behalf of a stranger: those of the public internet, and of no other kind.

``ipaddress.is_global`` alone is not enough: what it says differs between versions of Python, and some say yes to
multicast and to IPv6 forms that carry an IPv4 address inside. The lists below are IANA's registries of special-purpose
addresses (https://www.iana.org/assignments/iana-ipv4-special-registry, …-ipv6-special-registry).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final, TypeAlias

from manyeyes.service.access.settings import Network

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NOT_PUBLIC_V4: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers (CGNAT); some clouds keep their metadata here
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is metadata at one cloud
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_PUBLIC_V6: Final = ipaddress.ip_network("2000::/3")
"""All that is handed out. Outside are loopback, IPv4-mapped and -compatible, NAT64, unique-local, link-local, …"""
_NOT_PUBLIC_V6: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks, AMT, …
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address inside
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)


def may_call(address: Address, also: Sequence[Network] = ()) -> bool:
    """Return whether an address may be called for a stranger: it is public, or in a network that the operator named.

    An IPv4 address that is written as an IPv6 one (``::ffff:10.0.0.1``) is judged as what it is.

    >>> parse = ipaddress.ip_address
    >>> [may_call(parse(told)) for told in ("93.184.216.34", "10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe")]
    [True, False, False, False]
    >>> may_call(parse("10.0.0.1"), [ipaddress.ip_network("10.0.0.0/24")])
    True
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False  # meant for one interface of this machine
        if address.ipv4_mapped is not None:
            return may_call(address.ipv4_mapped, also)
    if any(address in network for network in also):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
