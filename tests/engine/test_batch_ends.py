"""Keyed batches at their ends: nothing is told before it is durable, interrupts, forks, crashes at every call of the store."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable

import pyarrow as pa
import pytest

import khonsu_engine
from khonsu_engine.errors import EngineClosed, EngineError, SchemaMismatch, SerializationConflict
from khonsu_engine.storage.keys import log_key
from tests.engine.accounts import NEVER_BY_ITSELF
from tests.engine.batch_stores import batch, content, value, write
from tests.engine.test_crash_points import PluggedStore
from tests.stores import CrashingStore, FaultyStore, RecordingStore


@pytest.mark.parametrize("act", ["read", "scan", "revision", "conflict", "schema", "ignored"])
def test_nothing_is_told_before_it_is_durable(act: str) -> None:
    recording = RecordingStore()
    store = khonsu_engine.open(recording)
    write(store, {"k": 1})
    loser = store.start_transaction()
    loser.write("k", batch(5))
    other = store.start_transaction(on_conflict="append")
    other.write("k", pa.record_batch({"x": [5]}))
    ignored = store.start_transaction(on_conflict="ignore")
    ignored.write("k", batch(5))
    recording.hold_sync()
    writer = threading.Thread(target=write, args=(store, {"k": 2}))
    writer.start()
    recording.wait_until_held()
    index = store.database.state.index
    told: list[object] = []

    def conflict() -> None:
        with pytest.raises(SerializationConflict):
            loser.commit()

    def schema() -> None:
        with pytest.raises(SchemaMismatch):
            other.commit()

    acts: dict[str, Callable[[], object]] = {
        "read": lambda: value(store.start_transaction(), "k"),
        "scan": lambda: len(list(store.start_transaction().scan())),
        "revision": lambda: store.start_transaction().revision("k"),
        "conflict": conflict,
        "schema": schema,
        "ignored": lambda: len(ignored.commit().conflicts),
    }

    def tell() -> None:
        told.append(acts[act]())
        recording.note("told")

    reader = threading.Thread(target=tell)
    reader.start()
    reader.join(0.2)
    assert told == []
    recording.release_sync()
    reader.join(30)
    writer.join(30)
    note = next(event.number for event in recording.events if event.name == "told")
    assert recording.was_durable(log_key(index), note)
    assert told == [{"read": 2, "scan": 1, "revision": 2, "conflict": None, "schema": None, "ignored": 1}[act]]
    store.close()


def test_an_interrupt_in_a_commit_leaves_it_whole() -> None:
    faulty = FaultyStore()
    store = khonsu_engine.open(faulty)
    write(store, {"k": 1})
    for after, policy in itertools.product((False, True), ("fail", "replace")):
        transaction = store.start_transaction(on_conflict=policy)
        transaction.write("k", batch(2))
        if policy == "replace":
            write(store, {"k": 3})
        faulty.fail("put", error=KeyboardInterrupt(), after=after)
        with pytest.raises(KeyboardInterrupt):
            transaction.commit()
        assert store.status(transaction.id).state == "committed"
        assert content(store) == {"k": [2]}
    store.close()


def test_an_interrupt_in_a_call_rolls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store = khonsu_engine.open()
    transaction = store.start_transaction()
    transaction.write("k", batch(1))

    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(transaction._work.transaction), "peek", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transaction.write("l", batch(1))
    monkeypatch.undo()
    assert store.status(transaction.id).state == "aborted" and content(store) == {}
    assert len(store.database.snapshots) == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_leaves_the_store_to_its_parent() -> None:
    store = khonsu_engine.open()
    write(store, {"k": 1})
    transaction = store.start_transaction()
    child = os.fork()
    if child == 0:
        refused = 0
        for call in (store.start_transaction, lambda: transaction.read("k"), lambda: store.status(transaction.id)):
            try:
                call()
            except EngineClosed:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert value(transaction, "k") == 1
    store.close()


def test_a_crash_at_every_call_of_the_store() -> None:
    """Batches, revisions and what was acknowledged: as before the commit under way, or after it."""
    for after in (False, True):
        at = 1
        while _crashed(at, after):
            at += 1
        assert at > 15


def _crashed(at: int, after: bool) -> bool:
    """Pull the plug at that call; False: the script has fewer."""
    plugged = PluggedStore(CrashingStore(), at, after=after)
    acknowledged = _script(plugged)
    if plugged.found is None:
        return False
    found = khonsu_engine.open(plugged.found, limits=NEVER_BY_ITSELF)
    with found.start_transaction() as transaction:
        number = transaction.revision("k")
        assert acknowledged <= number <= acknowledged + 1
        assert value(transaction, "k") == (number or None) and value(transaction, "j") == (number or None)
        assert [value(transaction, f"only {n}") for n in range(1, 7)] == [n if n <= number else None for n in range(1, 7)]
        for older in range(max(1, number - 2), number):
            assert transaction.read("k", revision=older).column("id")[0].as_py() == older
        transaction.append("k", batch(100))
    assert content(found, "k")["k"] == ([number, 100] if number else [100])
    found.close()
    return True


def _script(plugged: PluggedStore) -> int:
    """Six commits, a checkpoint in between; returns how many were acknowledged."""
    acknowledged = 0
    try:
        store = khonsu_engine.open(plugged, revisions_kept=2, limits=NEVER_BY_ITSELF)
        for number in range(1, 7):
            with store.start_transaction() as transaction:
                transaction.write("k", batch(number, note="x" * (70_000 if number == 3 else 1)))
                transaction.write("j", batch(number))
                transaction.write(f"only {number}", batch(number))
            acknowledged = number
            if number in (2, 4):
                store.database.checkpoint()
        store.close()
    except EngineError:
        return acknowledged
    return acknowledged
