"""A lock table that was torn apart in the middle of a change (Ctrl-C) is built anew.

Called by `locks`. What owners hold is what counts; where two of them cannot both hold what they say, the later one loses it, which its
commit notices: locks order writers, validation protects data. Whoever waited is told to ask again.
"""

from __future__ import annotations

from collections.abc import Iterable

from khonsu_engine.commands import TableId
from khonsu_engine.mvcc.lock_table import LockMode, LockOwner, LockTable, LockTicket, Target, TicketState

__all__ = ["Kept", "kept_by", "rebuilt"]

HARD = 4


Kept = list[tuple[LockOwner, list[tuple[TableId, Target, int]]]]
"""Of each owner: table, target, strength."""


def kept_by(torn: LockTable, owners: Iterable[LockOwner]) -> Kept:
    """What `owners` hold. Taken once, before anything is changed: a repair that is interrupted, too, is done again with it."""
    kept: Kept = []
    for owner in list(owners):
        held: list[tuple[TableId, Target, int]] = [(table, key, power) for table, keys in owner.held.items() for key, power in keys.items()]
        held += [(table, each, power) for table, locks in torn.tables.items() for each, power in locks.ranges.get(owner, {}).items()]
        kept.append((owner, held))
    return kept


def rebuilt(torn: LockTable, owners: Iterable[LockOwner], kept: Kept) -> tuple[LockTable, list[LockTicket]]:
    """A sound table with what those of `owners` hold that are in `kept`, and the tickets that waited in the old one, all cancelled."""
    fresh, there = LockTable(), set(owners)
    waiting = [ticket for locks in torn.tables.values() for ticket in list(locks.waiting)]
    waiting += [owner.ticket for owner in there if owner.ticket is not None]
    for ticket in waiting:
        ticket.state = TicketState.CANCELLED  # before their owners forget them
    for owner in there:
        owner.held, owner.ticket, owner.awaited = {}, None, False
    for owner, held in kept:
        for table, target, power in held if owner in there else ():
            fresh.try_acquire(owner, table, target, LockMode(power & ~HARD), hard=power >= HARD)
    return fresh, waiting
