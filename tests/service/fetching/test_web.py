"""Fetching by URL from real servers: what is checked, what is pinned, and how much is read."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from manyeyes.errors import AddressRefused, FetchFailed, ImageTooLarge, Overloaded, SourceNotFound
from manyeyes.service.errors import Refusal
from manyeyes.service.fetching.addresses import Address as NetworkAddress
from manyeyes.service.fetching.fetcher import Address, Fetcher
from manyeyes.service.settings import ServiceSettings
from manyeyes.types import Item
from tests.service.fetching.sites import Site, a_site, png


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site() as running:
        yield running


class Names:
    """A resolver whose answers may change with every question."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[NetworkAddress]:
        self.asked.append(host)
        told = self.answers[min(len(self.asked), len(self.answers)) - 1]
        return [ipaddress.ip_address(address) for address in told]


def fetch(
    urls: str | list[str],
    *,
    names: Names | None = None,
    tls: ssl.SSLContext | None = None,
    held: list[int] | None = None,
    allowed: int = 2**40,
    **settings: object,
) -> object:
    """Return what the image of an item, or of several, became."""
    made = ServiceSettings(
        **{"fetch_http": True, "fetch_networks": "127.0.0.1", "max_image_bytes": 2**20} | settings
    )

    counted = [] if held is None else held

    def hold(n_bytes: int) -> None:
        counted.append(n_bytes)
        if sum(counted) > allowed:
            raise Refusal(Overloaded("too much"))

    async def run() -> list[object]:
        more = {} if names is None else {"look_up": names}
        fetcher = Fetcher(made, tls=tls, **more)  # type: ignore[arg-type]

        async def is_gone() -> bool:
            return False

        told = [urls] if isinstance(urls, str) else urls
        rows = [(str(n), Item(str(n), image=Address("url", url))) for n, url in enumerate(told)]  # type: ignore[arg-type]
        resolved = await fetcher.resolve_rows(rows, hold=hold, is_gone=is_gone)
        return [read.image if isinstance(read, Item) else read for _, read in resolved]

    got = asyncio.run(run())
    return got[0] if isinstance(urls, str) else got


def test_without_hosts_nothing_is_fetched(site: Site) -> None:
    refused = fetch(f"http://127.0.0.1:{site.port}/red.png")
    assert isinstance(refused, AddressRefused)
    assert "MANYEYES_FETCH_HOSTS" in str(refused)
    assert site.asked == []


def test_an_image_is_fetched_with_its_own_host_and_nothing_is_told_of_us(site: Site) -> None:
    url = f"http://images.test:{site.port}"
    names = Names(["127.0.0.1"])
    got = fetch(f"{url}/red.png?w=1#x", names=names, fetch_hosts=f"images.test:{site.port}")
    assert got == png()
    assert site.asked == [("/red.png?w=1", f"images.test:{site.port}")]
    assert names.asked == ["images.test"]


def test_each_failure_is_one_item(site: Site) -> None:
    url = f"http://127.0.0.1:{site.port}"
    site.turned["/moved"] = "/red.png"
    kinds = [
        type(one)
        for one in fetch(  # type: ignore[attr-defined]
            [f"{url}/red.png", f"{url}/none", f"{url}/fails", f"{url}/big", f"{url}/said", f"{url}/cut", f"{url}/gzip",
             f"{url}/loop", f"{url}/moved", "http://127.0.0.1:1/", "http://elsewhere.test/", "https://a@b/"],
            fetch_hosts=f"127.0.0.1:{site.port},127.0.0.1:1",
        )
    ]  # fmt: skip
    assert kinds == [
        bytes, SourceNotFound, FetchFailed, ImageTooLarge, ImageTooLarge, FetchFailed, FetchFailed, FetchFailed,
        bytes, FetchFailed, AddressRefused, AddressRefused,
    ]  # fmt: skip


def test_what_is_held_is_counted_and_given_back_on_failure(site: Site) -> None:
    url = f"http://127.0.0.1:{site.port}"
    held: list[int] = []
    fetch([f"{url}/red.png", f"{url}/big", f"{url}/cut"], fetch_hosts=f"127.0.0.1:{site.port}", held=held)
    assert sum(held) == len(png())
    assert max(sum(held[: n + 1]) for n in range(len(held))) <= 2**20 + len(png()) + 1
    with pytest.raises(Refusal):
        fetch([f"{url}/red.png"], fetch_hosts=f"127.0.0.1:{site.port}", allowed=10)


def test_one_address_is_fetched_once_in_a_call(site: Site) -> None:
    url = f"http://127.0.0.1:{site.port}/red.png"
    assert fetch([url] * 20, fetch_hosts=f"127.0.0.1:{site.port}") == [png()] * 20
    assert len(site.asked) == 1


def test_the_total_time_counts_and_not_that_of_one_read(site: Site) -> None:
    started = time.perf_counter()
    late = fetch(
        f"http://127.0.0.1:{site.port}/slow", fetch_hosts=f"127.0.0.1:{site.port}", fetch_timeout_s=0.5
    )
    assert isinstance(late, FetchFailed)
    assert time.perf_counter() - started < 2


def test_slow_items_do_not_hold_up_a_call_for_longer_than_a_body_may_take(site: Site) -> None:
    started = time.perf_counter()
    got = fetch(
        [f"http://127.0.0.1:{site.port}/slow?{n}" for n in range(40)],
        fetch_hosts=f"127.0.0.1:{site.port}",
        body_timeout_s=1,
    )
    assert all(isinstance(one, FetchFailed) for one in got)  # type: ignore[attr-defined]
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize(
    "answer",
    [
        ["10.0.0.1"],
        ["93.184.216.34", "127.0.0.2"],
        ["169.254.169.254"],
        ["::1"],
        ["64:ff9b::7f00:1"],
        ["ff02::1"],
    ],
)
def test_a_name_with_one_address_that_is_not_public_is_refused(site: Site, answer: list[str]) -> None:
    refused = fetch("http://images.test/", names=Names(answer), fetch_hosts="images.test")
    assert isinstance(refused, AddressRefused)
    assert answer[-1] not in str(refused)


def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    with a_site("127.0.0.2") as allowed, a_site("127.0.0.1") as inside:
        names = Names(["127.0.0.2"], ["127.0.0.1"])
        url = f"http://rebinds.test:{allowed.port}/red.png"
        hosts = f"rebinds.test:{allowed.port},rebinds.test:{inside.port}"
        assert fetch(url, names=names, fetch_hosts=hosts, fetch_networks="127.0.0.2") == png()
        assert names.asked == ["rebinds.test"]  # looked up once, so that there is nothing to change
        again = fetch(
            f"http://rebinds.test:{inside.port}/red.png",
            names=names,
            fetch_hosts=hosts,
            fetch_networks="127.0.0.2",
        )
        assert isinstance(again, AddressRefused)
        assert inside.asked == []


def test_each_hop_of_a_redirect_is_checked_again() -> None:
    with a_site("127.0.0.2") as allowed, a_site("127.0.0.1") as inside:
        hosts = f"images.test:{allowed.port},inside.test:{inside.port}"
        locations = [
            f"http://127.0.0.1:{inside.port}/red.png",
            f"http://inside.test:{inside.port}/red.png",
            f"//127.1:{inside.port}/",
            "http://169.254.169.254/latest/meta-data/",
            "file:///etc/passwd",
            f"http://images.test:{allowed.port}@127.0.0.1:{inside.port}/",
        ]

        class ByName(Names):
            async def __call__(self, host: str, port: int) -> list[NetworkAddress]:
                return [ipaddress.ip_address("127.0.0.2" if host == "images.test" else "127.0.0.1")]

        for location in locations:
            allowed.turned["/a"] = location
            refused = fetch(
                f"http://images.test:{allowed.port}/a",
                names=ByName(),
                fetch_hosts=hosts,
                fetch_networks="127.0.0.2",
            )
            assert isinstance(refused, AddressRefused), location
        assert inside.asked == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a server for images.test shows, and what trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "images.test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("images.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder: Path = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=folder / "cert.pem")


def test_tls_is_for_the_name_though_the_connection_is_to_a_number(
    authority: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    shown: list[str | None] = []
    server, trusting = authority
    server.sni_callback = lambda _socket, name, _context: shown.append(name)
    with a_site(tls=server) as site:
        names = Names(["127.0.0.1"])
        hosts = f"images.test:{site.port},other.test:{site.port}"
        url = f"https://images.test:{site.port}/red.png"
        assert fetch(url, names=names, tls=trusting, fetch_hosts=hosts, fetch_http=False) == png()
        assert shown == ["images.test"]
        wrong_name = fetch(
            f"https://other.test:{site.port}/red.png", names=names, tls=trusting, fetch_hosts=hosts
        )
        assert isinstance(wrong_name, FetchFailed)
        unknown_authority = fetch(url, names=names, fetch_hosts=hosts)
        assert isinstance(unknown_authority, FetchFailed)
        assert len(site.asked) == 1


def test_plain_http_has_to_be_allowed(site: Site) -> None:
    refused = fetch(
        f"http://127.0.0.1:{site.port}/red.png", fetch_hosts=f"127.0.0.1:{site.port}", fetch_http=False
    )
    assert isinstance(refused, AddressRefused)
    assert site.asked == []


def test_proxies_of_the_environment_are_not_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_site() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        got = fetch(f"http://127.0.0.1:{site.port}/red.png", fetch_hosts=f"127.0.0.1:{site.port}")
        assert got == png()
        assert proxy.asked == []
