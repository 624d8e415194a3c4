"""Conflict policies of keyed batches, and appends as deltas, against a plain model: what is under a key is a list of (id, note)."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import khonsu_engine
from khonsu_engine.commands import Collision, Isolation, Outcome
from khonsu_engine.errors import DeadlockDetected, InvalidArgument, LockNotAvailable, SchemaMismatch, SerializationConflict, UniqueViolation
from khonsu_engine.keyed import blind
from khonsu_engine.keyed.batches import BatchStore, BatchTransaction
from khonsu_engine.keyed.expiry import FORGET_AFTER
from khonsu_engine.mvcc.lock_table import LockMode
from khonsu_engine.restarts import LockWait
from tests.engine.batch_stores import LEVELS, Clock, batch, content, ids, store_with, write

POLICIES = ("fail", "ignore", "replace", "append")
WEAK_LEVELS = LEVELS[1:]

Rows = list[tuple[int, str]]
Act = tuple[str, Rows]

BASE: Rows = [(1, "base"), (2, "base")]
THEIRS: list[Act] = [("write", [(2, "theirs"), (3, "theirs")]), ("append", [(2, "theirs"), (4, "theirs")]), ("delete", [])]
MINE: list[Act] = [("write", [(2, "mine"), (5, "mine")]), ("append", [(2, "mine"), (6, "mine")]), ("delete", [])]
NEW: list[list[Act]] = [[act] for act in MINE] + [
    [("write", [(1, "mine")]), ("append", [(2, "mine")])],
    [("append", [(7, "mine")]), ("append", [(7, "again"), (2, "mine")])],
    [("append", [(7, "mine")]), ("write", [(8, "mine")])],
    [("delete", []), ("append", [(2, "mine")])],
    [("append", [(7, "mine")]), ("delete", [])],
]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> BatchStore:
    return store_with(clock)


def _batch(rows: Rows) -> pa.RecordBatch:
    return pa.record_batch(
        {"id": pa.array([number for number, _ in rows], pa.int64()), "note": pa.array([note for _, note in rows], pa.string())}
    )


def _rows(found: pa.RecordBatch | None) -> Rows | None:
    return None if found is None else list(zip(*found.to_pydict().values(), strict=True))


def _act(transaction: BatchTransaction, key: str, act: Act) -> None:
    name, rows = act
    if name == "delete":
        transaction.delete(key)
    else:
        getattr(transaction, name)(key, _batch(rows))


def _now(store: BatchStore, key: str, revision: int | None = None) -> Rows | None:
    with store.start_transaction(read_only=True) as transaction:
        return _rows(transaction.read(key, revision=revision))


def _revision(store: BatchStore, key: str) -> int:
    with store.start_transaction(read_only=True) as transaction:
        return transaction.revision(key)


def _locks(store: BatchStore) -> int:
    return len(store.database.locks.listed())


# -- the model --------------------------------------------------------------------------------------------------------


def _after(there: Rows | None, acts: list[Act]) -> Rows | None:
    for name, rows in acts:
        if name == "append":
            given = {number for number, _ in rows}
            there = [row for row in there or [] if row[0] not in given] + rows
        else:
            there = rows if name == "write" else None
    return there


def _expected(policy: str, theirs: Rows | None, acts: list[Act]) -> tuple[str | None, Rows | None]:
    """(action, what is there); no action: a conflict."""
    if all(name == "append" for name, _ in acts):
        return "appended", _after(theirs, acts)
    mine = _after(None, acts)  # a whole: what was there does not matter to it
    match policy:
        case "ignore":
            return "ignored", theirs
        case "replace":
            return "replaced", mine
        case "append":
            return "appended", mine if mine is None else _after(theirs, [("append", mine)])
    return None, theirs


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("present", [True, False])
def test_every_policy_against_every_change(store: BatchStore, level: str, policy: str, present: bool) -> None:
    """Two keys are written, one collides. Revisions count commits, older ones stay readable, no lock is left."""
    for number, (theirs, acts) in enumerate(itertools.product(THEIRS, NEW)):
        if not present and "delete" in (theirs[0], acts[0][0]):
            continue  # that finds nothing: it is a read
        key, beside = f"k/{number}", f"beside/{number}"
        if present:
            with store.start_transaction() as transaction:
                transaction.write(key, _batch(BASE))
        base = BASE if present else None
        mine = store.start_transaction(level, on_conflict=policy)
        for act in acts:
            _act(mine, key, act)
        mine.write(beside, _batch(BASE))
        with store.start_transaction() as other:
            _act(other, key, theirs)
        before, there = _revision(store, key), _after(base, [theirs])
        action, result = _expected(policy, there, acts)
        what = (theirs, acts)
        if action is None:
            with pytest.raises(SerializationConflict) as told:
                mine.commit()
            assert told.value.evidence["keys"] == (key,) and told.value.evidence["rule"] == "write-write", what
            assert _now(store, beside) is None and _now(store, key) == there, what
        else:
            outcome = mine.commit()
            (collision,) = outcome.conflicts
            assert (collision.table, collision.key, collision.action) == ("khonsu.batches", key, action), what
            assert 0 < collision.timestamp < outcome.timestamp
            assert _now(store, key) == result, what
            assert _now(store, beside) == BASE and _revision(store, beside) == 1
            changed = action != "ignored" and not (result is None and there is None)
            assert _revision(store, key) == before + changed, what
            assert _now(store, key, before) == there, "theirs stays readable at its revision"
        assert _locks(store) == 0
    assert store._keyspace.active() == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("policy", POLICIES)
def test_without_a_collision_a_policy_changes_nothing(store: BatchStore, level: str, policy: str) -> None:
    for number, acts in enumerate(NEW):
        key = f"k/{number}"
        with store.start_transaction() as transaction:
            transaction.write(key, _batch(BASE))
        mine = store.start_transaction(level, on_conflict=policy)
        for act in acts:
            _act(mine, key, act)
        assert _rows(mine.read(key)) == _after(BASE, acts) and mine.revision(key) == 2, "own writes are read"
        found = [_rows(rows) for _, rows in mine.scan(key)]
        assert found == ([] if _after(BASE, acts) is None else [_after(BASE, acts)])
        write(store, {"elsewhere": number})
        outcome = mine.commit()
        assert outcome.conflicts == () and outcome.timestamp > 0
        assert _now(store, key) == _after(BASE, acts) and _revision(store, key) == 2 and _now(store, key, 1) == BASE
        with store.start_transaction(level, on_conflict=policy) as absent:
            assert not absent.delete(f"never/{number}")
    assert _locks(store) == 0


# -- what was read ----------------------------------------------------------------------------------------------------

READS: dict[str, Any] = {
    "read": lambda transaction: transaction.read("k"),
    "revision": lambda transaction: transaction.revision("k"),
    "scan": lambda transaction: list(transaction.scan("k")),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("when", ["before", "after", "after theirs"])
@pytest.mark.parametrize("present", [True, False])
def test_a_key_that_was_read(policy: str, read: str, when: str, present: bool) -> None:
    """At SERIALIZABLE nothing decides about it, and an append is no delta any more; below it is as if it had not been read."""
    for level, act in itertools.product(LEVELS, MINE):
        store = store_with(Clock())
        if present:
            with store.start_transaction() as transaction:
                transaction.write("k", _batch(BASE))
        elif act[0] == "delete":
            continue
        mine = store.start_transaction(level, on_conflict=policy)
        if when == "before":
            READS[read](mine)
        _act(mine, "k", act)
        if when == "after":
            READS[read](mine)
        mine.write("beside", _batch(BASE))
        with store.start_transaction() as other:
            _act(other, "k", THEIRS[0])
        there = _after(None, [THEIRS[0]])
        action, result = _expected(policy, there, [act])
        if level == "serializable" or action is None:
            with pytest.raises(SerializationConflict) as told:
                if when == "after theirs":
                    READS[read](mine)
                mine.commit()
            assert told.value.evidence["keys"] == ("k",) or read == "scan"
            assert _now(store, "k") == there and _now(store, "beside") is None
        else:
            if when == "after theirs":
                READS[read](mine)
            assert [collision.action for collision in mine.commit().conflicts] == [action]
            assert _now(store, "k") == result and _now(store, "beside") == BASE
        assert _locks(store) == 0
        store.close()


def test_a_read_beside_is_validated(store: BatchStore) -> None:
    """The snapshot moves for the replay only when everything read still stands."""
    write(store, {"k": 1, "read": 1})
    for change, wins in (({"k": 2}, True), ({"k": 3, "read": 2}, False)):
        mine = store.start_transaction(on_conflict="replace")
        mine.read("read")
        mine.write("k", batch(9))
        write(store, change)
        if wins:
            assert len(mine.commit().conflicts) == 1
            assert content(store)["k"] == [9]
        else:
            with pytest.raises(SerializationConflict) as told:
                mine.commit()
            assert told.value.evidence["keys"] == ("read",) and content(store)["k"] == [3]
        assert _locks(store) == 0


def test_a_deletion_of_nothing_is_a_read(store: BatchStore) -> None:
    mine = store.start_transaction(on_conflict="replace")
    assert not mine.delete("k")
    mine.write("beside", batch(1))
    write(store, {"k": 1})
    with pytest.raises(SerializationConflict):
        mine.commit()


@pytest.mark.parametrize("level", LEVELS)
def test_an_append_beside_a_write_that_fails(store: BatchStore, level: str) -> None:
    """FAIL keys that did not collide are applied with an append that did; one that did refuses all."""
    write(store, {"log": 1, "k": 1, "gone": 1})
    for collides in (False, True):
        mine = store.start_transaction(level)
        mine.write("k", batch(2))
        mine.write("new", batch(2))
        mine.delete("gone")
        mine.append("log", batch(10 + collides))
        with store.start_transaction() as other:
            other.append("log", batch(20 + collides))
            if collides:
                other.write("k", batch(3))
        if collides:
            with pytest.raises(SerializationConflict) as told:
                mine.commit()
            assert told.value.evidence["keys"] == ("k",)
        else:
            assert [collision.key for collision in mine.commit().conflicts] == ["log"]
    assert content(store) == {"k": [3], "new": [2], "log": [1, 20, 10, 21]}
    assert _revision(store, "log") == 4 and _revision(store, "k") == 3 and _locks(store) == 0


def test_at_read_committed_a_write_after_an_append_keeps_what_it_is_based_on(store: BatchStore) -> None:
    """The append looked at theirs, and was taken back by a write that did not."""
    write(store, {"k": 1})
    mine = store.start_transaction("read committed")
    number = ids(mine.read("k"))
    mine.append("k", batch(2))
    write(store, {"k": 5})
    mine.read("k")
    with pytest.raises(SerializationConflict):
        mine.write("k", batch(*(number or [])))
        mine.commit()
    assert content(store)["k"] == [5]


def test_at_read_committed_what_was_read_first_counts(store: BatchStore) -> None:
    """Somebody deletes between the read and the write: that is a collision, though the write found it deleted."""
    write(store, {"k": 1})
    mine = store.start_transaction("read committed", on_conflict="ignore")
    mine.read("k")
    with store.start_transaction() as other:
        other.delete("k")
    mine.write("k", batch(2))
    assert [collision.action for collision in mine.commit().conflicts] == ["ignored"]
    assert content(store) == {}


def test_at_read_committed_an_append_is_read_onto_what_is_there_now(store: BatchStore) -> None:
    write(store, {"k": 1})
    mine = store.start_transaction("read committed")
    mine.append("k", batch(2))
    write(store, {"k": 5})
    assert ids(mine.read("k")) == [5, 2] and mine.revision("k") == 3
    assert mine.append("k", batch(3)) == 3
    mine.commit()
    assert content(store)["k"] == [5, 2, 3]


# -- expiry, schemas, sweeps ------------------------------------------------------------------------------------------


def test_expiries(store: BatchStore, clock: Clock) -> None:
    """An append leaves theirs; a write with 'append' sets its own, if it has one; what has expired counts as deleted."""
    for policy, mine_expires, left in (("append", None, 50.0), ("append", 20, 20.0), ("replace", None, None), ("fail", None, 50.0)):
        write(store, {"k": 1})
        began = clock.now
        mine = store.start_transaction(on_conflict=policy)
        if policy == "fail":
            mine.append("k", batch(3))
        else:
            mine.write("k", batch(3), expires=mine_expires)
        with store.start_transaction() as other:
            other.write("k", batch(2), expires=50)
        mine.commit()
        assert content(store) == {"k": [3] if policy == "replace" else [2, 3]}
        clock.now = began + (left or 1000) - 1
        assert content(store)
        clock.now += 2
        assert bool(content(store)) == (left is None)
    mine = store.start_transaction(on_conflict="append")
    mine.write("k", batch(3))
    with store.start_transaction() as other:
        other.write("k", batch(2), expires=datetime(2000, 1, 1, tzinfo=UTC))
    assert [collision.action for collision in mine.commit().conflicts] == ["appended"]
    assert content(store) == {"k": [3]}
    assert store.collect() == 0, "each entry of the index of expiries belongs to its head"


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("policy", ["ignore", "append"])
def test_a_sweep_is_no_collision(store: BatchStore, clock: Clock, policy: str, forgotten: bool) -> None:
    with store.start_transaction() as first:
        first.write("k", batch(1), expires=10)
    clock.now += 11
    if forgotten:
        assert store.collect() == 1
        clock.now += FORGET_AFTER.total_seconds() + 1
    mine = store.start_transaction(on_conflict=policy)
    assert mine.write("k", batch(2)) == 2
    mine.append("log", batch(1))
    assert store.collect() == 1
    assert mine.commit().conflicts == ()
    assert content(store) == {"k": [2], "log": [1]} and _revision(store, "k") == (1 if forgotten else 2)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("by", ["append", "write"])
def test_another_schema(store: BatchStore, level: str, by: str) -> None:
    """What cannot be appended to theirs ends the transaction; nothing is applied."""
    write(store, {"k": 1})
    mine = store.start_transaction(level, on_conflict="append")
    getattr(mine, by)("k", batch(2))
    mine.write("beside", batch(1))
    with store.start_transaction() as other:
        other.write("k", pa.record_batch({"id": [1]}))
    with pytest.raises(SchemaMismatch) as told:
        mine.commit()
    assert told.value.evidence["key"] == "k" and "an error" in mine._work.ended
    assert store.status(mine.id).state == "aborted" and _locks(store) == 0
    assert content(store) == {"k": [1]} and _now(store, "beside") is None
    write(store, {"k": 4})


def test_the_key_column_of_a_write(store: BatchStore) -> None:
    mine = store.start_transaction(on_conflict="append")
    mine.write("k", batch(1, note="a"), column="note")
    with store.start_transaction() as other:
        other.write("k", pa.concat_batches([batch(1, note="b"), batch(2, note="a")]))
    mine.commit()
    assert _now(store, "k") == [(1, "b"), (1, "a")]
    mine = store.start_transaction(on_conflict="append")
    mine.delete("k")
    mine.append("k", batch(1, note="b"), column="note")
    write(store, {"k": 1})
    mine.commit()
    assert _now(store, "k") == [(1, None), (1, "b")], "what is appended after a deletion is a whole of that key column"
    with store.start_transaction(on_conflict="append") as mine:
        with pytest.raises(UniqueViolation):
            mine.write("k", batch(1, 1))
        with pytest.raises(InvalidArgument):
            mine.write("k", batch(1), column="none")
    with store.start_transaction(on_conflict="replace") as mine, pytest.raises(InvalidArgument, match="'append'"):
        mine.write("k", batch(1), column="id")


def test_revisions_kept(clock: Clock) -> None:
    """A replay drops what is kept no longer as seen from its own revision."""
    store = store_with(clock, revisions_kept=2)
    for number in range(4):
        write(store, {"k": number})
    mine = store.start_transaction()
    mine.append("k", batch(9))
    write(store, {"k": 4})
    mine.commit()
    with store.start_transaction() as transaction:
        assert transaction.revision("k") == 6
        assert [ids(transaction.read("k", revision=number)) for number in (4, 5, 6)] == [[3], [4], [4, 9]]
        assert len(list(transaction._work.transaction.rows(store._keyspace.tables.contents.id, _EVERY, None))) == 3


_EVERY = khonsu_engine.commands.EVERY_KEY


# -- threads, locks, reopening ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_appends_of_threads_all_commit(level: str) -> None:
    """Without a retry; each row once, in the order of the commits."""
    store, done = store_with(Clock()), []

    def work(thread: int) -> None:
        for number in range(50):
            row = thread * 1000 + number
            transaction = store.start_transaction(level)
            transaction.append("k", batch(row))
            transaction.append(f"own {thread}", batch(row))
            done.append((transaction.commit().timestamp, row))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 400
    assert content(store)["k"] == [row for _, row in sorted(done)]
    assert _revision(store, "k") == 400 and _revision(store, "own 3") == 50 and _locks(store) == 0
    store.close()


@pytest.mark.parametrize("policy", ["replace", "append"])
def test_threads_that_write_several_keys(policy: str) -> None:
    """In different orders: the locks are taken in one, so that nobody meets a deadlock, and nobody has to run again."""
    store, failed = store_with(Clock()), []

    def work(thread: int) -> None:
        keys = ["a", "b", "c"][:: 1 if thread % 2 else -1]
        for number in range(25):
            try:
                with store.start_transaction(on_conflict=policy) as transaction:
                    for key in keys:
                        transaction.write(key, batch(thread * 100 + number))
            except BaseException as error:
                failed.append(error)
                raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = content(store)
    assert not failed and found["a"] == found["b"] == found["c"], "whole transactions, one after the other"
    assert [_revision(store, key) for key in "abc"] == [100] * 3 and _locks(store) == 0
    store.close()


def _locked(store: BatchStore, key: str) -> Any:
    """A transaction of the engine that has that head locked."""
    holder = store.database.begin(Isolation.REPEATABLE_READ, writes_first=True)
    holder.lock(store._keyspace.tables.batches.id, key, LockMode.EXCLUSIVE)
    return holder


def _until_somebody_waits(store: BatchStore, count: int = 1) -> None:
    deadline = time.monotonic() + 60
    while sum(not info.granted for info in store.database.locks.listed()) < count:
        assert time.monotonic() < deadline, "nobody waits"
        threading.Event().wait(0.001)


def test_a_commit_waits_for_the_lock_and_sees_what_came_before(store: BatchStore) -> None:
    write(store, {"k": 1})
    holder, outcomes = _locked(store, "k"), list[Outcome]()
    mine = store.start_transaction()
    mine.append("k", batch(2))
    thread = threading.Thread(target=lambda: outcomes.append(mine.commit()))
    thread.start()
    _until_somebody_waits(store)
    holder.rollback()
    thread.join()
    assert outcomes[0].timestamp and content(store)["k"] == [1, 2] and _locks(store) == 0


def test_locks_are_taken_in_the_order_of_keys(store: BatchStore) -> None:
    """Whatever the order of the writes: so commits with policies meet no deadlock among themselves."""
    holder = _locked(store, "a")
    mine = store.start_transaction(on_conflict="replace")
    for key in ("c", "a", "b"):
        mine.write(key, batch(1))
    thread = threading.Thread(target=mine.commit)
    thread.start()
    _until_somebody_waits(store)
    locks = {(info.target, info.granted) for info in store.database.locks.listed()}
    holder.rollback()
    thread.join()
    assert locks == {("a", True), ("a", False)} and sorted(content(store)) == ["a", "b", "c"] and _locks(store) == 0


def test_a_lock_that_does_not_come(store: BatchStore) -> None:
    """The transaction ends with that error, and leaves nothing."""
    holder = _locked(store, "k")
    mine = store.start_transaction(on_conflict="replace")
    mine.write("a", batch(2))
    mine.write("k", batch(2))
    mine._work.transaction.set_lock_timeout(0)
    with pytest.raises(LockNotAvailable):
        mine.commit()
    assert store.status(mine.id).state == "aborted" and content(store) == {}
    assert {info.target for info in store.database.locks.listed()} == {"k"}
    holder.rollback()
    assert _locks(store) == 0


def test_a_deadlock_ends_one_of_them(store: BatchStore) -> None:
    """A commit of ordinary writes waits for locked keys in the order of its writes."""
    holder, ended = _locked(store, "b"), []
    ordinary, appending = store.start_transaction(), store.start_transaction()
    ordinary.write("b", batch(1))
    ordinary.write("a", batch(1))
    appending.append("a", batch(2))
    appending.append("b", batch(2))

    def end(transaction: BatchTransaction) -> None:
        try:
            transaction.commit()
            ended.append("committed")
        except DeadlockDetected as error:
            ended.append(error.sqlstate)

    threads = [threading.Thread(target=end, args=(transaction,)) for transaction in (ordinary, appending)]
    for waiting, thread in enumerate(threads):
        thread.start()
        _until_somebody_waits(store, waiting + 1)
    holder.rollback()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["40P01", "committed"] and _locks(store) == 0
    found = content(store)
    assert found["a"] == found["b"] and found["a"] in ([1], [2])


def test_an_interrupt_in_the_replay(store: BatchStore, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = store.start_transaction(on_conflict="replace")
    mine.write("a", batch(1))
    mine.write("k", batch(1))
    write(store, {"a": 2, "k": 2})

    def interrupted(*given: Any) -> Any:
        if given[2] == "k":
            raise KeyboardInterrupt
        return decided(*given)

    decided = blind.decided
    monkeypatch.setattr(blind, "decided", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mine.commit()
    assert store.status(mine.id).state == "aborted" and content(store) == {"a": [2], "k": [2]} and _locks(store) == 0


def test_the_sweep_gives_way_to_a_lock(store: BatchStore, clock: Clock) -> None:
    with store.start_transaction() as first:
        first.write("k", batch(1), expires=1)
    holder = _locked(store, "k")
    clock.now += 10
    write(store, {"other": 1})
    assert store.collect() == 0
    holder.rollback()
    assert store.collect() == 1


def test_one_that_fails_waits_for_one_that_decides(store: BatchStore) -> None:
    """A lock held at the commit holds back whoever would write the key: nobody comes between."""
    holder = _locked(store, "k")
    mine = store.start_transaction()
    mine.write("k", batch(1))
    with pytest.raises(LockWait):
        mine._work.transaction.commit()
    holder.rollback()
    mine.commit()
    assert content(store) == {"k": [1]}


@pytest.mark.parametrize("between", [False, True])
def test_all_ignored(store: BatchStore, between: bool) -> None:
    """Nothing is written then, and it is told."""
    write(store, {"k": 1})
    mine = store.start_transaction(on_conflict="ignore")
    mine.write("k", batch(2))
    mine.delete("k") if between else None
    write(store, {"k": 3})
    at = store.database.state.published
    outcome = mine.commit()
    assert (outcome.timestamp, outcome.index, outcome.transaction_id) == (0, 0, mine.id)
    assert outcome.conflicts == (Collision("khonsu.batches", "k", "ignored", at),)
    assert content(store) == {"k": [3]} and store.status(mine.id).state == "committed"


def test_reopened(tmp_path: Path) -> None:
    with khonsu_engine.open(tmp_path / "d", on_conflict="append") as store:
        write(store, {"k": 1})
        mine = store.start_transaction()
        mine.write("k", batch(2))
        mine.append("log", batch(1))
        with store.start_transaction() as other:
            other.append("k", batch(3))
            other.append("log", batch(2))
        assert len(mine.commit().conflicts) == 2
    with khonsu_engine.open(tmp_path / "d") as store:
        assert content(store) == {"k": [1, 3, 2], "log": [2, 1]}
        with store.start_transaction() as transaction:
            assert transaction.revision("k") == 3 and ids(transaction.read("k", revision=2)) == [1, 3]
            transaction.append("k", batch(4))
        assert _revision(store, "k") == 4


def test_a_rollback_leaves_nothing(store: BatchStore) -> None:
    mine = store.start_transaction(on_conflict="replace")
    mine.write("k", batch(1))
    mine.append("l", batch(1))
    assert len(content(store)) == 0
    mine.rollback()
    assert content(store) == {} and _locks(store) == 0
