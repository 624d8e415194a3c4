"""One pooled DuckDB cursor: the slots its statements read from, and how its calls meet Ctrl-C.

Made by `instance`, used by `execution` and by streams; one user at a time. A cursor is its own DuckDB connection, transaction and
name space; it can do nothing else while a result streams from it.

Ctrl-C: in the narrow instance DuckDB runs a statement in the thread that called it and looks for signals in between
(`aside.listening`). In the wide one the main thread may sleep in DuckDB without ever looking, and neither
of them looks while a stream is read: then the main thread has it done aside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import duckdb

from khonsu_sql.sql.query.aside import listening
from khonsu_sql.sql.query.bindings import NOTHING, Slot, make_slot

if TYPE_CHECKING:
    from khonsu_sql.sql.query.instance import Instance
    from khonsu_sql.sql.query.relations import Served

__all__ = ["PooledCursor"]

T = TypeVar("T")


class PooledCursor:
    """`connection` is the DuckDB cursor, `instance` its home."""

    __slots__ = ("__weakref__", "_bound", "_slots", "connection", "instance")

    def __init__(self, instance: Instance, connection: duckdb.DuckDBPyConnection) -> None:
        self.instance = instance
        self.connection = connection
        self._slots: dict[str, Slot] = {}
        self._bound: list[Slot] = []

    def bind(self, relations: Sequence[Served]) -> None:
        """Let statements read `relations` under their names."""
        for served in relations:
            slot = self._slots.get(served.name)
            if slot is None:
                slot = self._slots[served.name] = make_slot(self.connection, served.name, served.table)
            else:
                slot.bind(served.table)
            self._bound.append(slot)

    def run(self, work: Callable[[], T], aside: bool = False) -> T:
        """`work`, which blocks in DuckDB, so that a signal ends it. `aside`: nothing in it looks for signals."""
        if (aside or not self.instance.single) and threading.current_thread() is threading.main_thread():
            return self.instance.aside.call(work, self.interrupt)
        return work()

    def interrupt(self) -> None:
        """Make the running statement raise InterruptException. Without one, or once closed, nothing happens."""
        with suppress(duckdb.ConnectionException):
            self.connection.interrupt()

    def abort(self, close: Callable[[], None]) -> None:
        """`close` the result of the last statement, read out or not. Without the interrupt DuckDB's other threads would first go on until
        they have filled a buffer, which takes as long as the statement when few rows pass its filters."""
        self.interrupt()
        close()

    def cause(self) -> BaseException | None:
        """What was raised while DuckDB read from a slot."""
        return next((slot.error for slot in self._bound if slot.error is not None), None)

    def release(self) -> None:
        """Into the pool. The last statement must be over."""
        for slot in self._bound:
            slot.bind(NOTHING)
        self._bound.clear()
        self.instance.release(self)

    def close(self) -> None:
        """Never to be used again. If a statement still runs (its caller was torn away by a second Ctrl-C) it ends first."""
        try:
            with listening():
                self.abort(self.connection.close)
        except duckdb.ResourceInUseException:
            self.instance.abandoned.append(self.close)
            return
        self._slots.clear()
        self._bound.clear()
        self.instance.forget(self)
