"""The operator's file of endpoints: what it may say, and what is told when it cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manyeyes.endpoints import Endpoint, endpoint, endpoints
from manyeyes.errors import InvalidRecipe, InvalidSettings

TWO = """
local-vlm: {base_url: "http://127.0.0.1:8080/v1/", model: qwen2.5-vl}
hosted:
  base_url: https://api.example.org/v1/chat/completions
  model: large
  key_env: EXAMPLE_KEY
  prices: {input: 0.15, output: 0.60}
  max_cost: 5
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "endpoints.yaml"
    monkeypatch.setenv("MANYEYES_ENDPOINTS", str(path))
    return path


def test_endpoints_are_read_from_the_file(file: Path) -> None:
    file.write_text(TWO)
    found = endpoints()
    assert list(found) == ["local-vlm", "hosted"]
    assert found["local-vlm"].base_url == "http://127.0.0.1:8080/v1"
    assert found["hosted"].base_url == "https://api.example.org/v1"
    assert (found["hosted"].max_cost, found["local-vlm"].from_outside) == (5, False)


def test_the_file_may_lie_in_the_home(manyeyes_home: Path) -> None:
    assert endpoints() == {}
    manyeyes_home.mkdir()
    (manyeyes_home / "endpoints.yaml").write_text(TWO)
    assert len(endpoints()) == 2


def test_a_changed_file_is_read_again(file: Path) -> None:
    file.write_text(TWO)
    assert len(endpoints()) == 2
    file.write_text("one: {base_url: 'http://localhost/v1', model: other}")
    os.utime(file, ns=(1, 1))
    assert list(endpoints()) == ["one"]


def test_an_unknown_name_is_told_with_the_nearest(file: Path) -> None:
    file.write_text(TWO)
    with pytest.raises(
        InvalidRecipe, match=r"hosted, local-vlm; did you mean 'local-vlm'\?.*MANYEYES_ENDPOINTS"
    ):
        endpoint("local-vml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("one: {base_url: 'http://h/v1'}", "one.model: Field required"),
        ("one: {base_url: 'ftp://h/v1', model: m}", "one.base_url: a base_url is http"),
        ("one: {base_url: 'http:///v1', model: m}", "one.base_url: a base_url is http"),
        ("one: {base_url: 'http://h:99999/v1', model: m}", "one.base_url: a base_url is http"),
        ("one: {base_url: 'http://me:hunter2@h/v1', model: m}", "no name and no key"),
        ("one: {base_url: 'http://h/v1?api-key=hunter2', model: m}", "one.base_url: a base_url is http"),
        ("one: {base_url: 'http://h/v1', model: m, key: hunter2}", "one.key: Extra inputs"),
        ("one: {base_url: 'http://h/v1', model: m, key_env: 'sk-hunter2'}", "one.key_env"),
        ("one: {base_url: 'http://h/v1', model: m, max_cost: 3}", "max_cost needs prices"),
        (
            "one: {base_url: 'http://h/v1', model: m, parameters: {model: x}}",
            "model cannot stand in parameters",
        ),
        ("one: {base_url: 'http://h/v1', model: m, concurrency: 0}", "one.concurrency"),
        ("one: hunter2", "one.: Input should be a valid dictionary"),
        ("[hunter2]", "must map names of endpoints"),
        ("'a b': {}", "cannot be an endpoint's name"),
        ("a: !!python/object:os.system {}", "cannot be read"),
        ("a: {", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_told_without_values(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        endpoints()
    assert told in str(caught.value) and str(file) in str(caught.value)
    assert "hunter2" not in str(caught.value) or "hunter2]" in text


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(InvalidSettings, match="No such file"):
        endpoints()


@pytest.mark.parametrize("key", ["", "  ", "sk-hunter2\nX-Other: 1", "sk-hünter2"])
def test_a_key_that_cannot_be_sent(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Endpoint(base_url="http://h/v1", model="m", key_env="TOY_KEY")
    monkeypatch.setenv("TOY_KEY", key)
    with pytest.raises(InvalidSettings, match="TOY_KEY") as caught:
        _ = made.key
    assert "nter2" not in str(caught.value)


def test_limits_and_prices_are_no_part_of_the_identity() -> None:
    base = Endpoint(base_url="http://h/v1", model="m")
    same = Endpoint(base_url="http://h/v1/", model="m", concurrency=3, max_calls=7, key_env="K", retries=0)
    other = Endpoint(base_url="http://h/v1", model="m", parameters={"temperature": 1})
    assert base.identity == same.identity != other.identity
