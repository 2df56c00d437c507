"""URLs with one meaning pass, and those that two programs could read differently do not."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.errors import AddressRefused, InvalidSettings
from manyeyes.service.fetching.urls import is_listed, parse_url, redirected
from manyeyes.service.settings import ServiceSettings

HOSTILE = [
    "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://0x7f.1/",
    "http://127.0.0.0x1/", "http://1.2.3.4.5/", "http://0/", "http://127.0.0.1./", "http://example.org./",
    "http://example.org@127.0.0.1/", "http://127.0.0.1@example.org/", "http://a:b@example.org/", "http://@example.org/",
    "http://example.org\\@127.0.0.1/", "http://example.org\\.evil.net/", "http://example.org%2f@127.0.0.1/",
    "http://example.org%00.evil.net/", "http://example.org\x00/", "http://example.org/\r\nHost: evil",
    "http://example.org/\nX: y", "http://exa\tmple.org/", " http://example.org/", "http://example.org/ x",
    "http://ⓔxample.org/", "http://①②⑦.⓪.⓪.①/", "http://example。org/", "http://bücher.example/",
    "http://[::1%25eth0]/", "http://[fe80::1%1]/", "http://[::1/", "http://::1/", "http://[::ffff:127.0.0.1]x/",
    "http://[1::2::3]/", "http://[127.0.0.1]/", "http://example.org:0/", "http://example.org:99999/",
    "http://example.org:080/", "http://example.org:/", "http://example.org:80:80/", "http://example.org:8o/",
    "http:///a", "http:/example.org/a", "http:example.org", "//example.org/a", "example.org/a", "https://",
    "file:///etc/passwd", "ftp://example.org/a", "gopher://example.org/_x", "data:image/png;base64,AA==",
    "javascript:alert(1)", "http+unix://%2Fvar%2Frun/x", "http://-example.org/", "http://example..org/",
    "http://.example.org/", "http://" + "a" * 64 + ".org/", "http://" + "a." * 130 + "org/", "https://a/" + "x" * 5000,
    "http://example.org,evil.net/", "http://example.org;evil/", "http://$HOST/", "http://*.example.org/", "",
]  # fmt: skip


@pytest.mark.parametrize("url", HOSTILE)
def test_what_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://Example.ORG", "https://example.org/"),
        ("HTTP://example.org:80/a?b=c#d", "http://example.org/a?b=c"),
        ("https://example.org:8443?x", "https://example.org:8443/?x"),
        ("https://93.184.216.34/a", "https://93.184.216.34/a"),
        ("https://[2A00:1450:0:0::1]:8443/a", "https://[2a00:1450::1]:8443/a"),
        ("https://xn--bcher-kva.example/%C3%BC.jpg", "https://xn--bcher-kva.example/%C3%BC.jpg"),
        ("https://a_b.example.org/@x:y", "https://a_b.example.org/@x:y"),
    ],
)
def test_what_has_one_meaning_is_read(url: str, told: str) -> None:
    assert str(parse_url(url)) == told


@given(st.text(alphabet="htps:/[]@.%\\#?0127xf:e aÅ\t\r\n", max_size=40))
def test_what_passes_means_the_same_to_the_standard_library(tail: str) -> None:
    try:
        url = parse_url("http://" + tail)
    except AddressRefused:
        return
    other = urlsplit("http://" + tail)
    assert (other.hostname, other.port or 80, other.username) == (url.host, url.port, None) or (
        # an IPv6 address is written in its shortest form here
        ipaddress.ip_address(other.hostname or "") == ipaddress.ip_address(url.host)
    )


def test_hosts_are_listed_by_name_and_port() -> None:
    hosts = ServiceSettings(
        fetch_hosts="Example.org, *.example.net,example.com:8443,[2A00::1],8.8.8.8"
    ).fetch_hosts
    assert hosts == ("example.org", "*.example.net", "example.com:8443", "[2a00::1]", "8.8.8.8")
    for url in ("https://example.org/", "http://example.org/", "https://a.example.net", "https://example.com:8443",
                "https://[2a00::1]/", "https://8.8.8.8/"):  # fmt: skip
        assert is_listed(parse_url(url), hosts), url
    for url in ("https://example.org:8443", "https://www.example.org", "https://example.net", "https://example.com",
                "https://badexample.net", "https://example.org.evil.net", "https://[2a00::2]/", "https://8.8.4.4/",
                "http://example.org:443/"):  # fmt: skip
        assert not is_listed(parse_url(url), hosts), url


@pytest.mark.parametrize(
    "hosts", ["*", "*.", "a.*.org", "http://example.org", "example.org/a", "a b", "[::1%1]", "a:0"]
)
def test_a_host_that_is_none_cannot_be_listed(hosts: str) -> None:
    with pytest.raises(InvalidSettings, match="fetch_hosts"):
        ServiceSettings(fetch_hosts=hosts)


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("/b", "https://example.org/b"),
        ("b.jpg", "https://example.org/x/b.jpg"),
        ("//other.org/c", "https://other.org/c"),
        ("http://10.0.0.1/", "http://10.0.0.1/"),
    ],
)
def test_redirects_lead_where_browsers_go(location: str, told: str) -> None:
    assert str(redirected(parse_url("https://example.org/x/a.jpg"), location)) == told


@pytest.mark.parametrize(
    "location", ["", "file:///etc/passwd", "//a@b/", "/a\r\nb", "\\\\evil", "http://0x7f.1/", "//[::1"]
)
def test_a_redirect_is_read_as_strictly(location: str) -> None:
    with pytest.raises(AddressRefused):
        redirected(parse_url("https://example.org/x/a.jpg"), location)
