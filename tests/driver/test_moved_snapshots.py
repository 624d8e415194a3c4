"""Snapshots that move: what a transaction wrote, read or bound before is judged at the end as if nothing had been forgotten meanwhile.

`a` is in a transaction, `b` comes between, and a checkpoint forgets what no snapshot needs. Each test was a wrong answer once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import khonsu_sql
from khonsu_sql import Connection

Connect = Callable[..., Connection]


@pytest.fixture
def two(connect: Connect) -> tuple[Connection, Connection]:
    """`a` and `b`, which does not wait long."""
    a, b = connect(":memory:moved", autocommit=True), connect(":memory:moved", autocommit=True)
    a.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, n BIGINT, u INTEGER UNIQUE, x DOUBLE, l DOUBLE[])")
    a.execute("ALTER TABLE t ALTER COLUMN n SET (merge = sum)")
    a.execute("INSERT INTO t VALUES (1, 0, 10, 0.0, [0.0]), (2, 0, 20, 0.0, [0.0]), (9, 0, 90, 0.0, [0.0])")
    b.execute("SET lock_timeout = '50ms'")
    return a, b


def rows(connection: Connection, sql: str = "SELECT k, n, u FROM t ORDER BY k") -> list[Any]:
    return connection.execute(sql).fetchall()


def failure(connection: Connection, sql: str = "COMMIT", parameters: tuple[Any, ...] = ()) -> str | None:
    try:
        connection.execute(sql, parameters)
    except khonsu_sql.Error as error:
        return error.sqlstate
    return None


def batch(key: int) -> pa.Table:
    return pa.table({"k": pa.array([key], pa.int32())})


@pytest.mark.parametrize(
    ("policy", "ends", "there"), [("IGNORE", None, False), ("MERGE", "40001", False), ("APPEND", None, True), ("REPLACE", None, True)]
)
def test_a_deletion_is_not_forgotten_before_a_policy_has_met_it(
    two: tuple[Connection, Connection], policy: str, ends: str | None, there: bool
) -> None:
    a, b = two
    a.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED OPTIMISTIC ON CONFLICT {policy}")
    a.execute("UPDATE t SET n = n + 1 WHERE k = 1")
    b.execute("DELETE FROM t WHERE k = 1")
    rows(a, "SELECT n FROM t WHERE k = 2")  # another snapshot, above the deletion
    b.checkpoint()
    assert failure(a) == ends
    assert ((1, 1, 10) in rows(a)) is there
    assert failure(b, "INSERT INTO t VALUES (7, 0, 10, 0, NULL)") == (
        "23505" if there else None
    )  # the row and its unique entry go together


@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
def test_a_row_nobody_else_wrote_does_not_conflict_after_a_checkpoint(two: tuple[Connection, Connection], level: str) -> None:
    a, b = two
    a.execute(f"BEGIN ISOLATION LEVEL {level}")
    a.execute("UPDATE t SET n = n + 1 WHERE k = 1")
    b.execute("UPDATE t SET n = n + 100 WHERE k IN (2, 9)")
    a.execute("UPDATE t SET n = n + 1 WHERE k = 9")  # moves the snapshot
    b.checkpoint()  # of rows older than every snapshot it is not kept which one is how old
    a.execute("UPDATE t SET n = n + 1 WHERE k = 1")
    assert failure(a) is None
    assert rows(a) == [(1, 2, 10), (2, 100, 20), (9, 101, 90)]


def test_what_is_held_for_a_moved_snapshot_goes_with_the_transaction(two: tuple[Connection, Connection]) -> None:
    a, b = two
    for end in ("COMMIT", "ROLLBACK"):
        a.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        a.execute("UPDATE t SET n = n + 1 WHERE k = 1")
        b.execute("UPDATE t SET n = n + 1 WHERE k = 2")
        rows(a)
        assert held(b) == 2
        a.execute(end)
        assert held(b) == 0


def held(connection: Connection) -> int:
    """How many snapshots there are, besides that of the question."""
    (found,) = connection.execute("SELECT value FROM khonsu.metrics WHERE name = 'snapshots'").fetchone() or (0,)
    return int(found) - 1


@pytest.mark.parametrize(("column", "value"), [("x", -0.0), ("l", [-0.0])])
def test_a_zero_that_changes_its_sign_is_a_change(two: tuple[Connection, Connection], column: str, value: Any) -> None:
    a, b = two
    a.execute("BEGIN")
    before = rows(a, f"SELECT {column}::VARCHAR FROM t WHERE k = 1")
    b.execute(f"UPDATE t SET {column} = ? WHERE k = 1", (value,))
    assert rows(b, f"SELECT {column}::VARCHAR FROM t WHERE k = 1") != before
    a.execute("UPDATE t SET n = 7 WHERE k = 2")
    assert failure(a) == "40001"


def test_an_ingest_that_failed_leaves_the_transaction_its_locks(two: tuple[Connection, Connection]) -> None:
    a, b = two
    a.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    a.execute("SAVEPOINT s")
    with pytest.raises(khonsu_sql.IntegrityError):
        a.cursor().ingest("t", batch(1), mode="append")
    a.execute("ROLLBACK TO s")
    a.execute("UPDATE t SET n = n + 1 WHERE k = 1")
    assert failure(b, "UPDATE t SET n = n + 100 WHERE k = 1") == "55P03"
    assert failure(a) is None


def test_an_ingest_at_read_committed_sees_what_is_committed_when_it_begins(two: tuple[Connection, Connection]) -> None:
    a, b = two
    a.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    rows(a)
    b.execute("DELETE FROM t WHERE k = 2")
    assert a.cursor().ingest("t", batch(2), mode="append") == 1
    assert failure(a) is None
    assert rows(b) == [(1, 0, 10), (2, None, None), (9, 0, 90)]
