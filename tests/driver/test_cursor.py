"""Cursors: rows, descriptions, several results, row factories, and what an open result lives through."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import khonsu_sql
from khonsu_sql import Connection, dict_row, namedtuple_row, scalar_row

MANY = 25_000
"""More rows than are handed out at once: the result streams."""


@pytest.fixture
def numbers(accounts: Connection) -> Connection:
    accounts.execute("CREATE TABLE numbers (n BIGINT PRIMARY KEY)")
    accounts.execute(f"INSERT INTO numbers SELECT range FROM range({MANY})")
    accounts.commit()
    return accounts


SELECTS = pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT id, owner FROM accounts WHERE id = 3", [(3, "owner 3")]),
        ("SELECT id, owner FROM accounts WHERE id > 2 ORDER BY id", [(n, f"owner {n}") for n in (3, 4, 5)]),
        ("SELECT id, max(owner) FROM accounts GROUP BY id ORDER BY id", [(n, f"owner {n}") for n in range(1, 6)]),
        ("SELECT n, 'x' FROM numbers ORDER BY n", [(n, "x") for n in range(MANY)]),
        ("SELECT id, owner FROM accounts WHERE id = 99", []),
    ],
)


@SELECTS
def test_rows_one_by_one_in_groups_and_all_at_once(numbers: Connection, sql: str, rows: list[Any]) -> None:
    cursor = numbers.cursor()
    assert cursor.execute(sql) is cursor
    assert cursor.fetchall() == rows
    assert cursor.fetchall() == []
    assert list(cursor.execute(sql)) == rows
    assert cursor.execute(sql).fetchmany(2) == rows[:2]
    assert cursor.rownumber == len(rows[:2])
    assert cursor.fetchone() == (rows[2] if len(rows) > 2 else None)
    assert cursor.fetchmany(MANY) == rows[3:]
    assert cursor.fetchone() is None
    assert cursor.fetchmany() == []
    assert cursor.rownumber == len(rows)


@SELECTS
def test_iteration_and_fetching_share_a_position(numbers: Connection, sql: str, rows: list[Any]) -> None:
    cursor = numbers.execute(sql)
    seen = [row for row, _ in zip(cursor, range(2), strict=False)]
    assert seen == rows[:2]
    assert cursor.fetchall() == rows[3:]  # zip took one row more to see the end of range


def test_arraysize_is_the_default_of_fetchmany(accounts: Connection) -> None:
    cursor = accounts.execute("SELECT id FROM accounts ORDER BY id")
    assert cursor.arraysize == 1
    assert cursor.fetchmany() == [(1,)]
    cursor.arraysize = 3
    assert cursor.fetchmany() == [(2,), (3,), (4,)]
    assert cursor.fetchmany(0) == []
    with pytest.raises(khonsu_sql.InterfaceError):
        cursor.fetchmany(-1)


def test_description_says_name_type_precision_and_scale(accounts: Connection) -> None:
    cursor = accounts.execute("SELECT id, owner, balance, CAST(id AS DOUBLE) AS d FROM accounts WHERE id = 1")
    assert cursor.description is not None
    assert [column[0] for column in cursor.description] == ["id", "owner", "balance", "d"]
    assert [column[1] for column in cursor.description] == ["BIGINT", "VARCHAR", "DECIMAL(12,2)", "DOUBLE"]
    assert [column[1] == khonsu_sql.NUMBER for column in cursor.description] == [True, False, True, True]
    assert cursor.description[2][4:6] == (12, 2)
    assert cursor.description[0][2:6] == (None, None, None, None)
    assert all(len(column) == 7 for column in cursor.description)


def test_description_and_rowcount_follow_the_statements(accounts: Connection) -> None:
    cursor = accounts.cursor()
    assert (cursor.description, cursor.rowcount, cursor.rownumber, cursor.lastrowid) == (None, -1, None, None)
    cursor.execute("UPDATE accounts SET balance = 1 WHERE id < 3")
    assert (cursor.description, cursor.rowcount, cursor.statusmessage) == (None, 2, "UPDATE")
    cursor.execute("DELETE FROM accounts WHERE id = 1 RETURNING id, balance")
    assert (cursor.rowcount, cursor.fetchall()) == (1, [(1, 1)])
    assert cursor.description is not None
    cursor.execute("SELECT id FROM accounts WHERE id = 77")
    assert cursor.description is not None
    assert cursor.fetchall() == []


def test_executemany_is_one_statement_for_all_sets(accounts: Connection) -> None:
    cursor = accounts.executemany(
        "INSERT INTO accounts VALUES (:id, :owner, :balance)", ({"id": n, "owner": "x", "balance": n} for n in (6, 7))
    )
    assert cursor.rowcount == 2
    assert cursor.executemany("DELETE FROM accounts WHERE id = ?", [(6,), (7,), (8,)]).rowcount == 2
    assert cursor.executemany("DELETE FROM accounts WHERE id = ?", []).rowcount in (0, -1)


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [("id = ?", (2,)), ("id = $1", [2]), ("id = :id", {"id": 2}), ("id = $id", {"id": 2}), ("id = $1 AND $1 = 2", (2,))],
)
def test_three_styles_of_parameters(accounts: Connection, sql: str, parameters: Any) -> None:
    assert accounts.execute(f"SELECT owner FROM accounts WHERE {sql}", parameters).fetchall() == [("owner 2",)]


def test_several_statements_are_several_results(accounts: Connection) -> None:
    cursor = accounts.execute("SELECT 1; UPDATE accounts SET balance = 0 WHERE id = 1; SELECT balance FROM accounts WHERE id = 1")
    assert cursor.fetchall() == [(1,)]
    assert cursor.nextset() is True
    assert (cursor.description, cursor.rowcount) == (None, 1)
    with pytest.raises(khonsu_sql.InvalidCursorState):
        cursor.fetchone()
    assert cursor.nextset() is True
    assert cursor.fetchone() == (0,)
    assert cursor.nextset() is None
    with pytest.raises(khonsu_sql.InvalidCursorState):
        cursor.fetchone()


def test_nextset_without_a_statement(accounts: Connection) -> None:
    assert accounts.cursor().nextset() is None


@pytest.mark.parametrize("fetch", ["fetchone", "fetchmany", "fetchall", "fetch_arrow_table", "fetch_record_batch"])
def test_fetching_without_a_result_is_24000(accounts: Connection, fetch: str) -> None:
    cursor = accounts.cursor()
    for prepare in (lambda: None, lambda: cursor.execute("UPDATE accounts SET balance = 1")):
        prepare()
        with pytest.raises(khonsu_sql.InvalidCursorState) as caught:
            getattr(cursor, fetch)()
        assert caught.value.sqlstate == "24000"


def test_a_statement_that_failed_leaves_no_result(accounts: Connection) -> None:
    cursor = accounts.execute("SELECT id FROM accounts")
    with pytest.raises(khonsu_sql.UndefinedTable):
        cursor.execute("SELECT * FROM nowhere")
    with pytest.raises(khonsu_sql.InvalidCursorState):
        cursor.fetchone()
    assert (cursor.description, cursor.rowcount) == (None, -1)


def test_a_closed_cursor_refuses(accounts: Connection) -> None:
    with accounts.cursor() as cursor:
        cursor.execute("SELECT id FROM accounts")
    cursor.close()
    for action in (lambda: cursor.execute("SELECT 1"), cursor.fetchone, cursor.fetchall, cursor.nextset, cursor.fetch_arrow_table):
        with pytest.raises(khonsu_sql.InvalidCursorState, match="closed"):
            action()
    assert cursor.connection is accounts


@SELECTS
def test_no_row_leaves_after_the_connection_was_closed(numbers: Connection, sql: str, rows: list[Any]) -> None:
    cursor = numbers.execute(sql)
    numbers.close()
    for fetch in (cursor.fetchone, cursor.fetchall, cursor.fetch_arrow_table, lambda: next(cursor)):
        with pytest.raises(khonsu_sql.ConnectionDoesNotExist):
            fetch()


@SELECTS
def test_an_open_result_keeps_its_snapshot_through_commit(numbers: Connection, sql: str, rows: list[Any]) -> None:
    reader = numbers.execute(sql)
    first = reader.fetchmany(1)
    numbers.execute("DELETE FROM numbers")
    numbers.execute("UPDATE accounts SET owner = 'gone'")
    numbers.commit()
    assert first + reader.fetchall() == rows


@pytest.mark.parametrize("fetch", ["fetchone", "fetchall", "fetch_arrow_table"])
@pytest.mark.parametrize(
    "sql", ["SELECT balance FROM accounts WHERE id = 1", "SELECT n FROM numbers", "SELECT count(*) FROM accounts a, accounts b"]
)
def test_rollback_ends_a_result_that_shows_its_own_changes(numbers: Connection, sql: str, fetch: str) -> None:
    numbers.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    numbers.execute("INSERT INTO numbers VALUES (-1)")
    reader = numbers.execute(sql)
    numbers.rollback()
    with pytest.raises(khonsu_sql.InvalidCursorState) as caught:
        getattr(reader, fetch)()
    assert caught.value.sqlstate == "24000"


def test_rollback_leaves_other_results_alone(numbers: Connection) -> None:
    reader = numbers.execute("SELECT n FROM numbers ORDER BY n")
    numbers.execute("INSERT INTO numbers VALUES (-1)")
    numbers.rollback()
    assert len(reader.fetchall()) == MANY


def test_commit_keeps_a_result_that_shows_its_own_changes(accounts: Connection) -> None:
    accounts.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    reader = accounts.execute("SELECT balance FROM accounts ORDER BY id")
    accounts.commit()
    accounts.execute("UPDATE accounts SET balance = 9")
    accounts.rollback()
    assert reader.fetchall()[0] == (0,)


def test_rows_are_handed_out_not_lent(accounts: Connection) -> None:
    cursor = accounts.execute("SELECT id FROM accounts WHERE id = 1")
    rows = cursor.fetchmany(0) + cursor.fetchall()
    rows.append(("mine",))
    assert cursor.fetchall() == []
    assert accounts.execute("SELECT id FROM accounts WHERE id = 1").fetchall() == [(1,)]


@SELECTS
def test_row_factories(numbers: Connection, sql: str, rows: list[Any]) -> None:
    cursor = numbers.cursor(row_factory=dict_row).execute(sql)
    names = [column[0] for column in cursor.description or ()]
    assert cursor.fetchall() == [dict(zip(names, row, strict=True)) for row in rows]
    cursor.row_factory = scalar_row
    assert list(cursor.execute(sql)) == [row[0] for row in rows]
    cursor.row_factory = None
    assert cursor.execute(sql).fetchmany(1) == rows[:1]


def test_a_connection_passes_its_row_factory_on(accounts: Connection) -> None:
    accounts.row_factory = namedtuple_row
    row = accounts.execute('SELECT id, balance + 1 AS more, 1 AS "not a name" FROM accounts WHERE id = 2').fetchone()
    assert (row.id, row.more, row._2) == (2, 201, 1)


def test_a_row_factory_may_make_none(accounts: Connection) -> None:
    cursor = accounts.cursor(row_factory=scalar_row)
    assert list(cursor.execute("SELECT CASE WHEN id = 2 THEN NULL ELSE id END FROM accounts ORDER BY id")) == [1, None, 3, 4, 5]


def test_sizes_are_accepted(accounts: Connection) -> None:
    cursor = accounts.cursor()
    cursor.setinputsizes([10, None])
    cursor.setoutputsize(10)
    cursor.setoutputsize(10, 1)
    assert not hasattr(cursor, "callproc")


def test_cursors_are_not_copied(accounts: Connection) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(accounts.cursor())


def test_a_cursor_in_use_by_another_thread_says_so(connect: Callable[..., Connection]) -> None:
    """The second thread is refused, the first goes on; after an error and after executemany the cursor is free again."""
    holder, waiter = connect(":memory:cursors", locking="PESSIMISTIC"), connect(":memory:cursors", locking="PESSIMISTIC", timeout=60)
    holder.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
    holder.execute("INSERT INTO t VALUES (1, 0)")
    holder.commit()
    holder.execute("UPDATE t SET v = 1 WHERE k = 1")
    cursor = waiter.cursor()
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(cursor.execute("UPDATE t SET v = v + 1 WHERE k = 1").rowcount), daemon=True)
    thread.start()
    while not any(not info.granted for info in holder._lease.database.locks.listed()):
        thread.join(0.01)
    for use in (
        lambda: cursor.execute("SELECT 1"),
        lambda: cursor.executemany("INSERT INTO t VALUES (?, 0)", [(2,)]),
        lambda: cursor.ingest("u", pa.table({"a": [1]})),
    ):
        with pytest.raises(khonsu_sql.ProgrammingError, match="in use by another thread") as refused:
            use()
        assert refused.value.sqlstate == "HY010"
    holder.commit()
    thread.join(60)
    assert told == [1]
    waiter.commit()
    with pytest.raises(khonsu_sql.ProgrammingError):
        cursor.execute("SELECT nothing")
    waiter.rollback()
    assert cursor.executemany("INSERT INTO t VALUES (?, 0)", [(2,), (3,)]).rowcount == 2
    assert cursor.execute("SELECT v FROM t ORDER BY k").fetchall() == [(2,), (0,), (0,)]
