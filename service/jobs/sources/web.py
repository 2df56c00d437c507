"""The web, for jobs: the service's own way there, which calls public addresses only, from threads instead of a server.

Over HTTP, a job may call the hosts that the operator lists (MANYEYES_FETCH_HOSTS), as a single call may. Whoever runs a
job from the shell is the operator: any host may be called, also by http://, but its addresses must be public or of a
network in MANYEYES_FETCH_NETWORKS all the same, because lists of addresses are often made by others.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import AsyncExitStack
from typing import Any, Final

import anyio
from pydantic import ValidationError

from manyeyes.errors import FetchFailed, InvalidSettings
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.fetching.urls import ANY_HOST
from manyeyes.service.fetching.web import Web, WebSession
from manyeyes.service.jobs.sources.places import Places

_AT_ONCE: Final = 8  # httpcore keeps ten connections, and waiting for one counts as waiting for the host


class WebReader:
    """Fetches by URL. Threads share it; it makes one of its own when it is first asked.

    settings: of an operator; None for whoever runs the job here.
    """

    def __init__(self, settings: FetchSettings | None) -> None:
        self._settings = settings if settings is not None else open_settings()
        self._web = Web(self._settings)
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stack = AsyncExitStack()
        self._session: WebSession | None = None
        self._opening = asyncio.Lock()

    def get(self, url: str, *, max_bytes: int) -> bytes:
        """Return what is at a URL. Raises an ItemError."""
        checked = self._web.check(url)
        loop = self._started()

        async def get() -> bytes:
            async with self._opening:
                if self._session is None:
                    self._session = await self._stack.enter_async_context(self._web.session())
                session = self._session
            try:
                with anyio.fail_after(self._settings.fetch_timeout_s):
                    return await session.get(checked, max_bytes=max_bytes, hold=lambda n: None)
            except TimeoutError as error:
                raise FetchFailed(
                    f"the item could not be fetched within {self._settings.fetch_timeout_s:g} s"
                ) from error

        with self._places:
            return asyncio.run_coroutine_threadsafe(get(), loop).result()

    def close(self) -> None:
        """Close its connections, end what is under way, and its thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = self._session = None
        if loop is None or thread is None:
            return

        async def end() -> None:
            # Whoever waits for one of these would wait for ever once the loop stands still.
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._stack.aclose()

        asyncio.run_coroutine_threadsafe(end(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="jobs-web", daemon=True)
                self._thread.start()
            return self._loop


def settings_for(places: Places, told: FetchSettings | None) -> FetchSettings | None:
    """Return which hosts may be called: as said, or as the operator says; None for whoever runs the job here."""
    if told is not None or places.buckets is None:
        return told
    # Without settings of an operator, nothing on the web is called for somebody else.
    return places.buckets.web or FetchSettings()


def open_settings() -> FetchSettings:
    """Return the settings of whoever runs a job on this machine. Raises InvalidSettings."""
    told: dict[str, Any] = {"fetch_networks": os.environ.get("MANYEYES_FETCH_NETWORKS", "")}
    if timeout_s := os.environ.get("MANYEYES_FETCH_TIMEOUT_S"):
        told["fetch_timeout_s"] = timeout_s
    try:
        settings = FetchSettings(**told)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise InvalidSettings(f"MANYEYES_{str(problem['loc'][0]).upper()}: {problem['msg']}") from None
    # Not something that an operator can write: no list of hosts means every host by accident.
    return settings.model_copy(update={"fetch_hosts": (ANY_HOST,), "fetch_http": True})
