"""Objects in buckets that the operator named in the file of ``MANYEYES_BUCKETS_FILE``.

::

    photos:
      url: s3://acme-photos/2026          # callers may read what is below it, and nothing else
      region: eu-central-1
      endpoint: https://s3.example.org    # where it is not the provider's own
      credentials: {access_key_id: PHOTOS_KEY_ID, secret_access_key: PHOTOS_SECRET}
    open-images: {url: "gs://open-images", anonymous: true}

Credentials stand in the environment only: the file says in which variable. Without any, the machine's own are used.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from manyeyes.documents import read_document
from manyeyes.errors import (
    AddressRefused,
    FetchFailed,
    ImageTooLarge,
    InvalidRecipe,
    InvalidSettings,
    SourceNotFound,
)
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.fetching.web import Hold

if TYPE_CHECKING:
    from obstore.store import RetryConfig

log: Final = logging.getLogger("manyeyes.service.fetching")

MAX_OBJECT_CHARS: Final = 2048
_CHUNK_BYTES: Final = 2**20
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
_URL: Final = re.compile(r"(s3|gs|az)://([a-z0-9][a-z0-9._-]{1,254})((?:/[A-Za-z0-9_.=+-]+)*)")
_OBJECT: Final = re.compile(r"([a-z0-9]+)://([^/]*)/(.+)")
_NOT_IN_KEYS: Final = re.compile("[\x00-\x1f\x7f\\\\\ud800-\udfff]")

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
_STORES: Final[Mapping[str, Any]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_SECRETS: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": ("access_key_id", "secret_access_key", "session_token"),
    "gs": ("service_account_key",),
    "az": ("account_name", "account_key", "sas_key", "client_id", "client_secret", "tenant_id"),
}
_PLACES: Final[Mapping[str, str]] = {"s3": "endpoint", "gs": "base_url", "az": "endpoint"}


class Bucket(BaseModel):
    """A bucket, or what is below a prefix of one.

    url: s3, gs or az, the bucket (of az, the container), and a prefix. endpoint: where the provider's own is not meant.
    credentials: what the provider calls a credential → the environment variable that holds it. anonymous: send none.
    addressing: whether S3 expects the bucket's name in the path or in the name of the host. write: whether jobs of
    callers may write there, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str = Field(max_length=1000)
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]{1,40}$")
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$")
    credentials: dict[str, Variable] = Field(default_factory=dict)
    anonymous: bool = False
    addressing: Literal["path", "host"] = "path"
    write: bool = False

    @field_validator("url")
    @classmethod
    def _names_a_bucket(cls, url: str) -> str:
        if not _URL.fullmatch(url.removesuffix("/")) or {".", ".."} & set(url.split("/")):
            raise ValueError("must name a bucket of s3, gs or az, such as s3://photos or s3://photos/2026")
        return url

    @model_validator(mode="after")
    def _credentials_fit(self) -> Bucket:
        allowed = _SECRETS[self.scheme]
        for name, variable in self.credentials.items():
            if name not in allowed:
                raise ValueError(f"{self.scheme} has no credential {name!r}; there are {', '.join(allowed)}")
            if not os.environ.get(variable):
                raise ValueError(f"the environment variable {variable}, which is to hold {name}, is not set")
        if self.credentials and self.anonymous:
            raise ValueError("`anonymous` sends no credentials, so there can be none beside it")
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Not its store, which holds the credentials: another process has them in its own environment.
        return Bucket.model_validate, (self.model_dump(),)

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def root(self) -> str:
        """The URL with one slash at its end, below which objects are read."""
        return self.url.rstrip("/") + "/"

    @cached_property
    def store(self) -> Any:
        """What reads it."""
        return self.open("", retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=10)})

    def open(
        self, key: str, *, retry_config: RetryConfig, client_options: Mapping[str, Any] = MappingProxyType({})
    ) -> Any:
        """Return a store of what is below a key of it, with its credentials from the environment."""
        config: dict[str, Any] = {name: os.environ[variable] for name, variable in self.credentials.items()}
        if self.anonymous:
            config["skip_signature"] = True
        if self.region is not None and self.scheme == "s3":
            config["region"] = self.region
        if self.endpoint is not None:
            config[_PLACES[self.scheme]] = self.endpoint
        if self.scheme == "s3":
            config["virtual_hosted_style_request"] = self.addressing == "host"
        if (self.endpoint or "").startswith("http://"):
            client_options = {**client_options, "allow_http": True}
        return open_bucket(
            self.root + key, config=config, retry_config=retry_config, client_options=client_options
        )


def open_bucket(
    url: str,
    *,
    retry_config: RetryConfig,
    config: Mapping[str, Any] = MappingProxyType({}),
    client_options: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Return obstore's store of what is below an address of s3, gs or az.

    config: as obstore calls the options of that store; what it leaves out is of the environment (``AWS_…``,
    ``GOOGLE_…``, ``AZURE_…``).
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    return _STORES[scheme](
        bucket,
        prefix=prefix.strip("/") or None,
        config=dict(config),
        client_options={"connect_timeout": "5s", "timeout": "60s", **client_options},
        retry_config=retry_config,
    )


class Buckets:
    """The buckets of the operator, by name.

    web: which hosts jobs of callers may call besides; none without it.
    """

    def __init__(self, buckets: Mapping[str, Bucket], *, web: FetchSettings | None = None) -> None:
        self._buckets = dict(buckets)
        self.web = web

    @classmethod
    def load(cls, path: Path | None, *, web: FetchSettings | None = None) -> Buckets:
        """Read the file. Raises InvalidSettings, with the bucket and what is allowed."""
        if path is None:
            return cls({}, web=web)
        try:
            told = read_document(path.read_bytes())
            if told.problems:
                raise InvalidRecipe(told.problems[0].message)
        except (OSError, InvalidRecipe) as error:
            raise InvalidSettings(f"the file of buckets {str(path)!r} cannot be read: {error}") from error
        if not isinstance(told.value, dict):
            raise InvalidSettings(f"the file of buckets {str(path)!r} must hold a mapping: name → url, …")
        buckets: dict[str, Bucket] = {}
        for name, value in told.value.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise InvalidSettings(f"{name!r} cannot name a bucket; use letters, digits, _, - and .")
            try:
                buckets[name] = Bucket.model_validate(value)
            except ValidationError as error:
                problem = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(str(part) for part in problem["loc"])
                message = problem["msg"].removeprefix("Value error, ")
                raise InvalidSettings(f"bucket {name!r} cannot be used: {where} {message}".strip()) from None
        return cls(buckets, web=web)

    def place(self, text: str) -> tuple[Bucket, str]:
        """Return the bucket of an address that others are below, and the key of that place, which may be empty.

        Raises AddressRefused.
        """
        for bucket in self._buckets.values():
            if text.rstrip("/") + "/" == bucket.root:
                return bucket, ""
        return self.find(text.rstrip("/"))

    def find(self, text: str) -> tuple[Bucket, str]:
        """Return the bucket of an object's address, and the key below it. Raises AddressRefused."""
        if not self._buckets:
            raise AddressRefused(
                "this service reads no buckets: its operator names none in MANYEYES_BUCKETS_FILE. Send the bytes of the"
                " file as `image`"
            )
        matched = _OBJECT.fullmatch(text) if len(text) <= MAX_OBJECT_CHARS else None
        if matched is None or _NOT_IN_KEYS.search(text):
            raise AddressRefused(
                f"{_shown(text)} is not the address of an object, such as s3://bucket/folder/a.jpg"
            )
        if any(part in ("", ".", "..") for part in matched[3].split("/")):
            raise AddressRefused("a part of the object's key is empty, `.` or `..`, which is not followed")
        # The longest first: a bucket may be named with a prefix of its own beside the whole.
        for bucket in sorted(self._buckets.values(), key=lambda one: -len(one.root)):
            if text.startswith(bucket.root):
                return bucket, text.removeprefix(bucket.root)
        raise AddressRefused(f"{_shown(text)} is in none of the buckets that this service may read")


async def read_object(bucket: Bucket, key: str, *, max_bytes: int, hold: Hold) -> bytes:
    """Return an object; its size is known before any of it is read.

    Raises an ItemError, and whatever ``hold`` raises.
    """
    n_bytes = 0
    try:
        got = await obstore.get_async(bucket.store, key)
        size = got.meta["size"]
        if size > max_bytes:
            raise ImageTooLarge(f"the object has {size} bytes; at most {max_bytes} are allowed")
        n_bytes = size
        hold(size)
        # One request, so that what is read is what the size was told of. A stream that breaks goes on, by the range
        # that is left, only where the ETag is still the same.
        data = io.BytesIO()  # whose value is no copy
        async for chunk in got.stream(min_chunk_size=_CHUNK_BYTES):
            data.write(chunk)
        if data.tell() != size:
            raise FetchFailed(f"the object ended after {data.tell()} of {size} bytes")
        return data.getvalue()
    except BaseException as error:
        hold(-n_bytes)
        if isinstance(error, (FileNotFoundError, exceptions.NotFoundError)):
            raise SourceNotFound("no such object is in the bucket") from error
        if isinstance(error, exceptions.BaseError):
            # What the store says may name the machines and accounts of the operator.
            log.warning("an object of %s cannot be read", bucket.root, exc_info=error)
            raise FetchFailed(
                f"the object cannot be read: {type(error).__name__}; the service's log says more"
            ) from error
        raise


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 100 else text[:100] + "…")
