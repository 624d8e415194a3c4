"""A connection that is dropped holds nothing, whatever way its last statement took."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import pytest

import khonsu_sql
from khonsu_sql import Connection
from khonsu_sql.opening import connect as connect_to

PATIENCE_SECONDS = 20.0


def test_a_dropped_connection_whose_last_statement_left_the_point_path(connect: Callable[..., Connection]) -> None:
    keeper = connect(":memory:fallback", autocommit=True)
    keeper.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, u INTEGER UNIQUE)")
    insert = "INSERT INTO t VALUES (?, ?)"
    keeper.execute(insert, (1, 1))
    dropped = connect_to(":memory:fallback", locking="PESSIMISTIC")
    dropped.execute(insert, (2, 2))
    dropped.execute("SAVEPOINT s")
    with pytest.raises(khonsu_sql.UniqueViolation):
        dropped.execute(insert, (3, 1))
    locks = keeper._lease.database.locks
    assert locks.listed()
    with pytest.warns(ResourceWarning):
        del dropped
        gc.collect()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while locks.listed():
        assert time.monotonic() < deadline, "somebody who is gone has left a lock behind"
        threading.Event().wait(0.001)
