"""What ``manyeyes doctor`` finds out about the service: settings, store, recipes, endpoints, address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from manyeyes.commands.checkup import Finding, State, version
from manyeyes.errors import InvalidSettings, ManyeyesError

if TYPE_CHECKING:
    from manyeyes.service.settings import ServiceSettings


def service() -> Iterator[Finding]:
    """Yield all that concerns the service; where it is not installed, only that."""
    try:
        from manyeyes.service.settings import ServiceSettings
    except ModuleNotFoundError as error:
        told = f"needs {error.name}: pip install 'manyeyes[serve]'"
        yield Finding("service", "settings", "missing", told)
        return
    try:
        settings = ServiceSettings.from_env()
    except InvalidSettings as error:
        yield Finding("service", "settings", "broken", str(error))
        return
    yield from _settings(settings)
    if version("fastapi") is None or version("sqlalchemy") is None:
        yield Finding("service", "address", "missing", "pip install 'manyeyes[serve]' to run the service")
        return
    yield from _address(settings)
    yield from _store(settings)
    yield from _recipes(settings)
    yield from _buckets(settings)
    yield from _traces(settings)


def endpoints() -> Iterator[Finding]:
    """Yield the endpoints that recipes may ask, and whether their keys are set. None of them is called."""
    from manyeyes.endpoints import endpoints as configured

    try:
        found = configured()
    except InvalidSettings as error:
        yield Finding("endpoints", "file", "broken", str(error))
        return
    if not found:
        yield Finding("endpoints", "file", "off", "none is configured")
    for name, endpoint in found.items():
        facts = {"model": endpoint.model, "key": "none needed"}
        state: State = "ok"
        told = f"{endpoint.model} at {endpoint.base_url}"
        if endpoint.key_env is not None:
            try:
                facts["key"] = "set" if endpoint.key else "unset"
                told += f", key from {endpoint.key_env}: set"
            except InvalidSettings as error:
                facts["key"], state, told = "unset", "broken", str(error)
        yield Finding("endpoints", name, state, told, facts)


def _settings(settings: ServiceSettings) -> Iterator[Finding]:
    facts: dict[str, str] = {}
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        if info.repr:
            facts[name] = str(value)
        else:
            facts[name] = (
                f"{len(value)} set" if isinstance(value, tuple) and value else "set" if value else "unset"
            )
    changed = [
        f"{name}={facts[name]}"
        for name, info in type(settings).model_fields.items()
        if getattr(settings, name) != info.default
    ]
    told = f"{len(facts)} settings, {len(changed)} of them not the default" + "".join(
        f"\n{one}" for one in changed
    )
    yield Finding("service", "settings", "ok", told, facts)
    limits = (
        f"{settings.max_items:,} items and {settings.max_body_bytes.human_readable()} a call,"
        f" {settings.max_queued_items:,} items wait at most, {settings.max_wait_s:g} s for a turn,"
        f" {settings.deadline_s:g} s a call; an image has {settings.max_image_pixels:,} pixels"
        f" and {settings.max_image_bytes.human_readable()} at most"
    )
    yield Finding("service", "limits", "ok", limits)
    keys: State = "ok" if settings.api_keys else "note"
    told = f"{len(settings.api_keys)} in the settings" if settings.api_keys else "none in the settings"
    yield Finding("service", "keys", keys, told, {"in_settings": len(settings.api_keys)})


def _address(settings: ServiceSettings) -> Iterator[Finding]:
    from manyeyes.service.app import listen

    where = f"{settings.host}:{settings.port}"
    try:
        listen(settings).close()
    except InvalidSettings as error:
        if _is_ours(settings):
            yield Finding(
                "service", "address", "ok", f"a service of manyeyes answers at {where}", {"free": False}
            )
        else:
            yield Finding("service", "address", "broken", str(error), {"free": False})
        return
    yield Finding("service", "address", "ok", f"{where} is free", {"free": True})


def _is_ours(settings: ServiceSettings) -> bool:
    import httpx

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    try:
        answer = httpx.get(f"http://{host}:{settings.port}/healthz", timeout=2, trust_env=False)
        return bool(answer.json() == {"status": "ok"} and "x-request-id" in answer.headers)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


def _store(settings: ServiceSettings) -> Iterator[Finding]:
    from manyeyes.service.app import NO_STORE
    from manyeyes.service.store.addresses import address
    from manyeyes.service.store.store import Store

    if settings.store_url == NO_STORE:
        yield Finding("service", "store", "off", "MANYEYES_STORE_URL is none: nothing is kept")
        return
    try:
        url = address(settings.store_url)
        if url.drivername.startswith("sqlite") and not os.path.exists(url.database or ""):
            told = f"{url.database} is not there yet; the first start makes it"
            yield Finding("service", "store", "note", told, {"database": "sqlite"})
            return
        with Store.open(settings=settings, upgrade=False) as store:
            status = store.status()
    except InvalidSettings as error:
        # Tables of another version: the start changes them, unless the operator wants to do that by hand.
        state: State = "note" if settings.store_upgrade and "revision" in str(error) else "broken"
        told = f"{error}; the next start does, too" if state == "note" else str(error)
        yield Finding("service", "store", state, told)
        return
    except ManyeyesError as error:
        yield Finding("service", "store", "broken", str(error))
        return
    rows = ", ".join(f"{n:,} {name}" for name, n in status.rows.items() if n)
    yield Finding(
        "service",
        "store",
        "ok",
        f"{status.address}, revision {status.revision}: {rows or 'empty'}",
        {
            "database": status.database,
            "revision": status.revision,
            "head": status.head,
            "rows": dict(status.rows),
        },
    )


def _recipes(settings: ServiceSettings) -> Iterator[Finding]:
    from manyeyes.service.recipes import RecipeStore

    if settings.recipes_dir is None:
        yield Finding("service", "recipes", "off", "MANYEYES_RECIPES_DIR names no folder")
        return
    sound, broken = RecipeStore(settings.recipes_dir).survey()
    told = "".join(f"\n{name}: {error}" for name, error in broken.items())
    yield Finding(
        "service",
        "recipes",
        "broken" if broken else "ok",
        f"{len(sound)} can be used, {len(broken)} cannot{told}",
        {"sound": [served.name for served in sound], "broken": sorted(broken)},
    )


def _buckets(settings: ServiceSettings) -> Iterator[Finding]:
    from manyeyes.service.fetching.buckets import Buckets

    if settings.buckets_file is None:
        return
    try:
        Buckets.load(settings.buckets_file)
    except ManyeyesError as error:
        yield Finding("service", "buckets", "broken", str(error))
    else:
        yield Finding("service", "buckets", "ok", f"{settings.buckets_file} can be read")


def _traces(settings: ServiceSettings) -> Iterator[Finding]:
    from manyeyes.service.operations.tracing import asked_for

    if not asked_for(settings):
        yield Finding("service", "traces", "off", "no collector is named")
    elif version("opentelemetry-sdk") is None:
        yield Finding("service", "traces", "broken", "a collector is named; pip install 'manyeyes[otel]'")
    else:
        yield Finding("service", "traces", "ok", "sent to the collector that is named")
