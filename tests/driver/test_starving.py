"""A statement by itself that reads what others write without pause: after two lost attempts it locks what it reads, and ends."""

from __future__ import annotations

import threading

import khonsu_sql
from khonsu_sql import Connection

DATABASE = ":memory:starving"
STATEMENTS = 5
ROWS = 20


def hammer(stop: threading.Event, committed: list[int], number: int) -> None:
    with khonsu_sql.connect(DATABASE, autocommit=True, timeout=60) as connection:
        while not stop.is_set():
            connection.execute("UPDATE u SET v = v + 1 WHERE k = ?", (number,))
            committed[number] += 1


def test_a_long_statement_ends_beside_writers_that_never_pause(connect: object) -> None:
    keeper: Connection = khonsu_sql.connect(DATABASE, autocommit=True, timeout=60)
    keeper.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BIGINT)")
    keeper.execute("CREATE TABLE u (k INTEGER PRIMARY KEY, v BIGINT)")
    keeper.executemany("INSERT INTO u VALUES (?, 0)", [(number,) for number in range(ROWS)])
    keeper.execute("INSERT INTO t VALUES (1, 0)")
    stop, committed = threading.Event(), [0] * ROWS
    threads = [threading.Thread(target=hammer, args=(stop, committed, number), daemon=True) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(STATEMENTS):
            before = sum(committed)
            keeper.execute("UPDATE t SET v = (SELECT sum(v) FROM u) WHERE k = 1")
            assert keeper.execute("SELECT v FROM t").fetchone()[0] >= before - len(threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert all(committed[:3]), "nobody wrote: nothing was tested"
    restarts = keeper.execute("SELECT value FROM khonsu.metrics WHERE name = 'silent_restarts'").fetchone()[0]
    assert restarts >= 2, "nothing was lost: nothing was tested"
    assert keeper._lease.database.locks.listed() == []
    keeper.close()


def test_what_it_locks_is_let_go_and_nobody_sees_it(connect: object) -> None:
    """Two statements that starve on each other's table: deadlocks are tried again as well."""
    keeper: Connection = khonsu_sql.connect(DATABASE, autocommit=True, timeout=60)
    for table in ("a", "b"):
        keeper.execute(f"CREATE TABLE {table} (k INTEGER PRIMARY KEY, v BIGINT)")
        keeper.execute(f"INSERT INTO {table} VALUES (1, 1)")
    failures: list[khonsu_sql.Error] = []

    def copy(source: str, target: str) -> None:
        with khonsu_sql.connect(DATABASE, autocommit=True, timeout=60) as connection:
            try:
                for _ in range(20):
                    connection.execute(f"UPDATE {target} SET v = (SELECT sum(v) FROM {source}) + 1 WHERE k = 1")
            except khonsu_sql.Error as error:
                failures.append(error)

    threads = [threading.Thread(target=copy, args=pair, daemon=True) for pair in (("a", "b"), ("b", "a"), ("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert keeper._lease.database.locks.listed() == []
    keeper.close()
