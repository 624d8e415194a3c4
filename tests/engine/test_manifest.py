"""The manifest: what was written comes back, atomically, in small values; what does not fit together is an error."""

from __future__ import annotations

import msgspec
import pytest

from khonsu_engine.errors import CorruptDatabase, StoreFailed
from khonsu_engine.protocols import Delete, Put
from khonsu_engine.storage import keys, manifest
from khonsu_engine.storage.keys import VALUE_BYTES_LIMIT
from khonsu_engine.storage.manifest import CatalogRow, Manifest, SegmentEntry, TableEntry
from khonsu_engine.storage.memory import MemoryStore
from tests.stores import CrashingStore, FaultyStore, RecordingStore

LARGE = bytes(range(256)) * 1_000


def sample(index: int = 7, *, tables: int = 3, counters: dict[str, int] | None = None) -> Manifest:
    return Manifest(
        index,
        1 << 50,
        b"h" * 16,
        tuple(CatalogRow("main", f"t{number}", b"definition %d" % number, number) for number in range(tables)),
        tuple(
            TableEntry(64 + number, tuple(SegmentEntry(f"segment-{number}-{part}", b"meta %d" % part, b"dead") for part in range(number)))
            for number in range(tables)
        ),
        {"table": 3, "row/64": 1 << 40} if counters is None else counters,
    )


def stored(store: MemoryStore | RecordingStore | CrashingStore) -> dict[bytes, bytes]:
    return {key: value for kind in (keys.COUNTER, keys.MANIFEST) for key, value in store.scan(*keys.kind_range(kind))}


def test_there_is_none_at_first() -> None:
    assert manifest.read(MemoryStore()) is None


@pytest.mark.parametrize("tables", [0, 1, 3, 300])
def test_what_was_written_is_read(tables: int) -> None:
    store = MemoryStore()
    assert manifest.write(store, sample(tables=tables)) == sample(tables=tables)
    assert manifest.read(store) == sample(tables=tables)


def test_a_manifest_replaces_the_one_before_whole() -> None:
    store = MemoryStore()
    manifest.write(store, sample(tables=5))
    manifest.write(store, sample(8, tables=2, counters={"table": 4}))
    assert manifest.read(store) == sample(8, tables=2, counters={"table": 4})
    fresh = MemoryStore()
    manifest.write(fresh, sample(8, tables=2, counters={"table": 4}))
    assert stored(store) == stored(fresh)


def test_it_is_one_atomic_write_of_what_changed() -> None:
    store = RecordingStore()
    manifest.write(store, sample(tables=100))
    assert store.count("write") == 1
    manifest.write(store, sample(8, tables=100))
    assert store.count("write") == 2
    assert store.events[-1].keys == (keys.manifest_key(b"h"),)
    assert store.count("sync") == 0, "when to sync is the caller's to say"


def test_other_kinds_of_keys_are_left_alone() -> None:
    store = MemoryStore()
    others = {keys.FORMAT: b"f", keys.log_key(1): b"record", keys.WATERMARK: b"w"}
    store.write([Put(key, value) for key, value in others.items()])
    manifest.write(store, sample())
    manifest.write(store, Manifest(9, 0, b""))
    assert {key: store.get(key) for key in others} == others


def test_large_entries_are_cut_into_small_values() -> None:
    store = MemoryStore()
    large = Manifest(
        1,
        2,
        b"h",
        (CatalogRow("main", "t", LARGE, 1), CatalogRow("main", "u", b"", 1)),
        (TableEntry(64, (SegmentEntry("a", LARGE * 2), SegmentEntry("b", b""))),),
    )
    manifest.write(store, large)
    assert max(map(len, stored(store).values())) < VALUE_BYTES_LIMIT
    assert manifest.read(store) == large
    small = Manifest(2, 2, b"h", (), (TableEntry(64, (SegmentEntry("a", b"now small"),)),))
    manifest.write(store, small)
    assert manifest.read(store) == small


def test_large_dead_vectors_are_files() -> None:
    store = RecordingStore()
    segments = (SegmentEntry("a", b"", b"small"), SegmentEntry("b", b"", LARGE), SegmentEntry("c", b""))
    written = manifest.write(store, Manifest(1, 2, b"", (), (TableEntry(64, segments),)))
    assert [event.call for event in store.events] == ["add_file", "write"], "files first"
    assert manifest.read(store) == written
    found = written.tables[0].segments
    assert [bytes(manifest.dead_vector(store, segment)) for segment in found] == [b"small", LARGE, b""]
    assert manifest.named_files(written) == {"a", "b", "c", found[1].dead_file}
    assert store.files() == [found[1].dead_file]
    again = manifest.write(store, Manifest(2, 2, b"", (), (TableEntry(64, segments),)))
    assert again.tables == written.tables
    assert store.count("add_file") == 1, "a vector that did not change is not written again"


def test_a_crash_finds_the_old_or_the_new_one() -> None:
    """Never a mixture, wherever the machine stops."""
    found = set()
    for seed in range(20):
        store = CrashingStore()
        manifest.write(store, sample(tables=5))
        store.sync()
        manifest.write(store, sample(8, tables=2))
        survivor = manifest.read(store.crash(seed))
        assert survivor in (sample(tables=5), sample(8, tables=2))
        found.add(survivor.index if survivor is not None else 0)
    assert found == {7, 8}


def test_a_failed_write_leaves_the_old_one() -> None:
    store = FaultyStore()
    manifest.write(store, sample())
    store.fail("write")
    with pytest.raises(StoreFailed):
        manifest.write(store, sample(8))
    assert manifest.read(store) == sample()
    manifest.write(store, sample(8))
    assert manifest.read(store) == sample(8)


def test_anything_missing_or_changed_is_noticed() -> None:
    """Every value removed in turn, and every value changed in turn."""
    store = MemoryStore()
    manifest.write(store, sample())
    pairs = stored(store)
    assert len(pairs) == 1 + 3 + 3 + 3 + 2
    for key, value in pairs.items():
        for damage in (Delete(key), Put(key, value[:-1] + bytes([value[-1] ^ 1])), Put(key, b"")):
            store.write([damage])
            with pytest.raises(CorruptDatabase, match="manifest"):
                manifest.read(store)
            store.put(key, value)
    assert manifest.read(store) == sample()
    store.put(keys.manifest_key(b"s", 64, 5), msgspec.msgpack.encode(SegmentEntry("stray", b"")))
    with pytest.raises(CorruptDatabase, match="manifest"):
        manifest.read(store)
