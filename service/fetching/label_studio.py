"""Images that Label Studio holds itself, fetched with the operator's access token from the operator's address alone.

Tasks name uploaded files by path (``/data/upload/…``). The path comes from outside; the origin and the token do not,
and the token goes nowhere else: a redirect is not followed here, but handed back, to be fetched as any other URL.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

import anyio
import httpx

from manyeyes import __version__
from manyeyes.errors import AddressRefused, FetchFailed, ImageTooLarge, SourceNotFound
from manyeyes.service.fetching.web import Hold

# Where Label Studio keeps files; printable ASCII without backslashes.
_PATH: Final = re.compile(r"/(?:data|storage-data|tasks|projects)/[!-\[\]-~]*")
_DOTS: Final = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_ACCESS_S: Final = 120.0
"""How long a short-lived access token is used; Label Studio's live five minutes."""


class LabelStudioFiles:
    """Fetches files of a Label Studio server.

    origin: its address, such as ``https://labels.example.org``. key: an access token of one of its users, a legacy one
    or a personal one. max_bytes, timeout_s: of one file.
    """

    def __init__(self, origin: str, key: str | None, *, max_bytes: int, timeout_s: float) -> None:
        self._origin = origin
        self._key = key
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._access: tuple[float, str] | None = None

    async def get(self, path: str, *, hold: Hold) -> bytes | str:
        """Return the bytes of a file, or the URL that it is to be fetched from instead.

        path: from the root of the server, with its query. hold: told of the bytes.
        Raises AddressRefused, SourceNotFound, ImageTooLarge or FetchFailed.
        """
        if not _PATH.fullmatch(path) or _DOTS.search(path.partition("?")[0]):
            raise AddressRefused(
                "this is no path of a file in Label Studio, such as /data/upload/1/photo.jpg"
            )
        try:
            with anyio.fail_after(self._timeout_s):
                async with httpx.AsyncClient(
                    trust_env=False,
                    follow_redirects=False,
                    timeout=self._timeout_s,
                    headers={"User-Agent": f"manyeyes/{__version__}", "Accept-Encoding": "identity"},
                ) as http:
                    return await self._get(http, path, hold)
        except TimeoutError as error:
            raise FetchFailed(f"Label Studio did not send the file within {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise FetchFailed(f"Label Studio did not send the file: {type(error).__name__}") from error

    async def _get(self, http: httpx.AsyncClient, path: str, hold: Hold) -> bytes | str:
        headers = await self._headers(http)
        async with http.stream("GET", self._origin + path, headers=headers) as response:
            if response.status_code in _REDIRECTS:
                return str(httpx.URL(self._origin + path).join(response.headers.get("location", "")))
            if response.status_code in (401, 403):
                raise FetchFailed(
                    f"Label Studio answered {response.status_code}: the operator's MANYEYES_LABEL_STUDIO_KEY does not"
                    " open this file there"
                )
            if response.status_code in (404, 410):
                raise SourceNotFound("Label Studio has no such file")
            if response.status_code != 200:
                raise FetchFailed(f"Label Studio answered {response.status_code}")
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                hold(len(chunk))
                if len(data) > self._max_bytes:
                    raise ImageTooLarge(
                        f"the file holds more than the {self._max_bytes:,} bytes that an image may have"
                    )
            return bytes(data)

    async def _headers(self, http: httpx.AsyncClient) -> dict[str, str]:
        key = self._key
        if key is None:
            return {}
        if key.count(".") != 2:
            return {"Authorization": f"Token {key}"}
        # A personal access token (a JWT) opens nothing itself: it is exchanged for one that lives some minutes.
        if self._access is None or time.monotonic() - self._access[0] > _ACCESS_S:
            response = await http.post(f"{self._origin}/api/token/refresh/", json={"refresh": key})
            told: Any = response.json() if response.status_code == 200 else {}
            access = told.get("access") if isinstance(told, dict) else None
            if not isinstance(access, str):
                raise FetchFailed(
                    f"Label Studio answered {response.status_code} when the operator's MANYEYES_LABEL_STUDIO_KEY was to"
                    " be exchanged for an access token"
                )
            self._access = (time.monotonic(), access)
        return {"Authorization": f"Bearer {self._access[1]}"}
