"""What every test shares: a home of its own, the larger data where it is at hand, and no way out to the network."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.postgres import PostgresServer

ROOT = Path(__file__).resolve().parent.parent

# Set before any library is imported, because most of them read their environment once. Nobody's cache, settings or
# recipes are touched, nothing is fetched from a hub, and figures do not depend on how many cores the machine has.
_HOME = Path(tempfile.mkdtemp(prefix="manyeyes-tests-"))
os.environ |= {
    "MANYEYES_HOME": str(_HOME / "home"),
    "MPLCONFIGDIR": str(_HOME / "matplotlib"),
    "YOLO_CONFIG_DIR": str(_HOME / "ultralytics"),
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "2",
    "COLUMNS": "120",
}
os.environ.pop("MANYEYES_URL", None)
os.environ.pop("MANYEYES_STORE_URL", None)
(_HOME / "ultralytics").mkdir()


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def manyeyes_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a home of its own, empty until something is kept there; processes that it starts share it."""
    home = tmp_path / "manyeyes-home"
    monkeypatch.setenv("MANYEYES_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of labelled photos that the starters are trained and measured with, or skip the test.

    It is too large to commit: ``$MANYEYES_DATA``, or ``../shared/data`` beside the checkout.
    """
    folder = Path(os.environ.get("MANYEYES_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(
            f"the training and validation photos are not at {folder}; set MANYEYES_DATA to where they are"
        )
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return a PostgreSQL server for all tests, or skip the test where there is none; with CI=true it fails there."""
    from benchmarks.postgres import NoPostgres, PostgresServer

    try:
        server = PostgresServer()
    except NoPostgres as error:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """Return the URL of an empty place in PostgreSQL of the test's own."""
    return postgres.make_schema()


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test inside an empty folder and return it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    # What earlier tests left to the garbage collector may want to remove files, which nobody has no right to.
    gc.collect()
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(uid)


@pytest.fixture
def as_nobody() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return a context in which a superuser has given up the right to read everything."""
    return _as_nobody
