"""The tests' own stores: what a test concludes from them must be right."""

from __future__ import annotations

import threading

import pytest

from khonsu_engine.errors import EngineClosed, StoreFailed
from khonsu_engine.protocols import Delete, DeleteRange, Put, Store
from tests.stores import CrashingStore, FaultyStore, RecordingStore, disk_full


def pairs(store: Store) -> dict[bytes, bytes]:
    return dict(store.scan(b"\0", b"\xff"))


# -- recording ----------------------------------------------------------------------------------------------------------


def test_a_key_is_durable_after_a_sync_that_began_after_it() -> None:
    store = RecordingStore()
    store.put(b"a", b"")
    assert not store.was_durable(b"a")
    early = store.note("too early")
    store.sync()
    acknowledged = store.note("acknowledged")
    store.put(b"b", b"")
    assert store.was_durable(b"a")
    assert not store.was_durable(b"a", early)
    assert store.was_durable(b"a", acknowledged)
    assert not store.was_durable(b"b")
    assert not store.was_durable(b"never written")
    assert [event.call for event in store.events] == ["put", "note", "sync begins", "sync", "note", "put"]


def test_a_write_during_a_sync_is_not_covered_by_it() -> None:
    store = RecordingStore()
    store.put(b"before", b"")
    store.hold_sync()
    syncing = threading.Thread(target=store.sync, name="syncing")
    syncing.start()
    store.wait_until_held()
    assert not store.was_durable(b"before")
    store.put(b"during", b"")
    store.release_sync()
    syncing.join()
    assert store.was_durable(b"before")
    assert not store.was_durable(b"during")
    assert [event.thread for event in store.events if event.call == "sync"] == ["syncing"]
    store.sync()
    assert store.was_durable(b"during")


def test_a_failed_sync_makes_nothing_durable_and_is_recorded() -> None:
    faulty = FaultyStore()
    store = RecordingStore(faulty)
    store.put(b"a", b"")
    faulty.fail("sync")
    with pytest.raises(StoreFailed):
        store.sync()
    assert not store.was_durable(b"a")
    assert "injected" in store.events[-1].error


def test_only_the_last_write_of_a_key_counts() -> None:
    store = RecordingStore()
    store.put(b"a", b"1")
    store.sync()
    store.write([Put(b"x", b""), Put(b"a", b"2")])
    assert not store.was_durable(b"a")
    assert store.was_durable(b"a", store.written_at(b"a"))


# -- failing ------------------------------------------------------------------------------------------------------------


def test_the_chosen_call_fails_once_and_leaves_nothing() -> None:
    store = FaultyStore()
    store.fail("put", at=2)
    store.put(b"a", b"")
    with pytest.raises(StoreFailed, match="injected: put"):
        store.put(b"b", b"")
    store.put(b"c", b"")
    assert list(pairs(store)) == [b"a", b"c"]
    assert store.failures == 1


def test_it_can_fail_with_any_error_and_for_ever() -> None:
    store = FaultyStore()
    store.fail("add_file", error=disk_full(), times=None)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            store.add_file("one", [b""])
    store.heal()
    assert store.add_file("one", [b"content"]) == 7


def test_it_can_fail_after_the_effect() -> None:
    store = FaultyStore()
    store.fail("write", after=True)
    with pytest.raises(StoreFailed):
        store.write([Put(b"a", b"")])
    assert list(pairs(store)) == [b"a"]


def test_a_failed_sync_ends_all_writing() -> None:
    store = FaultyStore()
    store.put(b"a", b"")
    store.fail("sync", error=disk_full())
    with pytest.raises(OSError, match="No space left"):
        store.sync()
    for write in (store.sync, lambda: store.put(b"b", b""), lambda: store.write([Delete(b"a")]), lambda: store.add_file("one", [])):
        with pytest.raises(StoreFailed, match="a sync has failed"):
            write()
    assert list(pairs(store)) == [b"a"]


# -- crashing -----------------------------------------------------------------------------------------------------------


def unsynced_writes() -> CrashingStore:
    store = CrashingStore()
    store.write([Put(b"a", b"1"), Put(b"b", b"1")])
    store.sync()
    store.write([Put(b"a", b"2"), DeleteRange(b"b", b"c")])
    store.put(b"c", b"3")
    store.put(b"d", b"4")
    return store


STATES = [
    {b"a": b"1", b"b": b"1"},
    {b"a": b"2"},
    {b"a": b"2", b"c": b"3"},
    {b"a": b"2", b"c": b"3", b"d": b"4"},
]


def test_a_crash_keeps_what_was_synced() -> None:
    store = unsynced_writes()
    assert store.unsynced == 3
    assert pairs(store.crash()) == STATES[0]
    with pytest.raises(EngineClosed, match="crashed"):
        store.put(b"e", b"")


def test_a_seeded_crash_keeps_a_prefix_of_whole_writes_and_is_repeatable() -> None:
    found = [pairs(unsynced_writes().crash(seed)) for seed in range(40)]
    assert all(state in STATES for state in found)
    assert all(state in found for state in STATES)
    assert found == [pairs(unsynced_writes().crash(seed)) for seed in range(40)]


def test_what_survived_a_crash_survives_the_next() -> None:
    first = unsynced_writes().crash(3)
    assert pairs(first.crash()) == pairs(unsynced_writes().crash(3))


def test_a_kill_keeps_everything_and_a_crash_after_it_does_not() -> None:
    found = unsynced_writes().killed()
    assert pairs(found) == STATES[3]
    assert found.unsynced == 3
    assert pairs(found.crash()) == STATES[0]


def test_files_stay_and_removed_ones_may_come_back() -> None:
    def store() -> CrashingStore:
        store = CrashingStore()
        for name in ("kept", "gone", "maybe"):
            store.add_file(name, [name.encode()])
        store.remove_file("gone")
        store.sync()
        store.remove_file("maybe")
        return store

    assert store().files() == ["kept"]
    assert store().crash().files() == ["kept", "maybe"]
    assert bytes(store().crash().map_file("maybe")) == b"maybe"
    assert {tuple(store().crash(seed).files()) for seed in range(20)} == {("kept",), ("kept", "maybe")}
