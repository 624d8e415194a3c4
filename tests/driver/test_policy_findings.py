"""What a hostile reading of the conflict policies has found: each test was a wrong answer once.

`a` decides by a policy, `b` comes between. At SERIALIZABLE whatever commits has to be explained by one order of the commits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import khonsu_sql
from khonsu_engine.transaction import LocalTransaction
from khonsu_sql import Connection

Connect = Callable[..., Connection]

SUMS = (
    "CREATE TABLE t (k INTEGER PRIMARY KEY, n BIGINT, m INTEGER, u INTEGER UNIQUE)",
    "ALTER TABLE t ALTER COLUMN n SET (merge = sum)",
    "INSERT INTO t VALUES (1, 0, 0, 10), (2, 0, 0, 20), (9, 0, 0, 90)",
)


@pytest.fixture
def two(connect: Connect) -> tuple[Connection, Connection]:
    """`a` with transactions, `b` without."""
    a, b = connect(":memory:findings", autocommit=True), connect(":memory:findings", autocommit=True)
    for sql in SUMS:
        a.execute(sql)
    return a, b


def rows(connection: Connection, sql: str = "SELECT * FROM t ORDER BY k") -> list[Any]:
    return connection.execute(sql).fetchall()


def failure(connection: Connection, sql: str = "COMMIT") -> str | None:
    try:
        connection.execute(sql)
    except khonsu_sql.Error as error:
        return error.sqlstate
    return None


# --- what was seen of an own row that a policy did not write after all


@pytest.mark.parametrize("seen", ["SELECT count(*) FROM t", "SELECT k FROM t WHERE k = 1", "SELECT m FROM t WHERE u = 10"])
def test_an_own_deletion_that_was_seen_is_not_ignored(two: tuple[Connection, Connection], seen: str) -> None:
    a, b = two
    a.execute("BEGIN ON CONFLICT IGNORE")
    a.execute("DELETE FROM t WHERE k = 1")
    gone = rows(a, seen)
    assert gone in ([(2,)], [])
    b.execute("UPDATE t SET m = 7 WHERE k = 1")
    a.execute("UPDATE t SET m = 1 WHERE k = 9")
    assert failure(a) == "40001"


@pytest.mark.parametrize("seen", ["SELECT count(*) FROM t WHERE u = 10", "SELECT k FROM t WHERE u = 10", "SELECT k FROM t WHERE u = 11"])
def test_an_own_unique_value_that_was_seen_is_not_ignored(two: tuple[Connection, Connection], seen: str) -> None:
    a, b = two
    a.execute("BEGIN ON CONFLICT IGNORE")
    a.execute("UPDATE t SET u = 11 WHERE k = 1")
    rows(a, seen)
    b.execute("UPDATE t SET m = 7 WHERE k = 1")
    assert failure(a) == "40001"


def test_an_own_insert_that_was_counted_is_not_ignored_over_a_deletion(two: tuple[Connection, Connection]) -> None:
    """The snapshot moves over the other's INSERT and DELETE of the key; the own row was based on the old one."""
    a, b = two
    a.execute("BEGIN ON CONFLICT IGNORE")
    a.execute("INSERT INTO t VALUES (5, 5, 5, NULL)")
    b.execute("INSERT INTO t VALUES (5, 7, 7, NULL)")
    b.execute("DELETE FROM t WHERE k = 5")
    b.execute("UPDATE t SET m = 1 WHERE k = 9")
    a.execute("UPDATE t SET m = m + 1 WHERE k = 9", on_conflict="fail")  # moves the snapshot
    try:
        assert rows(a, "SELECT count(*) FROM t") == [(4,)]
        a.execute("COMMIT")
    except khonsu_sql.Error as error:
        assert error.sqlstate == "40001"
    else:
        pytest.fail("it counted a row which is not there")


def test_a_sum_seen_in_a_savepoint_stays_seen(two: tuple[Connection, Connection]) -> None:
    """The own row, based on the old snapshot, is read in the new one, and rolled back."""
    a, b = two
    a.execute("BEGIN ON CONFLICT MERGE")
    a.execute("SAVEPOINT s")
    a.execute("UPDATE t SET n = n + 1 WHERE k = 1")
    b.execute("UPDATE t SET n = n + 100 WHERE k = 1")
    b.execute("UPDATE t SET m = 1 WHERE k = 9")
    a.execute("UPDATE t SET m = m + 1 WHERE k = 9", on_conflict="fail")  # moves the snapshot
    try:
        seen = rows(a, "SELECT n FROM t WHERE k = 1")
        assert seen == [(1,)]
        a.execute("ROLLBACK TO s")
        a.execute("UPDATE t SET m = 5 WHERE k = 2")
        a.execute("COMMIT")
    except khonsu_sql.Error as error:
        assert error.sqlstate == "40001"
    else:
        pytest.fail("nobody ever committed the 1 it saw")


# --- what is no delta


def test_an_assignment_of_a_sum_is_no_delta(two: tuple[Connection, Connection]) -> None:
    a, b = two
    a.execute("BEGIN ON CONFLICT MERGE")
    a.execute("UPDATE t SET n = 10 WHERE k = 1")
    b.execute("UPDATE t SET n = 5 WHERE k = 1")
    assert failure(a) == "40001"
    assert rows(a, "SELECT n FROM t WHERE k = 1") == [(5,)]


def test_an_assignment_after_a_delta_in_a_moved_snapshot(two: tuple[Connection, Connection]) -> None:
    a, b = two
    a.execute("BEGIN ON CONFLICT MERGE")
    a.execute("UPDATE t SET n = n + 1 WHERE k = 1")
    b.execute("UPDATE t SET n = n + 100 WHERE k = 1")
    b.execute("UPDATE t SET m = 1 WHERE k = 9")
    a.execute("UPDATE t SET m = m + 1 WHERE k = 9", on_conflict="fail")
    try:
        a.execute("UPDATE t SET n = 5 WHERE k = 1")
        a.execute("COMMIT")
    except khonsu_sql.Error as error:
        assert error.sqlstate == "40001"
    else:
        assert rows(a, "SELECT n FROM t WHERE k = 1") == [(5,)]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET n = s.n + 1 FROM s WHERE s.k = t.k AND t.k = 1",
        "UPDATE t SET n = n + 1 WHERE k = 1 AND EXISTS (SELECT 1 FROM (SELECT * FROM t) AS q(a, b, c, d) WHERE q.a = 1 AND q.b < 5)",
        "UPDATE t SET n = n + 0.5 WHERE k = 1",
        "UPDATE t SET n = n + 1.0 WHERE k = 1",
    ],
)
def test_what_only_looks_like_a_delta(two: tuple[Connection, Connection], sql: str) -> None:
    a, b = two
    a.execute("CREATE TABLE s (k INTEGER PRIMARY KEY, n INTEGER)")
    a.execute("INSERT INTO s VALUES (1, 41)")
    a.execute("BEGIN ON CONFLICT MERGE")
    a.execute(sql)
    b.execute("UPDATE t SET n = 5 WHERE k = 1")
    assert failure(a) == "40001"


@pytest.mark.parametrize(("value", "ends"), [(1, None), (0.5, "40001"), (1.0, "40001"), ("1", "40001"), (True, "40001")])
def test_a_parameter_is_a_delta_when_it_is_exact(two: tuple[Connection, Connection], value: Any, ends: str | None) -> None:
    a, b = two
    a.execute("BEGIN ON CONFLICT MERGE")
    try:
        a.execute("UPDATE t SET n = n + ? WHERE k = 1", (value,))
    except khonsu_sql.Error:
        return  # PostgreSQL does not add it either
    b.execute("UPDATE t SET n = n + 5 WHERE k = 1")
    assert failure(a) == ends


def test_sums_of_floats_are_reads(two: tuple[Connection, Connection]) -> None:
    """1e20 + 1 - 1e20 is 0: what was added cannot be found again."""
    a, b = two
    a.execute("CREATE TABLE f (k INTEGER PRIMARY KEY, x DOUBLE)")
    a.execute("ALTER TABLE f ALTER COLUMN x SET (merge = sum)")
    a.execute("INSERT INTO f VALUES (1, 1e20)")
    a.execute("BEGIN ON CONFLICT MERGE")
    a.execute("UPDATE f SET x = x + 1 WHERE k = 1")
    b.execute("UPDATE f SET x = 0 WHERE k = 1")
    assert failure(a) == "40001"


def test_a_sum_with_infinity_is_a_conflict(two: tuple[Connection, Connection]) -> None:
    a, b = two
    a.execute("CREATE TABLE f (k INTEGER PRIMARY KEY, x DOUBLE)")
    a.execute("ALTER TABLE f ALTER COLUMN x SET (merge = sum)")
    a.execute("INSERT INTO f VALUES (1, 'inf'::DOUBLE)")
    a.execute("BEGIN ISOLATION LEVEL REPEATABLE READ ON CONFLICT MERGE")
    a.execute("UPDATE f SET x = x + 1 WHERE k = 1")
    b.execute("UPDATE f SET x = 5 WHERE k = 1")
    assert failure(a) == "40001"
    assert rows(b, "SELECT x FROM f") == [(5.0,)]


def test_deleted_and_inserted_again_is_no_sum(two: tuple[Connection, Connection]) -> None:
    for level in ("SERIALIZABLE", "REPEATABLE READ"):
        a, b = two
        a.execute(f"BEGIN ISOLATION LEVEL {level} ON CONFLICT MERGE")
        a.execute("DELETE FROM t WHERE k = 1")
        a.execute("INSERT INTO t VALUES (1, 5, 0, 10)")
        b.execute("UPDATE t SET n = n + 7 WHERE k = 1")
        assert failure(a) == "40001"


# --- rows that move, come and go


@pytest.mark.parametrize("policy", ["IGNORE", "REPLACE", "APPEND", "MERGE"])
@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ"])
def test_an_update_of_the_key_takes_no_policy(two: tuple[Connection, Connection], policy: str, level: str) -> None:
    """Else the row would stand under both keys, or what the other wrote would be lost with the old one."""
    a, b = two
    a.execute(f"BEGIN ISOLATION LEVEL {level} ON CONFLICT {policy}")
    a.execute("UPDATE t SET k = 5 WHERE k = 1")
    b.execute("UPDATE t SET m = 7 WHERE k = 1")
    assert failure(a) == "40001"
    assert rows(b, "SELECT k, m FROM t WHERE k IN (1, 5)") == [(1, 7)]
    with pytest.raises(khonsu_sql.NotSupportedError, match="primary key"):
        a.execute("UPDATE t SET k = 5 WHERE k = 1", on_conflict=policy)


@pytest.mark.parametrize("policy", ["IGNORE", "REPLACE", "APPEND"])
def test_a_row_inserted_and_deleted_again_is_nothing(two: tuple[Connection, Connection], policy: str) -> None:
    a, b = two
    a.execute(f"BEGIN ON CONFLICT {policy}")
    a.execute("INSERT INTO t VALUES (5, 0, 0, NULL)")
    a.execute("DELETE FROM t WHERE k = 5")
    a.execute("UPDATE t SET m = 4 WHERE k = 9")
    b.execute("INSERT INTO t VALUES (5, 7, 7, 77)")
    assert failure(a) in (None, "40001")
    assert rows(b, "SELECT * FROM t WHERE k = 5") == [(5, 7, 7, 77)]
    assert rows(b, "SELECT k FROM t WHERE u = 77") == [(5,)]


# --- locks, errors, reports


def test_an_entry_derived_again_waits_for_a_lock(connect: Connect) -> None:
    """REPLACE brings u = 10 back, which somebody else is just inserting, pessimistically."""
    a, b, c = (connect(":memory:locked", autocommit=True, timeout=0.2) for _ in range(3))
    for sql in SUMS:
        a.execute(sql)
    a.execute("BEGIN ISOLATION LEVEL REPEATABLE READ ON CONFLICT REPLACE")
    a.execute("UPDATE t SET m = 1 WHERE k = 1")
    b.execute("UPDATE t SET u = NULL WHERE k = 1")
    c.execute("BEGIN PESSIMISTIC")
    c.execute("INSERT INTO t VALUES (5, 0, 0, 10)")
    assert failure(a) == "55P03"
    c.execute("COMMIT")
    assert rows(c, "SELECT k FROM t WHERE u = 10") == [(5,)]


def test_a_row_without_policy_is_a_conflict_before_anything_is_derived(two: tuple[Connection, Connection]) -> None:
    """Not 23505: its old image says nothing about who has the unique value now."""
    a, b = two
    a.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    a.execute("UPDATE t SET u = 91 WHERE k = 9")
    a.execute("UPDATE t SET m = 1 WHERE k = 1", on_conflict="append")
    b.execute("UPDATE t SET u = 92 WHERE k = 9")
    b.execute("UPDATE t SET u = 91 WHERE k = 2")
    b.execute("UPDATE t SET n = 1 WHERE k = 1")
    assert failure(a) == "40001"


def test_a_violation_names_the_commit_it_depends_on(two: tuple[Connection, Connection]) -> None:
    """So that it is not told before that is on disk."""
    a, b = two
    a.execute("CREATE TABLE c (k INTEGER PRIMARY KEY, n SMALLINT, CHECK (n <= 32767))")
    a.execute("ALTER TABLE c ALTER COLUMN n SET (merge = sum)")
    a.execute("INSERT INTO c VALUES (1, 0)")
    a.execute("BEGIN ON CONFLICT MERGE")
    a.execute("UPDATE c SET n = n + 20000 WHERE k = 1")
    b.execute("UPDATE c SET n = n + 20000 WHERE k = 1")
    with pytest.raises(khonsu_sql.Error) as caught:
        a.execute("COMMIT")
    assert caught.value.sqlstate == "22003"
    assert caught.value.__cause__.evidence["commit_timestamp"] == b.last_commit.timestamp
    assert rows(b, "SELECT n FROM c") == [(20000,)]


@pytest.mark.parametrize(
    "sql", ["BEGIN", "COMMIT", "SET locking = optimistic", "SHOW locking", "SELECT 1", "DROP TABLE t", "EXPLAIN DELETE FROM t"]
)
def test_what_writes_no_rows_takes_no_policy(two: tuple[Connection, Connection], sql: str) -> None:
    with pytest.raises(khonsu_sql.NotSupportedError, match="conflict policy"):
        two[0].execute(sql, on_conflict="merge")


def test_a_script_is_a_transaction_and_each_of_its_results_reports(
    two: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two
    between = iter(["UPDATE t SET n = n + 5 WHERE k = 1"])
    commit = LocalTransaction.commit

    def late(transaction: LocalTransaction) -> Any:
        for sql in between:
            b.execute(sql)
        return commit(transaction)

    monkeypatch.setattr(LocalTransaction, "commit", late)
    cursor = a.cursor()
    cursor.execute("UPDATE t SET n = n + 1 WHERE k = 1; UPDATE t SET n = n + 1 WHERE k = 9", on_conflict="merge")
    reports = [cursor.conflicts]
    while cursor.nextset():
        reports.append(cursor.conflicts)
    assert [[(met.table, met.key, met.action) for met in report] for report in reports] == [[("t", 1, "merged")]] * 2
    assert rows(b, "SELECT n FROM t WHERE k = 1") == [(6,)]
