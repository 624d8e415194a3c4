"""TPC-B restated over DB-API: three updates, a read and an insert per transaction; the books must balance at the end.

The same five statements for every engine. A transaction that is refused (40001, or SQLite's busy) is run again and counted.
"""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import khonsu_sql
from benchmarks.rivals import sqlite_connection

__all__ = ["Bank", "KhonsuBank", "PostgresBank", "SqliteBank"]

ACCOUNTS_PER_BRANCH = 1_000
TELLERS_PER_BRANCH = 10

SCHEMA = (
    "CREATE TABLE branches (bid INTEGER PRIMARY KEY, bbalance BIGINT NOT NULL)",
    "CREATE TABLE tellers (tid INTEGER PRIMARY KEY, bid INTEGER NOT NULL, tbalance BIGINT NOT NULL)",
    "CREATE TABLE accounts (aid INTEGER PRIMARY KEY, bid INTEGER NOT NULL, abalance BIGINT NOT NULL)",
    "CREATE TABLE history (tid INTEGER, bid INTEGER, aid INTEGER, delta BIGINT)",
)

STATEMENTS = (
    "UPDATE accounts SET abalance = abalance + ? WHERE aid = ?",
    "SELECT abalance FROM accounts WHERE aid = ?",
    "UPDATE tellers SET tbalance = tbalance + ? WHERE tid = ?",
    "UPDATE branches SET bbalance = bbalance + ? WHERE bid = ?",
    "INSERT INTO history VALUES (?, ?, ?, ?)",
)


class Bank:
    """One engine's bank. Subclasses give connections and the retryable error; `attempts` - `transactions` were retries."""

    placeholder = "?"
    begin: str | None = None
    retryable: tuple[type[Exception], ...] = ()

    def __init__(self, branches: int) -> None:
        self.branches = branches
        self.attempts = 0
        self.transactions = 0
        self._connections: list[Any] = []

    def __init_subclass__(cls) -> None:
        assert "connect" in vars(cls), "a bank says how to connect"

    def fill(self) -> None:
        """Create and fill the tables."""
        connection = self.connect()
        cursor = connection.cursor()
        for statement in SCHEMA:
            cursor.execute(statement)
        accounts = [(aid, aid // ACCOUNTS_PER_BRANCH, 0) for aid in range(self.branches * ACCOUNTS_PER_BRANCH)]
        tellers = [(tid, tid // TELLERS_PER_BRANCH, 0) for tid in range(self.branches * TELLERS_PER_BRANCH)]
        if self.begin:
            cursor.execute(self.begin)
        for name, rows in (("accounts", accounts), ("tellers", tellers), ("branches", [(bid, 0) for bid in range(self.branches)])):
            marks = ", ".join([self.placeholder] * len(rows[0]))
            cursor.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
        connection.commit()
        connection.close()

    def client(self, count: int, seed: int, connection: Any) -> int:
        """`count` transactions on one connection; returns the attempts they took."""
        chance = random.Random(seed)
        statements = [statement.replace("?", self.placeholder) for statement in STATEMENTS]
        cursor = connection.cursor()
        execute, begin, attempts = cursor.execute, self.begin, 0
        for _ in range(count):
            aid = chance.randrange(self.branches * ACCOUNTS_PER_BRANCH)
            tid = chance.randrange(self.branches * TELLERS_PER_BRANCH)
            bid, delta = tid // TELLERS_PER_BRANCH, chance.randint(-5_000, 5_000)
            while True:
                attempts += 1
                try:
                    if begin is not None:
                        execute(begin)
                    execute(statements[0], (delta, aid))
                    execute(statements[1], (aid,)).fetchone()
                    execute(statements[2], (delta, tid))
                    execute(statements[3], (delta, bid))
                    execute(statements[4], (tid, bid, aid, delta))
                    connection.commit()
                    break
                except self.retryable:
                    connection.rollback()
        return attempts

    def run(self, threads: int, count: int) -> int:
        """`count` transactions over `threads` threads (1: in this very thread); returns the number done."""
        while len(self._connections) < threads:
            self._connections.append(self.connect())
        if threads == 1:
            self.attempts += self.client(count, self.transactions, self._connections[0])
            self.transactions += count
            return count
        share = count // threads
        taken = [0] * threads
        failures: list[Exception] = []

        def work(number: int) -> None:
            try:
                taken[number] = self.client(share, self.transactions + number, self._connections[number])
            except Exception as error:  # noqa: BLE001 — raised again by the main thread
                failures.append(error)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failures:
            raise failures[0]
        self.attempts += sum(taken)
        self.transactions += share * threads
        return share * threads

    def check(self) -> None:
        """Every balance must equal what the history says, and no transaction may be missing."""
        cursor = self.connect().cursor()
        sums = []
        for query in (
            "SELECT sum(abalance) FROM accounts",
            "SELECT sum(tbalance) FROM tellers",
            "SELECT sum(bbalance) FROM branches",
            "SELECT sum(delta) FROM history",
        ):
            cursor.execute(query)
            sums.append(int(cursor.fetchone()[0] or 0))
        cursor.execute("SELECT count(*) FROM history")
        written = int(cursor.fetchone()[0])
        if len(set(sums)) != 1 or written != self.transactions:
            raise AssertionError(f"{type(self).__name__}: balances {sums}, {written} of {self.transactions} transactions")

    def note(self) -> str:
        return f"{self.attempts - self.transactions} retries in {self.transactions} transactions"

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


class KhonsuBank(Bank):
    retryable = (khonsu_sql.errors.SerializationFailure,)

    def __init__(self, branches: int, path: str) -> None:
        super().__init__(branches)
        self._path = path

    def connect(self) -> Any:
        return khonsu_sql.connect(self._path)


class SqliteBank(Bank):
    begin = "BEGIN IMMEDIATE"
    retryable = (sqlite3.OperationalError,)

    def __init__(self, branches: int, path: str) -> None:
        super().__init__(branches)
        self._path = path

    def connect(self) -> Any:
        return sqlite_connection(self._path)


class PostgresBank(Bank):
    placeholder = "%s"

    def __init__(self, branches: int, dsn: str) -> None:
        super().__init__(branches)
        import psycopg

        self._dsn = dsn
        self.retryable = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)

    def connect(self) -> Any:
        import psycopg

        connection = psycopg.connect(self._dsn)
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        return connection


def make(kind: Callable[..., Bank], branches: int, where: str | Path) -> Bank:
    """A filled bank."""
    bank = kind(branches, str(where))
    bank.fill()
    return bank
