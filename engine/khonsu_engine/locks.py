"""Waiting for locks: the lock table under its latch, tickets that threads can wait on, patience and timeouts.

Made by `database`; called by transactions (`acquire`, `release`) and by the committer (`in_the_way`, within its critical section). The
rules are `mvcc.lock_table`'s; this room has the clock and the threads.

* A *soft* request waits for `lock_waiter.PATIENCE_SECONDS` and then goes on without the lock.
* A *hard* request overrules soft locks after that time, and waits for hard ones until its `lock_timeout`.

Invariants: the latch is asked for under the commit latch, never the other way round. Locks order writers; what protects data is
validation at the commit. So when Ctrl-C tears a change of the table apart, the table is built anew from what its owners hold, and all who
wait are told to ask again. Wake-ups may be lost to Ctrl-C; therefore waiting threads look for themselves now and then, and the longer they
have waited the less often: a lost wake-up at most doubles a wait, and a thousand who wait cost the others next to nothing.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

from khonsu_engine.commands import EVERY_KEY, Blocked, Commit, KeyRange, TableId
from khonsu_engine.errors import DeadlockDetected
from khonsu_engine.latches import stand_back
from khonsu_engine.lock_evidence import PlaceOf, refusal_of
from khonsu_engine.lock_waiter import LockWaiter
from khonsu_engine.mvcc.lock_repair import Kept, kept_by, rebuilt
from khonsu_engine.mvcc.lock_table import LockInfo, LockMode, LockOwner, LockTable, LockTicket, Target, TicketState

__all__ = ["Locking", "Locks"]

RECENT_WAITS_MAX = 1_024

T = TypeVar("T")


class Locking(IntEnum):
    """How a transaction meets rivals. OPTIMISTIC: at the commit. ADAPTIVE: its writes queue for a while for rows others are writing.
    PESSIMISTIC: its writes lock their rows."""

    OPTIMISTIC = 0
    ADAPTIVE = 1
    PESSIMISTIC = 2


class Locks:
    """The locks of one database. `place_of`: names what a lock is on, for errors and views.

    `waits`, `deadlocks`, `timeouts`: how many; `waited_seconds`: of all threads together. `recent_waits`: when (seconds since 1970), and
    for what: base table, index, key as text."""

    def __init__(self, place_of: PlaceOf) -> None:
        self.waits = self.deadlocks = self.timeouts = 0
        self.waited_seconds = 0.0
        self.recent_waits: deque[tuple[float, str, str | None, str | None]] = deque(maxlen=RECENT_WAITS_MAX)
        self._place_of = place_of
        self._latch = threading.Lock()
        self._table = LockTable()
        self._torn = False
        self._kept: Kept | None = None
        self._owners: dict[weakref.ref[Any], LockOwner] = {}
        self._dropped: deque[weakref.ref[Any]] = deque()
        self._wake: deque[LockTicket] = deque()

    @property
    def has_hard(self) -> bool:
        """Does anybody hold a hard lock?"""
        return self._table.has_hard or self._torn

    # -- owners -------------------------------------------------------------------------------------------------------

    def owner_for(self, transaction: Any, order: int, name: bytes) -> tuple[LockOwner, weakref.ref[Any]]:
        """An owner whose locks go with `transaction` at the latest, when that is garbage, and the token to release it with."""
        owner, token = LockOwner(order, name), weakref.ref(transaction, self._dropped.append)
        self._owners[token] = owner
        return owner, token

    def release(self, owner: LockOwner, token: weakref.ref[Any] | None) -> None:
        """Let go of everything. Repeatable."""
        if self._latch.locked():
            stand_back(self._latch)
        with self._latch:
            if self._torn or self._dropped:
                self._tidy()
            self._torn = True
            woken = self._table.release(owner)
            self._torn = False
            if woken:
                self._wake.extend(woken)
            if token is not None:
                self._owners.pop(token, None)
        if self._wake:
            self._wake_up()

    # -- asking -------------------------------------------------------------------------------------------------------

    def acquire(
        self, owner: LockOwner, table: TableId, target: Target, mode: LockMode, hard: bool, timeout_seconds: float | None
    ) -> LockWaiter | None:
        """None: granted. Otherwise something to wait for, and to ask again afterwards."""
        if self._latch.locked():
            stand_back(self._latch)
        with self._latch:
            if self._torn or self._dropped:
                self._tidy()
            self._torn = True
            ticket = self._table.acquire(owner, table, target, mode, hard=hard)
            if ticket is None:
                self._torn = False
                return None
            waiter = LockWaiter(self, ticket, timeout_seconds)
            self._torn = False
            self._wake.extend(self._table.take_woken())
            self.waits += 1
        self._wake_up()
        self.recent_waits.append((time.time(), *self._place_of(table, target)))
        return waiter

    def try_acquire(self, owner: LockOwner, table: TableId, target: Target, mode: LockMode) -> bool:
        """A hard lock, at once or not at all."""
        return self._change(lambda locks: locks.try_acquire(owner, table, target, mode, hard=True))

    def give_up(self, waiter: LockWaiter) -> None:
        """Wait no more."""
        self._change(lambda table: table.cancel(waiter.ticket))

    def look(self, waiter: LockWaiter) -> bool:
        """Is it decided? Raises what it was decided to be."""
        self._change(lambda table: waiter.decided(table, time.monotonic()))
        refusal = refusal_of(waiter.ticket, waiter.blockers, waiter.read_timestamp, self._place_of)
        if refusal is not None:
            with self._latch:
                if isinstance(refusal, DeadlockDetected):
                    self.deadlocks += 1
                else:
                    self.timeouts += 1
            raise refusal
        return waiter.ticket.state is not TicketState.WAITING

    def add_waited(self, seconds: float) -> None:
        """A thread has waited that long."""
        with self._latch:
            self.waited_seconds += seconds

    def in_the_way(self, owner: LockOwner | None, command: Commit) -> Blocked | None:
        """What a commit must wait for: the first hard lock of another on what it writes."""
        rival = owner or _NOBODY
        with self._latch:
            if self._torn or self._dropped:
                self._tidy()
            locks = self._table
            for table, by_key in command.writes.items():
                key = locks.hard_conflict(rival, table, by_key)
                if key is not None:
                    return Blocked(table, key)
            for table in command.dropped:
                if locks.hard_conflict_in(rival, table, EVERY_KEY) is not None:
                    return Blocked(table, EVERY_KEY)
            for part in command.bulk:
                if not locks.has_hard_in(part.table):
                    continue
                ranges = [EVERY_KEY] if part.truncate else [KeyRange(each.meta.first, each.meta.last) for each in part.segments]
                for key_range in ranges:
                    if locks.hard_conflict_in(rival, part.table, key_range) is not None:
                        return Blocked(part.table, key_range)
        return None

    def holds_back(self, table: TableId, key: Any) -> bool:
        """Does anybody hold a hard lock on that key?"""
        with self._latch:
            if self._torn or self._dropped:
                self._tidy()
            return self._table.hard_conflict(_NOBODY, table, (key,)) is not None

    def listed(self) -> list[LockInfo]:
        """Every lock and every waiter."""
        return self._change(lambda table: table.locks())

    def sizes(self) -> tuple[int, int]:
        """How many keys and ranges are locked, and how many transactions wait."""
        return self._change(
            lambda table: (
                sum(len(locks.points) + sum(map(len, locks.ranges.values())) for locks in table.tables.values()),
                sum(len(locks.waiting) for locks in table.tables.values()),
            )
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _change(self, work: Callable[[LockTable], T]) -> T:
        """`work` on the table; then those it decided about are woken."""
        if self._latch.locked():
            stand_back(self._latch)
        with self._latch:
            if self._torn or self._dropped:
                self._tidy()
            self._torn = True
            found = work(self._table)
            self._torn = False
            if isinstance(found, list) and found and isinstance(found[0], LockTicket):
                self._wake.extend(found)
        self._wake_up()
        return found

    def _wake_up(self) -> None:
        """Each ticket leaves the queue after its wake-up, which may be repeated."""
        wake = self._wake
        while wake:
            try:
                ticket = wake[0]
                if ticket.waiter is not None:
                    ticket.waiter.wake()
                wake.popleft()
            except IndexError:  # another thread does it, too
                return

    def _tidy(self) -> None:
        """Under the latch: let go what belonged to transactions that are garbage, and mend a table that was torn."""
        while self._dropped:
            owner = self._owners.get(self._dropped[0])
            if owner is not None and not self._torn:
                self._torn = True
                self._wake.extend(self._table.release(owner))
                self._torn = False
            self._owners.pop(self._dropped[0], None)
            self._dropped.popleft()
        if self._torn:
            if self._kept is None:
                self._kept = kept_by(self._table, self._owners.values())
            self._table, tickets = rebuilt(self._table, self._owners.values(), self._kept)
            self._wake.extend(tickets)
            self._kept = None
            self._torn = False


_NOBODY = LockOwner(0, b"")
