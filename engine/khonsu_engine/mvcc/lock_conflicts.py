"""Who is in whose way: the locks and waiters of one table, and what follows from them.

The passive half of `mvcc.lock_table`, which alone changes what is kept here; `mvcc.lock_graph` follows it further. Calls
`mvcc.lock_ranges`. A core: no thread, no clock, no I/O.

A waiter *waits for* every other owner that holds a conflicting lock on an overlapping target, and for every conflicting waiter with a
smaller place. Two locks conflict unless both are SHARED.

Invariants: two or more owners of one point are all SHARED; queues are in order of places; a table without range locks and range
waiters has a holder wherever it has a waiter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec

from khonsu_engine.commands import Key, KeyRange, TableId
from khonsu_engine.mvcc.lock_ranges import LockMode, Target, TicketState, covers, overlaps

__all__ = [
    "HARD",
    "ContendedPoint",
    "LockInfo",
    "LockOwner",
    "LockTicket",
    "TableLocks",
    "ahead",
    "blocked",
    "blockers",
    "holders",
]

HARD = 4
"""The strength of a lock is an int: its mode, plus HARD."""

BLOCKERS_SHOWN_MAX = 8


class LockOwner:
    """A transaction, as the lock table sees it.

    `order`: when it began; the greater the younger. `name`: what messages and views show. `ticket`: the one thing it waits for.
    `held`: table -> point -> strength; a table in which it holds only ranges is there too.
    `awaited`: somebody may wait for a lock of it. While False nobody does, and its requests cannot close a cycle.
    """

    __slots__ = ("awaited", "held", "name", "order", "ticket")

    def __init__(self, order: int, name: Any) -> None:
        self.order = order
        self.name = name
        self.held: dict[TableId, dict[Key, int]] = {}
        self.ticket: LockTicket | None = None
        self.awaited = False

    def __repr__(self) -> str:
        return f"LockOwner({self.order}, {self.name!r})"


class LockTicket:
    """A request that could not be granted at once. `waiter` belongs to the caller: whatever wakes its thread.

    `cycle`: for SKIPPED and DEADLOCK the owners that waited for each other, each for the next and the last for the first.
    Everything here is read under the caller's latch.
    """

    __slots__ = ("cycle", "hard", "locks", "mode", "owner", "place", "state", "target", "waiter", "witness")

    def __init__(self, owner: LockOwner, locks: TableLocks, target: Target, mode: LockMode, hard: bool) -> None:
        self.owner = owner
        self.locks = locks
        self.target = target
        self.mode = mode
        self.hard = hard
        self.state = TicketState.WAITING
        self.cycle: tuple[LockOwner, ...] = ()
        self.waiter: Any = None
        self.place = 0
        self.witness: tuple[Key] | None = None

    def __repr__(self) -> str:
        return f"LockTicket({self.owner!r}, {self.table}, {self.target!r}, {self.mode.name}, hard={self.hard}, {self.state.name})"

    @property
    def table(self) -> TableId:
        """The table's id."""
        return self.locks.table

    def blockers(self) -> list[LockOwner]:
        """Whom this request waits for: holders first, then those queued before it, each once; empty when it does not wait."""
        return list(dict.fromkeys(blockers(self))) if self.state is TicketState.WAITING else []


class LockInfo(msgspec.Struct, frozen=True):
    """A row of khonsu.locks. `owner`, `blockers`: names; of the blockers the first few, none when granted. `waiter`: the caller's."""

    table: TableId
    target: Target
    mode: LockMode
    hard: bool
    owner: Any
    granted: bool
    blockers: tuple[Any, ...]
    waiter: Any = None


class ContendedPoint:
    """A point with several holders or with waiters."""

    __slots__ = ("holders", "queue")

    def __init__(self, holder: LockOwner | None) -> None:
        self.holders: dict[LockOwner, None] = {} if holder is None else {holder: None}
        self.queue: OrderedDict[LockTicket, None] = OrderedDict()

    def empty(self) -> bool:
        """Does nobody hold it or wait for it?"""
        return not self.holders and not self.queue


class TableLocks:
    """All locks and waiters of one table. `hard`: how many of the granted locks are hard. `waiting`: every waiter, by place.
    `crowded`: there has been a `ContendedPoint`."""

    __slots__ = ("crowded", "hard", "points", "range_queue", "ranges", "table", "waiting")

    def __init__(self, table: TableId) -> None:
        self.table = table
        self.hard = 0
        self.crowded = False
        self.points: dict[Key, LockOwner | ContendedPoint] = {}
        self.ranges: dict[LockOwner, dict[KeyRange, int]] = {}
        self.range_queue: dict[LockTicket, None] = {}
        self.waiting: dict[LockTicket, None] = {}

    def strength(self, owner: LockOwner, target: Target) -> int:
        """How strongly `owner` holds exactly `target`; 0: not at all."""
        if isinstance(target, KeyRange):
            return self.ranges[owner].get(target, 0) if owner in self.ranges else 0
        held = owner.held.get(self.table)
        return 0 if held is None else held.get(target, 0)

    def queue(self, target: Target) -> dict[LockTicket, None] | None:
        """The waiters of exactly that point, or those of all ranges."""
        if isinstance(target, KeyRange):
            return self.range_queue
        entry = self.points.get(target)
        return entry.queue if isinstance(entry, ContendedPoint) else None

    def contended(self, key: Key) -> ContendedPoint:
        """The point, made ready for several holders and for waiters."""
        entry = self.points.get(key)
        if not isinstance(entry, ContendedPoint):
            entry = self.points[key] = ContendedPoint(entry)
            self.crowded = True
        return entry

    def lose(self, owner: LockOwner, target: Target) -> None:
        """A soft lock is no longer held."""
        if isinstance(target, KeyRange):
            del self.ranges[owner][target]
            if not self.ranges[owner]:
                del self.ranges[owner]
            return
        del owner.held[self.table][target]
        entry = self.points[target]
        if isinstance(entry, ContendedPoint):
            del entry.holders[owner]
            if not entry.empty():
                return
        del self.points[target]

    def enter(self, tickets: Iterable[LockTicket], place: int) -> int:
        """To the end of the queue, in the order given, from the place after `place` on. Returns the last one's place."""
        for ticket in tickets:
            place += 1
            ticket.place = place
            ticket.owner.ticket = ticket
            queue = self.range_queue if isinstance(ticket.target, KeyRange) else self.contended(ticket.target).queue
            for line in (queue, self.waiting):
                line.pop(ticket, None)
                line[ticket] = None
        return place

    def leave(self, ticket: LockTicket, state: TicketState) -> None:
        """Out of the queue."""
        ticket.state = state
        ticket.owner.ticket = None
        del self.waiting[ticket]
        if isinstance(ticket.target, KeyRange):
            del self.range_queue[ticket]
            return
        entry = self.contended(ticket.target)
        del entry.queue[ticket]
        if entry.empty():
            del self.points[ticket.target]

    def rows(self) -> Iterator[LockInfo]:
        """Every lock, then every waiter in order of its place."""
        for key, entry in self.points.items():
            for owner in entry.holders if isinstance(entry, ContendedPoint) else (entry,):
                yield self._granted(key, owner.held[self.table][key], owner)
        for owner, ranges in self.ranges.items():
            for held, strength in ranges.items():
                yield self._granted(held, strength, owner)
        for ticket in self.waiting:
            names = tuple(blocker.name for blocker in islice(ticket.blockers(), BLOCKERS_SHOWN_MAX))
            yield LockInfo(self.table, ticket.target, ticket.mode, ticket.hard, ticket.owner.name, False, names, ticket.waiter)

    def _granted(self, target: Target, strength: int, owner: LockOwner) -> LockInfo:
        return LockInfo(self.table, target, LockMode(strength & ~HARD), strength >= HARD, owner.name, True, ())

    def has_ranges(self) -> bool:
        """Is a range locked or waited for?"""
        return bool(self.ranges or self.range_queue)


# -- conflicts --------------------------------------------------------------------------------------------------------


def holders(locks: TableLocks, owner: LockOwner, target: Target, mode: int) -> Iterator[tuple[LockOwner, Target, int]]:
    """The locks of others that keep `owner` from `target`: (owner, target, strength). Nothing may change meanwhile."""
    if isinstance(target, KeyRange):
        if locks.crowded or len(locks.points) > len(owner.held.get(locks.table, ())):  # not all of them are the owner's own
            for key, entry in locks.points.items():
                if entry is not owner and covers(target, key):
                    yield from _holders_of_point(locks, owner, key, mode)
    else:
        yield from _holders_of_point(locks, owner, target, mode)
    for other, ranges in locks.ranges.items():
        if other is not owner:
            for held, strength in ranges.items():
                if (strength | mode) & LockMode.EXCLUSIVE and overlaps(held, target):
                    yield other, held, strength


def _holders_of_point(locks: TableLocks, owner: LockOwner, key: Key, mode: int) -> Iterator[tuple[LockOwner, Target, int]]:
    entry = locks.points.get(key)
    if entry is None or entry is owner:
        return
    if isinstance(entry, ContendedPoint):
        if mode == LockMode.SHARED and len(entry.holders) > 1:
            return
        others: Iterable[LockOwner] = entry.holders
    else:
        others = (entry,)
    for other in others:
        if other is not owner:
            strength = other.held[locks.table][key]
            if (strength | mode) & LockMode.EXCLUSIVE:
                yield other, key, strength


def ahead(locks: TableLocks, owner: LockOwner, target: Target, mode: int, place: int | None = None) -> Iterator[LockTicket]:
    """The waiters before `place` (None: all) that a request of `owner` has to queue behind, earliest first (points, then ranges)."""
    queues: list[Iterable[LockTicket]]
    if isinstance(target, KeyRange):
        queues = [locks.waiting]
    else:
        queues = [locks.queue(target) or (), locks.range_queue]
    for queue in queues:
        for ticket in queue:
            if place is not None and ticket.place >= place:
                break
            if (ticket.mode | mode) & LockMode.EXCLUSIVE and ticket.owner is not owner and overlaps(ticket.target, target):
                yield ticket


def blocked(ticket: LockTicket) -> bool:
    """Is anybody in its way? A waiting range remembers the point it met, so that it need not look at all of them each time."""
    locks, owner, mode = ticket.locks, ticket.owner, ticket.mode
    if ticket.witness is not None and next(_holders_of_point(locks, owner, ticket.witness[0], mode), None) is not None:
        return True
    for _, target, _ in holders(locks, owner, ticket.target, mode):
        ticket.witness = None if isinstance(target, KeyRange) else (target,)
        return True
    return next(ahead(locks, owner, ticket.target, mode, ticket.place), None) is not None


def blockers(ticket: LockTicket) -> Iterator[LockOwner]:
    """Whom `ticket` waits for: holders, then those queued before it; one may come twice. Nothing may change meanwhile."""
    for other, _, _ in holders(ticket.locks, ticket.owner, ticket.target, ticket.mode):
        yield other
    for before in ahead(ticket.locks, ticket.owner, ticket.target, ticket.mode, ticket.place):
        yield before.owner
