"""What is done to a cache's data file while no process has it open: check it, move it aside, note how it was left.

LMDB maps the file into memory and trusts it: a cut file ends the process with SIGBUS, a damaged page may crash it. So a
file that is not as the last clean close left it is walked by ``lmdb.verify`` first, which reads it in plain Python.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

logger = logging.getLogger(__name__)


def inspect(folder: Path) -> None:
    """Move the data file aside if it is damaged; walk it only if it changed since the last clean close."""
    data, noted = folder / "data.mdb", folder / "closed.json"
    # Nobody has it open: a lock table that a crash left behind, or that is damaged, is worth nothing.
    (folder / "lock.mdb").unlink(missing_ok=True)
    if not data.exists():
        return
    try:
        clean = json.loads(noted.read_bytes()) == _state(data)
    except (OSError, ValueError):
        clean = False
    noted.unlink(missing_ok=True)
    if clean:
        return
    started = time.monotonic()
    problem = _first_problem(data)
    logger.info("checked the feature cache in %s in %.1f s", folder, time.monotonic() - started)
    if problem is not None:
        set_aside(folder, problem)


def set_aside(folder: Path, problem: str) -> None:
    """Rename the data file; only the newest such file is kept, for whoever wants to know what happened."""
    os.replace(folder / "data.mdb", folder / "data.mdb.corrupt")
    (folder / "lock.mdb").unlink(missing_ok=True)
    logger.warning(
        "the feature cache in %s is not used and starts anew: %s. The old file is data.mdb.corrupt.",
        folder,
        problem,
    )


def note_clean_close(folder: Path) -> None:
    """Note the state of the data file, closed a moment ago by its last user."""
    temporary = folder / "closed.json.new"
    temporary.write_text(json.dumps(_state(folder / "data.mdb")))
    os.replace(temporary, folder / "closed.json")


def _state(data: Path) -> dict[str, int]:
    stat = data.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _first_problem(data: Path) -> str | None:
    """Return what is wrong with the structure of an LMDB file, or None."""
    from lmdb.verify import VerifyError, verify

    try:
        problems = verify(str(data), subdir=False)
    except VerifyError as error:
        return str(error)
    except Exception as error:  # whatever garbage makes the walker stumble over, the file is not intact
        return f"{type(error).__name__}: {error}"
    return problems[0] if problems else None
