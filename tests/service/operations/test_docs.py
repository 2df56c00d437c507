"""docs/operations.md says what is so: every metric with type and labels, every check, every setting, a real line."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest

from manyeyes.service.app import create_app
from manyeyes.service.operations.logs import configure, release
from manyeyes.service.operations.metrics import MAX_LINES, MAX_VOTE_SERIES, Metrics
from manyeyes.service.operations.settings import OperationsSettings
from manyeyes.service.settings import ENV_PREFIX, ServiceSettings


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "operations.md").read_text("utf-8")


def test_every_metric_is_listed_with_its_type_and_labels(page: str) -> None:
    listed = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(r"^\| `(manyeyes_\w+)` \| (\w+) \| ([^|]*)\|", page, flags=re.M)
    }
    metrics = Metrics()
    known: dict[str, tuple[str, set[str]]] = {}
    for family in metrics.registry.collect():
        if family.name.startswith("manyeyes_"):
            known[family.name + ("_total" if family.type == "counter" else "")] = (family.type, set())
    for metric in vars(metrics).values():
        if hasattr(metric, "_labelnames"):
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            known[name] = (family.type, set(metric._labelnames))
    assert listed == known
    assert f"Beyond {MAX_LINES} lines and {MAX_VOTE_SERIES:,} series" in page


def test_every_check_is_listed(page: str) -> None:
    checks = create_app(ServiceSettings()).state.service.readiness.checks
    section = page.partition("## Ready or not")[2].partition("## Metrics")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.M)) == checks.keys()


def test_every_setting_is_listed_with_its_default(page: str) -> None:
    section = page.partition("## Settings")[2]
    for name, field in OperationsSettings.model_fields.items():
        assert f"`{ENV_PREFIX}{name.upper()}`" in section
        if isinstance(field.default, float):
            assert f"`{field.default:g}`" in section


def test_a_line_of_the_log_has_the_members_that_are_shown(page: str) -> None:
    (shown,) = re.findall(r"^```json\n(.*?)^```$", page, flags=re.M | re.S)
    stream = io.StringIO()
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    handler = configure(ServiceSettings(), environ={}, stream=stream)
    try:
        logging.getLogger("manyeyes.service").info("x")
    finally:
        release(handler)
        for old in before:
            root.addHandler(old)
    assert list(json.loads(stream.getvalue())) == list(json.loads(shown))[:7]
    for member in json.loads(shown):
        assert f"`{member}`" in page.replace(shown, "")
