"""One LMDB environment a process and folder: opened by one process at a time, grown when full, let go at a fork.

What is relied on in LMDB and py-lmdb: committed transactions survive a killed process; a process must not open a file
twice; an environment is neither resized nor closed while one of the process's transactions runs.

Beside ``data.mdb`` lie ``opening.lock``, held while somebody opens or closes, and ``users.lock``, shared by every
process that has the environment open. Who finds nobody else there checks the file first, as
:mod:`manyeyes.primitives.datafile` says.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from manyeyes.errors import CacheUnusable, MissingDependency
from manyeyes.primitives.datafile import inspect, note_clean_close, set_aside

if TYPE_CHECKING:
    import lmdb

T = TypeVar("T")

FORMAT = b"manyeyes features 1"
"""Written into every file; a file with another stamp is not believed."""
_STAMP = b"\x00format"
_MAP_BYTES = 2**36  # address space, not disk: the file grows as it is written
_SMALLEST_MAP = 2**28
_MAX_READERS = 1022


class Store:
    """A key–value file that many threads and processes share.

    path: a folder of its own, made if need be. map_bytes: the address space to begin with; it grows when full.
    Raises CacheUnusable if the folder cannot be written, or another version of manyeyes has it open.
    """

    def __init__(self, path: Path, *, map_bytes: int = _MAP_BYTES) -> None:
        self.path = path
        self.users = 0
        self._map_bytes = map_bytes
        self._lock = threading.RLock()
        self._turn = threading.Condition(self._lock)
        self._active = 0
        self._wanted_alone = 0
        self._env: lmdb.Environment | None = None
        self._users_fd = -1
        with self._alone():
            self._open()

    def read(self, work: Callable[[lmdb.Transaction[bytes]], T]) -> T:
        """Return ``work(transaction)`` of a read transaction; `work` must not call the store again."""
        return self._transact(work, write=False)

    def write(self, work: Callable[[lmdb.Transaction[bytes]], T]) -> T:
        """Return ``work(transaction)`` of a write transaction, committed; `work` may run again after growth."""
        return self._transact(work, write=True)

    def close(self) -> None:
        """Close the environment and note its state, if nobody else has it open. It opens again when used."""
        with self._alone():
            if self._env is None:
                return
            opening = self._flock("opening.lock")
            try:
                self._env.close()
                self._env = None
                if _try_exclusive(self._users_fd):
                    note_clean_close(self.path)
                os.close(self._users_fd)
                self._users_fd = -1
            finally:
                os.close(opening)

    def _transact(self, work: Callable[[lmdb.Transaction[bytes]], T], *, write: bool) -> T:
        import lmdb

        for attempt in range(64):
            with self._shared() as env:
                size = env.info()["map_size"]
                try:
                    with env.begin(write=write) as transaction:
                        return work(transaction)
                except (lmdb.MapFullError, lmdb.MapResizedError, lmdb.ReadersFullError) as error:
                    problem: lmdb.Error = error
                except lmdb.Error as error:
                    raise CacheUnusable(
                        f"the feature cache in {self.path} cannot be {'written' if write else 'read'}: {error}. Free"
                        " some disk space, or end every process that uses it, so that it is checked when opened next."
                    ) from error
            if isinstance(problem, lmdb.ReadersFullError):
                with self._shared() as env:
                    env.reader_check()  # frees the slots of processes that were killed
                time.sleep(0.002 * attempt)
                continue
            with self._alone():
                self._grow(size, adopt=isinstance(problem, lmdb.MapResizedError))
        raise CacheUnusable(f"the feature cache in {self.path} has no room or no free reader: {problem}")

    def _grow(self, size: int, *, adopt: bool) -> None:
        import lmdb

        env = self._env
        # Another thread may have done it while this one waited for its turn.
        if env is None or env.info()["map_size"] != size:
            return
        try:
            env.set_mapsize(0 if adopt else 2 * size)
        except lmdb.Error as error:
            raise CacheUnusable(
                f"the feature cache in {self.path} is full at {size} bytes: {error}"
            ) from error

    @contextmanager
    def _shared(self) -> Iterator[lmdb.Environment]:
        """Lend the environment for one transaction; it is neither resized nor closed meanwhile."""
        with self._turn:
            self._turn.wait_for(lambda: self._wanted_alone == 0)
            if self._env is None:
                self._open()
            env = self._env
            assert env is not None
            self._active += 1
        try:
            yield env
        finally:
            with self._turn:
                self._active -= 1
                self._turn.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no transaction runs in this process, and let none begin."""
        with self._turn:
            self._wanted_alone += 1
            try:
                self._turn.wait_for(lambda: self._active == 0)
                yield
            finally:
                self._wanted_alone -= 1
                self._turn.notify_all()

    def _open(self) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise MissingDependency("the feature cache needs lmdb: pip install 'manyeyes[serve]'") from error
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            opening = self._flock("opening.lock")
            try:
                users = os.open(self.path / "users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    first = _try_exclusive(users)
                    if first:
                        inspect(self.path)
                    self._env = self._open_stamped(first)
                    fcntl.flock(users, fcntl.LOCK_SH)
                except BaseException:
                    os.close(users)
                    raise
                self._users_fd = users
            finally:
                os.close(opening)
        except CacheUnusable:
            raise
        except (OSError, lmdb.Error) as error:
            raise CacheUnusable(
                f"the feature cache cannot be kept in {self.path}: {error}. Make the folder writable, or set"
                " MANYEYES_HOME to one that is."
            ) from error

    def _open_stamped(self, first: bool) -> lmdb.Environment:
        """Open the environment and check its format; the first opener replaces a file of another format."""
        import lmdb

        try:
            env = self._open_environment()
        except lmdb.Error as error:
            if not first or isinstance(error, lmdb.MemoryError):
                raise
            set_aside(self.path, f"LMDB cannot open it ({error})")
            env = self._open_environment()
        with env.begin() as transaction:
            stamp, entries = transaction.get(_STAMP), transaction.stat()["entries"]
        if stamp == FORMAT:
            return env
        if entries:
            env.close()
            found = "no format stamp" if stamp is None else f"the format {stamp[:40]!r}"
            if not first:
                raise CacheUnusable(
                    f"the feature cache in {self.path} has {found}, not {FORMAT!r}, and another process uses it."
                    " End that process, or set MANYEYES_HOME to another folder."
                )
            set_aside(self.path, f"it has {found}, not {FORMAT!r}")
            env = self._open_environment()
        with env.begin(write=True) as transaction:
            transaction.put(_STAMP, FORMAT)
        return env

    def _open_environment(self) -> lmdb.Environment:
        import lmdb

        while True:
            try:
                env = lmdb.open(
                    str(self.path),
                    map_size=self._map_bytes,
                    max_readers=_MAX_READERS,
                    readahead=False,
                    mode=0o666,
                )
            except lmdb.MemoryError:
                # Address space is limited here (ulimit -v, some containers): take less, and grow when full.
                if self._map_bytes <= _SMALLEST_MAP:
                    raise
                self._map_bytes //= 4
                continue
            env.reader_check()
            return env

    def _flock(self, name: str) -> int:
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def before_fork(self) -> None:
        """Let no transaction be halfway through a fork."""
        self._lock.acquire()
        self._turn.wait_for(lambda: self._active == 0)

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Let go of what belongs to the parent; the child opens its own environment when it needs one."""
        self._lock = threading.RLock()
        self._turn = threading.Condition(self._lock)
        self._wanted_alone = 0
        if self._env is not None:
            # Closes descriptors and unmaps; reader slots and file locks are the parent's and stay.
            self._env.close()
            self._env = None
            os.close(self._users_fd)
            self._users_fd = -1


_stores: dict[str, Store] = {}
_stores_lock = threading.RLock()  # a Cache may be collected while one is being opened


def lend_store(path: Path, *, map_bytes: int = _MAP_BYTES) -> Store:
    """Return this process's store for a folder; each call is answered by one `return_store`."""
    key = os.path.realpath(path)
    with _stores_lock:
        store = _stores.get(key)
        if store is None:
            store = _stores[key] = Store(Path(key), map_bytes=map_bytes)
        store.users += 1
        return store


def return_store(store: Store) -> None:
    """Give a store back; the last one closes it."""
    with _stores_lock:
        store.users -= 1
        if store.users == 0:
            del _stores[str(store.path)]
            store.close()


@atexit.register
def _close_all() -> None:
    with _stores_lock:
        for store in _stores.values():
            store.close()


def _before_fork() -> None:
    _stores_lock.acquire()
    for store in _stores.values():
        store.before_fork()


def _after_fork_in_parent() -> None:
    for store in _stores.values():
        store.after_fork_in_parent()
    _stores_lock.release()


def _after_fork_in_child() -> None:
    global _stores_lock
    _stores_lock = threading.RLock()
    for store in _stores.values():
        store.after_fork_in_child()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
