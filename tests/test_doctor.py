"""``manyeyes doctor``: it says what is so, on a whole installation and on a bare one, fails for what was asked for
alone, and shows no secret."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from manyeyes.cli import app
from manyeyes.commands import checkup, doctor
from manyeyes.commands.checkup import Finding
from manyeyes.service.settings import ServiceSettings

PASSWORD = "s3cr3t-password"
KEY = "a-key-that-is-long-enough"


@pytest.fixture(autouse=True)
def free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MANYEYES_PORT", str(free.getsockname()[1]))


def ask(*arguments: str, code: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the doctor says as JSON: (section, name) → finding."""
    result = CliRunner().invoke(app, ["doctor", "--json", "--no-models", *arguments])
    told = json.loads(result.stdout)
    assert result.exit_code == code, result.stdout
    assert told["sound"] == (code == 0)
    return {(one["section"], one["name"]): one for one in told["findings"]}


def test_a_whole_installation_is_well() -> None:
    found = ask()
    assert found["versions", "python"]["facts"]["version"] == ".".join(map(str, sys.version_info[:3]))
    for section, name in (
        ("extras", "serve"),
        ("extras", "postgres"),
        ("extras", "otel"),
        ("runtimes", "torch"),
        ("disk", "home"),
        ("disk", "cache"),
        ("service", "address"),
    ):
        assert found[section, name]["state"] == "ok", found[section, name]
    assert found["service", "store"]["state"] == "note"
    assert found["machine", "memory"]["facts"]["bytes"] > 2**28
    assert "AGPL" in found["licences", "ultralytics"]["told"]
    facts = found["service", "settings"]["facts"]
    assert facts.keys() == ServiceSettings.model_fields.keys()
    assert (facts["max_items"], facts["api_keys"], facts["store_url"]) == ("1000", "unset", "unset")


def test_for_people() -> None:
    result = CliRunner().invoke(app, ["doctor", "--no-models"])
    assert result.exit_code == 0
    assert "\n  ok      torch" in result.stdout and "\nlicences\n" in result.stdout
    assert "All that was asked for works." in result.stderr


@pytest.mark.slow
def test_the_starters_really_see() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    models = {one["name"]: one for one in json.loads(result.stdout)["findings"] if one["section"] == "models"}
    assert models.keys() == {"clip", "text encoder", "detector", "ocr"}
    assert {one["state"] for one in models.values()} == {"ok"}, models
    assert all(0 < one["facts"]["seeing_s"] < 60 for one in models.values())


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MANYEYES_STORE_URL", f"postgresql://ann:{PASSWORD}@127.0.0.1:1/labels")
    monkeypatch.setenv("MANYEYES_API_KEYS", KEY)
    (tmp_path / "endpoints.yaml").write_text(
        "one: {base_url: 'http://127.0.0.1:1/v1', model: m, key_env: ONE_KEY}\n"
        "two: {base_url: 'http://127.0.0.1:1/v1', model: m, key_env: TWO_KEY}\n"
    )
    monkeypatch.setenv("MANYEYES_ENDPOINTS", str(tmp_path / "endpoints.yaml"))
    monkeypatch.setenv("ONE_KEY", "value-of-the-first-key")
    for arguments in (["doctor", "--no-models"], ["doctor", "--json", "--no-models"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        for secret in (PASSWORD, KEY, "value-of-the-first-key"):
            assert secret not in result.stdout + result.stderr
    found = ask(code=1)
    assert found["service", "settings"]["facts"]["api_keys"] == "1 set"
    assert found["service", "settings"]["facts"]["store_url"] == "set"
    assert found["service", "store"]["state"] == "broken"
    assert found["endpoints", "one"]["facts"]["key"] == "set"
    assert (found["endpoints", "two"]["state"], found["endpoints", "two"]["facts"]["key"]) == (
        "broken",
        "unset",
    )


@pytest.mark.parametrize(
    ("variable", "value", "where"),
    [
        ("MANYEYES_MAX_ITEMS", "many", ("service", "settings")),
        ("MANYEYES_RUNTIME", "abacus", ("runtimes", "MANYEYES_RUNTIME")),
        ("MANYEYES_STORE_URL", "mysql://db/x", ("service", "store")),
        ("MANYEYES_ENDPOINTS", "/no/such/file.yaml", ("endpoints", "file")),
        ("MANYEYES_RECIPES_DIR", "here", ("service", "recipes")),
    ],
)
def test_what_was_asked_for_and_does_not_work_is_broken(
    variable: str,
    value: str,
    where: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    working_directory: Path,
) -> None:
    (working_directory / "here").mkdir()
    (working_directory / "here" / "bad.yaml").write_text("name: bad\nclasses: [only-one]\n")
    monkeypatch.setenv(variable, value)
    assert ask(code=1)[where]["state"] == "broken"


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MANYEYES_HOME", str(tmp_path / "file" / "home"))
    assert "MANYEYES_HOME" in ask(code=1)["disk", "home"]["told"]


def test_a_store_that_is_there_is_looked_into() -> None:
    from manyeyes.service.store.store import Store

    Store.open().close()
    found = ask()["service", "store"]
    assert found["state"] == "ok"
    assert found["facts"]["revision"] == found["facts"]["head"]


def test_an_address_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MANYEYES_PORT", str(taken.getsockname()[1]))
        monkeypatch.setattr("manyeyes.commands.checkup_service._is_ours", lambda _: False)
        assert ask(code=1)["service", "address"]["state"] == "broken"
        monkeypatch.setattr("manyeyes.commands.checkup_service._is_ours", lambda _: True)
        assert ask()["service", "address"]["state"] == "ok"


def test_a_look_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Iterator[Finding]:
        raise RuntimeError("something unforeseen")
        yield

    monkeypatch.setattr(doctor, "_LOOKS", (fails,))
    (finding,) = doctor.examine()
    assert finding.state == "broken" and "something unforeseen" in finding.told


def test_limits_of_control_groups_are_read(tmp_path: Path) -> None:
    assert (checkup.cpu_share(tmp_path), checkup.memory_limit_bytes(tmp_path)) == (None, None)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("2147483648\n")
    assert (checkup.cpu_share(tmp_path), checkup.memory_limit_bytes(tmp_path)) == (1.5, 2**31)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (checkup.cpu_share(tmp_path), checkup.memory_limit_bytes(tmp_path)) == (None, None)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "memory").mkdir()
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert (checkup.cpu_share(tmp_path), checkup.memory_limit_bytes(tmp_path)) == (0.5, None)


BARE = """
import sys
from importlib import metadata

# What the base install brings, and nothing else, as if the rest had never been installed.
KEPT = {"httpx", "numpy", "pydantic", "pyyaml", "rich", "threadpoolctl", "typer", "manyeyes"}
HIDDEN = {"torch", "fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "lmdb", "PIL", "faiss", "pyarrow",
          "obstore", "transformers", "open_clip", "prometheus_client", "onnxruntime", "openvino",
          "ultralytics", "av", "psycopg", "opentelemetry", "jinja2", "re2", "ahocorasick_rs", "zstandard", "xxhash"}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
real = metadata.version
def version(name):
    if name.lower() not in KEPT:
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version

from manyeyes.cli import app
app(["doctor", "--json"])
"""


def test_a_base_install_says_what_it_lacks_and_is_well(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(one["section"], one["name"]): one for one in json.loads(done.stdout)["findings"]}
    assert "broken" not in {one["state"] for one in found.values()}
    assert found["versions", "manyeyes"]["state"] == "ok"
    for section, name in (("extras", "serve"), ("runtimes", "torch"), ("models", "clip"), ("disk", "cache")):
        assert found[section, name]["state"] == "missing"
        assert "manyeyes[" in found[section, name]["told"]
    assert not [one for one in found if one[0] == "licences"]


def test_what_is_installed_and_cannot_be_imported_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[str], Any] = checkup.importlib.import_module

    def broken(name: str) -> Any:
        if name == "faiss":
            raise ImportError("libgomp.so.1: cannot open shared object file")
        return real(name)

    monkeypatch.setattr(checkup.importlib, "import_module", broken)
    assert "libgomp" in ask(code=1)["extras", "serve"]["told"]


def test_a_store_in_postgresql_is_looked_into(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from manyeyes.service.store.store import Store

    monkeypatch.setenv("MANYEYES_STORE_URL", postgres_url)
    found = ask()["service", "store"]
    assert (found["state"], "revision" in found["told"]) == (
        "note",
        True,
    )  # No tables yet; a start makes them.
    monkeypatch.setenv("MANYEYES_STORE_UPGRADE", "0")
    assert ask(code=1)["service", "store"]["state"] == "broken"
    Store.open(postgres_url, upgrade=True).close()
    found = ask()["service", "store"]
    assert (found["state"], found["facts"]["database"]) == ("ok", "postgresql")
    monkeypatch.setenv("MANYEYES_STORE_URL", postgres_url.replace("@", "x@") + "_that_is_not_there")
    assert ask(code=1)["service", "store"]["state"] == "broken"
