"""The operator's settings: read from the environment, refused with a reason, closed to strangers by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from manyeyes.errors import InvalidSettings
from manyeyes.service.settings import ServiceSettings, is_loopback

KEY = "a-key-that-is-long-enough"


def test_defaults_are_what_the_docs_say() -> None:
    settings = ServiceSettings()
    assert (settings.max_body_bytes, settings.max_items) == (256 * 2**20, 1000)
    assert (settings.host, settings.port, settings.api_keys) == ("127.0.0.1", 8000, ())


def test_the_environment_sets_everything(tmp_path: Path) -> None:
    settings = ServiceSettings.from_env(
        {
            "MANYEYES_RECIPES_DIR": str(tmp_path),
            "MANYEYES_ALLOWED_MODELS": "starter, ViT-B-32",
            "MANYEYES_MAX_BODY_BYTES": "1MiB",
            "MANYEYES_MAX_ITEMS": "7",
            "MANYEYES_HOST": "0.0.0.0",
            "MANYEYES_API_KEYS": f"{KEY},sha256:{'0' * 64}",
            "MANYEYES_PORT": "",
            "MANYEYES_HOME": "/elsewhere",
        }
    )
    assert settings.recipes_dir == tmp_path
    assert settings.allowed_models == ("starter", "ViT-B-32")
    assert (settings.max_body_bytes, settings.max_items, settings.port) == (2**20, 7, 8000)
    assert len(settings.api_keys) == 2


def test_what_is_passed_by_name_wins_over_the_environment() -> None:
    settings = ServiceSettings.from_env({"MANYEYES_PORT": "9000"}, port=9001, host=None)
    assert (settings.port, settings.host) == (9001, "127.0.0.1")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"MANYEYES_PORT": "http"}, "port (MANYEYES_PORT)"),
        ({"MANYEYES_PORT": "70000"}, "less than or equal to 65535"),
        ({"MANYEYES_MAX_ITEMS": "0"}, "max_items"),
        ({"MANYEYES_MAX_BODY_BYTES": "lots"}, "max_body_bytes"),
        ({"MANYEYES_RECIPES_DIR": "/no/such/folder"}, "is not a folder"),
        ({"MANYEYES_API_KEYS": "short"}, "at least 16 characters"),
        ({"MANYEYES_API_KEYS": "ein-schlüssel-mit-umlaut"}, "printable ASCII"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        ServiceSettings.from_env(environ)
    assert told in str(caught.value)


def test_a_key_never_shows() -> None:
    settings = ServiceSettings(api_keys=KEY)
    assert KEY not in repr(settings)
    assert KEY not in settings.model_dump_json()
    with pytest.raises(InvalidSettings) as caught:
        ServiceSettings(api_keys="tooshort", port=-1)
    assert "tooshort" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1.example.org"])
def test_other_machines_need_a_key(host: str) -> None:
    with pytest.raises(InvalidSettings, match="MANYEYES_API_KEYS"):
        ServiceSettings(host=host)
    assert ServiceSettings(host=host, api_keys=KEY).host == host
    assert ServiceSettings(host=host, allow_unauthenticated=True).host == host
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert ServiceSettings(host=host).host == host


def test_a_file_may_hold_what_a_variable_would(tmp_path: Path) -> None:
    keys, url = tmp_path / "keys", tmp_path / "url"
    keys.write_text("a key of at least sixteen\n\n  another key of sixteen\n")
    url.write_text("postgresql://ann:secret@db/labels\n")
    environ = {"MANYEYES_API_KEYS_FILE": str(keys), "MANYEYES_STORE_URL_FILE": str(url)}
    settings = ServiceSettings.from_env(environ)
    assert len(settings.api_keys) == 2
    assert settings.store_url == "postgresql://ann:secret@db/labels"
    with pytest.raises(InvalidSettings, match="set one of them"):
        ServiceSettings.from_env(environ | {"MANYEYES_API_KEYS": "a key of at least sixteen"})
    with pytest.raises(InvalidSettings, match="cannot be read"):
        ServiceSettings.from_env({"MANYEYES_API_KEYS_FILE": str(tmp_path / "gone")})
    keys.write_text(" \n")
    with pytest.raises(InvalidSettings, match="is empty"):
        ServiceSettings.from_env(environ)
