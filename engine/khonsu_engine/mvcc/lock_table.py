"""The lock table: who holds which key or range of keys, who waits for it, and who loses when they wait for each other.

Called by the room that lets sessions wait (threads, timeouts and wake-ups are its business), under one latch around every call and
every look at a ticket. A core: no thread, no clock, no I/O; the same calls give the same answers. Calls `mvcc.lock_conflicts` (who is
in whose way), `mvcc.lock_graph` (who waits for whom in the end) and `mvcc.lock_ranges` (what overlaps).

Rules, beyond those:
* a lock is *hard* or *soft*; both queue alike, but a soft one binds nobody's commit, and `overrule` takes it away;
* queues are fair: a request waits behind earlier waiters it conflicts with. **Nobody queues behind those who wait for him**: what
  waits for locks of the requester, directly or through others, is overtaken. An upgrade from SHARED to EXCLUSIVE is one case, a
  writer's next row before the range lock that waits for the writer another; to queue there would be a deadlock;
* a cycle is broken where it would close: the youngest soft request in it is SKIPPED; if all are hard, the youngest owner's becomes
  DEADLOCK, and that owner keeps its locks until its `release`;
* an owner has on one target one lock, as strong as the stronger of what it asked for in mode, and hard if one of them was.

Invariants: no two granted locks conflict; every waiter waits for somebody; no cycle of waiters outlives a call. New edges, and so
cycles, come only from a new waiter and from waiters that `overrule` moves: a grant puts the new holder where it was waited for
already, and who overtakes in `acquire` was waited for already by those it overtakes.

Source: waits-for graphs and upgrades: Gray, Reuter, "Transaction Processing" (1993), chapters 7 and 8. Left out: intention locks,
escalation, downgrades, release of single locks. A range request looks at all locked points of its table; a point request in a table
with range locks or range waiters at all of these; a search among n waiters of
such a table is O(n²) in the worst case.
"""

from __future__ import annotations

from collections.abc import Iterable

from khonsu_engine.commands import EVERY_KEY, Key, KeyRange, TableId
from khonsu_engine.mvcc.lock_conflicts import (
    HARD,
    ContendedPoint,
    LockInfo,
    LockOwner,
    LockTicket,
    TableLocks,
    ahead,
    blocked,
    holders,
)
from khonsu_engine.mvcc.lock_graph import cycle_through, dependents
from khonsu_engine.mvcc.lock_ranges import LockMode, Target, TicketState, covers

__all__ = ["IDLE_TABLES_MAX", "LockInfo", "LockMode", "LockOwner", "LockTable", "LockTicket", "Target", "TicketState"]

IDLE_TABLES_MAX = 256


class LockTable:
    """All locks of a database."""

    __slots__ = ("_hard", "_places", "_tables", "_woken")

    def __init__(self) -> None:
        self._tables: dict[TableId, TableLocks] = {}
        self._hard = 0
        self._places = 0
        self._woken: list[LockTicket] = []

    # -- asking -------------------------------------------------------------------------------------------------------

    def acquire(self, owner: LockOwner, table: TableId, target: Target, mode: LockMode, *, hard: bool) -> LockTicket | None:
        """None: granted. Otherwise a ticket: WAITING, or decided already because its wait would have closed a cycle. Then, and only
        then, tickets of others may have been decided too: `take_woken` has them."""
        locks = self._tables.get(table)
        if locks is None:
            locks = self._added(table)
        if target in locks.points or target.__class__ is KeyRange or locks.ranges or locks.range_queue:
            return None if self._admit(owner, table, target, mode, hard) else self._wait(owner, table, target, mode, hard)
        locks.points[target] = owner
        strength = mode | HARD if hard else mode
        held = owner.held.get(table)
        if held is None:
            owner.held[table] = {target: strength}
        else:
            held[target] = strength
        if hard:
            locks.hard += 1
            self._hard += 1
        return None

    def try_acquire(self, owner: LockOwner, table: TableId, target: Target, mode: LockMode, *, hard: bool) -> bool:
        """Granted, or nothing has changed (NOWAIT, SKIP LOCKED)."""
        return self._admit(owner, table, target, mode, hard)

    def take_woken(self) -> list[LockTicket]:
        """The tickets decided since this was last asked, without those an `acquire` returned or a `cancel` was given, in the order of
        the decisions. What `cancel`, `overrule` and `release` return is this."""
        woken, self._woken = self._woken, []
        return woken

    def cancel(self, ticket: LockTicket) -> list[LockTicket]:
        """`ticket` waits no more. Returns the tickets this decided. A ticket that does not wait: nothing happens."""
        if ticket.state is not TicketState.WAITING:
            return []
        self._leave(ticket, TicketState.CANCELLED)
        return self.take_woken()

    def overrule(self, ticket: LockTicket) -> list[LockTicket]:
        """A hard request has waited long enough for soft ones: soft locks in its way are lost, soft waiters before it go to the end of
        the queue. It is granted unless hard ones remain. Returns the tickets this decided, `ticket` included if it was.

        The end of the queue, because a soft waiter before a hard one before `ticket` cannot be behind it and before the other."""
        assert ticket.hard, "only a hard request overrules"
        if ticket.state is not TicketState.WAITING:
            return []
        locks, owner, target, mode = ticket.locks, ticket.owner, ticket.target, ticket.mode
        ranged = locks.has_ranges()
        for other, held, strength in list(holders(locks, owner, target, mode)):
            if strength < HARD:
                locks.lose(other, held)
        moved = [before for before in ahead(locks, owner, target, mode, ticket.place) if not before.hard]
        self._places = locks.enter(moved, self._places)
        for before in moved:
            self._break_cycles(before)
        self._wake(locks, (target,), ranged)
        return self.take_woken()

    def release(self, owner: LockOwner) -> list[LockTicket]:
        """Everything `owner` holds or waits for goes. Returns the tickets this decided. Repeatable."""
        if owner.ticket is not None:
            self._leave(owner.ticket, TicketState.CANCELLED)
        held, owner.held, owner.awaited = owner.held, {}, False
        for table, points in held.items():
            locks = self._tables.get(table)
            if locks is None:  # what was held there was soft, and lost
                continue
            if not (locks.crowded or locks.ranges or locks.range_queue or locks.hard):  # nobody else was ever here: the frequent case
                for key in points:
                    del locks.points[key]
                continue
            ranged = locks.has_ranges()
            hard = sum(strength >= HARD for strength in locks.ranges.pop(owner, {}).values()) if ranged else 0
            contended = []
            for key, strength in points.items():
                if strength >= HARD:
                    hard += 1
                entry = locks.points[key]
                if entry is owner:
                    del locks.points[key]
                    continue
                assert isinstance(entry, ContendedPoint)
                del entry.holders[owner]
                if entry.queue:
                    contended.append(key)
                elif not entry.holders:
                    del locks.points[key]
            locks.hard -= hard
            self._hard -= hard
            self._wake(locks, contended, ranged)
        return self.take_woken()

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def tables(self) -> dict[TableId, TableLocks]:
        """Everything, for whoever has to mend it."""
        return self._tables

    @property
    def has_hard(self) -> bool:
        """Is any hard lock held?"""
        return self._hard > 0

    def has_hard_in(self, table: TableId) -> bool:
        """Is any hard lock held in `table`?"""
        return table in self._tables and self._tables[table].hard > 0

    def hard_conflict(self, owner: LockOwner, table: TableId, keys: Iterable[Key]) -> Key | None:
        """The first of `keys` on which another than `owner` holds a hard lock, of either mode, point or range; None if there is none."""
        if not self.has_hard_in(table):
            return None
        locks = self._tables[table]
        ranges = [held for other in locks.ranges if other is not owner for held, power in locks.ranges[other].items() if power >= HARD]
        for key in keys:
            entry = locks.points.get(key)
            if entry is not None and entry is not owner:
                others = entry.holders if isinstance(entry, ContendedPoint) else (entry,)
                if any(other is not owner and other.held[table][key] >= HARD for other in others):
                    return key
            if ranges and any(covers(held, key) for held in ranges):
                return key
        return None

    def hard_conflict_in(self, owner: LockOwner, table: TableId, key_range: KeyRange) -> Target | None:
        """A key or range on which another than `owner` holds a hard lock and that overlaps `key_range`; None if there is none."""
        if not self.has_hard_in(table):
            return None
        found = holders(self._tables[table], owner, key_range, LockMode.EXCLUSIVE)
        return next((target for _, target, strength in found if strength >= HARD), None)

    def locks(self) -> list[LockInfo]:
        """Every lock, then every waiter in order of its place, table by table."""
        return [row for locks in self._tables.values() for row in locks.rows()]

    # -- granting -----------------------------------------------------------------------------------------------------

    def _admit(self, owner: LockOwner, table: TableId, target: Target, mode: LockMode, hard: bool) -> bool:
        """Grant it if nobody is in its way; otherwise change nothing."""
        assert owner.ticket is None, "a transaction waits for one thing at a time"
        locks = self._tables.get(table)
        if locks is None:
            locks = self._added(table)
        own = max(locks.strength(owner, target), locks.strength(owner, EVERY_KEY) if locks.ranges else 0)
        if own & ~HARD >= mode:
            if own < HARD and hard:
                self._grant(locks, owner, target, mode | HARD)
            return True
        if next(holders(locks, owner, target, mode), None) is not None or (locks.waiting and self._must_queue(locks, owner, target, mode)):
            return False
        self._grant(locks, owner, target, mode | HARD if hard else mode)
        return True

    def _must_queue(self, locks: TableLocks, owner: LockOwner, target: Target, mode: LockMode) -> bool:
        """Is there a waiter to queue behind, one that does not itself wait for `owner`?"""
        rivals = list(ahead(locks, owner, target, mode))
        return len(rivals) > (len(dependents(owner, rivals)) if owner.awaited else 0)

    def _grant(self, locks: TableLocks, owner: LockOwner, target: Target, strength: int) -> None:
        points = owner.held.setdefault(locks.table, {})
        held = locks.ranges.setdefault(owner, {}) if isinstance(target, KeyRange) else points
        before = held.get(target, 0)  # type: ignore[call-overload]
        held[target] = after = max(before & ~HARD, strength & ~HARD) | (before | strength) & HARD  # type: ignore[index]
        if held is points and not before:
            if target in locks.points:
                locks.contended(target).holders[owner] = None
            else:
                locks.points[target] = owner
        if before < HARD <= after:
            locks.hard += 1
            self._hard += 1
        if locks.waiting:
            owner.awaited = True

    def _added(self, table: TableId) -> TableLocks:
        """The locks of one more table. Those of a table nobody uses any more stay, as long as they are few, for the next writer."""
        if len(self._tables) >= IDLE_TABLES_MAX:
            self._tables = {number: locks for number, locks in self._tables.items() if locks.points or locks.ranges or locks.waiting}
        locks = self._tables[table] = TableLocks(table)
        return locks

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _wait(self, owner: LockOwner, table: TableId, target: Target, mode: LockMode, hard: bool) -> LockTicket:
        locks = self._tables[table]
        ticket = LockTicket(owner, locks, target, mode, hard)
        self._places = locks.enter([ticket], self._places)
        for other, _, _ in holders(locks, owner, target, mode):
            other.awaited = True
        if owner.awaited and cycle_through(ticket) is not None:
            rivals = locks.waiting if locks.has_ranges() else locks.contended(target).queue
            self._places = locks.enter([other for other in dependents(owner, rivals) if other is not ticket], self._places)
            self._break_cycles(ticket)
        if ticket.state is not TicketState.WAITING:
            self._woken = [other for other in self._woken if other is not ticket]
        return ticket

    def _leave(self, ticket: LockTicket, state: TicketState) -> None:
        """Without the lock. Whoever waited only behind it is woken."""
        ranged = ticket.locks.has_ranges()
        ticket.locks.leave(ticket, state)
        if state is not TicketState.CANCELLED:
            self._woken.append(ticket)
        self._wake(ticket.locks, (ticket.target,), ranged)

    def _wake(self, locks: TableLocks, targets: Iterable[Target], ranged: bool) -> None:
        """Grant what can be granted after something went at `targets`, in order of places; forget the table if nothing is left.

        `ranged`: range locks or range waiters were there before. Without them nobody behind a blocked waiter of the same point can go."""
        if ranged:
            shut: set[Target] = set()
            for ticket in list(locks.waiting):
                if ticket.target in shut:
                    continue
                if not blocked(ticket):
                    self._give(ticket)
                elif ticket.mode == LockMode.EXCLUSIVE:
                    shut.add(ticket.target)
        else:
            for target in targets:
                while (queue := locks.queue(target)) and not blocked(first := next(iter(queue))):
                    self._give(first)
        if locks.crowded and not locks.points and not locks.ranges and not locks.waiting:
            self._tables.pop(locks.table, None)

    def _give(self, ticket: LockTicket) -> None:
        ticket.locks.leave(ticket, TicketState.GRANTED)
        self._grant(ticket.locks, ticket.owner, ticket.target, ticket.mode | HARD if ticket.hard else ticket.mode)
        self._woken.append(ticket)

    def _break_cycles(self, ticket: LockTicket) -> None:
        """No cycle through `ticket` is left afterwards."""
        while ticket.state is TicketState.WAITING:
            cycle = cycle_through(ticket)
            if cycle is None:
                return
            loser = max([step for step in cycle if not step.hard] or cycle, key=lambda step: step.owner.order)
            loser.cycle = tuple(step.owner for step in cycle)
            self._leave(loser, TicketState.DEADLOCK if loser.hard else TicketState.SKIPPED)
