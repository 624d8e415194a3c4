"""A lock ticket a thread can wait on: patience, timeout, and the look for oneself.

Made by `locks.Locks.acquire`; waited on by sessions. It asks `Locks` to decide, under that latch, what time has brought about (`decided`).
Invariant: a wake-up may be lost; then the wait at most doubles.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from khonsu_engine.commands import Timestamp
from khonsu_engine.evidence import KEYS_MAX
from khonsu_engine.mvcc.lock_table import LockTable, LockTicket, TicketState

if TYPE_CHECKING:
    from khonsu_engine.locks import Locks

__all__ = ["LockWaiter"]

PATIENCE_SECONDS = 0.05
SLICE_SECONDS = 0.1
SLICE_SECONDS_MAX = 3.2


class LockWaiter:
    """A ticket (`protocols.Ticket`) for a lock: `wait` returns True when it makes sense to ask again.

    Raises DeadlockDetected (40P01) and LockNotAvailable (55P03). May be interrupted, and may return without cause. `since`: on the clock
    `time.monotonic`. For evidence: `read_timestamp` of the waiting transaction; `blockers`, when it is too late: who was in the way."""

    __slots__ = ("_due", "_latest", "_lock", "_locks", "_overruled", "blockers", "read_timestamp", "since", "ticket")

    outcome: None = None

    def __init__(self, locks: Locks, ticket: LockTicket, timeout_seconds: float | None) -> None:
        self.since = now = time.monotonic()
        self.ticket = ticket
        self.read_timestamp: Timestamp | None = None
        self._locks = locks
        self._due = now + PATIENCE_SECONDS
        self._latest = None if timeout_seconds is None else now + timeout_seconds
        self._overruled = False
        self.blockers: tuple[Any, ...] | None = None
        self._lock = threading.Lock()
        self._lock.acquire()
        ticket.waiter = self

    def wake(self) -> None:
        """Have the waiting thread look. From any thread, any number of times."""
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:  # somebody else did
                return

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until it is decided; False at the timeout."""
        began = time.monotonic()
        try:
            return self._wait(timeout_seconds)
        finally:
            self._locks.add_waited(time.monotonic() - began)

    def _wait(self, timeout_seconds: float | None) -> bool:
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause = SLICE_SECONDS
        while True:
            if self._locks.look(self):
                return True
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            moments = [now + pause, *(moment for moment in (deadline, self._latest) if moment is not None)]
            if not self._overruled:
                moments.append(self._due)
            pause = min(2 * pause, SLICE_SECONDS_MAX)
            if self._lock.acquire(timeout=max(0.0, min(moments) - now)) and self.ticket.state is TicketState.WAITING:
                return True

    def decided(self, table: LockTable, now: float) -> list[LockTicket]:
        """Under the latch: what time has brought about. Returns the tickets it decided; `error`: out of time."""
        ticket = self.ticket
        if ticket.state is not TicketState.WAITING:
            return []
        woken: list[LockTicket] = []
        if now >= self._due and not self._overruled:
            self._overruled = True
            woken = table.overrule(ticket) if ticket.hard else table.cancel(ticket)
        if ticket.state is TicketState.WAITING and self._latest is not None and now >= self._latest:
            self.blockers = tuple(owner.name for owner in ticket.blockers()[:KEYS_MAX])
            woken += table.cancel(ticket)
        return woken
