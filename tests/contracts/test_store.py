"""The contract of waist 4: what every store does, whether it is a dict, RocksDB, or one of the tests' own."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from khonsu_engine.errors import CorruptDatabase, EngineClosed, StoreFailed
from khonsu_engine.protocols import Buffer, Delete, DeleteRange, Put, Store
from khonsu_engine.storage.memory import MemoryStore
from khonsu_engine.storage.rocks import RocksStore
from tests.stores import CrashingStore, FaultyStore, RecordingStore

ROOT = Path(__file__).resolve().parents[2]

OPENERS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda path: MemoryStore(),
    "memory, durable": lambda path: MemoryStore(durable=True),
    "rocks": lambda path: RocksStore(path / "db"),
    "recording": lambda path: RecordingStore(),
    "recording rocks": lambda path: RecordingStore(RocksStore(path / "db")),
    "faulty": lambda path: FaultyStore(),
    "crashing": lambda path: CrashingStore(),
}


@pytest.fixture(params=OPENERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = OPENERS[request.param](tmp_path)
    yield store
    store.close()


def everything(store: Store, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
    """All keys of kind T: a store may keep some of its own under other kinds."""
    return list(store.scan(b"T", b"U", reverse=reverse))


def fill(store: Store, *names: str) -> None:
    for name in names:
        store.put(b"T" + name.encode(), name.encode())


def keys(store: Store) -> str:
    return "".join(key[1:].decode() for key, _ in everything(store))


# -- the keyspace -----------------------------------------------------------------------------------------------------


def test_it_is_a_store(store: Store) -> None:
    assert isinstance(store, Store)


def test_what_was_put_is_there(store: Store) -> None:
    store.put(b"Ta", b"1")
    store.put(b"Ta", b"2")
    store.put(b"Tb", b"")
    assert (store.get(b"Ta"), store.get(b"Tb"), store.get(b"Tc")) == (b"2", b"", None)


def test_scans_are_in_byte_order_and_end_before_the_end(store: Store) -> None:
    fill(store, "d", "b", "a", "ba", "c")
    assert [key for key, _ in store.scan(b"Ta", b"Tc")] == [b"Ta", b"Tb", b"Tba"]
    assert [key for key, _ in store.scan(b"Ta", b"Tc", reverse=True)] == [b"Tba", b"Tb", b"Ta"]
    assert [value for _, value in store.scan(b"Tb", b"Tb\0")] == [b"b"]


@pytest.mark.parametrize("reverse", [False, True])
def test_an_empty_or_inverted_range_is_empty(store: Store, reverse: bool) -> None:
    fill(store, "a", "b", "c")
    assert list(store.scan(b"Tb", b"Tb", reverse=reverse)) == []
    assert list(store.scan(b"Tc", b"Ta", reverse=reverse)) == []
    assert list(store.scan(b"Tx", b"Tz", reverse=reverse)) == []


def test_any_bytes_are_a_key_and_a_value(store: Store) -> None:
    pairs = [(b"T", b"\0"), (b"T\0", b"\0\0"), (b"T\0\0a", b""), (b"T\0\xff", b"\xff" * 3), (b"T\xff\xff", bytes(range(256)))]
    for key, value in reversed(pairs):
        store.put(key, value)
    assert everything(store) == pairs
    assert everything(store, reverse=True) == pairs[::-1]
    assert store.get(b"T\0") == b"\0\0"


def test_a_write_applies_its_operations_in_order(store: Store) -> None:
    fill(store, "a", "b", "c", "d")
    store.write([Put(b"Tb", b"new"), DeleteRange(b"Tb", b"Td"), Put(b"Tc", b"again"), Delete(b"Td"), Delete(b"Tmissing")])
    assert everything(store) == [(b"Ta", b"a"), (b"Tc", b"again")]


def test_delete_range_takes_its_start_and_leaves_its_end(store: Store) -> None:
    fill(store, *"abcde")
    store.write([DeleteRange(b"Tb", b"Td")])
    assert keys(store) == "ade"
    store.write([DeleteRange(b"T", b"U")])
    assert everything(store) == []
    store.write([Put(b"T", b""), Put(b"T\xff\xff", b""), DeleteRange(b"T\0", b"T\xff\xff")])
    assert [key for key, _ in everything(store)] == [b"T", b"T\xff\xff"]


def test_an_inverted_delete_range_deletes_nothing_and_damages_nothing(store: Store) -> None:
    fill(store, *"abc")
    store.write([DeleteRange(b"Tc", b"Ta"), DeleteRange(b"Tb", b"Tb"), Put(b"Td", b"")])
    assert keys(store) == "abcd"
    assert store.get(b"Tb") == b"b"


def test_an_empty_write_is_fine(store: Store) -> None:
    store.write([])
    assert everything(store) == []


def test_readers_never_see_half_a_write(store: Store) -> None:
    """Two keys always change together; a reader that scans both beside the writer must never see them differ."""
    store.write([Put(b"Tx", b"0"), Put(b"Ty", b"0")])
    done = threading.Event()
    seen: list[tuple[bytes, bytes]] = []

    def read() -> None:
        while not done.is_set() or not seen:
            (_, x), (_, y) = everything(store)
            seen.append((x, y))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(2_000):
        value = str(number).encode()
        store.write([Put(b"Tx", value), Put(b"Ty", value)])
    done.set()
    reader.join()
    assert [pair for pair in seen if pair[0] != pair[1]] == []


def test_a_large_scan_is_whole_both_ways(store: Store) -> None:
    numbers = list(range(10_000))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        store.put(b"T" + number.to_bytes(4, "big"), b"%d" % number)
    expected = [(b"T" + number.to_bytes(4, "big"), b"%d" % number) for number in range(10_000)]
    assert everything(store) == expected
    assert everything(store, reverse=True) == expected[::-1]


def test_the_bounds_of_a_scan_outlive_the_callers(store: Store) -> None:
    """RocksDB reads the upper bound as long as the cursor lives; what it was made of is long gone then."""
    for number in range(20):
        store.put(b"L" + number.to_bytes(8, "big"), b"x" * 100)
    for _ in range(50):
        scan = store.scan(b"L" + (0).to_bytes(8, "big"), bytes((ord("L") + 1,)))
        held = [bytes((number & 0x3F,)) * (8 + number % 48) for number in range(2_000)]
        assert len(list(scan)) == 20
        del held


def test_writes_do_not_disturb_a_scan_that_has_begun(store: Store) -> None:
    fill(store, *(f"{number:04}" for number in range(500)))
    scan = store.scan(b"T", b"U")
    store.put(b"T0000x", b"late")
    first = [next(scan) for _ in range(100)]
    store.write([DeleteRange(b"T", b"U"), Put(b"T9999", b"late")])
    assert [value for _, value in first + list(scan)] == [f"{number:04}".encode() for number in range(500)]
    assert everything(store) == [(b"T9999", b"late")]


def test_values_are_small(store: Store) -> None:
    """A put holds the GIL for its length: larger things are files."""
    store.put(b"Ta", bytes((64 << 10) - 1))
    with pytest.raises(AssertionError):
        store.put(b"Tb", bytes(64 << 10))
    with pytest.raises(AssertionError):
        store.write([Put(b"Tb", bytes(64 << 10))])
    assert store.get(b"Tb") is None


def test_sync_returns(store: Store) -> None:
    store.sync()
    fill(store, "a")
    store.sync()
    assert keys(store) == "a"


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_what_was_added(store: Store) -> None:
    chunks: list[Buffer] = [b"ab", bytearray(b"cd"), memoryview(b"xefx")[1:3], b""]
    assert store.add_file("one", iter(chunks)) == 6
    view = memoryview(store.map_file("one"))
    assert bytes(view) == b"abcdef"
    assert view.readonly


def test_a_large_file_is_whole(store: Store) -> None:
    chunk = random.Random(2).randbytes(700_001)
    assert store.add_file("large", (chunk for _ in range(5))) == 5 * 700_001
    assert bytes(store.map_file("large")) == chunk * 5


def test_an_empty_file_is_a_file(store: Store) -> None:
    assert store.add_file("empty", []) == 0
    assert len(store.map_file("empty")) == 0
    assert store.files() == ["empty"]


def test_files_are_listed_and_removed(store: Store) -> None:
    for name in ("b", "a", "c"):
        store.add_file(name, [name.encode()])
    store.remove_file("b")
    store.remove_file("never there")
    assert store.files() == ["a", "c"]
    with pytest.raises(CorruptDatabase, match="b is missing"):
        store.map_file("b")


def test_a_mapping_outlives_its_file_and_its_store(store: Store) -> None:
    store.add_file("one", [b"content"])
    view = memoryview(store.map_file("one"))
    store.remove_file("one")
    assert bytes(view) == b"content"
    store.add_file("one", [b"another"])
    assert bytes(view) == b"content"
    assert bytes(store.map_file("one")) == b"another"
    store.close()
    assert bytes(view) == b"content"


def test_a_file_is_never_replaced(store: Store) -> None:
    store.add_file("one", [b"content"])
    with pytest.raises(StoreFailed, match="one exists already"):
        store.add_file("one", [b"other"])
    assert bytes(store.map_file("one")) == b"content"


def test_a_file_whose_source_fails_is_not_there(store: Store) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add_file("one", chunks())
    assert store.files() == []
    assert store.add_file("one", [b"whole"]) == 5


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_closed_store_refuses_everything(store: Store) -> None:
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.get(b"Ta"),
        lambda: store.put(b"Ta", b""),
        lambda: store.write([Put(b"Ta", b"")]),
        lambda: list(store.scan(b"T", b"U")),
        lambda: store.sync(),
        lambda: store.add_file("one", [b""]),
        lambda: store.map_file("one"),
        lambda: store.remove_file("one"),
        lambda: store.files(),
    ]
    for call in calls:
        with pytest.raises(EngineClosed):
            call()


@pytest.mark.parametrize("taken", [0, 1, 64, 100])
def test_an_open_scan_raises_when_its_store_is_closed(store: Store, taken: int) -> None:
    fill(store, *(f"{number:04}" for number in range(500)))
    scan = store.scan(b"T", b"U")
    for _ in range(taken):
        next(scan)
    store.close()
    with pytest.raises(EngineClosed):
        list(scan)


AFTER_FORK = """
import os, sys
from pathlib import Path
from khonsu_engine.errors import EngineClosed
from khonsu_engine.protocols import Put
from khonsu_engine.storage.memory import MemoryStore
from khonsu_engine.storage.rocks import RocksStore

store = MemoryStore() if sys.argv[1] == "memory" else RocksStore(Path(sys.argv[2]))
for number in range(2_000):
    store.put(b"T%06d" % number, b"value")
store.add_file("one", [b"content"])
view = memoryview(store.map_file("one"))
store.sync()
scan = store.scan(b"T", b"U")
next(scan)
calls = [
    lambda: store.get(b"T000001"), lambda: store.put(b"T", b""), lambda: store.write([Put(b"T", b"")]),
    lambda: store.scan(b"T", b"U"), lambda: list(scan), lambda: store.sync(), lambda: store.add_file("two", [b""]),
    lambda: store.map_file("one"), lambda: store.remove_file("one"), lambda: store.files(),
]
child = os.fork()
if child == 0:
    refused = 0
    for call in calls:
        try:
            call()
        except EngineClosed as error:
            refused += "used after fork" in str(error)
    store.close()
    assert bytes(view) == b"content"
    sys.exit(refused)  # with all finalisers, as a careless child would
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(calls))
assert len(list(scan)) == 1_999
for number in range(2_000, 2_100):
    store.put(b"T%06d" % number, b"value")
store.sync()
store.close()
if sys.argv[1] == "rocks":
    store = RocksStore(Path(sys.argv[2]), create=False)
    print(len(list(store.scan(b"T", b"U"))))
    store.close()
"""


@pytest.mark.parametrize("kind", ["memory", "rocks"])
def test_a_forked_child_is_refused_and_harmless(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", AFTER_FORK, kind, str(tmp_path / "db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(ROOT / "engine")}, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == (["10", "10"] if kind == "memory" else ["10", "10", "2100"])


# -- what survives ----------------------------------------------------------------------------------------------------


def reopened(store: Store) -> Store:
    """The same database after its machine or process went away."""
    if isinstance(store, CrashingStore):
        return store.crash()
    assert isinstance(store, RocksStore)
    store.close()
    return RocksStore(store.directory, create=False)


@pytest.fixture(params=["rocks", "crashing"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = OPENERS[request.param](tmp_path)
    yield store
    store.close()


def test_synced_writes_and_files_survive(durable: Store) -> None:
    fill(durable, *"abc")
    durable.write([Put(b"Td", b"d"), Delete(b"Ta")])
    durable.add_file("one", [b"content"])
    durable.add_file("two", [b"content"])
    durable.remove_file("two")
    durable.sync()
    again = reopened(durable)
    assert keys(again) == "bcd"
    assert again.files() == ["one"]
    assert bytes(again.map_file("one")) == b"content"
    again.put(b"Te", b"")
    assert keys(again) == "bcde"
    again.close()


def test_a_file_survives_without_a_sync(durable: Store) -> None:
    durable.add_file("one", [b"content"])
    again = reopened(durable)
    assert bytes(again.map_file("one")) == b"content"
    again.close()


def test_many_generations_survive(tmp_path: Path) -> None:
    """Reopened again and again, with small memtables, so that log files, flushes and merges all take part."""
    model: dict[bytes, bytes] = {}
    dice = random.Random(3)
    for generation in range(6):
        store = RocksStore(tmp_path / "db", write_buffer_bytes=64 << 10)
        assert dict(everything(store)) == model
        for number in range(400):
            key = b"T%03d" % dice.randrange(500)
            model[key] = dice.randbytes(300)
            store.put(key, model[key])
            if number % 50 == 0:
                start, end = sorted(b"T%03d" % dice.randrange(500) for _ in range(2))
                store.write([DeleteRange(start, end)])
                model = {key: value for key, value in model.items() if not start <= key < end}
        store.sync()
        assert list(everything(store)) == sorted(model.items()), generation
        store.close()
