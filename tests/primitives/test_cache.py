"""The cache keeps what it was given and believes nothing else: no damage, older format, killed writer, changed file."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from manyeyes.errors import CacheUnusable
from manyeyes.primitives import store as store_module
from manyeyes.primitives.cache import Cache, content_digest

DIGESTS = [content_digest(b"%d" % i) for i in range(300)]
ROWS = {digest: digest * 60 for digest in DIGESTS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@contextmanager
def opened(folder: Path, **options: int) -> Iterator[Cache]:
    cache = Cache(folder, **options)
    try:
        yield cache
    finally:
        cache.close()


def filled(folder: Path) -> Path:
    with opened(folder) as cache:
        cache.put("v 1", ROWS)
    return folder / "data.mdb"


def test_rows_come_back(folder: Path) -> None:
    with opened(folder) as cache:
        cache.put_many({"v 1": ROWS, "v 2": {DIGESTS[0]: b""}})
        assert cache.get("v 1", DIGESTS) == ROWS
        assert cache.get("v 2", DIGESTS) == {DIGESTS[0]: b""}
        assert cache.get("v 3", DIGESTS) == {}
        assert cache.get("v 1", []) == {}
        assert cache.get("v 1", [content_digest(b"unknown"), *DIGESTS[:2], *DIGESTS[:2]]) == {
            digest: ROWS[digest] for digest in DIGESTS[:2]
        }
    with opened(folder) as cache:
        assert cache.get("v 1", DIGESTS) == ROWS


def test_a_row_can_be_written_again(folder: Path) -> None:
    with opened(folder) as cache:
        cache.put("v", {DIGESTS[0]: b"old"})
        cache.put("v", {DIGESTS[0]: b"newer"})
        assert cache.get("v", DIGESTS) == {DIGESTS[0]: b"newer"}


def test_two_caches_of_one_folder_are_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    first, second = Cache(folder), Cache.shared(tmp_path / "link")
    first.put("v", {DIGESTS[0]: b"x"})
    first.close()
    assert second.get("v", DIGESTS) == {DIGESTS[0]: b"x"}
    second.close()
    assert str(folder) not in store_module._stores


def test_the_folder_is_the_operators(manyeyes_home: Path) -> None:
    with opened(None) as cache:  # type: ignore[arg-type]
        assert cache.path == manyeyes_home / "cache"


def test_what_a_primitive_tells_is_kept(folder: Path) -> None:
    with opened(folder) as cache:
        assert cache.meta_get("v") is None
        cache.meta_put("v", {"info": {"names": ["a", "ü"]}, "dtype": [["x", "<f4", [3]]]})
    with opened(folder) as cache:
        assert cache.meta_get("v") == {"info": {"names": ["a", "ü"]}, "dtype": [["x", "<f4", [3]]]}


def test_the_listing_counts(folder: Path) -> None:
    with opened(folder) as cache:
        assert cache.listing() == []
        cache.put_many({"small 1": {DIGESTS[0]: b"1234"}, "large 1": ROWS})
        for version in ("small 1", "large 1", "empty 1"):
            cache.meta_put(version, {"ragged": False})
        cache.put("untold 1", {DIGESTS[0]: b"12"})
        entries = cache.listing()
        assert [(entry.rows, entry.n_bytes) for entry in entries] == [
            (300, 300 * 960),
            (1, 4),
            (1, 2),
            (0, 0),
        ]
        assert [entry.version for entry in entries][:2] == ["large 1", "small 1"]
        assert entries[0].meta == {"ragged": False}
        assert entries[2].version.startswith("unknown ")


# --- nothing damaged is believed -------------------------------------------------------------------------------------


def overwrite(data: Path, start: float, stop: float) -> None:
    size = data.stat().st_size
    with data.open("r+b") as stream:
        stream.seek(int(start * size))
        stream.write(os.urandom(int(stop * size) - int(start * size)))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "garbage all over": lambda data: overwrite(data, 0, 1),
    "garbage in the middle": lambda data: overwrite(data, 0.3, 0.7),
    "garbage in the head": lambda data: overwrite(data, 0, 0.02),
    "garbage at the end": lambda data: overwrite(data, 0.8, 1),
    "cut in half": lambda data: os.truncate(data, data.stat().st_size // 2),
    "cut by a page": lambda data: os.truncate(data, data.stat().st_size - 4096),
    "nothing left": lambda data: os.truncate(data, 0),
    "another file": lambda data: data.write_bytes(b"SQLite format 3\0" + bytes(8192)) and None,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_set_aside(folder: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    data = filled(folder)
    DAMAGE[how](data)
    damaged = data.read_bytes()
    with caplog.at_level(logging.WARNING), opened(folder) as cache:
        assert cache.get("v 1", DIGESTS) == {}
        cache.put("v 1", ROWS)
        assert cache.get("v 1", DIGESTS) == ROWS
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"the feature cache in {folder} is not used and starts anew"
    ]
    assert (folder / "data.mdb.corrupt").read_bytes() == damaged
    caplog.clear()
    with opened(folder) as cache:
        assert cache.get("v 1", DIGESTS) == ROWS
    assert caplog.records == []


@pytest.mark.parametrize("seed", range(20))
def test_a_page_of_garbage_never_gives_wrong_rows(folder: Path, seed: int) -> None:
    """Wherever the page lies, rows are right or missing, and the process lives."""
    data = filled(folder)
    pages = data.stat().st_size // 4096
    with data.open("r+b") as stream:
        stream.seek((seed * 7919 % pages) * 4096)
        stream.write(os.urandom(4096))
    with opened(folder) as cache:
        found = cache.get("v 1", DIGESTS)
        assert all(ROWS[digest] == row for digest, row in found.items())
        cache.put("v 1", ROWS)
        assert cache.get("v 1", DIGESTS) == ROWS


def test_a_flipped_bit_in_a_value_is_missing(folder: Path) -> None:
    data = filled(folder)
    content = bytearray(data.read_bytes())
    content[content.index(ROWS[DIGESTS[7]]) + 100] ^= 1
    data.write_bytes(content)
    with opened(folder) as cache:
        assert cache.get("v 1", DIGESTS) == {d: row for d, row in ROWS.items() if d != DIGESTS[7]}
        cache.put("v 1", {DIGESTS[7]: ROWS[DIGESTS[7]]})
        assert cache.get("v 1", DIGESTS) == ROWS
    assert not (folder / "data.mdb.corrupt").exists()


def test_a_value_under_another_key_is_missing(folder: Path) -> None:
    filled(folder)
    env = lmdb.open(str(folder))
    with env.begin(write=True) as transaction:
        rows = [(key, value) for key, value in transaction.cursor() if key[:1] == b"r"]
        transaction.put(rows[0][0], rows[1][1])
    env.close()
    with opened(folder) as cache:
        found = cache.get("v 1", DIGESTS)
        assert len(found) == len(ROWS) - 1
        assert all(ROWS[digest] == row for digest, row in found.items())


@pytest.mark.parametrize("stamp", [b"manyeyes features 0", b"something else", None])
def test_another_format_is_set_aside(
    folder: Path, stamp: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    filled(folder)
    env = lmdb.open(str(folder))
    with env.begin(write=True) as transaction:
        if stamp is None:
            transaction.delete(b"\x00format")
        else:
            transaction.put(b"\x00format", stamp)
    env.close()
    with caplog.at_level(logging.WARNING), opened(folder) as cache:
        assert cache.get("v 1", DIGESTS) == {}
    assert "format" in caplog.text
    assert (folder / "data.mdb.corrupt").exists()


def test_a_damaged_lock_file_is_replaced(folder: Path) -> None:
    filled(folder)
    (folder / "lock.mdb").write_bytes(os.urandom(8192))
    with opened(folder) as cache:
        assert cache.get("v 1", DIGESTS) == ROWS


def test_an_untouched_file_is_not_walked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(folder)

    def walked(*_: object, **__: object) -> list[str]:
        raise AssertionError("the file was walked")

    monkeypatch.setattr("lmdb.verify.verify", walked)
    with opened(folder) as cache:
        assert cache.get("v 1", DIGESTS) == ROWS


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheUnusable, match="MANYEYES_HOME"):
        Cache(tmp_path / "file" / "cache")
    with pytest.raises(CacheUnusable, match="MANYEYES_HOME"):
        Cache("/proc/cache")


# --- many at once ----------------------------------------------------------------------------------------------------


def test_a_full_map_grows(folder: Path) -> None:
    with opened(folder, map_bytes=2**18) as cache:
        for part in range(8):
            cache.put("v", {content_digest(b"%d %d" % (part, i)): os.urandom(1000) for i in range(100)})
        assert (
            len(cache.get("v", [content_digest(b"%d %d" % (p, i)) for p in range(8) for i in range(100)]))
            == 800
        )


def test_threads_read_and_write_while_it_grows(folder: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(40):
                digest = content_digest(b"%d %d" % (number, i))
                cache.put("v", {digest: digest * 100})
                assert cache.get("v", [digest]) == {digest: digest * 100}
                assert all(row == key * 100 for key, row in cache.get("v", DIGESTS).items())
        except BaseException as error:
            failures.append(error)

    with opened(folder, map_bytes=2**17) as cache:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


WRITER = """
import os, sys
from manyeyes.primitives.cache import Cache, content_digest
folder, number, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cache = Cache(folder, map_bytes=int(sys.argv[4]))
print("ready", flush=True)
for i in range(size):
    rows = {d: d * 50 for d in (content_digest(b"%d %d %d" % (number, i, j)) for j in range(20))}
    cache.put("v", rows)
    assert cache.get("v", rows) == rows, "own rows"
    others = [content_digest(b"%d %d %d" % (o, i, j)) for o in range(4) for j in range(20)]
    assert all(row == d * 50 for d, row in cache.get("v", others).items()), "the others' rows"
cache.close()
"""


def start_writer(folder: Path, number: int, size: int, *, map_bytes: int = 2**30) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(number), str(size), str(map_bytes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("map_bytes", [2**30, 2**18], ids=["roomy", "growing"])
def test_processes_read_and_write_together(folder: Path, map_bytes: int) -> None:
    writers = [start_writer(folder, number, 25, map_bytes=map_bytes) for number in range(4)]
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert writer.returncode == 0, said
    with opened(folder) as cache:
        wanted = [
            content_digest(b"%d %d %d" % (o, i, j)) for o in range(4) for i in range(25) for j in range(20)
        ]
        assert cache.get("v", wanted) == {digest: digest * 50 for digest in wanted}
    assert not (folder / "data.mdb.corrupt").exists()


def test_a_killed_writer_does_no_harm(folder: Path) -> None:
    """Killed at some moment of writing, while another process has the cache open, and again while nobody has."""
    filled(folder)
    with opened(folder) as cache:
        for delay in (0.0, 0.02, 0.05):
            writer = start_writer(folder, 0, 10**6)
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
            assert cache.get("v 1", DIGESTS) == ROWS
            cache.put("v 2", {DIGESTS[0]: b"still writable"})
    writer = start_writer(folder, 1, 10**6)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    time.sleep(0.05)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    with opened(folder) as cache:
        assert cache.get("v 1", DIGESTS) == ROWS
        assert cache.get("v 2", DIGESTS) == {DIGESTS[0]: b"still writable"}
    assert not (folder / "data.mdb.corrupt").exists()


FORK = """
import os, sys
from pathlib import Path
from manyeyes.primitives.cache import Cache

cache = Cache(Path(sys.argv[1]))
digests = [bytes([i]) * 16 for i in range(3)]
cache.put("v 1", {digests[0]: b"before"})
children = []
for digest in digests:
    if (child := os.fork()) == 0:
        known = cache.get("v 1", digests) == {digests[0]: b"before"}
        cache.put("child", {digest: b"from the child"})
        os._exit(0 if known else 1)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
assert len(cache.get("child", digests)) == 3
cache.put("parent", {digests[0]: b"still works"})
assert cache.get("parent", digests) == {digests[0]: b"still works"}
cache.close()
"""


def test_a_fork_gets_its_own_environment(folder: Path) -> None:
    # In an interpreter of its own: the threads that models left in this one may hold locks that a fork would copy.
    subprocess.run([sys.executable, "-c", FORK, str(folder)], check=True, timeout=60)


def test_a_cache_in_use_is_not_set_aside(folder: Path) -> None:
    """Another process's writes change the file; who comes second must not take that for damage."""
    with opened(folder) as cache:
        cache.put("v 1", ROWS)
        writer = start_writer(folder, 0, 2)
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said
        assert cache.get("v 1", DIGESTS) == ROWS
    assert not (folder / "data.mdb.corrupt").exists()


# --- files that were digested before ---------------------------------------------------------------------------------


def aged(path: Path, content: bytes) -> tuple[str, os.stat_result]:
    path.write_bytes(content)
    return str(path), path.stat()


def remembered(cache: Cache, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    name, stat = aged(path, content)
    with monkeypatch.context() as patched:
        now = time.time_ns()
        patched.setattr(time, "time_ns", lambda: now + 3_000_000_000)
        cache.remember([(name, stat, content_digest(content))])


def test_an_unchanged_file_is_recalled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder) as cache:
        path = tmp_path / "a"
        remembered(cache, path, b"one", monkeypatch)
        assert cache.recall([(str(path), path.stat()), ("/nowhere", path.stat())]) == [
            content_digest(b"one"),
            None,
        ]


def test_a_changed_file_is_not(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder) as cache:
        path = tmp_path / "a"
        remembered(cache, path, b"one", monkeypatch)
        before = path.stat()
        # Same size and same mtime, as an archiver would restore it: ctime and inode tell.
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cache.recall([(str(path), path.stat())]) == [None]
        other = tmp_path / "b"
        other.write_bytes(b"one")
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(path)
        assert cache.recall([(str(path), path.stat())]) == [None]


def test_a_file_changed_a_moment_ago_is_not_remembered(folder: Path, tmp_path: Path) -> None:
    with opened(folder) as cache:
        name, stat = aged(tmp_path / "a", b"one")
        cache.remember([(name, stat, content_digest(b"one"))])
        assert cache.recall([(name, stat)]) == [None]
