"""What a crowd costs one who works: thousands of open transactions, and a thousand threads that wait for one row.

The worker is one thread that commits transactions of three updates in memory, with and without the crowd in turns. Open transactions have
each read a row, and somebody has committed between any two of them, so their snapshots all differ.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import khonsu_sql
from benchmarks.measure import Pair, Side, clock, in_turns, pair
from benchmarks.workloads import Settings

__all__ = ["WORKLOADS"]

OPEN_TRANSACTIONS = 10_000
WAITING_THREADS = 1_000
STACK_BYTES = 256 << 10
ROWS = 1_000
HOT = 0
CREATE = "CREATE TABLE items (id INTEGER PRIMARY KEY, n BIGINT NOT NULL)"
READ = "SELECT n FROM items WHERE id = ?"
WRITE = "UPDATE items SET n = n + 1 WHERE id = ?"


def _filled(name: str, stack: ExitStack) -> Any:
    """A connection to a database in memory with the table."""
    connection = khonsu_sql.connect(name)
    stack.callback(connection.close)
    connection.execute(CREATE)
    connection.executemany("INSERT INTO items VALUES (?, 0)", [(number,) for number in range(ROWS)])
    connection.commit()
    return connection


class _Worker:
    """Transactions of three updates of rows from 10 on."""

    def __init__(self, connection: Any, seconds: float) -> None:
        self.commits = 0
        self._connection = connection
        self._seconds = seconds

    def run(self) -> int:
        execute, commit = self._connection.cursor().execute, self._connection.commit
        end, number, before = clock() + self._seconds, self.commits, self.commits
        while clock() < end:
            for row in (number, number + 7, number + 13):
                execute(WRITE, (10 + row % (ROWS - 10),))
            commit()
            number += 1
        self.commits = number
        return number - before

    def check(self, others: int = 0) -> None:
        """Three changes a commit, and those of others."""
        ((total,),) = self._connection.execute("SELECT sum(n) FROM items").fetchall()
        self._connection.commit()
        assert total == 3 * self.commits + others, f"{total} changes, {self.commits} commits and {others} of others"


def open_transactions(settings: Settings) -> Iterator[Pair]:
    """The same work in a database with 10,000 open transactions and in one without."""
    count = settings.count(OPEN_TRANSACTIONS)
    with ExitStack() as stack:
        quiet = _Worker(_filled(":memory:quiet", stack), settings.seconds)
        crowded = _Worker(_filled(":memory:crowded", stack), settings.seconds)
        with khonsu_sql.connect(":memory:crowded", autocommit=True) as writer:
            for _ in range(count):
                reader = khonsu_sql.connect(":memory:crowded")
                stack.callback(reader.close)
                reader.execute(READ, (HOT,)).fetchone()
                writer.execute(WRITE, (HOT,))
        sides: dict[str, Side] = {"without": quiet.run, "with": crowded.run}
        yield pair(f"3 updates beside {count:,} open transactions", in_turns(sides, settings.rounds), 1.3)
        quiet.check()
        crowded.check(count)


class _Waiting:
    """Threads that wait for the hot row, which `holder` has locked."""

    def __init__(self, name: str, holder: Any, count: int) -> None:
        self.changed = 0
        self._name = name
        self._holder = holder
        self._count = count
        self._failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def gather(self) -> None:
        """Until all of them wait."""
        self._holder.execute(WRITE, (HOT,))
        before = threading.stack_size(STACK_BYTES)
        try:
            self._threads = [threading.Thread(target=self._queue) for _ in range(self._count)]
            for thread in self._threads:
                thread.start()
        finally:
            threading.stack_size(before)
        locks = self._holder._lease.database.locks
        pause = threading.Event()
        while sum(not lock.granted for lock in locks.listed()) < self._count:
            if self._failures:
                raise self._failures[0]
            pause.wait(0.1)

    def _queue(self) -> None:
        try:
            with khonsu_sql.connect(self._name, locking="PESSIMISTIC", timeout=0) as connection:
                connection.execute(WRITE, (HOT,))
                connection.commit()
        except BaseException as error:  # noqa: BLE001 — raised again by the main thread
            self._failures.append(error)

    def dismiss(self) -> None:
        """The holder commits; then each has its turn."""
        self._holder.commit()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]
        self.changed += 1 + self._count


def waiting_threads(settings: Settings) -> Iterator[Pair]:
    """The same work alone, and beside 1,000 threads that wait for a row it does not touch."""
    count = settings.count(WAITING_THREADS)
    rates: dict[str, list[float]] = {"without": [], "with": []}
    with ExitStack() as stack:
        worker = _Worker(_filled(":memory:waited", stack), settings.seconds)
        holder = stack.enter_context(khonsu_sql.connect(":memory:waited", locking="PESSIMISTIC"))
        crowd = _Waiting(":memory:waited", holder, count)
        for _ in range(min(3, settings.rounds)):
            rates["without"] += in_turns({"": worker.run}, 1)[""]
            crowd.gather()
            rates["with"] += in_turns({"": worker.run}, 1)[""]
            crowd.dismiss()
        yield pair(f"3 updates beside {count:,} waiting threads", rates, 1.3)
        worker.check(crowd.changed)


WORKLOADS: dict[str, Callable[[Settings], Iterator[Pair]]] = {"open_transactions": open_transactions, "waiting_threads": waiting_threads}
