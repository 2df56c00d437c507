"""Who changed what."""

from __future__ import annotations

import pytest

from manyeyes.errors import InvalidRequest
from manyeyes.service.store.audit import Audit
from manyeyes.service.store.store import Store


def test_what_was_done_is_found(store: Store) -> None:
    first = store.audit.add(
        actor="ada", action="recipe.create", subject="recipe:r", details={"n": [1, None, "\0\ud800"]}
    )
    second = store.audit.add(actor="bob", action="key.create", subject="key:k", request_id="q")
    assert store.audit.list().items == (second, first)
    assert store.audit.list(subject="recipe:r").items == (first,)
    assert store.audit.list(actor="bob").items == (second,)
    assert store.audit.list(action="key.create", actor="ada").items == ()
    assert first.created_at.utcoffset() is not None


def test_nothing_takes_a_line_out() -> None:
    assert {name for name in vars(Audit) if not name.startswith("_")} == {"add", "list"}


@pytest.mark.parametrize("wrong", ["\0", "\ud800", "x" * 10_001])
def test_what_cannot_be_kept(store: Store, wrong: str) -> None:
    for name in ("actor", "action", "subject", "request_id"):
        with pytest.raises(InvalidRequest):
            store.audit.add(**({"actor": "a", "action": "b", "subject": "c"} | {name: wrong}))  # type: ignore[arg-type]
    for name in ("actor", "action", "subject"):
        with pytest.raises(InvalidRequest):
            store.audit.list(**{name: wrong})  # type: ignore[arg-type]
