"""Threads that run transactions for a while, and how they speak to each engine.

Called by the concurrent workloads. An `Engine` says how to connect and which errors mean "run it again"; `Clients` has one thread and one
connection for each client. Invariants: a refused transaction is run again with the same choices until it commits, and counted; a client
learns of its commits only (`committed`), so its accounts are what the database must show at the end.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

import khonsu_sql
from benchmarks.measure import clock
from benchmarks.rivals import sqlite_connection

__all__ = ["Client", "Clients", "Engine", "Execute", "asked", "khonsu", "load", "postgresql", "sqlite"]

Execute = Callable[..., Any]


class Engine(msgspec.Struct, frozen=True):
    """One database. `begin`: what a transaction needs before its first statement, when it reads only and when it writes; None: nothing."""

    connect: Callable[[], Any]
    retryable: tuple[type[Exception], ...]
    placeholder: str = "?"
    begin: tuple[str | None, str | None] = (None, None)

    def sql(self, statement: str) -> str:
        """The statement with this engine's placeholders."""
        return statement.replace("?", self.placeholder)


def khonsu(path: str, **options: Any) -> Engine:
    """`options`: of `khonsu_sql.connect`."""
    errors = khonsu_sql.errors
    return Engine(lambda: khonsu_sql.connect(path, **options), (errors.SerializationFailure, errors.DeadlockDetected))


def sqlite(path: str) -> Engine:
    return Engine(lambda: sqlite_connection(path), (sqlite3.OperationalError,), begin=("BEGIN", "BEGIN IMMEDIATE"))


def postgresql(dsn: str) -> Engine:
    import psycopg

    def connect() -> Any:
        connection = psycopg.connect(dsn)
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        return connection

    return Engine(connect, (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected), "%s")


class Client(Protocol):
    """What one thread does."""

    writes: bool
    """Does the drawn transaction write?"""

    def draw(self) -> None:
        """Choose the next transaction."""

    def run(self, execute: Execute) -> None:
        """Its statements, without begin and commit; again after a refusal."""

    def committed(self) -> None:
        """It has committed."""


class Clients:
    """The clients of one engine. `commits` and `retries` count over all runs."""

    def __init__(self, engine: Engine, clients: Sequence[Client], seconds: float) -> None:
        self.commits = self.retries = 0
        self._engine = engine
        self._clients = clients
        self._seconds = seconds
        self._connections = [engine.connect() for _ in clients]

    def run(self) -> int:
        """Transactions in all threads (one client: in this very thread) for `seconds`. Returns how many committed."""
        found: list[tuple[int, int]] = []
        failures: list[BaseException] = []
        end = clock() + self._seconds

        def work(client: Client, connection: Any) -> None:
            try:
                found.append(self._work(client, connection, end))
            except BaseException as error:  # noqa: BLE001 — raised again by the main thread
                failures.append(error)

        if len(self._clients) == 1:
            work(self._clients[0], self._connections[0])
        else:
            threads = [threading.Thread(target=work, args=pair) for pair in zip(self._clients, self._connections, strict=True)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        commits = sum(commits for commits, _ in found)
        self.commits += commits
        self.retries += sum(retries for _, retries in found)
        return commits

    def _work(self, client: Client, connection: Any, end: float) -> tuple[int, int]:
        cursor = connection.cursor()
        execute, commit, begin, retryable = cursor.execute, connection.commit, self._engine.begin, self._engine.retryable
        commits = retries = 0
        while clock() < end:
            client.draw()
            first = begin[client.writes]
            while True:
                try:
                    if first is not None:
                        execute(first)
                    client.run(execute)
                    commit()
                    break
                except retryable:
                    connection.rollback()
                    retries += 1
            client.committed()
            commits += 1
        return commits, retries

    @property
    def retries_percent(self) -> float:
        """Retries for 100 commits."""
        return 100 * self.retries / max(1, self.commits)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def load(engine: Engine, schema: Sequence[str], tables: dict[str, Sequence[Sequence[Any]]]) -> None:
    """Create the tables and fill them, each in a transaction."""
    connection = engine.connect()
    cursor = connection.cursor()
    for statement in schema:
        cursor.execute(statement)
    connection.commit()
    for name, rows in tables.items():
        if engine.begin[True] is not None:
            cursor.execute(engine.begin[True])
        marks = ", ".join(["?"] * len(rows[0]))
        cursor.executemany(engine.sql(f"INSERT INTO {name} VALUES ({marks})"), rows)
        connection.commit()
    connection.close()


def asked(engine: Engine, query: str) -> list[Any]:
    """The rows of one query, in a transaction of its own."""
    connection = engine.connect()
    cursor = connection.cursor()
    cursor.execute(query)
    rows = list(cursor.fetchall())
    connection.commit()
    connection.close()
    return rows
