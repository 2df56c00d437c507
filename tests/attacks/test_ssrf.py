"""Somebody has the service call what only it can reach. Nothing inside is called, whatever the address looks like."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import Victim, picture
from tests.service.fetching.sites import Site

# What is not public, as a name says it: addresses of this machine, of networks around it, of clouds' metadata.
V4 = ["127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
      "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1",
      "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"]  # fmt: skip
V6 = ["--1", "--", "--ffff-127-0-0-1", "--7f00-1", "64-ff9b--a9fe-a9fe", "64-ff9b--7f00-1", "64-ff9b-1--a00-1",
      "2002-a9fe-a9fe--1", "2002-7f00-1--", "2001-0-7f00-1--", "2001-db8--1", "fc00--1", "fd00-ec2--254", "fe80--1",
      "fec0--1", "ff02--1", "ff0e--1", "100--1", "5f00--1", "3fff--1"]  # fmt: skip


def hosts_that_mean_this_machine(port: int) -> list[str]:
    """Return spellings of 127.0.0.1 that one program or another reads as such."""
    return [
        "localhost", "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1",
        "017700000001", "0", "0.0.0.0", "127.0.0.1.", "127.000.000.001", "[::1]", "[::]", "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]", "[::127.0.0.1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]",
        "[::1%25lo]", "[::1%lo]", "①②⑦.⓪.⓪.①", "127。0。0。1", "ｌocalhost", "%31%32%37.0.0.1", "127.0.0.1%00.test",
        "a.test@127.0.0.1", "127.0.0.1#@a.test", "127.0.0.1?@a.test", "a.test:80@127.0.0.1", "a.test\\@127.0.0.1",
        "127.0.0.1\\.a.test", "a.test\t@127.0.0.1", f"127.0.0.1:{port}#.test", f"127.0.0.1:{port}/.test",
        "to-127-0-0-1.test", "TO-127-0-0-1.TEST", "to-127-0-0-1.test.",
    ]  # fmt: skip


def urls_with(port: int) -> list[str]:
    return [f"http://{host}:{port}/red.png" for host in hosts_that_mean_this_machine(port)]


def other_schemes(port: int) -> list[str]:
    return [
        "file:///etc/passwd", "file://a.test/etc/passwd", f"gopher://127.0.0.1:{port}/_GET%20/", "ftp://a.test/x",
        "dict://a.test:11211/stat", "jar:http://a.test!/", "data:image/png;base64,AAAA", "unix:///var/run/docker.sock",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "//a.test/", "/etc/passwd", "http:/a.test", "http:a.test",
    ]  # fmt: skip


def test_what_is_allowed_is_fetched(victim: Victim, allowed: Site) -> None:
    with victim.costs_little():
        assert victim.codes({"url": f"http://to-127-0-0-2.test:{allowed.port}/red.png"}) == [None]


def test_names_of_what_is_inside(victim: Victim, inside: Site) -> None:
    names = ["to-" + address.replace(".", "-") for address in V4] + [f"six-{address}" for address in V6]
    with victim.costs_little():
        codes = victim.codes(*[{"url": f"http://{name}.test:{inside.port}/red.png"} for name in names])
    assert codes == ["address_refused"] * len(names)
    assert inside.asked == []


def test_spellings_of_this_machine(victim: Victim, inside: Site) -> None:
    with victim.costs_little():
        codes = victim.codes(*[{"url": url} for url in urls_with(inside.port)])
    assert set(codes) == {"address_refused"}
    assert inside.asked == []


def test_other_schemes(victim: Victim, inside: Site) -> None:
    with victim.costs_little():
        codes = victim.codes(*[{"url": url} for url in other_schemes(inside.port)])
    assert set(codes) == {"address_refused"}
    assert inside.asked == []


def test_names_that_change_their_mind(victim: Victim, inside: Site, allowed: Site) -> None:
    n_before = len(allowed.asked)
    with victim.costs_little():
        for n in range(5):
            name = f"then-127-0-0-2-127-0-0-1-{n}.test"
            # The first answer is allowed, and what is fetched comes from it, though another one would follow at once.
            assert victim.codes({"url": f"http://{name}:{allowed.port}/red.png"}) == [None]
            # Asked anew, the name leads inside, and is refused.
            assert victim.codes({"url": f"http://{name}:{inside.port}/red.png"}) == ["address_refused"]
            assert victim.codes({"url": f"http://then-127-0-0-1-127-0-0-2-{n}.test:{inside.port}/"}) == [
                "address_refused"
            ]
    assert len(allowed.asked) == n_before + 5
    assert inside.asked == []


def test_redirects(victim: Victim, inside: Site, allowed: Site) -> None:
    locations = [
        *urls_with(inside.port), *other_schemes(inside.port)[:8], f"//127.0.0.1:{inside.port}/red.png",
        f"http://to-127-0-0-1.test:{inside.port}/red.png", "http://to-169-254-169-254.test/latest/meta-data/",
        f"http://then-127-0-0-1-127-0-0-2-r.test:{inside.port}/red.png", "http://six---1.test/",
        f"http://127.0.0.2:{allowed.port}/red.png",  # may be called, but is no host of the list
    ]  # fmt: skip
    sent = []
    for n, location in enumerate(locations):
        if location.isascii() and location.isprintable():  # what a server can say in a header
            allowed.turned[f"/turn{n}"] = location
            sent.append({"url": f"http://to-127-0-0-2.test:{allowed.port}/turn{n}"})
    allowed.turned["/twice"] = f"http://to-127-0-0-2.test:{allowed.port}/once"
    allowed.turned["/once"] = f"http://to-127-0-0-1.test:{inside.port}/red.png"
    sent.append({"url": f"http://to-127-0-0-2.test:{allowed.port}/twice"})
    with victim.costs_little():
        codes = victim.codes(*sent)
        assert victim.codes({"url": f"http://to-127-0-0-2.test:{allowed.port}/loop"}) == ["fetch_failed"]
    # Some spellings are a path to a browser, and lead back to the server itself, which has no such thing.
    assert set(codes) <= {"address_refused", "source_not_found"}
    assert codes.count("source_not_found") <= 3
    assert inside.asked == []


def test_servers_that_take_their_time_and_send_no_end(victim: Victim, allowed: Site) -> None:
    url = f"http://to-127-0-0-2.test:{allowed.port}"
    with victim.costs_little():
        codes = victim.codes(
            *[{"url": f"{url}/slow?{n}"} for n in range(6)],
            {"url": f"{url}/said"}, {"url": f"{url}/cut"}, {"url": f"{url}/gzip"},
        )  # fmt: skip
    assert codes == ["fetch_failed"] * 6 + ["image_too_large", "fetch_failed", "fetch_failed"]


def test_a_body_without_end_is_cut_off(victim: Victim, allowed: Site) -> None:
    with victim.costs_little():
        codes = victim.codes({"url": f"http://to-127-0-0-2.test:{allowed.port}/big"})
    assert codes[0] in ("image_too_large", "undecodable_image", "unsupported_format", "fetch_failed")


@pytest.mark.parametrize(
    "object_",
    [
        "s3://bucket/a",
        "file:///etc/passwd",
        "memory:///a",
        "http://127.0.0.1/a",
        "s3://../../etc/passwd",
        "/etc/passwd",
    ],
)
def test_no_bucket_that_nobody_named(victim: Victim, object_: str) -> None:
    with victim.costs_little():
        assert victim.codes({"object": object_}) == ["address_refused"]


def test_headers_cannot_be_smuggled_in(victim: Victim, allowed: Site) -> None:
    n_before = len(allowed.asked)
    base = f"http://to-127-0-0-2.test:{allowed.port}"
    tried = [
        "/\r\nX: y",
        "/\nGET /x HTTP/1.1",
        "/ HTTP/1.1\r\nHost: a",
        "/\x00",
        "/\u010d\u010a",
        "/a b",
        "/é",
    ]
    with victim.costs_little():
        codes = victim.codes(*[{"url": base + path} for path in tried])
    assert set(codes) == {"address_refused"}
    assert len(allowed.asked) == n_before


def test_an_item_has_one_source(victim: Victim) -> None:
    assert victim.codes({"url": "http://a.test/", "image": picture()}) == ["invalid_item"]
    assert victim.codes({"url": "http://a.test/", "object": "s3://a/b"}) == ["invalid_item"]
    assert victim.codes({"url": ["http://a.test/"]}, {"url": 7}, {"url": ""}) == ["invalid_item"] * 3
