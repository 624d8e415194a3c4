"""Ctrl-C before every line of the front by which a transaction ends: whoever catches it, and keeps the exception, holds nothing.

A traceback keeps frames alive, and these a transaction; an interactive session keeps the last one, and so does an `except` block while
it runs. So letting go must not depend on garbage. The engine's half is in tests/engine/test_interrupts.
"""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import khonsu_sql
from khonsu_sql import Connection

Connect = Callable[..., Connection]

FRONT = Path(khonsu_sql.__file__).parent
ROOMS = {str(FRONT / name) for name in ("block.py", "connection.py", "session_transaction.py")}
NAME = ":memory:lines"
LINES_MAX = 400


class Interrupt:
    """Raises KeyboardInterrupt before the `at`-th line of the rooms; `where` tells which, empty: there are not so many."""

    def __init__(self, at: int, rooms: set[str] = ROOMS) -> None:
        self._rooms = rooms
        self._left = at
        self.where = ""

    def __enter__(self) -> Interrupt:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in self._rooms else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not line.startswith(("with ", "try:")):  # no moment at which CPython looks at signals
            self._left -= 1
            if self._left == 0:
                sys.settrace(None)
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line


def lock(connection: Connection) -> None:
    connection.execute("SELECT v FROM t WHERE k = 1 FOR UPDATE")


def bump(connection: Connection) -> None:
    connection.execute("UPDATE t SET v = v + 1 WHERE k = 1")


def block(connection: Connection) -> None:
    with connection.transaction():
        bump(connection)


def inner_block(connection: Connection) -> None:
    with connection.transaction(), connection.transaction():
        bump(connection)


@pytest.fixture
def watcher(connect: Connect) -> Connection:
    made = connect(NAME, autocommit=True)
    made.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    made.execute("INSERT INTO t VALUES (1, 0)")
    return made


@pytest.mark.parametrize(
    ("before", "action"),
    [(bump, Connection.commit), (lock, Connection.rollback), (None, block), (None, inner_block)],
    ids=["commit", "rollback", "block", "inner block"],
)
def test_nothing_is_held_and_the_connection_goes_on(
    connect: Connect, watcher: Connection, before: Callable[[Connection], None] | None, action: Callable[[Connection], None]
) -> None:
    locks = watcher._lease.database.locks
    for at in range(1, LINES_MAX):
        connection = connect(NAME, locking="PESSIMISTIC", timeout=1.0)
        if before is not None:
            before(connection)
        interrupt, kept = Interrupt(at), None
        try:
            with interrupt:
                action(connection)
        except KeyboardInterrupt as error:
            kept = error
        if not interrupt.where:
            break
        assert kept is not None, interrupt.where
        if connection.transaction_status == "idle" or before is None:
            assert not locks.listed(), interrupt.where
        assert before is not None or connection.transaction_status == "idle", interrupt.where
        connection.rollback()
        assert not locks.listed(), interrupt.where
        bump(connection)
        connection.commit()
        connection.close()
        del kept
    assert 10 < at < LINES_MAX - 1, "the whole of it was interrupted"


def test_close(watcher: Connection) -> None:
    """What it has not let go of when Ctrl-C comes the reaper does, without another close."""
    database = watcher._lease.database
    for at in range(1, LINES_MAX):
        connection = khonsu_sql.connect(NAME, locking="PESSIMISTIC")
        lock(connection)
        lease, interrupt, kept = connection._lease, Interrupt(at), None
        try:
            with interrupt:
                connection.close()
        except KeyboardInterrupt as error:
            kept = error
        if not interrupt.where:
            break
        connection.close()  # nothing, unless it had not begun
        watcher.execute("UPDATE t SET v = v + 1 WHERE k = 1")  # waits for the lock
        for _ in range(2_000):
            if lease._entry is None:
                break
            threading.Event().wait(0.005)
        assert lease._entry is None and not database.locks.listed(), interrupt.where
        del kept
    assert 10 < at < LINES_MAX - 1, "the whole of it was interrupted"


def test_a_repair_of_the_lock_table_that_is_interrupted_again(watcher: Connection) -> None:
    """What owners hold hard is held still, whichever line of the repair the second Ctrl-C came before."""
    rooms = {sys.modules[name].__file__ or "" for name in ("khonsu_engine.mvcc.lock_repair", "khonsu_engine.mvcc.lock_table")}
    holders = [khonsu_sql.connect(NAME, locking="PESSIMISTIC") for _ in range(2)]
    for number, holder in enumerate(holders):
        holder.execute("INSERT INTO t VALUES (?, 0), (?, 0)", (10 + number, 20 + number))
    locks = watcher._lease.database.locks
    before = sorted(map(repr, locks.listed()))
    for at in range(1, LINES_MAX):
        locks._torn = True
        interrupt = Interrupt(at, rooms)
        try:
            with interrupt:
                locks.listed()
        except KeyboardInterrupt:
            pass
        assert sorted(map(repr, locks.listed())) == before, interrupt.where
        if not interrupt.where:
            break
    assert len(before) == 4 and 20 < at < LINES_MAX - 1
    for holder in holders:
        holder.close()
