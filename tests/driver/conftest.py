"""Connections for the driver's tests: in memory, closed at the end whatever happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import khonsu_sql

Connect = Callable[..., khonsu_sql.Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """`connect(...)` whose connections are closed after the test."""
    opened: list[khonsu_sql.Connection] = []

    def make(*arguments: Any, **options: Any) -> khonsu_sql.Connection:
        opened.append(khonsu_sql.connect(*arguments, **options))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(connect: Connect) -> khonsu_sql.Connection:
    """A connection to a private database in memory."""
    return connect(":memory:")


@pytest.fixture
def accounts(connection: khonsu_sql.Connection) -> khonsu_sql.Connection:
    """A connection to a database with `accounts`: ids 1 to 5, balances 100 to 500, committed."""
    connection.execute("CREATE TABLE accounts (id BIGINT PRIMARY KEY, owner VARCHAR, balance DECIMAL(12, 2) NOT NULL)")
    connection.executemany("INSERT INTO accounts VALUES (?, ?, ?)", [(n, f"owner {n}", n * 100) for n in range(1, 6)])
    connection.commit()
    return connection
