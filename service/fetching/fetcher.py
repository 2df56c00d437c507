"""Items that are named by address: their images are fetched before anything is computed, each failure one item's."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import anyio
from starlette.requests import ClientDisconnect

from manyeyes.errors import FetchFailed, ItemError, RequestTooLarge
from manyeyes.service.fetching.buckets import Buckets, read_object
from manyeyes.service.fetching.web import Hold, LookUp, Web, WebSession, look_up
from manyeyes.service.settings import ServiceSettings
from manyeyes.types import Item

Row: TypeAlias = tuple[str, "Item | ItemError"]

_GONE_EVERY_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Address:
    """Where the image of an item is. It stands in the item's ``image`` until it is fetched; nothing can decode it."""

    kind: Literal["url", "object"]
    text: str

    @property
    def file_name(self) -> str | None:
        """The last part of the path, if there is one."""
        path = self.text.partition("#")[0].partition("?")[0] if self.kind == "url" else self.text
        return path.partition("://")[2].partition("/")[2].rpartition("/")[2] or None


def address_of(read: Item | ItemError) -> Address | None:
    """Return where the image of an item is to be fetched from, or None."""
    image: Any = read.image if isinstance(read, Item) else None
    return image if isinstance(image, Address) else None


class Fetcher:
    """Fetches what the items of calls name, from the hosts and buckets that the operator named.

    look_up, tls: see Web. Raises InvalidSettings if the file of buckets cannot be used.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        look_up: LookUp = look_up,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._web = Web(settings, look_up=look_up, tls=tls)
        self._buckets = Buckets.load(settings.buckets_file)
        self._places = anyio.Semaphore(settings.fetch_concurrency)
        # So that one call with many slow addresses leaves places to the others.
        self._a_call = max(1, settings.fetch_concurrency // 2)

    async def resolve_rows(
        self,
        rows: Sequence[Row],
        *,
        hold: Hold,
        is_gone: Callable[[], Awaitable[bool]],
    ) -> tuple[Row, ...]:
        """Return the rows with the bytes of every image that is named by address, or with what is wrong with it.

        hold: told of the bytes. is_gone: asked whether the caller has left, several times a second.
        Raises ClientDisconnect if so, and Overloaded if the service holds too much.
        """
        wanted: dict[Address, bytes | ItemError] = {}
        for _, read in rows:
            if address := address_of(read):
                wanted[address] = FetchFailed(
                    f"the items of this call could not all be fetched within {self._settings.body_timeout_s:g} s;"
                    " name fewer at once"
                )
        if not wanted:
            return tuple(rows)
        await self._fetch(wanted, hold, is_gone)
        return tuple((name, _filled(read, wanted)) for name, read in rows)

    async def _fetch(
        self, wanted: dict[Address, bytes | ItemError], hold: Hold, is_gone: Callable[[], Awaitable[bool]]
    ) -> None:
        waiting = iter(list(wanted))
        fatal: list[Exception] = []

        async def work(session: WebSession) -> None:
            for address in waiting:
                try:
                    async with self._places:
                        wanted[address] = await self._fetch_one(address, session, hold)
                except ItemError as error:
                    wanted[address] = error
                except RequestTooLarge as error:
                    wanted[address] = FetchFailed(f"this item does not fit into the call: {error}")
                except (
                    Exception
                ) as error:  # out of the group of tasks as itself, not inside an ExceptionGroup
                    fatal.append(error)
                    tasks.cancel_scope.cancel()

        async def watch() -> None:
            while not await is_gone():  # noqa: ASYNC110 - whether somebody left can only be asked
                await anyio.sleep(_GONE_EVERY_S)
            fatal.append(ClientDisconnect())
            tasks.cancel_scope.cancel()

        with anyio.move_on_after(self._settings.body_timeout_s):
            async with self._web.session() as session, anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                async with anyio.create_task_group() as workers:
                    for _ in range(min(self._a_call, len(wanted))):
                        workers.start_soon(work, session)
                tasks.cancel_scope.cancel()
        if fatal:
            raise fatal[0]

    async def _fetch_one(self, address: Address, session: WebSession, hold: Hold) -> bytes:
        max_bytes = int(self._settings.max_image_bytes)
        timeout_s = self._settings.fetch_timeout_s
        if address.kind == "url":
            url = self._web.check(address.text)
        else:
            bucket, key = self._buckets.find(address.text)
        try:
            with anyio.fail_after(timeout_s):
                if address.kind == "url":
                    return await session.get(url, max_bytes=max_bytes, hold=hold)
                return await read_object(bucket, key, max_bytes=max_bytes, hold=hold)
        except TimeoutError as error:
            raise FetchFailed(f"the item could not be fetched within {timeout_s:g} s") from error


def _filled(read: Item | ItemError, fetched: dict[Address, bytes | ItemError]) -> Item | ItemError:
    address = address_of(read)
    if address is None or not isinstance(read, Item):
        return read
    got = fetched[address]
    return got if isinstance(got, ItemError) else replace(read, image=got)
