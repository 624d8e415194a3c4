"""Threads through the driver: no increment is lost, no snapshot is torn, every range scan is a prefix of history.

At both isolation levels, on tiny bounds, so that flushes, checkpoints and compactions run beside the statements.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import khonsu_sql
from khonsu_engine.limits import TINY

LEVELS = ["SERIALIZABLE", "REPEATABLE READ"]


def together(*works: Callable[[], None]) -> None:
    """Run all in threads; raise what one of them raised."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [1, 50])
def test_no_increment_is_lost(tmp_path: Path, level: str, rows: int) -> None:
    """[Story 10] The final sum is the number of commits that succeeded."""
    path = tmp_path / "counters"
    threads, increments = 4, 60
    with khonsu_sql.connect(path, limits=TINY) as setup:
        setup.execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, n BIGINT NOT NULL)")
        setup.executemany("INSERT INTO counters VALUES (?, 0)", [(number,) for number in range(rows)])

    def count(seed: int) -> None:
        chance = random.Random(seed)
        with khonsu_sql.connect(path, limits=TINY, isolation_level=level) as connection:
            for _ in range(increments):
                row = chance.randrange(rows)

                def increment(inner: khonsu_sql.Connection, row: int = row) -> None:
                    cursor = inner.cursor()
                    if chance.random() < 0.5:
                        cursor.execute("UPDATE counters SET n = n + 1 WHERE id = ?", (row,))
                    else:
                        n = cursor.execute("SELECT n FROM counters WHERE id = ?", (row,)).fetchone()[0]
                        cursor.execute("UPDATE counters SET n = ? WHERE id = ?", (n + 1, row))
                    assert cursor.rowcount == 1

                khonsu_sql.run_transaction(connection, increment)

    together(*(lambda seed=seed: count(seed) for seed in range(threads)))
    with khonsu_sql.connect(path, limits=TINY) as connection:
        assert connection.execute("SELECT sum(n) FROM counters").fetchone() == (threads * increments,)


@pytest.mark.parametrize("level", LEVELS)
def test_every_snapshot_of_a_bank_balances(tmp_path: Path, level: str) -> None:
    path = tmp_path / "bank"
    accounts, money = 20, 100
    with khonsu_sql.connect(path, limits=TINY) as setup:
        setup.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL)")
        setup.executemany("INSERT INTO accounts VALUES (?, ?)", [(number, money) for number in range(accounts)])
    done = threading.Event()
    writing = threading.Semaphore(3)
    looked = [0]

    def move(seed: int) -> None:
        chance = random.Random(seed)
        with khonsu_sql.connect(path, limits=TINY, isolation_level=level) as connection:
            for _ in range(80):
                source, target = chance.sample(range(accounts), 2)
                amount = chance.randint(1, 50)

                def transfer(inner: khonsu_sql.Connection, source: int = source, target: int = target, amount: int = amount) -> None:
                    inner.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, source))
                    inner.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, target))

                khonsu_sql.run_transaction(connection, transfer)
        writing.acquire()
        if writing.acquire(blocking=False):
            writing.release()
        else:
            done.set()

    def look(seed: int) -> None:
        chance = random.Random(seed)
        with khonsu_sql.connect(path, limits=TINY, isolation_level=level) as connection:
            ask = connection.execute
            while True:
                last = done.is_set()
                ways = {
                    "scan": lambda: ask("SELECT sum(balance) FROM accounts").fetchone()[0],
                    "range": lambda: sum(row[1] for row in ask("SELECT id, balance FROM accounts WHERE id >= 0 ORDER BY id")),
                    "points": lambda: sum(
                        ask("SELECT balance FROM accounts WHERE id = ?", (number,)).fetchone()[0] for number in range(accounts)
                    ),
                }
                order = chance.sample(sorted(ways), 3)
                assert {way: ways[way]() for way in order} == dict.fromkeys(order, accounts * money)
                connection.commit()
                looked[0] += 1
                if last:
                    return

    together(*(lambda seed=seed: move(seed) for seed in range(3)), *(lambda seed=seed: look(seed) for seed in range(10, 12)))
    assert looked[0] >= 4


@pytest.mark.parametrize("level", LEVELS)
def test_every_range_scan_is_a_prefix_of_history(tmp_path: Path, level: str) -> None:
    """Each writer appends 0, 1, 2, …; whoever sees n of a writer sees everything before n, and never less than before."""
    path = tmp_path / "history"
    with khonsu_sql.connect(path, limits=TINY) as setup:
        setup.execute("CREATE TABLE history (writer INTEGER, n INTEGER, PRIMARY KEY (writer, n))")
    writers, length = 3, 120
    done = threading.Event()

    def append(writer: int) -> None:
        with khonsu_sql.connect(path, limits=TINY, autocommit=True) as connection:
            for n in range(length):
                connection.execute("INSERT INTO history VALUES (?, ?)", (writer, n))

    def write() -> None:
        together(*(lambda writer=writer: append(writer) for writer in range(writers)))
        done.set()

    def read() -> None:
        seen = [0] * writers
        with khonsu_sql.connect(path, limits=TINY, isolation_level=level) as connection:
            while True:
                last = done.is_set()
                for query in ("SELECT writer, n FROM history", "SELECT writer, n FROM history WHERE writer >= 0 ORDER BY writer, n"):
                    found: list[list[int]] = [[] for _ in range(writers)]
                    for writer, n in connection.execute(query).fetchall():
                        found[writer].append(n)
                    for writer in range(writers):
                        assert sorted(found[writer]) == list(range(len(found[writer])))
                        assert len(found[writer]) >= seen[writer]
                        seen[writer] = len(found[writer])
                connection.commit()
                if last:
                    assert seen == [length] * writers
                    return

    together(write, read, read)
