"""What is special about the store on disk: whose directory it is, damage, full disks, failed syncs, and the binding's habits.

The habits that `storage.rocks` works around are shown on the bare binding as well: when a new release changes one, a test says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import rocksdict

from khonsu_engine.errors import CannotConnect, CorruptDatabase, DatabaseInUse, EngineClosed, StoreFailed
from khonsu_engine.protocols import Put
from khonsu_engine.storage import rocks
from khonsu_engine.storage.rocks import RocksStore

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    store = RocksStore(tmp_path / "db")
    yield store
    store.close()


def python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `script` in a process of its own that can import the engine."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(ROOT / "engine")}, check=False)


def rows(store: RocksStore) -> list[tuple[bytes, bytes]]:
    return list(store.scan(b"T", b"U"))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# -- whose directory --------------------------------------------------------------------------------------------------

OPEN = "import sys; from pathlib import Path; from khonsu_engine.storage.rocks import RocksStore; RocksStore(Path(sys.argv[1]))"


def test_a_second_process_is_refused_by_name_and_number(store: RocksStore) -> None:
    done = python(OPEN, store.directory)
    assert "DatabaseInUse" in done.stderr
    assert f"{store.directory} is in use by process {os.getpid()}" in done.stderr
    store.close()
    assert python(OPEN, store.directory).returncode == 0


def test_a_second_store_in_this_process_is_refused(store: RocksStore) -> None:
    with pytest.raises(DatabaseInUse, match="open already in this process"):
        RocksStore(store.directory)
    store.put(b"Ta", b"still works")
    assert store.get(b"Ta") == b"still works"


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    script = OPEN + ".put(b'Ta', b'1'); import os; os.kill(os.getpid(), 9)"
    assert python(script, tmp_path / "db").returncode == -9
    store = RocksStore(tmp_path / "db", create=False)
    assert store.get(b"Ta") == b"1"
    store.close()


def test_creation_can_be_forbidden(tmp_path: Path) -> None:
    with pytest.raises(CannotConnect, match="there is no database"):
        RocksStore(tmp_path / "db", create=False)
    assert not (tmp_path / "db").exists()
    with pytest.raises(CannotConnect, match="there is no database"):
        RocksStore(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_the_parent_directory_must_exist(tmp_path: Path) -> None:
    with pytest.raises(CannotConnect, match=r"there is no directory .*missing"):
        RocksStore(tmp_path / "missing" / "db")


def test_a_file_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "db"):
        with pytest.raises(CannotConnect, match="directory"):
            RocksStore(path)


def test_a_nul_byte_in_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotConnect, match="null byte"):
        RocksStore(tmp_path / "a\0b")


@pytest.mark.parametrize("name", ["notes.txt", "CURRENT", "KHONSU.bak", "rocks"])
def test_a_foreign_directory_is_never_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(CannotConnect, match="holds other things"):
        RocksStore(tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_an_empty_directory_becomes_a_database(tmp_path: Path) -> None:
    RocksStore(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"KHONSU", "LOCK", "rocks", "files"}
    assert (tmp_path / "KHONSU").read_text() == "khonsu-sql\nformat 1\nready\n"


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("khonsu-sql\nformat 2\nready\n", "format 2, newer than this program"),
        ("khonsu\nformat 1\nready\n", "another format"),
        ("khonsu-sql\nformat x\nready\n", "another format"),
        ("khonsu-sql\nformat ²\nready\n", "another format"),
        ("khonsu-sql\nformat 1\n", "damaged"),
        ("", "another format"),
    ],
)
def test_another_format_is_refused_and_not_touched(store: RocksStore, marker: str, message: str) -> None:
    store.close()
    (store.directory / "KHONSU").write_text(marker)
    before = contents(store.directory)
    with pytest.raises(CannotConnect, match=message):
        RocksStore(store.directory)
    assert contents(store.directory) == before


def test_an_unreadable_directory_is_refused(tmp_path: Path) -> None:
    """Without the privileges that this test may run with."""
    (tmp_path / "db").mkdir(mode=0)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and directory.is_relative_to(tmp_path.parents[2]):
            directory.chmod(0o755)
    script = """
import os
import sys; from pathlib import Path; from khonsu_engine.storage.rocks import RocksStore
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
for path in (Path(sys.argv[1]), Path(sys.argv[1]).parent / 'new'):
    try:
        RocksStore(path)
    except Exception as error:
        print(type(error).__name__, error)
"""
    first, second = python(script, tmp_path / "db").stdout.splitlines()
    assert first == f"CannotConnect cannot open {str(tmp_path / 'db')!r}: Permission denied"
    if os.getuid() == 0:
        assert second == f"CannotConnect cannot open {str(tmp_path / 'new')!r}: Permission denied"


@pytest.mark.parametrize("done", ["LOCK", "KHONSU", "rocks", "files"])
def test_an_interrupted_creation_is_finished_by_the_next(tmp_path: Path, done: str) -> None:
    """Each state in which a crash can leave a directory that is being made."""
    if done != "LOCK":
        (tmp_path / "KHONSU").write_text("khonsu-sql\nformat 1\nnew\n")
    (tmp_path / "LOCK").touch()
    if done in ("rocks", "files"):
        (tmp_path / done).mkdir()
    with pytest.raises(CannotConnect, match=r"no database in|never finished"):
        RocksStore(tmp_path, create=False)
    store = RocksStore(tmp_path)
    store.put(b"Ta", b"1")
    store.sync()
    store.close()
    store = RocksStore(tmp_path, create=False)
    assert store.get(b"Ta") == b"1"
    store.close()


DIE_AT = """
import os, sys
from pathlib import Path
from khonsu_engine.storage import directory, files, rocks

owner, name = {"open": (rocks, "_open"), "files": (files.FileSet, "create"), "ready": (directory.Claim, "ready")}[sys.argv[2]]
setattr(owner, name, lambda *rest: os.kill(os.getpid(), 9))
rocks.RocksStore(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("stage", ["open", "files", "ready"])
def test_a_process_killed_while_it_makes_a_database_leaves_one_to_be_finished(tmp_path: Path, stage: str) -> None:
    assert python(DIE_AT, tmp_path / "db", stage).returncode == -9
    with pytest.raises(CannotConnect, match="never finished"):
        RocksStore(tmp_path / "db", create=False)
    RocksStore(tmp_path / "db").close()
    RocksStore(tmp_path / "db", create=False).close()


@pytest.mark.parametrize("part", ["rocks", "rocks/CURRENT", "files"])
def test_a_database_that_lost_a_part_is_not_made_anew(store: RocksStore, part: str) -> None:
    store.put(b"Ta", b"1")
    store.close()
    lost = store.directory / part
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    with pytest.raises(CorruptDatabase, match=str(store.directory)):
        RocksStore(store.directory)
    with pytest.raises(CorruptDatabase):
        RocksStore(store.directory)


def test_the_insides_of_another_database_are_noticed(store: RocksStore, tmp_path: Path) -> None:
    store.close()
    options = rocksdict.Options(raw_mode=True)
    shutil.rmtree(store.directory / "rocks")
    rocksdict.Rdict(str(store.directory / "rocks"), options).close()
    with pytest.raises(CorruptDatabase, match="does not belong"):
        RocksStore(store.directory)


def test_unfinished_files_are_swept_at_open(store: RocksStore) -> None:
    store.add_file("whole", [b"content"])
    store.close()
    (store.directory / "files" / "half.part").write_bytes(b"cont")
    again = RocksStore(store.directory)
    assert again.files() == ["whole"]
    assert [path.name for path in (store.directory / "files").iterdir()] == ["whole"]
    again.close()


# -- damage -----------------------------------------------------------------------------------------------------------


def with_table_file(directory: Path) -> tuple[Path, list[tuple[bytes, bytes]]]:
    """A closed database whose rows are in one sorted file of RocksDB: that file, and the rows."""
    store = RocksStore(directory)
    pairs = [(b"T%06d" % number, os.urandom(50)) for number in range(5_000)]
    for key, value in pairs:
        store.put(key, value)
    store.checkpoint(directory.parent / "flushed")
    store.close()
    (file,) = (directory / "rocks").glob("*.sst")
    return file, pairs


def test_a_flipped_bit_is_an_error_and_never_a_shorter_table(tmp_path: Path) -> None:
    file, pairs = with_table_file(tmp_path / "db")
    whole = file.read_bytes()
    file.unlink()  # it is linked from the checkpoint
    noticed = []
    for place in range(200, len(whole), len(whole) // 12):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        file.write_bytes(damaged)
        for reverse in (False, True):
            try:
                store = RocksStore(tmp_path / "db")
            except CorruptDatabase as error:
                noticed.append(str(error))
                continue
            try:
                assert list(store.scan(b"T", b"U", reverse=reverse)) == (pairs[::-1] if reverse else pairs)
            except CorruptDatabase as error:
                noticed.append(str(error))
            finally:
                store.close()
    assert len(noticed) >= 20
    assert all(str(tmp_path) in message for message in noticed)


def test_a_get_of_a_damaged_block_is_an_error(tmp_path: Path) -> None:
    file, pairs = with_table_file(tmp_path / "db")
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.unlink()
    file.write_bytes(damaged)
    store = RocksStore(tmp_path / "db")
    noticed = 0
    for key, value in pairs:
        try:
            assert store.get(key) == value
        except CorruptDatabase as error:
            noticed += "checksum mismatch" in str(error)
    store.close()
    assert 10 < noticed < 1_000


def test_a_missing_table_file_is_an_error(tmp_path: Path) -> None:
    file, _ = with_table_file(tmp_path / "db")
    file.unlink()
    with pytest.raises(CorruptDatabase, match=file.name):
        RocksStore(tmp_path / "db")


# -- syncs, stalls, full disks ----------------------------------------------------------------------------------------


def break_log(store: RocksStore) -> None:
    """Put a pipe in place of the descriptor of RocksDB's log file, so that the next fdatasync really fails."""
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if target.startswith(str(store.directory / "rocks")) and target.endswith(".log"):
            reading, writing = os.pipe()
            os.dup2(reading, int(descriptor))
            os.close(reading)
            os.close(writing)


def test_a_failed_sync_is_final(store: RocksStore) -> None:
    store.put(b"Ta", b"1")
    store.sync()
    store.add_file("one", [b"content"])
    store.put(b"Tb", b"2")
    break_log(store)
    with pytest.raises(StoreFailed, match="fdatasync"):
        store.sync()
    writes: list[Callable[[], object]] = [
        lambda: store.put(b"Tc", b"3"),
        lambda: store.write([Put(b"Tc", b"3")]),
        lambda: store.sync(),
        lambda: store.add_file("two", [b""]),
        lambda: store.remove_file("one"),
        lambda: store.checkpoint(store.directory.parent / "copy"),
    ]
    for write in writes:
        with pytest.raises(StoreFailed, match="a sync has failed") as refused:
            write()
        assert "fdatasync" in str(refused.value.detail)
    assert store.get(b"Tb") == b"2"
    assert store.files() == ["one"]
    store.close()
    again = RocksStore(store.directory, create=False)
    assert again.get(b"Ta") == b"1"
    assert again.get(b"Tc") is None
    again.put(b"Tc", b"3")
    again.sync()
    again.close()


FILL_UP = """
import resource, sys
from pathlib import Path
from khonsu_engine.errors import StoreFailed
from khonsu_engine.storage import rocks

rocks.PRIME_AFTER_SYNCS = 0
store = rocks.RocksStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
kept = 0
try:
    for number in range(1_000):
        store.put(b"T%06d" % number, bytes(1_000))
        kept += 1
        store.sync()
except StoreFailed as error:
    print("refused", kept)
assert len(list(store.scan(b"T", b"U"))) >= kept, "reads go on"
try:
    store.add_file("large", [bytes(400_000)])
except StoreFailed as error:
    print("file refused", "large" in str(error), store.files())
try:
    store.close()
except StoreFailed:
    print("close complained")
"""


def test_a_full_disk_refuses_the_write_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: `write` itself fails."""
    done = python(FILL_UP, tmp_path / "db")
    assert done.stderr == ""
    words = done.stdout.split()
    assert words[0] == "refused"
    assert "file refused True []" in done.stdout
    assert 200 < int(words[1]) < 300
    store = RocksStore(tmp_path / "db")
    assert len(rows(store)) >= int(words[1]) - 1
    assert store.files() == []
    store.close()


def test_other_threads_run_while_a_sync_runs(store: RocksStore) -> None:
    """Progress is counted, not timed: a sync that held the GIL would leave the counter where it was, but for a rare switch."""
    counter = [0]
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            counter[0] += 1

    spinner = threading.Thread(target=spin)
    spinner.start()
    moved = 0
    for number in range(200):
        store.put(b"T%06d" % number, bytes(500))
        before = counter[0]
        store.sync()
        moved += counter[0] > before
    done.set()
    spinner.join()
    assert moved > 40


def test_memtables_that_fill_too_fast_are_waited_for(tmp_path: Path) -> None:
    """With tiny memtables RocksDB says "Incomplete" (as the bare binding shows); the store flushes and goes on."""
    options = rocks._options(True, 64 << 10)
    bare = rocksdict.Rdict(str(tmp_path / "bare"), options)
    at_once = rocksdict.WriteOptions()
    at_once.no_slowdown = True
    with pytest.raises(Exception, match=rocks._STALL):
        for number in range(5_000):
            bare.put(b"%06d" % number, bytes(10_000), at_once)
    bare.close()
    store = RocksStore(tmp_path / "db", write_buffer_bytes=64 << 10)
    for number in range(2_000):
        store.put(b"T%06d" % number, bytes(10_000))
        store.write([Put(b"U%06d" % number, bytes(1_000))])
    assert len(rows(store)) == 2_000
    store.close()


def test_the_log_is_written_over_once_a_database_has_worked(store: RocksStore) -> None:
    """After priming the current log file has its full length already, whatever is in it: syncs need not lengthen it."""

    def longest() -> int:
        return max(path.stat().st_size for path in (store.directory / "rocks").glob("*.log"))

    for number in range(rocks.PRIME_AFTER_SYNCS - 2):
        store.put(b"T%06d" % number, b"value")
        store.sync()
    assert longest() < 1 << 20
    store.put(b"Tlast", b"value")
    store.sync()
    assert longest() > rocks.WRITE_BUFFER_BYTES // 2
    for number in range(1_000):
        store.put(b"T%06d" % number, b"new")
    store.sync()
    pairs = rows(store)
    store.close()
    again = RocksStore(store.directory)
    assert rows(again) == pairs
    assert list(again.scan(b"P", b"Q")) == [], "nothing of the priming is left"
    again.close()


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_database_of_its_own(store: RocksStore, tmp_path: Path) -> None:
    store.put(b"Ta", b"1")
    store.add_file("one", [b"content"])
    store.checkpoint(tmp_path / "copy")
    store.put(b"Ta", b"2")
    store.remove_file("one")
    copy = RocksStore(tmp_path / "copy", create=False)
    assert (copy.get(b"Ta"), bytes(copy.map_file("one"))) == (b"1", b"content")
    copy.put(b"Tb", b"3")
    copy.sync()
    assert (store.get(b"Ta"), store.get(b"Tb"), store.files()) == (b"2", None, [])
    copy.close()


def test_a_checkpoint_never_writes_into_something_else(store: RocksStore, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for target in (tmp_path / "copy", tmp_path / "missing" / "copy"):
        with pytest.raises(StoreFailed, match="could not be made"):
            store.checkpoint(target)
    assert list((tmp_path / "copy").iterdir()) == []


def test_half_a_checkpoint_is_no_database(store: RocksStore, tmp_path: Path) -> None:
    store.checkpoint(tmp_path / "copy")
    (tmp_path / "copy" / "KHONSU").unlink()
    with pytest.raises(CannotConnect, match="holds other things"):
        RocksStore(tmp_path / "copy")


# -- closing ----------------------------------------------------------------------------------------------------------


def test_open_scans_do_not_keep_the_directory_locked(store: RocksStore) -> None:
    for number in range(500):
        store.put(b"T%06d" % number, b"value")
    scans = [store.scan(b"T", b"U", reverse=number % 2 == 1) for number in range(4)]
    for scan in scans[2:]:
        next(scan)
    store.close()
    again = RocksStore(store.directory)
    assert len(rows(again)) == 500
    again.close()
    for scan in scans:
        with pytest.raises(EngineClosed):
            list(scan)


def work_until_refused(work: Callable[[], object], ended: list[Exception]) -> None:
    try:
        while True:
            work()
    except Exception as error:
        ended.append(error)


def test_close_beside_busy_threads_is_clean(tmp_path: Path) -> None:
    """Whoever is in a call when the store is closed gets its answer or EngineClosed, nothing of the binding's."""
    for _ in range(5):
        store = RocksStore(tmp_path / "db")
        for number in range(200):
            store.put(b"T%06d" % number, b"value")
        ended: list[Exception] = []

        works = (partial(store.put, b"Tx", b"value"), store.sync, partial(rows, store), partial(store.get, b"T000001"))
        threads = [threading.Thread(target=work_until_refused, args=(work, ended)) for work in works]
        for thread in threads:
            thread.start()
        while not store.get(b"Tx"):
            store.sync()
        store.close()
        for thread in threads:
            thread.join(30)
        assert [type(error) for error in ended] == [EngineClosed] * 4


# -- the binding's habits, bare -----------------------------------------------------------------------------------------


def bare_binding(directory: Path) -> rocksdict.Rdict:
    bare = rocksdict.Rdict(str(directory), rocks._options(True, 1 << 20))
    for number in range(10):
        bare.put(b"%d" % number, b"value")
    return bare


def test_habit_the_lower_bound_is_set_as_the_upper_one(tmp_path: Path) -> None:
    bounds = rocksdict.ReadOptions()
    bounds.set_iterate_lower_bound(b"3")
    cursor = bare_binding(tmp_path).iter(bounds)
    cursor.seek_to_first()
    assert cursor.key() == b"0"


def test_habit_an_inverted_range_is_half_applied_and_ends_all_writing(tmp_path: Path) -> None:
    bare = bare_binding(tmp_path)
    batch = rocksdict.WriteBatch(raw_mode=True)
    batch.put(b"1", b"new")
    batch.delete_range(b"7", b"3")
    for write in (lambda: bare.write(batch), lambda: bare.put(b"2", b"new"), bare.close):
        with pytest.raises(Exception, match="end key comes before start key"):
            write()
    again = rocksdict.Rdict(str(tmp_path), rocks._options(False, 1 << 20))
    assert (again.get(b"1"), again.get(b"2")) == (b"new", b"value")
    again.close()


def test_habit_an_open_iterator_keeps_the_directory(tmp_path: Path) -> None:
    bare = bare_binding(tmp_path)
    cursor = bare.iter()
    bare.close()
    with pytest.raises(Exception, match="lock"):
        bare_binding(tmp_path)
    del cursor
    bare_binding(tmp_path).close()


def test_habit_items_end_early_on_damage(tmp_path: Path) -> None:
    file, pairs = with_table_file(tmp_path / "db")
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.unlink()
    file.write_bytes(damaged)
    bare = rocksdict.Rdict(str(tmp_path / "db" / "rocks"), rocks._options(False, 1 << 20))
    assert 0 < len(list(bare.items())) < len(pairs)
    bare.close()
