"""A PostgreSQL of one's own: for tests and benchmarks, in a temporary folder, gone at the end.

>>> with PostgresServer() as server:  # doctest: +SKIP
...     url = server.make_database()
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

PATIENCE_S: Final = 60.0


class NoPostgres(Exception):
    """There is no PostgreSQL on this machine."""


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs, as scripts/postgres told it or where Debian puts them.

    Raises NoPostgres.
    """
    told = os.environ.get("MANYEYES_POSTGRES_BIN")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    found = [*([Path(told)] if told else []), *reversed(versions)]
    found += [Path(on_path).parent] if on_path else []
    for folder in found:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    raise NoPostgres(
        "there is no PostgreSQL here; scripts/postgres says where it is, and installs it for a superuser on Debian"
    )


class PostgresServer:
    """A server on a port of its own at 127.0.0.1, behind a password that nobody else knows.

    It runs as an unprivileged user, since PostgreSQL refuses the superuser, and ends with the process that started it.
    Raises NoPostgres.
    """

    def __init__(self) -> None:
        self._bin = binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="manyeyes-postgres-", dir=_open_folder()))
        self.password = secrets.token_hex(16)
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._as: list[str] = []
        if shutil.which("setpriv"):
            # SIGINT makes it close its connections and end.
            self._as = ["setpriv", "--pdeathsig", "INT"]
        if os.geteuid() == 0:
            user = _unprivileged()
            if not self._as:
                raise NoPostgres(
                    "PostgreSQL does not run as superuser, and setpriv is not here to change that"
                )
            self._as += ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups", "--"]
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # Inside a folder that only its owner enters.
        done = subprocess.run(
            [
                *self._as,
                self._bin / "initdb",
                f"--pgdata={self.folder / 'data'}",
                "--username=manyeyes",
                "--auth=scram-sha-256",
                f"--pwfile={secret}",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            cwd="/",
        )
        if done.returncode:
            shutil.rmtree(self.folder)
            raise NoPostgres(f"initdb failed: {done.stderr.strip()}")

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database of the server."""
        return f"postgresql://manyeyes:{self.password}@127.0.0.1:{self.port}/{database}"

    def make_database(self) -> str:
        """Make an empty database; return its URL."""
        import psycopg

        name = f"test_{secrets.token_hex(8)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def make_schema(self) -> str:
        """Make an empty schema, which is quicker to make and to remove; return the URL that leads to it alone."""
        import psycopg

        name = f"test_{secrets.token_hex(8)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{name}"'.encode())
        return f"{self.url()}?options=-csearch_path%3D{name}"

    def start(self) -> Self:
        """Start it; return once it takes connections."""
        import psycopg

        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as,
                    self._bin / "postgres",
                    *("-D", self.folder / "data", "-p", str(self.port), "-k", ""),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return self
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise NoPostgres(f"it does not start: {error}; {self.told()}") from error
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it. how: SIGINT closes all connections and ends in good order; SIGQUIT ends at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE_S)
            self._process = None

    def freeze(self) -> None:
        """Let it and all that it runs stand still: connections stay open, and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def told(self) -> str:
        """Return the end of its log."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _signal_all(self, how: signal.Signals) -> None:
        assert self._process is not None
        server = self._process.pid
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for process in (server, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, how)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoPostgres("PostgreSQL does not run as superuser, and neither postgres nor nobody is a user here")


def _open_folder() -> str | None:
    """Return a folder for temporary files that an unprivileged user can reach; None for the usual one."""
    if os.geteuid() != 0:
        return None
    usual = Path(tempfile.gettempdir()).resolve()
    reachable = all(folder.stat().st_mode & 0o001 for folder in (usual, *usual.parents))
    return None if reachable else "/tmp"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
