"""``kill -9`` of a process that keeps things: whatever it was told is kept is there afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from manyeyes.service.store.store import Store

pytestmark = pytest.mark.slow

KEEPER = """
import os, sys, threading
from manyeyes.service.store.store import Store
from manyeyes.types import Label, Versions

store = Store.open(sys.argv[1])

def say(line):
    os.write(1, (line + chr(10)).encode())  # whole lines, whichever thread

def label(who):
    for n in range(10**9):
        name = f"{who}/{n}/{os.getpid()}"
        batch = store.batches.add(
            key_id="k", recipe_name="r", versions=Versions("v"), labels=[Label(id=name, status="abstained")]
        )
        say(f"label {batch.label_id(0)} {name}")

def edit():
    for n in range(10**9):
        made = store.recipes.create(f"r{os.getpid()}", str(n), author="a")
        store.recipes.activate(made.name, made.number, author="a")
        say(f"recipe {made.name} {made.number} {n}")

for who in range(4):
    threading.Thread(target=label, args=(who,)).start()
threading.Thread(target=edit).start()
"""


def test_killed_while_it_keeps(store_url: str) -> None:
    labels: dict[str, str] = {}
    recipes: dict[str, tuple[int, str]] = {}
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KEEPER, store_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.communicate()[1]
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        lines = [first, *process.stdout]
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        # The last line may have been cut off while it was written.
        for line in (line for line in lines if line.endswith("\n")):
            what, name, *told = line.split()
            if what == "label":
                labels[name] = told[0]
            else:
                recipes[name] = (int(told[0]), told[1])
    assert len(labels) > 20 and len(recipes) == 3
    with Store.open(store_url) as store:
        for id, name in labels.items():
            assert store.batches.label(id).label.id == name
        for name, (number, text) in recipes.items():
            assert store.recipes.get(name, number).text == text
            active = store.recipes.get(name)
            assert active.number >= number
            # What was not acknowledged is there as a whole or not at all.
            versions = store.recipes.versions(name, limit=1000)
            assert [one.number for one in versions] == list(
                range(len(versions), 0, -1)
            ) or versions.next_cursor
            told = store.audit.list(1000, subject=f"recipe:{name}", action="recipe.create")
            assert len(told) == len(versions)
