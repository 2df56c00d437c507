"""Every error that manyeyes raises on purpose, in one tree.

::

    ManyeyesError
    ├── InvalidRecipe (ValueError)           a recipe cannot be used as written
    │   └── InvalidExpression                a `when:` expression cannot be used as written
    ├── RecipeNotFound (LookupError)         no recipe of that name is stored
    ├── UntrustedRecipe (PermissionError)    a recipe from outside asks for what only the operator may ask
    ├── AccessDenied (PermissionError)       a call to the service brings no key, or a wrong one
    ├── NotPermitted (PermissionError)       the key of a call does not open this
    ├── InvalidSettings (ValueError)         the operator's settings cannot be used as they are
    ├── InvalidVotes (ValueError)            a label matrix breaks its contract
    ├── InvalidRequest (ValueError)          a call is malformed: no items, wrong types, too many
    │   ├── InvalidSource                    what a job shall label cannot be read, or holds nothing to label
    │   ├── RequestTooLarge                  a call holds more bytes or items than the limits allow
    │   └── IdempotencyMismatch              a key of idempotency came before, with another call
    ├── IdempotencyConflict (RuntimeError)   the same call is under way
    ├── AlreadyExists (ValueError)           something of that name is stored already
    ├── VersionConflict (RuntimeError)       what was to be changed has changed in the meantime
    ├── WrongState (RuntimeError)            what is there cannot do this now, such as a job that is under way
    ├── NotFitted (RuntimeError)             a label model is asked before `fit`
    ├── ModelNotFound (LookupError)          a checkpoint is not at hand
    ├── WeightsMismatch (ValueError)         weights are there, but not the ones that were pinned
    ├── MissingDependency (ImportError)      an optional package is not installed
    ├── LabelNotFound (LookupError)          no stored label has that id
    ├── NotFound (LookupError)               nothing of that name or id is there
    ├── CacheUnusable (OSError)              the feature cache cannot be written where it should be
    ├── IndexUnusable (OSError)              there is no index of vectors where one is named, or not a fitting one
    ├── StorageFailed (OSError)              a job's bucket or folder does not do what is asked of it
    │   └── StorageFull                      there is no room left where a job writes to
    ├── ServiceUnavailable (ConnectionError) the service does not answer, or is on its way down
    │   ├── Overloaded                       too much waits already; come back later
    │   ├── RateLimited                      the caller asks more often than it may
    │   └── StoreUnavailable                 the database of the service does not answer
    ├── DeadlineExceeded (TimeoutError)      a call was not done within the time that it had
    ├── ServiceFailed (RuntimeError)         the service answered with something it should not
    └── ItemError                            what is wrong with one item; the other items are labeled
        ├── UnreadableItem (OSError)         no such file, a directory, no permission, a link loop
        ├── EmptyItem (ValueError)           zero bytes, or neither image nor text
        ├── UnsupportedFormat (ValueError)   not JPEG, PNG, WebP, GIF, BMP or TIFF
        ├── UndecodableImage (ValueError)    damaged or truncated image data
        ├── ImageTooLarge (ValueError)       more pixels or bytes than the limits allow
        ├── UndecodableVideo (ValueError)    a damaged or truncated video, or none
        ├── VideoTooLarge (ValueError)       a video longer or larger than the limits allow
        ├── InvalidItem (ValueError)         not an item: wrong types, undecodable base64 or text
        ├── AddressRefused (PermissionError) an address that may not be fetched
        ├── SourceNotFound (LookupError)     nothing is at the address of an item
        ├── SourceChanged (RuntimeError)     what is at the address of an item changed while a job ran
        ├── FetchFailed (ConnectionError)    what is at the address of an item could not be fetched
        ├── EndpointFailed (ConnectionError) an endpoint that was asked gave no answer for this item
        └── PrimitiveFailed (RuntimeError)   a model failed on this item alone

Each class has a stable ``code``, which the service sends and the SDK maps back to the same class. A message says what
was wrong, what came, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from manyeyes.documents import Problem


class ManyeyesError(Exception):
    """Base of every error raised on purpose.

    What a service refused says so: status and problem are of its answer (RFC 9457), request_id is how its log calls the
    request, attempts is how often the SDK sent it. Elsewhere they are None, empty and 0.
    """

    code: ClassVar[str] = "error"
    status: int | None = None
    request_id: str | None = None
    attempts: int = 0
    problem: Mapping[str, Any] = MappingProxyType({})


class InvalidRecipe(ManyeyesError, ValueError):
    """A recipe cannot be used as written. problems: each with its path and line, where they are known."""

    code = "invalid_recipe"
    problems: tuple[Problem, ...] = ()


class InvalidExpression(InvalidRecipe):
    """A ``when:`` expression cannot be used as written."""

    code = "invalid_expression"


class RecipeNotFound(ManyeyesError, LookupError):
    """No recipe of that name is stored."""

    code = "recipe_not_found"


class UntrustedRecipe(ManyeyesError, PermissionError):
    """A recipe from outside asks for what only the operator may ask for."""

    code = "untrusted_recipe"


class AccessDenied(ManyeyesError, PermissionError):
    """A call to the service brings no key, or a wrong one."""

    code = "access_denied"


class NotPermitted(ManyeyesError, PermissionError):
    """The key of a call does not open this."""

    code = "not_permitted"


class InvalidSettings(ManyeyesError, ValueError):
    """The operator's settings cannot be used as they are."""

    code = "invalid_settings"


class InvalidVotes(ManyeyesError, ValueError):
    """A label matrix breaks its contract."""

    code = "invalid_votes"


class InvalidRequest(ManyeyesError, ValueError):
    """A call is malformed."""

    code = "invalid_request"


class InvalidSource(InvalidRequest):
    """What a job shall label cannot be read, or holds nothing that can be labeled."""

    code = "invalid_source"


class RequestTooLarge(InvalidRequest):
    """A call holds more bytes or items than the limits allow."""

    code = "request_too_large"


class IdempotencyMismatch(InvalidRequest):
    """A key of idempotency came before, with another call."""

    code = "idempotency_mismatch"


class IdempotencyConflict(ManyeyesError, RuntimeError):
    """The same call is under way."""

    code = "idempotency_conflict"


class AlreadyExists(ManyeyesError, ValueError):
    """Something of that name is stored already."""

    code = "already_exists"


class VersionConflict(ManyeyesError, RuntimeError):
    """What was to be changed has changed in the meantime."""

    code = "version_conflict"


class WrongState(ManyeyesError, RuntimeError):
    """What is there cannot do this as it is now."""

    code = "wrong_state"


class NotFitted(ManyeyesError, RuntimeError):
    """A label model is asked before ``fit``."""

    code = "not_fitted"


class ModelNotFound(ManyeyesError, LookupError):
    """A checkpoint is not at hand."""

    code = "model_not_found"


class WeightsMismatch(ManyeyesError, ValueError):
    """Weights are there, but not the ones that were pinned."""

    code = "weights_mismatch"


class MissingDependency(ManyeyesError, ImportError):
    """An optional package is not installed."""

    code = "missing_dependency"


class LabelNotFound(ManyeyesError, LookupError):
    """No stored label has that id."""

    code = "label_not_found"


class NotFound(ManyeyesError, LookupError):
    """Nothing of that name or id is there."""

    code = "not_found"


class CacheUnusable(ManyeyesError, OSError):
    """The feature cache cannot be written where it should be."""

    code = "cache_unusable"


class IndexUnusable(ManyeyesError, OSError):
    """There is no index of vectors where one is named, or it is damaged or holds those of another model."""

    code = "index_unusable"


class StorageFailed(ManyeyesError, OSError):
    """A job's bucket or folder does not do what is asked of it."""

    code = "storage_failed"


class StorageFull(StorageFailed):
    """There is no room left where a job writes to."""

    code = "storage_full"


class ServiceUnavailable(ManyeyesError, ConnectionError):
    """The service does not answer, or is on its way down."""

    code = "service_unavailable"


class Overloaded(ServiceUnavailable):
    """Too much waits already; come back later."""

    code = "overloaded"


class RateLimited(ServiceUnavailable):
    """The caller asks more often than it may."""

    code = "rate_limited"


class StoreUnavailable(ServiceUnavailable):
    """The database of the service does not answer."""

    code = "store_unavailable"


class DeadlineExceeded(ManyeyesError, TimeoutError):
    """A call was not done within the time that it had."""

    code = "deadline_exceeded"


class ServiceFailed(ManyeyesError, RuntimeError):
    """The service answered with something it should not."""

    code = "service_failed"


class ItemError(ManyeyesError):
    """What is wrong with one item; the other items are labeled."""

    code = "item_error"


class UnreadableItem(ItemError, OSError):
    """No such file, a directory, no permission, a link loop."""

    code = "unreadable_item"


class EmptyItem(ItemError, ValueError):
    """Zero bytes, or neither image nor text."""

    code = "empty_item"


class UnsupportedFormat(ItemError, ValueError):
    """Not an image of a supported format."""

    code = "unsupported_format"


class UndecodableImage(ItemError, ValueError):
    """Damaged or truncated image data."""

    code = "undecodable_image"


class ImageTooLarge(ItemError, ValueError):
    """More pixels or bytes than the limits allow."""

    code = "image_too_large"


class UndecodableVideo(ItemError, ValueError):
    """A damaged or truncated video, or none."""

    code = "undecodable_video"


class VideoTooLarge(ItemError, ValueError):
    """A video longer or larger than the limits allow."""

    code = "video_too_large"


class InvalidItem(ItemError, ValueError):
    """Not an item: wrong types, undecodable base64 or text."""

    code = "invalid_item"


class AddressRefused(ItemError, PermissionError):
    """An address that may not be fetched."""

    code = "address_refused"


class SourceNotFound(ItemError, LookupError):
    """Nothing is at the address of an item."""

    code = "source_not_found"


class SourceChanged(ItemError, RuntimeError):
    """What is at the address of an item is no longer what a job listed."""

    code = "source_changed"


class FetchFailed(ItemError, ConnectionError):
    """What is at the address of an item could not be fetched."""

    code = "fetch_failed"


class EndpointFailed(ItemError, ConnectionError):
    """An endpoint that was asked gave no answer for this item."""

    code = "endpoint_failed"


class PrimitiveFailed(ItemError, RuntimeError):
    """A model failed on this item alone."""

    code = "primitive_failed"


def _tree(cls: type[ManyeyesError]) -> Iterator[type[ManyeyesError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


def by_code() -> dict[str, type[ManyeyesError]]:
    """Return every error class of the tree under its stable code."""
    return {cls.code: cls for cls in _tree(ManyeyesError)}


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest allowed word, or an empty string where none is near.

    >>> nearest("keywrod", ["keyword", "prompt"])
    "; did you mean 'keyword'?"
    >>> nearest("zebra", ["keyword", "prompt"])
    ''
    """
    lowered = {str(candidate).lower(): str(candidate) for candidate in allowed}
    match = difflib.get_close_matches(str(word).lower(), list(lowered), n=1, cutoff=0.6)
    return f"; did you mean {lowered[match[0]]!r}?" if match else ""
