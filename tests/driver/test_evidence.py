"""What an error says about its cause, rule by rule, and what `khonsu.conflicts` keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import khonsu_sql
from khonsu_engine.mvcc.recent_commits import RecentCommits
from khonsu_sql import Connection, errors
from tests.driver.test_locks import until_waiting
from tests.driver.test_restarts import meanwhile

Connect = Callable[..., Connection]

KEYS = {"rule", "table", "index", "keys", "transaction_id", "read_timestamp", "other_transaction_id", "commit_timestamp"}


@pytest.fixture
def two(connect: Connect) -> tuple[Connection, Connection]:
    """One that runs transactions, and another one, in autocommit, that gets in its way."""
    one = connect(":memory:evidence", autocommit=True)
    one.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER, u VARCHAR UNIQUE)")
    one.execute("INSERT INTO t VALUES (1, 10, 'x'), (2, 20, 'y')")
    return one, connect(":memory:evidence", autocommit=True)


def fails(connection: Connection, sql: str, kind: type[errors.Error]) -> errors.Error:
    with pytest.raises(kind) as caught:
        connection.execute(sql)
    if connection.in_transaction:
        connection.rollback()
    assert caught.value.evidence.keys() >= KEYS
    return caught.value


def recorded(connection: Connection, columns: str = "rule, table_name, index_name, keys, told") -> list[tuple[Any, ...]]:
    return connection.execute(f"SELECT {columns} FROM khonsu.conflicts ORDER BY at").fetchall()


def names_the_other(error: errors.Error, other: Connection) -> None:
    """The last commit of `other` is what `error` speaks of."""
    outcome = other.last_commit
    assert outcome is not None
    assert error.evidence["other_transaction_id"] == outcome.transaction_id
    assert error.evidence["commit_timestamp"] == outcome.timestamp
    assert error.evidence["transaction_id"] not in (None, outcome.transaction_id)


def test_write_write(two: tuple[Connection, Connection]) -> None:
    one, other = two
    one.execute("BEGIN OPTIMISTIC")
    one.execute("UPDATE t SET v = 11 WHERE k = 1")
    other.execute("UPDATE t SET v = 12 WHERE k = 1")
    error = fails(one, "COMMIT", errors.SerializationFailure)
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["keys"]) == ("write-write", "t", (1,))
    names_the_other(error, other)
    assert error.evidence["read_timestamp"] < error.evidence["commit_timestamp"]
    assert error.hint and error.detail and error.evidence["other_transaction_id"].hex() in error.detail
    assert recorded(other) == [("write-write", "t", None, ["1"], True)]
    shown = recorded(other, "transaction_id, other_transaction_id, commit_timestamp, read_timestamp, hint, sqlstate")
    assert shown == [
        (
            error.evidence["transaction_id"].hex(),
            error.evidence["other_transaction_id"].hex(),
            error.evidence["commit_timestamp"],
            error.evidence["read_timestamp"],
            error.hint,
            "40001",
        )
    ]


@pytest.mark.parametrize(
    ("query", "change", "keys"),
    [
        ("SELECT v FROM t WHERE k = 1", "UPDATE t SET v = 12 WHERE k = 1", (1,)),
        ("SELECT sum(v) FROM t WHERE v > 15", "INSERT INTO t VALUES (3, 30, NULL)", (3,)),
        ("SELECT count(*) FROM t", "DELETE FROM t WHERE k = 2", (2,)),
    ],
)
def test_read_write(two: tuple[Connection, Connection], query: str, change: str, keys: tuple[int, ...]) -> None:
    one, other = two
    one.execute("BEGIN OPTIMISTIC")
    one.execute(query).fetchall()
    other.execute(change)
    one.execute("INSERT INTO t VALUES (9, 9, 'nine')")
    error = fails(one, "COMMIT", errors.SerializationFailure)
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["keys"]) == ("read-write", "t", keys)
    names_the_other(error, other)


def test_a_conflict_on_a_unique_value_names_table_and_constraint(two: tuple[Connection, Connection]) -> None:
    one, other = two
    one.execute("BEGIN OPTIMISTIC")
    one.execute("INSERT INTO t VALUES (5, 5, 'same')")
    other.execute("INSERT INTO t VALUES (6, 6, 'same')")
    error = fails(one, "COMMIT", errors.SerializationFailure)
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["index"]) == ("write-write", "t", "t_u_key")
    assert error.evidence["keys"] == ("same",)
    names_the_other(error, other)


@pytest.mark.parametrize(("value", "index", "keys"), [("(1, 0, 'new')", None, (1,)), ("(7, 0, 'y')", "t_u_key", ("y",))])
def test_unique(two: tuple[Connection, Connection], value: str, index: str | None, keys: tuple[Any, ...]) -> None:
    one, other = two
    other.execute("UPDATE t SET u = 'y' WHERE k = 2")  # does nothing
    error = fails(other, f"INSERT INTO t VALUES {value}", errors.UniqueViolation)
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["index"]) == ("unique", "t", index)
    assert error.evidence["keys"] == keys
    names_the_other(error, one)
    assert recorded(one) == [("unique", "t", index, [str(keys[0])], True)]


def test_two_equal_keys_of_one_statement_have_no_other_transaction(two: tuple[Connection, Connection]) -> None:
    one, _ = two
    error = fails(one, "INSERT INTO t VALUES (8, 0, 'a'), (8, 0, 'b')", errors.UniqueViolation)
    assert error.evidence["other_transaction_id"] is None and error.evidence["commit_timestamp"] is None


@pytest.mark.parametrize(("before", "again"), [("INSERT INTO t VALUES (8, 0, 'a')", 8), ("UPDATE t SET v = 0 WHERE k = 1", 1)])
def test_a_key_that_this_transaction_wrote_has_no_other(two: tuple[Connection, Connection], before: str, again: int) -> None:
    one, _ = two
    one.execute("BEGIN")
    one.execute(before)
    error = fails(one, f"INSERT INTO t VALUES ({again}, 0, 'b')", errors.UniqueViolation)
    assert error.evidence["other_transaction_id"] is None and error.evidence["commit_timestamp"] is None


def test_catalog(two: tuple[Connection, Connection]) -> None:
    one, other = two
    one.execute("BEGIN")
    one.execute("INSERT INTO t VALUES (9, 9, 'nine')")
    other.execute("DROP TABLE t")
    names = other.last_commit
    other.execute("CREATE TABLE later (k INTEGER PRIMARY KEY)")
    error = fails(one, "COMMIT", errors.SerializationFailure)
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["keys"]) == ("catalog", "t", ())
    assert names is not None and error.evidence["other_transaction_id"] == names.transaction_id, "not who came later"
    assert error.evidence["commit_timestamp"] == names.timestamp


def test_two_that_create_one_table(two: tuple[Connection, Connection]) -> None:
    one, other = two
    one.execute("BEGIN OPTIMISTIC")
    one.execute("CREATE TABLE made (k INTEGER PRIMARY KEY)")
    other.execute("CREATE TABLE made (k INTEGER PRIMARY KEY)")
    error = fails(one, "COMMIT", errors.SerializationFailure)
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["keys"]) == ("catalog", "made", ())
    names_the_other(error, other)


def test_a_lock_that_did_not_come_in_time(two: tuple[Connection, Connection]) -> None:
    one, other = two
    other.execute("BEGIN PESSIMISTIC")
    other.execute("UPDATE t SET u = 'held' WHERE k = 1")
    holder = other.execute("SELECT transaction_id FROM khonsu.transactions WHERE writes > 0").fetchall()
    one.execute("SET lock_timeout = 1")
    one.execute("BEGIN PESSIMISTIC")
    error = fails(one, "INSERT INTO t VALUES (5, 5, 'held')", errors.LockNotAvailable)
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["index"]) == ("intent", "t", "t_u_key")
    assert error.evidence["keys"] == ("held",) and error.evidence["commit_timestamp"] is None
    assert [(error.evidence["other_transaction_id"].hex(),)] == holder
    assert error.evidence["blockers"] == (error.evidence["other_transaction_id"],)
    assert error.evidence["read_timestamp"] > 0 and error.hint
    assert recorded(one) == [("intent", "t", "t_u_key", ["held"], True)]


def test_deadlock(connect: Connect, two: tuple[Connection, Connection]) -> None:
    one, other = two
    for connection, key in ((one, 1), (other, 2)):
        connection.execute("BEGIN PESSIMISTIC")
        connection.execute(f"UPDATE t SET v = 0 WHERE k = {key}")
    with ThreadPoolExecutor(1) as threads:
        waiting: Future[Any] = threads.submit(one.execute, "UPDATE t SET v = 0 WHERE k = 2")
        until_waiting(one)
        third = connect(":memory:evidence", autocommit=True)
        ((mine, held_by, since),) = third.execute(
            "SELECT transaction_id, waits_for, waiting_since <= now() FROM khonsu.locks WHERE NOT granted"
        ).fetchall()
        states = third.execute("SELECT state FROM khonsu.transactions WHERE writes > 0 ORDER BY state").fetchall()
        error = fails(other, "UPDATE t SET v = 0 WHERE k = 1", errors.DeadlockDetected)
        assert waiting.result(20.0).rowcount == 1
        one.rollback()
    assert states == [("idle",), ("waiting",)] and since
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["keys"]) == ("deadlock", "t", (1,))
    assert error.evidence["transaction_id"].hex() == held_by[0] and len(held_by) == 1
    assert error.evidence["other_transaction_id"].hex() == mine
    assert set(error.evidence["cycle"]) == {error.evidence["transaction_id"], error.evidence["other_transaction_id"]}
    assert recorded(third) == [("deadlock", "t", None, ["1"], True)]


def test_who_committed_too_long_ago_is_unknown(two: tuple[Connection, Connection]) -> None:
    one, other = two
    one.execute("BEGIN OPTIMISTIC")
    one.execute("UPDATE t SET v = 11 WHERE k = 1")
    other.execute("UPDATE t SET v = 12 WHERE k = 1")
    changed = other.last_commit
    one._lease.database.state.recent = RecentCommits()
    error = fails(one, "COMMIT", errors.SerializationFailure)
    assert error.evidence["other_transaction_id"] is None
    assert changed is not None and error.evidence["commit_timestamp"] == changed.timestamp


def test_a_call_that_starts_again_unseen_is_noted(two: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflict in autocommit, which nobody is told: the entry says so."""
    one, other = two
    with meanwhile(monkeypatch, lambda attempt: attempt == 1 and other.execute("UPDATE t SET v = 12 WHERE k = 1")) as attempts:
        assert one.execute("UPDATE t SET v = v + 1 WHERE v < 15").rowcount == 1
    assert attempts == [1, 2]
    assert recorded(other) == [("write-write", "t", None, ["1"], False)]


def test_retries_are_counted(two: tuple[Connection, Connection]) -> None:
    one, other = two
    left = [1, 2]

    def work(connection: Connection) -> None:
        connection.execute("SELECT v FROM t WHERE k = 1").fetchall()
        if left:
            other.execute("UPDATE t SET v = v + 1 WHERE k = 1")
            left.pop()
        connection.execute("UPDATE t SET v = 0 WHERE k = 2")

    khonsu_sql.run_transaction(one, work)
    counted = other.execute("SELECT value FROM khonsu.metrics WHERE name IN ('retries', 'conflicts_read_write') ORDER BY name").fetchall()
    assert counted == [(2.0,), (2.0,)]


def test_a_row_that_a_policy_made_violates_a_unique_constraint(two: tuple[Connection, Connection]) -> None:
    one, other = two
    one.execute("BEGIN ISOLATION LEVEL REPEATABLE READ OPTIMISTIC ON CONFLICT APPEND")
    one.execute("UPDATE t SET u = 'z' WHERE k = 1")
    other.execute("BEGIN")
    other.execute("UPDATE t SET v = 11 WHERE k = 1")
    other.execute("INSERT INTO t VALUES (3, 30, 'z')")
    other.execute("COMMIT")
    error = fails(one, "COMMIT", errors.UniqueViolation)
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["index"]) == ("unique", "t", "t_u_key")
    assert error.evidence["keys"] == ("z",)
    names_the_other(error, other)


@pytest.mark.parametrize(
    ("sql", "keys"),
    [
        ("SELECT * FROM t WHERE k = 1 FOR UPDATE NOWAIT", (1,)),
        ("SELECT * FROM t FOR UPDATE NOWAIT", ()),
        ("LOCK TABLE t NOWAIT", ("every key",)),
    ],
)
def test_a_lock_that_was_not_to_be_waited_for(two: tuple[Connection, Connection], sql: str, keys: tuple[Any, ...]) -> None:
    one, other = two
    other.execute("BEGIN PESSIMISTIC")
    other.execute("UPDATE t SET v = 0 WHERE k = 1")
    one.execute("BEGIN")
    error = fails(one, sql, errors.LockNotAvailable)
    assert (error.evidence["rule"], error.evidence["table"], error.evidence["keys"]) == ("intent", "t", keys)
    assert error.evidence["transaction_id"] is not None and error.hint
