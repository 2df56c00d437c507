"""Chat LFs on the command line: what was asked and what it cost is told, and nobody learns the key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from manyeyes.cli import app
from manyeyes.primitives.chat_line import fresh_lines
from manyeyes.primitives.toy_endpoint import ToyEndpoint
from manyeyes.sinks import read_labels

RECIPE = """
name: asking
classes: [dress, hat]
unfamiliar_below: 0
lfs:
  - {name: asked, kind: chat, endpoint: toy, on: text, question: Which?, answers: {gown: dress, cap: hat}}
label_model: majority
"""


@pytest.fixture
def toy(working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyEndpoint]:
    monkeypatch.setenv("MANYEYES_ENDPOINTS", "endpoints.yaml")
    monkeypatch.setenv("TOY_KEY", "sk-0123456789")
    Path("r.yaml").write_text(RECIPE)
    rows = "".join(f"{i},{'silk' if i % 2 else 'wool'} {i}\n" for i in range(20))
    Path("t.csv").write_text(f"id,text\n{rows}")
    with fresh_lines(), ToyEndpoint(lambda asked: "gown" if "silk" in asked.text else "cap") as server:
        yield server


def configure(toy: ToyEndpoint, more: str = "") -> None:
    Path("endpoints.yaml").write_text(
        f"toy: {{base_url: '{toy.base_url}', model: toy, key_env: TOY_KEY, prices: {{input: 1, output: 2}}{more}}}"
    )


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["label", "t.csv", "-r", "r.yaml", "-o", "l.jsonl", *arguments])


def told(result: Any) -> str:
    return re.sub(r"\s+", " ", result.output)


def test_what_was_asked_is_told(toy: ToyEndpoint) -> None:
    configure(toy)
    result = run("--report", "r.html")
    assert result.exit_code == 0, result.output
    said = (
        "asked asked toy: 20 items answered in 20 calls (0 of them tries again), 2,000 tokens in and 20 out, cost"
        " 0.00204."
    )
    assert said in told(result) and said in Path("r.html").read_text()
    assert [label.label for label in read_labels("l.jsonl")] == ["hat", "dress"] * 10
    again = run()
    assert "asked asked" not in told(again) and len(toy.calls) == 20
    assert (
        "sk-0" not in result.output + again.output + Path("r.html").read_text() + Path("l.jsonl").read_text()
    )


def test_a_budget_that_is_used_up_is_told(toy: ToyEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    configure(toy, ", max_calls: 5")
    result = run()
    assert result.exit_code == 0
    assert "asked abstained on 15 items that it did not ask about: a budget is used up." in told(result)
    assert "budget of endpoint toy is used up (max_calls 5)" in caplog.text
    labels = list(read_labels("l.jsonl"))
    assert [label.status for label in labels].count("labeled") == 5
    assert [label.status for label in labels].count("abstained") == 15


def test_a_key_that_is_not_set_ends_the_call(toy: ToyEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(toy)
    monkeypatch.delenv("TOY_KEY")
    result = run()
    assert result.exit_code == 2
    assert "TOY_KEY, which is not set" in told(result) and "invalid_settings" in result.output
    assert not toy.calls


def test_an_endpoint_that_nobody_configured_ends_the_call(toy: ToyEndpoint) -> None:
    Path("endpoints.yaml").write_text("{}")
    result = run()
    assert result.exit_code == 2 and "no endpoint 'toy' is configured" in told(result)
