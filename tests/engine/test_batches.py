"""Keyed batches: reading, writing, revisions, prefixes, expiry, errors, ends."""

from __future__ import annotations

import gc
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import khonsu_engine
from khonsu_engine.commands import EVERY_KEY, ConflictPolicy, Isolation, KeyRange
from khonsu_engine.database import Database
from khonsu_engine.errors import (
    CommitOutcomeUnknown,
    DatabaseInUse,
    EngineClosed,
    EngineError,
    InvalidArgument,
    InvalidTransactionState,
    InvalidValue,
    LimitExceeded,
    NotSupported,
    RevisionGone,
    SchemaMismatch,
    SerializationConflict,
    StoreFailed,
    UniqueViolation,
    UnstorableText,
)
from khonsu_engine.keyed import batch_codec
from khonsu_engine.keyed.batches import BatchStore
from khonsu_engine.keyed.keys import prefix_range
from khonsu_engine.limits import TINY
from khonsu_engine.mvcc.lock_table import LockMode
from tests.engine.batch_stores import LEVELS, Clock, batch, content, ids, store_with, write
from tests.stores import CrashingStore, FaultyStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Any:
    with store_with(clock) as made:
        yield made


# -- one transaction --------------------------------------------------------------------------------------------------


def test_several_batches_in_one_transaction(store: BatchStore) -> None:
    transaction = store.start_transaction()
    assert transaction.read("a") is None
    transaction.write("a", batch(1, 2, note="x"))
    transaction.write("b", batch(3))
    assert ids(transaction.read("a")) == [1, 2], "own writes are read"
    outcome = transaction.commit()
    assert outcome.timestamp > 0 and outcome.transaction_id == transaction.id
    with store.start_transaction() as after:
        assert after.read("a").equals(batch(1, 2, note="x"))
        assert ids(after.read("b")) == [3]


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_seen_before_the_commit_and_nothing_after_a_rollback(store: BatchStore, level: str) -> None:
    writer, reader = store.start_transaction(level), store.start_transaction(level)
    writer.write("k", batch(1))
    assert reader.read("k") is None
    writer.rollback()
    assert reader.read("k") is None and content(store) == {}


def test_delete(store: BatchStore) -> None:
    write(store, {"k": 1})
    with store.start_transaction() as transaction:
        assert transaction.delete("k")
        assert transaction.read("k") is None
        assert not transaction.delete("k")
    assert content(store) == {}
    with store.start_transaction() as transaction:
        assert not transaction.delete("k") and not transaction.delete("never there")
        transaction.write("new", batch(1))
        assert transaction.delete("new")
    assert content(store) == {}


def test_the_block_commits_and_rolls_back_on_an_error(store: BatchStore) -> None:
    with store.start_transaction() as transaction:
        transaction.write("a", batch(1))
    with pytest.raises(KeyError), store.start_transaction() as transaction:
        transaction.write("b", batch(2))
        raise KeyError("no")
    assert content(store) == {"a": [1]}
    assert store.status(transaction.id).state == "aborted"
    with store.start_transaction() as transaction:
        transaction.write("c", batch(3))
        transaction.rollback()
    assert content(store) == {"a": [1]}, "a block whose transaction has ended does nothing"


def test_a_dropped_transaction_is_rolled_back(store: BatchStore) -> None:
    write(store, {"k": 1})
    transaction = store.start_transaction()
    transaction.write("k", batch(2))
    dropped = transaction.id
    assert store.status(dropped).state == "active" and len(store.database.snapshots) == 1
    del transaction
    gc.collect()
    assert store.status(dropped).state == "aborted" and len(store.database.snapshots) == 0
    write(store, {"k": 3})
    assert content(store) == {"k": [3]}


def test_a_batch_comes_back_as_it_was(store: BatchStore) -> None:
    schema = pa.schema(
        [
            pa.field("id", pa.int32(), nullable=False, metadata={"unit": "m"}),
            pa.field("tags", pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            pa.field("place", pa.struct([("x", pa.float32()), ("when", pa.timestamp("ns", "Europe/Berlin"))])),
        ],
        metadata={"made": "by hand"},
    )
    rows = [{"id": 1, "tags": ["a", None, "b"], "place": {"x": 1.5, "when": None}}, {"id": 2, "tags": None, "place": None}]
    given = pa.RecordBatch.from_pylist(rows, schema=schema)
    for part in (given, given.slice(1), given.slice(0, 0)):
        with store.start_transaction() as transaction:
            transaction.write("k", part)
        with store.start_transaction() as transaction:
            found = transaction.read("k")
            assert found.equals(part) and found.schema.equals(schema, check_metadata=True)
    with store.start_transaction() as transaction:
        transaction.write("none", pa.record_batch([], names=[]))
        assert transaction.read("none").num_columns == 0


def test_what_was_given_may_change_afterwards(store: BatchStore) -> None:
    memory = bytearray(pa.array([1, 2, 3], pa.int64()).buffers()[1])
    given = pa.record_batch({"id": pa.Array.from_buffers(pa.int64(), 3, [None, pa.py_buffer(memory)])})
    transaction = store.start_transaction()
    transaction.write("k", given)
    memory[:] = bytes(24)
    transaction.commit()
    assert content(store) == {"k": [1, 2, 3]}


def test_append(store: BatchStore) -> None:
    with store.start_transaction() as transaction:
        assert transaction.append("k", batch(1, 2, note="theirs")) == 1
    with store.start_transaction() as transaction:
        transaction.append("k", batch(3, 2, note="mine"))
        transaction.append("k", batch(4))
        assert ids(transaction.read("k")) == [1, 3, 2, 4]
    assert content(store) == {"k": [1, 3, 2, 4]}
    with store.start_transaction() as transaction:
        transaction.append("k", batch(9, note="theirs"), column="note")
    assert content(store) == {"k": [3, 2, 4, 9]}


def test_append_is_refused_whole(store: BatchStore) -> None:
    write(store, {"k": 1})
    transaction = store.start_transaction()
    transaction.write("other", batch(5))
    with pytest.raises(SchemaMismatch) as told:
        transaction.append("k", pa.record_batch({"id": [1]}))
    assert told.value.sqlstate == "42804"
    with pytest.raises(UniqueViolation):
        transaction.append("k", batch(7, 7))
    with pytest.raises(InvalidArgument):
        transaction.append("k", batch(7), column="none")
    transaction.commit()
    assert content(store) == {"k": [1], "other": [5]}, "a refused call leaves the transaction as it was"


# -- revisions --------------------------------------------------------------------------------------------------------


def test_revisions_count_commits_that_change_the_key(store: BatchStore) -> None:
    with store.start_transaction() as transaction:
        assert transaction.revision("k") == 0
        assert transaction.write("k", batch(1)) == 1
        assert transaction.write("k", batch(2)) == 1, "what nobody else can see is no revision"
        assert transaction.revision("k") == 1
    with store.start_transaction() as transaction:
        transaction.delete("k")
        assert transaction.revision("k") == 2
    write(store, {"other": 1})
    with store.start_transaction() as transaction:
        assert transaction.revision("k") == 2
        assert transaction.append("k", batch(3)) == 3
    with store.start_transaction() as transaction:
        transaction.write("k", batch(4))
        transaction.delete("k")
        assert transaction.write("k", batch(5)) == 4
    with store.start_transaction(read_only=True) as transaction:
        found = [ids(transaction.read("k", revision=number)) for number in range(1, 5)]
    assert found == [[2], None, [3], [5]]


def test_a_new_key_written_and_deleted_has_no_revision(store: BatchStore) -> None:
    with store.start_transaction() as transaction:
        transaction.write("k", batch(1))
        transaction.delete("k")
        assert transaction.revision("k") == 0
    write(store, {"k": 2})
    with store.start_transaction() as transaction:
        assert transaction.revision("k") == 1 and ids(transaction.read("k", revision=1)) == [2]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_older_revisions_are_readable_as_long_as_they_are_kept(clock: Clock, kept: int) -> None:
    with store_with(clock, limits=TINY, revisions_kept=kept) as store:
        for number in range(1, 8):
            write(store, {"k": number, "neighbour": number})
            if number == 5:
                store.database.checkpoint()
        with store.start_transaction() as transaction:
            for number in range(7 - kept, 8):
                assert ids(transaction.read("k", revision=number)) == [number]
            with pytest.raises(RevisionGone) as gone:
                transaction.read("k", revision=6 - kept)
            assert gone.value.evidence["oldest"] == 7 - kept and gone.value.sqlstate == "72000"
            assert gone.value.message == f"revision {6 - kept} of key 'k' is gone; the oldest readable is {7 - kept}"
            with pytest.raises(InvalidArgument, match="no revision 8 of key 'k' yet: its newest is 7"):
                transaction.read("k", revision=8)
            with pytest.raises(InvalidArgument, match="never been written"):
                transaction.read("nothing", revision=1)
            assert len(list(transaction._work.transaction.rows(store._keyspace.tables.contents.id, EVERY_KEY, None))) == 2 * (kept + 1)


def test_a_snapshot_reads_its_revisions_whatever_is_dropped_meanwhile(clock: Clock) -> None:
    with store_with(clock, revisions_kept=0) as store:
        write(store, {"k": 1})
        reader = store.start_transaction(read_only=True)
        rows = reader.scan()
        for number in (2, 3):
            write(store, {"k": number})
        store.database.checkpoint()
        assert ids(reader.read("k", revision=1)) == [1] and reader.revision("k") == 1
        assert [(key, ids(found)) for key, found in rows] == [("k", [1])]
        with pytest.raises(InvalidArgument):
            reader.read("k", revision=2)


def test_fewer_revisions_kept_than_before(clock: Clock) -> None:
    database = Database.open(None)
    many, few = BatchStore(database, revisions_kept=5), BatchStore(database, revisions_kept=1)
    for number in range(1, 5):
        write(many, {"k": number})
    write(few, {"k": 5})
    with many.start_transaction() as transaction:
        assert ids(transaction.read("k", revision=4)) == [4]
        with pytest.raises(RevisionGone, match="the oldest readable is 4"):
            transaction.read("k", revision=3)
    database.close()


# -- prefixes ---------------------------------------------------------------------------------------------------------


def test_scan_in_key_order_with_own_writes(store: BatchStore) -> None:
    write(store, {"a/2": 2, "a/1": 1, "b": 9, "a": 0, "a/3": 3})
    with store.start_transaction() as transaction:
        transaction.write("a/15", batch(15))
        transaction.write("a/2", batch(22))
        transaction.delete("a/3")
        found = [(key, ids(one)) for key, one in transaction.scan("a/")]
        assert found == [("a/1", [1]), ("a/15", [15]), ("a/2", [22])]
        assert [key for key, _ in transaction.scan()] == ["a", "a/1", "a/15", "a/2", "b"]


LAST = "\U0010ffff"


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["a", "a" + LAST, "a" + LAST + LAST + "z", "b", "\ud7ff", "\ud7ffx", "\ue000", LAST, LAST + LAST]),
        ("a" + LAST, ["a" + LAST, "a" + LAST + LAST + "z"]),
        ("a" + LAST + LAST, ["a" + LAST + LAST + "z"]),
        (LAST, [LAST, LAST + LAST]),
        ("\ud7ff", ["\ud7ff", "\ud7ffx"]),
        ("c", []),
    ],
)
def test_prefixes_at_the_edges_of_unicode(store: BatchStore, prefix: str, expected: list[str]) -> None:
    write(store, dict.fromkeys(["b", "a", "a" + LAST, "a" + LAST + LAST + "z", LAST, LAST + LAST, "\ud7ff", "\ud7ffx", "\ue000"], 1))
    for _ in range(2):
        with store.start_transaction() as transaction:
            assert [key for key, _ in transaction.scan(prefix)] == expected
        store.database.checkpoint()


def test_the_range_of_a_prefix_has_no_surrogates() -> None:
    assert prefix_range("a\ud7ff") == KeyRange("a\ud7ff", "a\ue000", True, False)
    assert prefix_range("a" + LAST) == KeyRange("a" + LAST, "b", True, False)
    assert prefix_range(LAST).high is None and prefix_range("") == EVERY_KEY


@pytest.mark.parametrize("level", LEVELS)
def test_a_scan_shows_the_moment_it_was_made(store: BatchStore, level: str) -> None:
    write(store, {"a": 1, "b": 2, "c": 3})
    transaction = store.start_transaction(level)
    transaction.write("a", batch(10))
    rows = transaction.scan()
    assert next(rows)[0] == "a"
    transaction.write("b", batch(20))
    transaction.delete("c")
    write(store, {"d": 4})
    assert transaction.read("b") is not None
    assert [(key, ids(one)) for key, one in rows] == [("b", [2]), ("c", [3])]
    rows = transaction.scan()
    transaction.write("a", batch(11))
    assert ids(next(rows)[1]) == [10], "own writes of that moment, too"


def test_a_scan_at_read_committed_outlives_its_statement(clock: Clock) -> None:
    """Others overwrite and drop what it has still to show, and the transaction reads on."""
    with store_with(clock, revisions_kept=0) as store:
        write(store, {"a": 1, "b": 2})
        transaction = store.start_transaction("read committed")
        rows = transaction.scan()
        write(store, {"a": 10, "b": 20})
        assert ids(transaction.read("b")) == [20]
        assert [(key, ids(one)) for key, one in rows] == [("a", [1]), ("b", [2])]


def test_a_scan_that_outlives_its_transaction_says_so(store: BatchStore) -> None:
    write(store, {"a": 1, "b": 2})
    transaction = store.start_transaction()
    rows = transaction.scan()
    next(rows)
    transaction.commit()
    with pytest.raises(InvalidTransactionState, match="it was committed"):
        next(rows)


# -- expiry -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expires", [10, 10.0, timedelta(seconds=10), datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)])
def test_an_expired_batch_reads_as_absent(store: BatchStore, clock: Clock, expires: Any) -> None:
    with store.start_transaction() as transaction:
        transaction.write("k", batch(1), expires=expires)
        transaction.write("stays", batch(2))
    clock.now += 9.9
    reader = store.start_transaction()
    assert content(store) == {"k": [1], "stays": [2]}
    clock.now += 0.1
    assert ids(reader.read("k")) == [1], "a transaction has one moment"
    assert [key for key, _ in reader.scan()] == ["k", "stays"]
    assert content(store) == {"stays": [2]}
    with store.start_transaction() as transaction:
        assert transaction.read("k") is None and not transaction.delete("k")
        assert transaction.revision("k") == 1 and transaction.read("k", revision=1) is None
        assert transaction.append("k", batch(5)) == 2, "the revision goes on"
    assert content(store) == {"k": [5], "stays": [2]}


def test_expired_batches_are_collected_and_later_forgotten(store: BatchStore, clock: Clock) -> None:
    write(store, {"k": 0})
    with store.start_transaction() as transaction:
        transaction.write("k", batch(1), expires=5)
        transaction.write("l", batch(2), expires=7)
    clock.now += 6
    assert store.collect() == 1 and store.collect() == 0
    with store.start_transaction() as transaction:
        assert transaction.revision("k") == 2 and transaction.read("k", revision=2) is None
        with pytest.raises(RevisionGone, match="the oldest readable is 2"):
            transaction.read("k", revision=1)
        assert [key for key, _ in transaction.scan()] == ["l"]
    clock.now += 31 * 86_400
    assert store.collect() == 2, "k is forgotten, l is collected"
    with store.start_transaction() as transaction:
        assert transaction.revision("k") == 0 and transaction.revision("l") == 1
    clock.now += 31 * 86_400
    assert store.collect(limit=5) == 1
    assert _rows_left(store) == 0


def test_older_revisions_of_an_expired_batch_are_gone_before_it_is_collected(store: BatchStore, clock: Clock) -> None:
    write(store, {"k": 0})
    with store.start_transaction() as transaction:
        transaction.write("k", batch(1), expires=5)
    clock.now += 6
    with store.start_transaction() as transaction, pytest.raises(RevisionGone, match="the oldest readable is 2"):
        transaction.read("k", revision=1)


def test_a_revision_that_had_an_expiry_expires(store: BatchStore, clock: Clock) -> None:
    with store.start_transaction() as transaction:
        transaction.write("k", batch(1), expires=5)
    write(store, {"k": 2})
    with store.start_transaction() as transaction:
        assert ids(transaction.read("k", revision=1)) == [1]
    clock.now += 6
    with store.start_transaction() as transaction:
        assert transaction.read("k", revision=1) is None and ids(transaction.read("k")) == [2]
    assert store.collect() == 0, "it was written without an expiry since"


def test_deleted_keys_are_forgotten_in_time(store: BatchStore, clock: Clock) -> None:
    write(store, {"k": 1})
    with store.start_transaction() as transaction:
        transaction.delete("k")
    clock.now += 29 * 86_400
    write(store, {"k": 2})
    with store.start_transaction() as transaction:
        assert transaction.revision("k") == 3
        transaction.delete("k")
    clock.now += 31 * 86_400
    assert store.collect() == 1 and _rows_left(store) == 0


def _rows_left(store: BatchStore) -> int:
    """Rows in the tables of batches and their index."""
    transaction = store.database.begin()
    tables = [table for table in transaction.catalog.by_id.values() if table.name.startswith("batch")]
    assert len(tables) == 3
    return sum(len(list(transaction.rows(table.id, EVERY_KEY, None))) for table in tables)


def test_commits_collect_now_and_then_a_bounded_number(store: BatchStore, clock: Clock) -> None:
    with store.start_transaction() as transaction:
        for number in range(300):
            transaction.write(f"{number}", batch(number), expires=1)
    clock.now += 2
    left = []
    for number in range(3):
        write(store, {"w": number})
        left.append(_expired_left(store))
    assert left == [172, 44, 0]
    write(store, {"w": 4})


def _expired_left(store: BatchStore) -> int:
    transaction = store.database.begin()
    table = transaction.catalog.find("batches", "khonsu")
    assert table is not None
    return sum(row[3] is not None and row[2] is not None for _, row in transaction.rows(table.id, EVERY_KEY, None))


def test_collecting_leaves_what_is_being_written(store: BatchStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading and committing somebody renews the key: the step conflicts and is left for later."""
    with store.start_transaction() as transaction:
        transaction.write("k", batch(1), expires=1)
    clock.now += 2
    begin = store.database.begin

    def begin_then_write(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(store.database, "begin", begin)
        begun = begin(*given, **named)
        write(store, {"k": 2})
        return begun

    monkeypatch.setattr(store.database, "begin", begin_then_write)
    assert store.collect() == 0
    assert content(store) == {"k": [2]}


def test_collecting_conflicts_with_nobody_who_found_it_expired(store: BatchStore, clock: Clock) -> None:
    with store.start_transaction() as transaction:
        transaction.write("k", batch(1), expires=1)
    clock.now += 2
    transaction = store.start_transaction()
    assert transaction.read("k") is None and list(transaction.scan("k")) == []
    transaction.write("other", batch(1))
    assert store.collect() == 1
    transaction.commit()


@pytest.mark.parametrize(
    "expires", [0, -1, timedelta(0), True, "soon", float("nan"), float("inf"), 1e300, datetime(2026, 1, 1), timedelta.max]
)
def test_expiries_that_make_no_sense(store: BatchStore, expires: Any) -> None:
    with store.start_transaction() as transaction:
        with pytest.raises(InvalidArgument) as told:
            transaction.write("k", batch(1), expires=expires)
        assert told.value.sqlstate == "22023"
    assert content(store) == {}


# -- what became of it ------------------------------------------------------------------------------------------------


def test_status(store: BatchStore) -> None:
    transaction = store.start_transaction()
    assert store.status(transaction.id).state == "active" and store.status(transaction.id).timestamp is None
    transaction.write("k", batch(1))
    outcome = transaction.commit()
    assert store.status(transaction.id) == type(store.status(transaction.id))("committed", outcome.timestamp, outcome.index)
    rolled_back = store.start_transaction()
    rolled_back.rollback()
    assert store.status(rolled_back.id).state == "aborted"
    nothing = store.start_transaction()
    assert nothing.commit().timestamp == 0 and store.status(nothing.id).state == "committed"
    loser = store.start_transaction()
    loser.read("k")
    loser.write("k", batch(5))
    write(store, {"k": 2})
    with pytest.raises(SerializationConflict):
        loser.commit()
    assert store.status(loser.id).state == "aborted"
    assert store.status(bytes(16)).state == "unknown"
    for wrong in ("x", b"short", None):
        with pytest.raises(InvalidArgument):
            store.status(wrong)  # type: ignore[arg-type]


def test_ids_of_transactions_one_after_the_other_differ(store: BatchStore) -> None:
    seen = []
    for number in range(20):
        with store.start_transaction() as transaction:
            transaction.write("k", batch(number))
        seen.append(transaction.id)
    assert len(set(seen)) == 20 and seen == sorted(seen)
    assert {store.status(one).state for one in seen} == {"committed"}
    assert len(store.database.state.outcomes) <= 2, "the engine remembers outcomes by name: there are not many names"


def test_status_after_a_reopen_and_an_unknown_outcome(clock: Clock) -> None:
    disk = CrashingStore()
    store = BatchStore(Database(FaultyStore(disk)))
    write(store, {"k": 1})
    last = store.start_transaction()
    last.write("k", batch(2))
    last.commit()
    faulty = store.database.store
    assert isinstance(faulty, FaultyStore)
    lost = store.start_transaction()
    lost.write("k", batch(3))
    faulty.fail("sync")
    with pytest.raises(CommitOutcomeUnknown) as told:
        lost.commit()
    assert told.value.transaction_id == lost.id and store.status(lost.id).state == "unknown"
    with pytest.raises(InvalidTransactionState):
        lost.read("k")
    assert content(store) == {"k": [2]}
    again = khonsu_engine.open(disk.crash())
    assert content(again) == {"k": [2]}
    assert again.status(last.id).state == "committed" and again.status(lost.id).state == "unknown"
    again.close()


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (1, InvalidArgument),
        (b"k", InvalidArgument),
        (None, InvalidArgument),
        ("", InvalidArgument),
        ("a\0b", UnstorableText),
        ("\ud800", UnstorableText),
        ("k" * 1025, LimitExceeded),
        ("é" * 513, LimitExceeded),
    ],
)
def test_keys_that_are_refused(store: BatchStore, key: Any, error: type[EngineError]) -> None:
    with store.start_transaction() as transaction:
        for call in (
            lambda: transaction.read(key),
            lambda: transaction.write(key, batch(1)),
            lambda: transaction.append(key, batch(1)),
            lambda: transaction.delete(key),
            lambda: transaction.revision(key),
        ):
            with pytest.raises(error):
                call()
        transaction.write("k" * 1024, batch(1))
        if key != "":
            with pytest.raises(error):
                transaction.scan(key)
    assert len(content(store)) == 1


def test_values_that_are_refused(store: BatchStore, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = pa.RecordBatch.from_arrays(
        [pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\x01\0\0\0"), pa.py_buffer(b"\xff")])], names=["id"]
    )
    monkeypatch.setattr(batch_codec, "BATCH_BYTES_MAX", 2_000)
    with store.start_transaction() as transaction:
        with pytest.raises(InvalidArgument, match="not a Table"):
            transaction.write("k", pa.table({"id": [1]}))
        with pytest.raises(InvalidArgument, match="not dict"):
            transaction.write("k", {"id": [1]})  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="not valid Arrow data"):
            transaction.write("k", broken)
        with pytest.raises(LimitExceeded) as told:
            transaction.write("k", batch(*range(1_000)))
        assert told.value.sqlstate == "54000" and told.value.hint
        transaction.write("k", batch(*range(80)))
        with pytest.raises(LimitExceeded):
            transaction.append("k", batch(*range(100, 180)))
        for revision in (0, -1, True, "1", 1.0):
            with pytest.raises(InvalidArgument):
                transaction.read("k", revision=revision)  # type: ignore[arg-type]
    assert len(content(store)["k"] or ()) == 80


def test_policies_and_levels_by_name(store: BatchStore) -> None:
    for name, level in [("SERIALIZABLE", Isolation.SERIALIZABLE), ("repeatable_read", Isolation.REPEATABLE_READ)]:
        assert store.start_transaction(name, on_conflict="FAIL").isolation is level
    assert store.start_transaction(Isolation.READ_COMMITTED).isolation is Isolation.READ_COMMITTED
    assert khonsu_engine.open(isolation="read-committed").start_transaction().isolation is Isolation.READ_COMMITTED
    for policy in ("ignore", "Replace", "APPEND", ConflictPolicy.IGNORE):
        store.start_transaction(on_conflict=policy).rollback()
        khonsu_engine.open(on_conflict=policy).close()
    with pytest.raises(NotSupported, match="merge"):
        store.start_transaction(on_conflict="merge")
    with pytest.raises(NotSupported):
        khonsu_engine.open(on_conflict="merge")
    for wrong in ("maybe", 1):
        with pytest.raises(InvalidArgument):
            store.start_transaction(on_conflict=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            store.start_transaction(wrong)  # type: ignore[arg-type]
    for kept in (-1, True, 1.5):
        with pytest.raises(InvalidArgument):
            khonsu_engine.open(revisions_kept=kept)  # type: ignore[arg-type]
    for limit in (-1, True, "all"):
        with pytest.raises(InvalidArgument):
            store.collect(limit)  # type: ignore[arg-type]


def test_a_read_only_transaction_does_not_write(store: BatchStore) -> None:
    write(store, {"k": 1})
    with store.start_transaction(read_only=True) as transaction:
        for call in (lambda: transaction.write("k", batch(2)), lambda: transaction.append("k", batch(2)), lambda: transaction.delete("k")):
            with pytest.raises(InvalidTransactionState, match="read-only"):
                call()
        assert ids(transaction.read("k")) == [1]


def test_after_its_end_a_transaction_says_why(store: BatchStore) -> None:
    transaction = store.start_transaction()
    transaction.commit()
    for call in (transaction.commit, lambda: transaction.read("k"), lambda: transaction.write("k", batch(1)), lambda: transaction.scan()):
        with pytest.raises(InvalidTransactionState, match="it was committed") as told:
            call()
        assert told.value.sqlstate == "25000"
    transaction.rollback()
    assert store.status(transaction.id).state == "committed"


def test_two_threads_in_one_transaction(store: BatchStore) -> None:
    """The second is refused, not queued, and the first goes on."""
    write(store, {"k": 1})
    transaction = store.start_transaction()
    refused: list[BaseException] = []

    def other() -> None:
        for call in (lambda: transaction.read("k"), transaction.commit, transaction.rollback):
            with pytest.raises(InvalidTransactionState, match="another thread") as told:
                call()
            refused.append(told.value)

    with transaction._work.call():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 3
    assert ids(transaction.read("k")) == [1]


def test_a_database_closed_in_the_middle(clock: Clock) -> None:
    store = store_with(clock)
    write(store, {"k": 1})
    transaction = store.start_transaction()
    transaction.write("k", batch(2))
    store.close()
    store.close()
    for call in (lambda: transaction.read("k"), transaction.commit, store.start_transaction, lambda: store.status(transaction.id)):
        with pytest.raises(EngineClosed, match="closed"):
            call()
    transaction.rollback()


def test_a_store_that_refuses_the_commit(clock: Clock) -> None:
    faulty = FaultyStore()
    store = khonsu_engine.open(faulty)
    write(store, {"k": 1})
    faulty.fail("put")
    transaction = store.start_transaction()
    transaction.write("k", batch(2))
    with pytest.raises(StoreFailed):
        transaction.commit()
    assert store.status(transaction.id).state == "aborted"
    assert content(store) == {"k": [1]}
    write(store, {"k": 3})
    assert content(store) == {"k": [3]}
    store.close()


def test_a_failure_to_collect_does_not_touch_the_commit(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    faulty = FaultyStore()
    store = store_with(clock, Database(faulty))
    with store.start_transaction() as transaction:
        transaction.write("k", batch(1), expires=1)
    clock.now += 2
    faulty.fail("put", at=2)
    write(store, {"other": 1})
    assert "could not be collected" in caplog.text and faulty.failures == 1
    clock.now += 2
    write(store, {"other": 2})
    assert store.collect() == 0, "the next commit did it"
    store.close()


def test_a_commit_waits_for_a_hard_lock(store: BatchStore) -> None:
    """As any commit does: nobody writes over it."""
    write(store, {"k": 1})
    holder = store.database.begin(writes_first=True)
    table = holder.catalog.find("batches", "khonsu")
    assert table is not None and holder.lock(table.id, "k", LockMode.EXCLUSIVE)
    transaction = store.start_transaction()
    transaction.write("k", batch(2))
    done = threading.Event()
    thread = threading.Thread(target=lambda: (transaction.commit(), done.set()))
    thread.start()
    while not store.database.locks.waits:
        thread.join(0.001)
    assert not done.is_set()
    holder.rollback()
    thread.join(30)
    assert content(store) == {"k": [2]}


# -- opening ----------------------------------------------------------------------------------------------------------


def test_a_directory_keeps_it_all(tmp_path: Path) -> None:
    with khonsu_engine.open(tmp_path / "db", limits=TINY) as store:
        for number in range(1, 30):
            with store.start_transaction() as transaction:
                transaction.write(f"{number:02}", batch(number, note="x" * 5_000))
                transaction.write("k", batch(number))
            if number == 15:
                store.database.checkpoint()
        before = content(store)
    with khonsu_engine.open(str(tmp_path / "db"), limits=TINY) as store:
        assert content(store) == before and len(before) == 30
        with store.start_transaction() as transaction:
            assert [ids(transaction.read("k", revision=number)) for number in (21, 25, 29)] == [[21], [25], [29]]
            assert ids(transaction.read("07")) == [7] and store.status(transaction.id).state == "active"
            with pytest.raises(RevisionGone, match="the oldest readable is 21"):
                transaction.read("k", revision=20)
        with pytest.raises(DatabaseInUse):
            khonsu_engine.open(tmp_path / "db")


@pytest.mark.parametrize("wrong", ["", b"bytes", 5, object()])
def test_places_that_cannot_be_opened(wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        khonsu_engine.open(wrong)


def test_after_a_crash_a_transaction_is_there_whole_or_not_at_all() -> None:
    for seed in range(12):
        disk = CrashingStore()
        store = BatchStore(Database(disk, synchronous="normal"))
        for number in range(1, 6):
            write(store, {"a": number, "b": number})
        found = khonsu_engine.open(disk.crash(seed))
        left = content(found)
        assert left in [{}, *({"a": [number], "b": [number]} for number in range(1, 6))]
        write(found, {"a": 100})
        with found.start_transaction() as transaction:
            assert transaction.revision("a") == (left.get("a") or [0])[0] + 1
        found.close()


def test_two_threads_make_the_tables_at_once() -> None:
    for _ in range(5):
        database = Database.open(None)
        start = threading.Barrier(4)

        def first_use(database: Database = database, start: threading.Barrier = start) -> None:
            store = BatchStore(database)
            start.wait()
            write(store, {threading.current_thread().name: 1})

        threads = [threading.Thread(target=first_use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(content(BatchStore(database))) == 4
        database.close()
