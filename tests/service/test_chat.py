"""Recipes over HTTP that ask an endpoint: only what the operator opened, and one row for each item that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from manyeyes import Client, Item
from manyeyes.errors import UntrustedRecipe
from manyeyes.primitives.chat_line import fresh_lines
from manyeyes.primitives.toy_endpoint import ToyEndpoint

RECIPE = {
    "name": "asking",
    "classes": ["dress", "hat"],
    "unfamiliar_below": 0,
    "label_model": "majority",
    "lfs": [
        {
            "name": "asked",
            "kind": "chat",
            "endpoint": "toy",
            "on": "text",
            "question": "Which?",
            "answers": {"gown": "dress", "cap": "hat"},
        }
    ],
}


class Failing(ToyEndpoint):
    """Fails on one item; the message is for the operator's eyes, and holds the key."""

    def respond(self, handler: Any, body: Any, n: int) -> None:
        if "broken" in str(body["messages"][-1]):
            handler.send_error(400, "sk-0123456789")
        else:
            super().respond(handler, body, n)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyEndpoint]:
    monkeypatch.setenv("MANYEYES_ENDPOINTS", str(tmp_path / "endpoints.yaml"))
    monkeypatch.setenv("TOY_KEY", "sk-0123456789")
    with fresh_lines(), Failing(lambda asked: "gown" if "silk" in asked.text else "cap") as server:
        yield server


def configure(toy: ToyEndpoint, tmp_path: Path, *, from_outside: bool) -> None:
    told = {"base_url": toy.base_url, "model": "toy", "key_env": "TOY_KEY", "from_outside": from_outside}
    (tmp_path / "endpoints.yaml").write_text(yaml.safe_dump({"toy": told}))


def test_an_endpoint_that_is_not_open_is_refused(client: Client, toy: ToyEndpoint, tmp_path: Path) -> None:
    configure(toy, tmp_path, from_outside=False)
    with pytest.raises(UntrustedRecipe, match="'toy' is not open to recipes from outside") as caught:
        client.label([Item("1", text="silk")], recipe=RECIPE)
    assert toy.base_url not in str(caught.value)
    assert not toy.calls


def test_an_open_endpoint_is_asked(client: Client, toy: ToyEndpoint, tmp_path: Path) -> None:
    configure(toy, tmp_path, from_outside=True)
    labels = client.label([Item(text, text=text) for text in ("silk", "broken", "wool")], recipe=RECIPE)
    assert [label.label for label in labels] == ["dress", None, "hat"]
    error = labels[1].error
    assert error is not None and error.code == "endpoint_failed"
    assert "sk-0" not in str(error) and toy.base_url not in str(error)
    assert set(toy.keys) == {"Bearer sk-0123456789"}
