"""Turns what a service answers into labels, recipes, or the error that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar, overload

import httpx

from manyeyes.client.items import Form
from manyeyes.errors import ManyeyesError, ServiceFailed, ServiceUnavailable, by_code
from manyeyes.types import Label, Versions

BUSY: Final = frozenset({429, 503})
"""Statuses after which the same call may be sent again."""

MAX_WAIT_S: Final = 60.0
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class LabelResult(Sequence[Label]):
    """The labels of one call, in the order of its items.

    labels: one an item; what could not be labeled is a row with status "error". recipe: the recipe's name.
    versions: what made the labels; empty where no item could be sent.
    """

    labels: tuple[Label, ...]
    versions: Versions
    recipe: str

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    @overload
    def __getitem__(self, index: int) -> Label: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Label, ...]: ...
    def __getitem__(self, index: int | slice) -> Label | tuple[Label, ...]:
        return self.labels[index]


def retry_after_s(response: httpx.Response) -> float:
    """Return how many seconds a response asks to wait, at most MAX_WAIT_S; 0 where it does not say."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return min(float(value), MAX_WAIT_S)
    try:
        wait_s = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        return min(max(0.0, wait_s), MAX_WAIT_S)
    except (ValueError, TypeError):  # not a date, or one without a time zone
        return 0.0


def checked(response: httpx.Response) -> httpx.Response:
    """Return a success as it is; raise the error that a problem document names."""
    if response.is_success:
        return response
    kind: type[ManyeyesError] = ServiceFailed
    detail = ""
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        told = read_object(response)
        kind = by_code().get(str(told.get("code")), ServiceFailed)
        detail = str(told.get("detail", ""))
    if not detail:
        detail = (
            f"{response.request.url} answered {response.status_code} with {response.text[:200]!r}, which no manyeyes"
            " service does; check base_url and what stands between"
        )
        kind = ServiceUnavailable if response.status_code in BUSY else ServiceFailed
    raise kind(detail)


def read_object(response: httpx.Response) -> dict[str, Any]:
    """Return a JSON object. Raises ServiceFailed if it is none."""
    return _parsed(response, lambda told: dict(told))


def read_recipe_list(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the lines of a list of recipes. Raises ServiceFailed if it is none."""
    return _parsed(response, lambda told: [dict(line) for line in told["recipes"]])


def read_result(form: Form, response: httpx.Response | None) -> LabelResult:
    """Return the labels of a call, unsent items included. response: None where nothing could be sent.

    Raises ServiceFailed if the answer does not fit what was sent.
    """
    if response is None:
        return LabelResult(labels=form.merged(()), versions=Versions(recipe=""), recipe="")

    def read(told: Mapping[str, Any]) -> LabelResult:
        labels = [Label.from_dict(row) for row in told["labels"]]
        if len(labels) != len(form.entries):
            raise ValueError(f"{len(form.entries)} items were sent, {len(labels)} labels came back")
        versions = told["versions"]
        return LabelResult(
            labels=form.merged(labels),
            versions=Versions(versions["recipe"], dict(versions["primitives"]), versions["label_model"]),
            recipe=told["recipe"],
        )

    return _parsed(response, read)


def _parsed(response: httpx.Response, read: Callable[[Any], _T]) -> _T:
    try:
        return read(response.json())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServiceFailed(
            f"{response.request.url} answered with something that cannot be read as a manyeyes service's answer"
            f" ({type(error).__name__}: {error}); check base_url, and that both sides have the same version"
        ) from error
