"""Images by URL: from listed hosts only, over a connection to an address that was checked, no more than may be held.

A name is looked up once for each connection. All its addresses must be public, and the connection is made to one of
them as a number, so that a name which changes its mind between the check and the call gains nothing. The name itself
stays in the Host header and in TLS. Each hop of a redirect goes the same way, from the list of hosts on.
"""

from __future__ import annotations

import io
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import anyio.to_thread
import httpcore
import httpx

from manyeyes import __version__
from manyeyes.errors import AddressRefused, FetchFailed, ImageTooLarge, SourceNotFound
from manyeyes.service.access.settings import Network
from manyeyes.service.fetching.addresses import Address, may_call
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.fetching.urls import Url, is_listed, parse_url, redirected

log: Final = logging.getLogger("manyeyes.service.fetching")

Hold: TypeAlias = Callable[[int], None]
"""Told how many more bytes are held, or fewer; raises where they are too many."""
LookUp: TypeAlias = Callable[[str, int], Awaitable[Sequence[Address]]]

MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_CONNECT_TIMEOUT_S: Final = 5.0
_TRIED_ADDRESSES: Final = 3


async def look_up(host: str, port: int) -> list[Address]:
    """Return the addresses of a name, each once. Raises OSError if there are none."""
    # Abandoned on a time-out: the system's resolver cannot be interrupted.
    found = await anyio.to_thread.run_sync(
        lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), abandon_on_cancel=True
    )
    return list(dict.fromkeys(ipaddress.ip_address(told[4][0]) for told in found))


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Where every connection is made: to an address that may be called, and to no other."""

    def __init__(self, networks: Sequence[Network], look_up: LookUp) -> None:
        self._networks = networks
        self._look_up = look_up
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._addresses(host, port)
        failure: Exception | None = None
        for address in addresses[:_TRIED_ADDRESSES]:
            try:
                stream = await self._plain.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                failure = error
                continue
            return stream
        raise failure or httpcore.ConnectError("no address")

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        try:
            addresses: Sequence[Address] = [ipaddress.ip_address(host)]
        except ValueError:
            try:
                addresses = await self._look_up(host, port)
            except (OSError, UnicodeError, ValueError) as error:
                raise FetchFailed(f"there is no address of the name {host!r}") from error
        if not all(may_call(address, self._networks) for address in addresses):
            # Not which: what names mean inside the operator's network is nobody else's business.
            raise AddressRefused(
                f"{host!r} has an address that is not public; the operator can allow its network with"
                " MANYEYES_FETCH_NETWORKS"
            )
        return addresses

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise AddressRefused("sockets of this machine are not called")

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Web:
    """Fetches by URL.

    look_up: how names become addresses. tls: whom to trust; by default the authorities that certifi lists.
    """

    def __init__(
        self, settings: FetchSettings, *, look_up: LookUp = look_up, tls: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings
        self._network = _CheckedNetwork(settings.fetch_networks, look_up)
        self._tls = tls

    @asynccontextmanager
    async def session(self) -> AsyncIterator[WebSession]:
        """Keep connections open for the items of one call, and never for another one's."""
        if self._tls is None:
            # Not from the environment, which could name proxies and authorities for other programs.
            self._tls = await anyio.to_thread.run_sync(lambda: httpx.create_ssl_context(trust_env=False))
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._tls, network_backend=self._network, retries=0, http2=False
        ) as pool:
            yield WebSession(pool, self._settings)

    def check(self, text: str) -> Url:
        """Return a URL that may be fetched, as far as that is known without looking up its name.

        Raises AddressRefused.
        """
        return _checked(parse_url(text), self._settings)


class WebSession:
    """The connections of one call."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, settings: FetchSettings) -> None:
        self._pool = pool
        self._settings = settings

    async def get(self, url: Url, *, max_bytes: int, hold: Hold) -> bytes:
        """Return what is at a checked URL. Raises an ItemError, and whatever ``hold`` raises."""
        for _ in range(MAX_REDIRECTS + 1):
            got = await self._get_one(url, max_bytes, hold)
            if isinstance(got, bytes):
                return got
            url = _checked(redirected(url, got), self._settings)
        raise FetchFailed(f"the URL redirects more than {MAX_REDIRECTS} times")

    async def _get_one(self, url: Url, max_bytes: int, hold: Hold) -> bytes | str:
        """Return the body at a URL, or where it redirects to."""
        timeout = {"connect": _CONNECT_TIMEOUT_S} | dict.fromkeys(
            ("read", "write", "pool"), self._settings.fetch_timeout_s
        )
        try:
            async with self._pool.stream(
                "GET",
                httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target),
                headers=[
                    (b"Host", url.authority.encode()),
                    (b"Accept", b"image/*, */*;q=0.1"),
                    (b"Accept-Encoding", b"identity"),
                    (b"User-Agent", f"manyeyes/{__version__}".encode()),
                ],
                extensions={"timeout": timeout},
            ) as response:
                headers = {name.lower(): value for name, value in response.headers}
                if response.status in _REDIRECTS and b"location" in headers:
                    return headers[b"location"].decode("latin-1")
                _check_answer(response.status, headers, max_bytes)
                return await _body(response, max_bytes, hold)
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            if isinstance(error, (AddressRefused, FetchFailed)):  # these are OSErrors, too
                raise
            log.info("%s cannot be fetched", url, exc_info=error)
            raise FetchFailed(
                f"{url.host} cannot be reached, or broke off: {type(error).__name__}"
            ) from error


def _checked(url: Url, settings: FetchSettings) -> Url:
    if not settings.fetch_hosts:
        raise AddressRefused(
            "this service fetches no URLs: its operator lists no hosts in MANYEYES_FETCH_HOSTS. Send the bytes of the"
            " file as `image`"
        )
    if url.scheme == "http" and not settings.fetch_http:
        raise AddressRefused("http:// is not fetched here; use https://")
    if not is_listed(url, settings.fetch_hosts):
        raise AddressRefused(
            f"{url.authority!r} is not one of the hosts that this service may fetch from"
            " (MANYEYES_FETCH_HOSTS); send the bytes of the file as `image`"
        )
    return url


def _check_answer(status: int, headers: dict[bytes, bytes], max_bytes: int) -> None:
    if status in (404, 410):
        raise SourceNotFound(f"nothing is at the URL (status {status})")
    if status != 200:
        raise FetchFailed(f"the URL answers with status {status}")
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise FetchFailed(
            f"the URL answers with Content-Encoding {ascii(encoding.decode('latin-1'))[:40]}, which was not asked for"
        )
    told = headers.get(b"content-length", b"").strip()
    if told.isdigit() and (len(told) > 18 or int(told) > max_bytes):
        raise ImageTooLarge(
            f"the file at the URL has {told[:24].decode()} bytes; at most {max_bytes} are allowed"
        )


async def _body(response: httpcore.Response, max_bytes: int, hold: Hold) -> bytes:
    data = io.BytesIO()  # whose value is no copy
    n_bytes = 0
    try:
        async for chunk in response.aiter_stream():
            if n_bytes + len(chunk) > max_bytes:
                raise ImageTooLarge(f"the file at the URL has more than {max_bytes} bytes")
            n_bytes += len(chunk)
            hold(len(chunk))
            data.write(chunk)
    except BaseException:
        hold(-n_bytes)
        raise
    return data.getvalue()
