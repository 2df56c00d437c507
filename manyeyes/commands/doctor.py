"""``manyeyes doctor``: what is installed, which models and runtimes load, which limits hold, and what does not work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Final

from rich.text import Text

from manyeyes.commands import screen
from manyeyes.commands.checkup import Finding, disk, extras, licences, machine, versions
from manyeyes.commands.checkup_models import runtimes, starters
from manyeyes.commands.checkup_service import endpoints, service
from manyeyes.service.operations.secrets import Redactor

_LOOKS: Final[tuple[Callable[[], Iterator[Finding]], ...]] = (
    versions,
    machine,
    disk,
    extras,
    runtimes,
    starters,
    service,
    endpoints,
    licences,
)
_STYLES: Final = {"ok": "green", "missing": "dim", "off": "dim", "note": "yellow", "broken": "bold red"}


def run(*, as_json: bool, models: bool = True) -> int:
    """Print what was found; return 1 if something that was asked for does not work, else 0.

    models: whether the starters are loaded and run, which takes seconds.
    """
    found = examine(models=models)
    broken = [finding for finding in found if finding.state == "broken"]
    console = screen.out()
    if as_json:
        told = {"sound": not broken, "findings": [asdict(finding) for finding in found]}
        console.out(json.dumps(told, indent=2, ensure_ascii=False), highlight=False)
        return 1 if broken else 0
    section = None
    for finding in found:
        if finding.section != section:
            console.print(Text(("" if section is None else "\n") + finding.section, style="bold"))
            section = finding.section
        first, *more = finding.told.splitlines() or [""]
        console.print(
            Text.assemble((f"  {finding.state:<8}", _STYLES[finding.state]), f"{finding.name:<18} ", first),
            soft_wrap=True,
        )
        for line in more:
            console.print(Text(f"{'':29}{line}"), soft_wrap=True)
    names = ", ".join(f"{finding.section} {finding.name}" for finding in broken)
    screen.say(f"Does not work: {names}." if broken else "All that was asked for works.")
    return 1 if broken else 0


def examine(*, models: bool = True) -> list[Finding]:
    """Return what was found, in order, without secrets. What goes wrong with a look is a finding, too."""
    redactor = Redactor.from_env()
    found: list[Finding] = []
    for look in _LOOKS:
        if look is starters and not models:
            continue
        try:
            found += look()
        except Exception as error:  # The doctor does not fall ill.
            told = f"could not be looked at: {type(error).__name__}: {error}"
            found.append(Finding(look.__name__, "", "broken", told))
    return [
        replace(
            finding,
            told=redactor.clean(finding.told),
            # Not all of it at once: "set" and "unset" stand under names of secrets here.
            facts={name: redactor.clean(value) for name, value in finding.facts.items()},
        )
        for finding in found
    ]
