"""Acceptance 13: however a transaction is left, nothing is held and nothing of it is there, at every level in every mode.

Ctrl-C in the middle of a COMMIT is in test_interrupt, at every line of it in tests/engine/test_interrupts; with locks in test_locks.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import product

import pytest

import khonsu_sql
from khonsu_sql import Connection
from khonsu_sql.opening import connect as connect_to

Connect = Callable[..., Connection]
NAME = ":memory:held"
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
MODES = ("OPTIMISTIC", "ADAPTIVE", "PESSIMISTIC")
ROWS = 200
STREAMS = "SET stream_rows_min = 10"
"""So that the results here come in pieces, and hold their snapshot."""


class Left(Exception):
    """What a user's program raises."""


def work(connection: Connection) -> None:
    """Read, write, and leave a result unread; all kinds of writes."""
    connection.execute(STREAMS)
    connection.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    connection.execute("DELETE FROM t WHERE k = 2")
    connection.execute("INSERT INTO t VALUES (-1, -1)")
    connection.execute("SELECT k, v FROM t").fetchmany(2)


def closed(connection: Connection) -> None:
    work(connection)
    connection.close()


def rolled_back(connection: Connection) -> None:
    work(connection)
    connection.rollback()
    connection.close()


def raised_in_a_block(connection: Connection) -> None:
    with pytest.raises(Left), connection.transaction():
        work(connection)
        raise Left


def raised_in_an_inner_block(connection: Connection) -> None:
    with pytest.raises(Left), connection.transaction():
        work(connection)
        with connection.transaction():
            connection.execute("UPDATE t SET v = 77 WHERE k = 77")
            raise Left


def raised_in_the_connection(connection: Connection) -> None:
    with pytest.raises(Left), connection:
        work(connection)
        raise Left


def a_statement_failed(connection: Connection) -> None:
    work(connection)
    with pytest.raises(khonsu_sql.UniqueViolation):
        connection.execute("INSERT INTO t VALUES (3, 0)")


def a_cursor_closed(connection: Connection) -> None:
    """The transaction is its connection's: it goes on, and what it showed is let go with its end."""
    connection.execute(STREAMS)
    cursor = connection.cursor()
    cursor.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    cursor.execute("SELECT k, v FROM t").fetchmany(2)
    cursor.close()
    connection.rollback()


WAYS = (closed, rolled_back, raised_in_a_block, raised_in_an_inner_block, raised_in_the_connection, a_statement_failed, a_cursor_closed)


def held(keeper: Connection) -> tuple[int, int]:
    """(snapshots, locks) in use."""
    database = keeper._lease.database
    return database.metrics["snapshots"], len(database.locks.listed())


@pytest.fixture
def keeper(connect: Connect) -> Connection:
    keeper = connect(NAME, autocommit=True)
    keeper.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    keeper.execute(f"INSERT INTO t SELECT range, range FROM range({ROWS})")
    return keeper


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_nothing_is_held_and_nothing_is_there(connect: Connect, keeper: Connection, way: Callable[[Connection], None]) -> None:
    for level, mode in product(LEVELS, MODES):
        connection = connect(NAME, isolation_level=level, locking=mode)
        way(connection)
        assert held(keeper) == (0, 0), f"{level}, {mode}"
        assert keeper.execute("SELECT count(*), sum(v) FROM t").fetchone() == (ROWS, ROWS * (ROWS - 1) // 2)
        keeper.execute("UPDATE t SET v = v WHERE k = 1")  # nobody is in the way


def test_a_connection_that_is_dropped(keeper: Connection) -> None:
    for level, mode in zip(LEVELS, MODES, strict=True):  # the collection of all garbage takes its time
        connection = connect_to(NAME, isolation_level=level, locking=mode)
        work(connection)
        assert held(keeper) != (0, 0)
        with pytest.warns(ResourceWarning):
            del connection
            gc.collect()
        assert held(keeper) == (0, 0), f"{level}, {mode}"
        assert keeper.execute("SELECT count(*), sum(v) FROM t").fetchone() == (ROWS, ROWS * (ROWS - 1) // 2)
