"""Objects of a bucket: calls that are tried again while it may help, and errors that say what to do."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, BinaryIO, Final, TypeVar

import obstore
from obstore import exceptions

from manyeyes.errors import NotFound, StorageFailed, StorageFull
from manyeyes.service.jobs.places.objects import Meta

log: Final = logging.getLogger("manyeyes.service.jobs")

_BASE_S: Final = 0.2
_MOST_S: Final = 10.0
_CHECK_S: Final = 3.0
"""How long a check is tried: longer than a slip, and short enough for who waits before the screen."""
_STOPPED_S: Final = 2.0
"""How long a call is tried by whom is told to stop: a last word should get over a slip, but not wait for an outage."""
_CHUNK_BYTES: Final = 8 * 2**20
_NAMES: Final = 100
"""Names that are taken from a listing at once; no more than in a page, or one page that fails loses others."""
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>|\"(?:code|reason)\": ?\"([A-Za-z]{1,60})\"")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_NO_BUCKET: Final = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_REDIRECT: Final = "redirect without LOCATION"
_ABSENT: Final = (exceptions.NotFoundError, FileNotFoundError)
_THERE: Final = (exceptions.AlreadyExistsError, exceptions.PreconditionError)
_PERMANENT: Final = (
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.UnknownConfigurationKeyError,
)
_AGAIN: Final = (408, 409, 423, 425, 429)

T = TypeVar("T")


class BucketPlace:
    """What is below a bucket's prefix.

    uri: its address. open_store: opens it, given obstore's ``retry_config``. patience_s: how long a call is tried.
    """

    def __init__(self, uri: str, open_store: Callable[[Any], Any], *, patience_s: float) -> None:
        self.uri = uri
        self._open_store = open_store
        self._patience_s = patience_s
        self.stop: threading.Event = threading.Event()  # replaced by whoever wants to end the waiting
        # What obstore tries again by itself goes on where it stopped: a page of a listing, the rest of a body.
        self._store = open_store({"max_retries": 3, "retry_timeout": timedelta(seconds=20)})

    def get(self, path: str) -> bytes:
        def get() -> bytes:
            got = obstore.get(self._store, path)
            data = got.bytes().to_bytes()
            if len(data) != got.meta["size"]:
                raise _Unlike(f"it ended after {len(data)} of {got.meta['size']} bytes")
            return data

        return self._do("read", path, get)

    def get_range(self, path: str, start: int, length: int) -> bytes:
        def get() -> bytes:
            return (
                obstore.get_range(self._store, path, start=start, length=length).to_bytes() if length else b""
            )

        return self._do("read", path, get)

    def put(self, path: str, data: bytes | BinaryIO, *, durable: bool = True) -> None:
        del durable  # a bucket always is

        def put() -> None:
            if not isinstance(data, bytes):
                data.seek(0)
            try:
                obstore.put(self._store, path, data, chunk_size=_CHUNK_BYTES)
            except _ABSENT as error:
                if any(word in str(error) for word in _NO_BUCKET):
                    raise
                # Of an upload in pieces that was completed by an earlier try, whose answer was lost.
                raise _Unlike("the upload that it belongs to is gone") from None

        self._do("write", path, put)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        del durable

        def create() -> bool:
            try:
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
            except _THERE:
                # It may be ours: the answer to an earlier try, of obstore's or of this one, may have been lost.
                try:
                    return self.get(path) == data
                except NotFound:
                    raise _Unlike("it is said to be there, but is not") from None
            return True

        return self._do("write", path, create)

    def copy(self, source: str, target: str) -> None:
        self._do("copy", source, lambda: obstore.copy(self._store, source, target))

    def delete(self, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), 1000):
            some = list(paths[start : start + 1000])
            try:
                self._delete(some)
            except NotFound:  # of stores that delete one by one, and stop at the first that is gone
                for path in some:
                    with contextlib.suppress(NotFound):
                        self._delete([path])

    def _delete(self, paths: list[str]) -> None:
        self._do("delete", paths[0], lambda: obstore.delete(self._store, paths))

    def head(self, path: str) -> Meta | None:
        try:
            return self._do("read", path, lambda: _meta(obstore.head(self._store, path)))
        except NotFound:
            return None

    def list(self, prefix: str) -> Iterator[Meta]:
        last: str | None = None
        pages: Iterator[Any] | None = None

        def next_page() -> list[Any] | None:
            nonlocal pages
            try:
                if pages is None:
                    pages = iter(obstore.list(self._store, prefix or None, offset=last, chunk_size=_NAMES))
                return next(pages, None)
            except BaseException:
                pages = None  # The next try goes on after the last name that was told.
                raise

        while (page := self._do("list", prefix, next_page)) is not None:
            for told in page:
                yield _meta(told)
            if page:
                last = page[-1]["path"]

    def check(self, *, write: bool) -> None:
        store = self._open_store({"max_retries": 1, "retry_timeout": timedelta(seconds=5)})
        self._do("list", "", lambda: next(iter(obstore.list(store, chunk_size=1)), None), patience_s=_CHECK_S)
        if not write:
            return
        path = f"_manyeyes/probe-{secrets.token_hex(8)}"

        def probe() -> None:
            with contextlib.suppress(*_THERE):  # an earlier try, whose answer was lost
                obstore.put(store, path, b"1", mode="create")

        self._do("write", path, probe, patience_s=_CHECK_S)
        try:
            if self.create(path, b"2"):
                raise StorageFailed(
                    f"{self.uri} does not honour `If-None-Match: *`: two writers can both create one object there, so"
                    " that rows could be lost. Write to another store, or to a folder"
                )
        finally:
            self.delete([path])

    def _do(self, what: str, path: str, call: Callable[[], T], *, patience_s: float | None = None) -> T:
        patience_s = self._patience_s if patience_s is None else patience_s
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                return call()
            except (NotFound, StorageFailed):
                raise
            except _ABSENT as error:
                if any(word in str(error) for word in _NO_BUCKET):
                    raise self._failed(what, path, error) from None
                raise NotFound(f"there is no {path!r} in {self.uri}") from None
            except (exceptions.BaseError, OSError, _Unlike) as error:
                told = str(error)
                waited = time.monotonic() - started
                if _lasting(error, told) or waited >= (_STOPPED_S if self.stop.is_set() else patience_s):
                    raise self._failed(what, path, error) from None
                log.warning("cannot %s %s of %s: %s; trying again", what, path, self.uri, _brief(error, told))
            # Full jitter, so that those whom one outage stopped do not all come back at once.
            pause_s = random.uniform(0, min(_MOST_S, _BASE_S * 2**attempt))
            pause_s = min(pause_s, max(0.0, patience_s - waited))
            if self.stop.is_set():
                time.sleep(min(pause_s, _STOPPED_S / 4))
            else:
                self.stop.wait(pause_s)
            attempt += 1

    def _failed(self, what: str, path: str, error: BaseException) -> StorageFailed:
        told = str(error)
        where = f"{path!r} of {self.uri}" if path else self.uri
        kind = StorageFull if "QuotaExceeded" in told or "status code: 507" in told else StorageFailed
        return kind(f"cannot {what} {where}: {_brief(error, told)}. {_advice(error, told)}")


class _Unlike(Exception):
    """An answer that cannot be; the next may be right."""


def _meta(told: Any) -> Meta:
    return Meta(told["path"], told["size"], told["e_tag"])


def _lasting(error: BaseException, told: str) -> bool:
    """Whether the next try would meet it, too."""
    if isinstance(error, _PERMANENT) or any(word in told for word in _NO_BUCKET):
        return True
    if any(word in told for word in ("169.254.169.254", "builder error", _REDIRECT)):
        return True
    status = _STATUS.search(told)
    return status is not None and 300 <= int(status[1]) < 500 and int(status[1]) not in _AGAIN


def _brief(error: BaseException, told: str) -> str:
    # Not the text itself: a store's answer may hold an account, and an address a signature.
    if isinstance(error, _Unlike):
        return told
    if _REDIRECT in told:
        return "it answers with a redirect"
    if "timed out" in told:
        return "no answer in time"
    if "error sending request" in told and "dns" in told:
        return "the name of the endpoint is not known"
    if "error sending request" in told:
        return "no connection"
    if "response body" in told:
        return "its answer broke off"
    code, status = _CODE.search(told), _STATUS.search(told)
    name = next((group for group in code.groups() if group), "") if code else ""
    parts = [f"status {status[1]}" if status else "", name]
    return " ".join(part for part in parts if part) or type(error).__name__


def _advice(error: BaseException, told: str) -> str:
    if any(word in told for word in _NO_BUCKET):
        return "There is no such bucket: check its name, the endpoint (AWS_ENDPOINT_URL) and whose account it is in"
    if "RequestTimeTooSkewed" in told:
        return "The clock of this machine is wrong: set it"
    if "ExpiredToken" in told or "TokenRefreshRequired" in told:
        return "The credentials have expired: renew them, and run the same job again: it goes on where it stopped"
    if "169.254.169.254" in told or isinstance(error, exceptions.UnauthenticatedError):
        return (
            "No credentials were found, or they are wrong: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (gs:"
            " GOOGLE_APPLICATION_CREDENTIALS, az: AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY), or"
            " AWS_SKIP_SIGNATURE=true for a public bucket"
        )
    status = _STATUS.search(told)
    # Of a listing, obstore tells a refusal by its status alone.
    if isinstance(error, exceptions.PermissionDeniedError) or (
        status is not None and status[1] in ("401", "403")
    ):
        return "The credentials are wrong, or may not list, read, write and delete there: check them and its policy"
    if "dns error" in told or "onnection refused" in told or "error sending request" in told:
        return "The store does not answer: check the endpoint (AWS_ENDPOINT_URL), the region and the network"
    if _REDIRECT in told:
        return "The bucket is in another region: set AWS_REGION"
    return "Run the same job again once the store works: it goes on where it stopped"
