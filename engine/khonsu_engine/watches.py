"""Sleeping until something that was read changes: the engine's half of `retry`.

Made by `database`; `LocalTransaction.watch` makes a `Watch` of what it read, a session waits on it, the committer says which tables a
commit changed. A watch holds what was read and no snapshot, no lock. Who sleeps is woken by commits to tables it has read, and sees for
itself, with the same validation a commit undergoes, whether one of them touches what was read; if not, it goes on sleeping.

Invariants:
* no wake-up is lost: a watch is listed first and looks then, and the committer publishes first and reads the list then;
* where the list of changes was cut before the sleeper had seen them, that counts as touched (a wake-up too many, never one too few);
* `published` runs under the commit latch: it puts into queues, which is one step each and waits for nothing. While nobody
  watches, the committer sees that in one attribute.
* the list holds watches weakly: one whose thread was torn out of its wait is gone with it.

Source: Harris, Marlow, Peyton Jones, Herlihy, "Composable Memory Transactions", PPoPP 2005, section 6.3.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from khonsu_engine.commands import Commit, TableId
from khonsu_engine.errors import EngineClosed, StoreFailed
from khonsu_engine.schema.catalog import CATALOG_TABLE
from khonsu_engine.state_machine import validate

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["Watch", "Watches"]

SLICE_SECONDS = 0.25
"""CPython misses Ctrl-C that comes in the moment before the main thread begins to wait; so that waits in slices, looking at nothing."""


class Watch:
    """A ticket (`protocols.Ticket`) for a change of what `command` read. One waiter. `cancelled`: the wait was ended by `cancel`."""

    __slots__ = ("__weakref__", "_command", "_database", "_seen", "_signal", "cancelled", "tables")

    def __init__(self, database: Database, command: Commit) -> None:
        self._database = database
        self._command = command
        self._seen = command.read_timestamp
        self._signal: SimpleQueue[None] = SimpleQueue()
        self.cancelled = False
        predicates = (*command.predicates, *command.guards)
        self.tables = {CATALOG_TABLE, *command.reads, *command.guard_keys, *(read.table for read in predicates)}

    def wake(self) -> None:
        """Have the waiting thread look. From any thread, also under the commit latch; it waits for nothing."""
        if self._signal.empty():
            self._signal.put(None)

    def cancel(self) -> None:
        """End the wait, also one that has not begun. From any thread."""
        self.cancelled = True
        self.wake()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """True when something that was read has changed, durably; False at the timeout and after `cancel`. May be interrupted.

        Raises EngineClosed when the database was closed, StoreFailed when it accepts no commits any more."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        watches = self._database.watches
        try:
            watches.add(self)
            while not self.cancelled:
                self._refuse_if_ended()
                if self._touched():
                    return self._settled(_left(deadline))
                if not self._woken(deadline):
                    break
        finally:
            watches.remove(self)
        return False

    def _woken(self, deadline: float | None) -> bool:
        """Sleep until `wake`; False at the deadline."""
        main = threading.current_thread() is threading.main_thread()
        while True:
            left = _left(deadline)
            try:
                self._signal.get(timeout=left if not main else SLICE_SECONDS if left is None else min(left, SLICE_SECONDS))
                return True
            except Empty:
                if left is not None and left <= SLICE_SECONDS:
                    return False

    def _refuse_if_ended(self) -> None:
        database = self._database
        if database.closed:
            raise EngineClosed("the database was closed")
        failure = database.committer.failure
        if failure is not None:
            raise StoreFailed("nothing that was read will change: an earlier sync failed", detail=str(failure)) from failure

    def _touched(self) -> bool:
        """Has something been committed since the last look that touches what was read?"""
        state = self._database.state
        published = state.published
        if validate(state, self._command, self._seen) is not None:
            return True
        if any(state.cut.get(table, 0) > self._seen for table in self.tables):  # looked at after the lists it speaks of
            return True
        self._seen = published
        return False

    def _settled(self, timeout_seconds: float | None) -> bool:
        """What was seen is published (lists show it a moment earlier) and durable: whoever begins now reads it."""
        committer = self._database.committer
        committer.barrier()
        ticket = committer.durable_ticket(self._database.state.published)
        return ticket is None or ticket.wait(timeout_seconds)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


Listed = dict[TableId, tuple[weakref.ref[Watch], ...]]


class Watches:
    """The watches of one database that are waited on. `listed`: by table; empty while nobody sleeps."""

    def __init__(self) -> None:
        self.listed: Listed = {}
        self._latch = threading.Lock()

    def __len__(self) -> int:
        return len({each for listed in list(self.listed.values()) for each in listed if each() is not None})

    def add(self, watch: Watch) -> None:
        """From here on commits to its tables wake it."""
        reference = weakref.ref(watch)
        with self._latch:
            for table in watch.tables:
                self.listed[table] = (*self._others(table, watch), reference)

    def remove(self, watch: Watch) -> None:
        """Idempotent."""
        with self._latch:
            for table in watch.tables:
                others = self._others(table, watch)
                if others:
                    self.listed[table] = others
                else:
                    self.listed.pop(table, None)

    def _others(self, table: TableId, watch: Watch) -> tuple[weakref.ref[Watch], ...]:
        return tuple(each for each in self.listed.get(table, ()) if each() not in (None, watch))

    def published(self, tables: Iterable[TableId]) -> None:
        """A commit changed `tables`. Under the commit latch, after the publication; may be repeated."""
        for table in tables:
            for reference in self.listed.get(table, ()):
                watch = reference()
                if watch is not None:
                    watch.wake()

    def wake_all(self) -> None:
        """The database was closed, or no commit will come any more."""
        for table in list(self.listed):
            self.published((table,))
