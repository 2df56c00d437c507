"""Which addresses may be called for a stranger: IANA's special ones may not, in whatever form they are written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.service.fetching.addresses import may_call

REFUSED = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1",
    "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::a9fe:a9fe", "64:ff9b::5db8:d822", "64:ff9b:1::a9fe:a9fe", "100::1", "2001::1", "2001:0:7f00:1::",
    "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:a9fe:a9fe::1", "2002:7f00:1::1", "3fff::1",
    "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1", "2a00::1%1", "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip
PUBLIC = [
    "93.184.216.34",
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "::ffff:8.8.8.8",
    "2a00:1450::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not may_call(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_may_be_called(address: str) -> None:
    assert may_call(ipaddress.ip_address(address))


@given(st.ip_addresses())
def test_nothing_passes_that_python_calls_private(address: ipaddress.IPv4Address) -> None:
    if may_call(address):
        # An IPv4 address in an IPv6 one is called as what it is.
        address = getattr(address, "ipv4_mapped", None) or address
        assert address.is_global
        assert not (
            address.is_multicast or address.is_reserved or address.is_loopback or address.is_link_local
        )


def test_the_operator_opens_networks_and_no_more() -> None:
    also = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/64")]
    parse = ipaddress.ip_address
    assert may_call(parse("10.1.2.3"), also)
    assert may_call(parse("::ffff:10.1.2.3"), also)
    assert may_call(parse("fd00::5"), also)
    assert not may_call(parse("10.2.0.1"), also)
    assert not may_call(parse("fe80::1%1"), [ipaddress.ip_network("fe80::/10")])
