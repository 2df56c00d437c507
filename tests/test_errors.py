"""The error tree: complete, stable, and the one that its docstring draws."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes import errors
from manyeyes.errors import ItemError, ManyeyesError, by_code, nearest

CODES = {
    "error": "ManyeyesError",
    "access_denied": "AccessDenied",
    "invalid_settings": "InvalidSettings",
    "invalid_recipe": "InvalidRecipe",
    "invalid_expression": "InvalidExpression",
    "recipe_not_found": "RecipeNotFound",
    "untrusted_recipe": "UntrustedRecipe",
    "invalid_votes": "InvalidVotes",
    "invalid_request": "InvalidRequest",
    "invalid_source": "InvalidSource",
    "request_too_large": "RequestTooLarge",
    "not_fitted": "NotFitted",
    "model_not_found": "ModelNotFound",
    "weights_mismatch": "WeightsMismatch",
    "missing_dependency": "MissingDependency",
    "label_not_found": "LabelNotFound",
    "cache_unusable": "CacheUnusable",
    "index_unusable": "IndexUnusable",
    "storage_failed": "StorageFailed",
    "storage_full": "StorageFull",
    "service_unavailable": "ServiceUnavailable",
    "service_failed": "ServiceFailed",
    "item_error": "ItemError",
    "unreadable_item": "UnreadableItem",
    "empty_item": "EmptyItem",
    "unsupported_format": "UnsupportedFormat",
    "undecodable_image": "UndecodableImage",
    "image_too_large": "ImageTooLarge",
    "undecodable_video": "UndecodableVideo",
    "video_too_large": "VideoTooLarge",
    "invalid_item": "InvalidItem",
    "endpoint_failed": "EndpointFailed",
    "primitive_failed": "PrimitiveFailed",
    "not_permitted": "NotPermitted",
    "idempotency_mismatch": "IdempotencyMismatch",
    "idempotency_conflict": "IdempotencyConflict",
    "already_exists": "AlreadyExists",
    "version_conflict": "VersionConflict",
    "not_found": "NotFound",
    "overloaded": "Overloaded",
    "rate_limited": "RateLimited",
    "store_unavailable": "StoreUnavailable",
    "deadline_exceeded": "DeadlineExceeded",
    "address_refused": "AddressRefused",
    "source_not_found": "SourceNotFound",
    "source_changed": "SourceChanged",
    "fetch_failed": "FetchFailed",
}


def test_codes_are_stable() -> None:
    """Clients of older versions know these codes: add freely, rename and remove never."""
    now = {code: cls.__name__ for code, cls in by_code().items()}
    assert {code: now.get(code) for code in CODES} == CODES


def test_every_class_has_a_code_of_its_own() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, ManyeyesError)
    ]
    assert sorted(cls.code for cls in classes) == sorted(by_code())
    assert all("code" in vars(cls) for cls in classes)


def drawn() -> dict[str, tuple[str, str | None]]:
    """Return class → (parent, built-in) as the docstring of errors.py draws them."""
    tree: dict[str, tuple[str, str | None]] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^( {4}[│ ]*(?:[├└]── )?)([A-Z]\w+)(?: \((\w+)\))?", line)
        if not match:
            continue
        indent, name, built_in = len(match[1]), match[2], match[3]
        while stack and stack[-1][0] >= indent:
            stack.pop()
        tree[name] = (stack[-1][1] if stack else "Exception", built_in)
        stack.append((indent, name))
    return tree


def test_the_drawing_is_the_tree() -> None:
    shown = drawn()
    assert sorted(shown) == sorted(cls.__name__ for cls in by_code().values())
    for name, (parent, built_in) in shown.items():
        bases = [base.__name__ for base in getattr(errors, name).__bases__]
        assert bases == [parent, *([built_in] if built_in else [])], name


@pytest.mark.parametrize("code", sorted(by_code()))
def test_each_can_be_raised_with_a_message(code: str) -> None:
    cls = by_code()[code]
    with pytest.raises(ManyeyesError, match="what came") as caught:
        raise cls("what came")
    assert str(caught.value) == "what came"
    assert caught.value.code == code


def test_each_is_caught_as_the_built_in_that_users_expect() -> None:
    assert issubclass(errors.InvalidExpression, ValueError)
    assert issubclass(errors.UnreadableItem, OSError)
    assert issubclass(errors.ServiceUnavailable, ConnectionError)
    assert issubclass(errors.MissingDependency, ImportError)
    assert issubclass(errors.LabelNotFound, LookupError)
    assert not issubclass(errors.ServiceFailed, ItemError)


def test_nearest_ignores_case() -> None:
    assert nearest("Clip", ["clip", "detector"]) == "; did you mean 'clip'?"
    assert nearest("majorty", ["majority", "one_coin"]) == "; did you mean 'majority'?"
    assert nearest("zzz", ["clip", "detector"]) == ""


@given(st.text(), st.lists(st.text()))
def test_nearest_names_an_allowed_word_or_none(word: str, allowed: list[str]) -> None:
    hint = nearest(word, allowed)
    assert hint == "" or any(hint == f"; did you mean {candidate!r}?" for candidate in allowed)
