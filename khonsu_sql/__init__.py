"""Khonsu SQL: a transactional SQL database as a PEP 249 driver.

    import khonsu_sql
    with khonsu_sql.connect("bank.khonsu") as connection:
        connection.execute("CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance DECIMAL(12, 2) NOT NULL)")

Importing this loads neither DuckDB, Arrow, sqlglot nor RocksDB: each is imported when it is first needed.
"""

from __future__ import annotations

from khonsu_engine.commands import Isolation
from khonsu_sql.connection import Connection
from khonsu_sql.cursor import Cursor
from khonsu_sql.errors import *  # noqa: F403 - the tree of errors is public as a whole
from khonsu_sql.errors import __all__ as _errors
from khonsu_sql.keyed import batches
from khonsu_sql.opening import connect
from khonsu_sql.retry import RetryReport, run_transaction
from khonsu_sql.rows import dict_row, namedtuple_row, scalar_row
from khonsu_sql.session import IngestMode
from khonsu_sql.types import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    Binary,
    Date,
    DateFromTicks,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
)

__version__ = "0.1.0"

apilevel = "2.0"
threadsafety = 2
paramstyle = "qmark"

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "Connection",
    "Cursor",
    "Date",
    "DateFromTicks",
    "IngestMode",
    "Isolation",
    "RetryReport",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "apilevel",
    "batches",
    "connect",
    "dict_row",
    "namedtuple_row",
    "paramstyle",
    "run_transaction",
    "scalar_row",
    "threadsafety",
]
__all__ += _errors
