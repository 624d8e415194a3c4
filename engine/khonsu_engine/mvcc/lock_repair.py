"""A lock table that was torn apart in the middle of a change (Ctrl-C) is built anew.

Called by `locks`. What owners hold is what counts; where two of them cannot both hold what they say, the later one loses it, which its
commit notices: locks order writers, validation protects data. Whoever waited is told to ask again.
"""

from __future__ import annotations

from collections.abc import Iterable

from khonsu_engine.commands import TableId
from khonsu_engine.mvcc.lock_table import LockMode, LockOwner, LockTable, LockTicket, Target, TicketState

__all__ = ["rebuilt"]

HARD = 4


def rebuilt(torn: LockTable, owners: Iterable[LockOwner]) -> tuple[LockTable, list[LockTicket]]:
    """A sound table with what `owners` hold, and the tickets that waited in the old one, all of them cancelled."""
    fresh = LockTable()
    old = torn.tables
    waiting = [ticket for locks in old.values() for ticket in list(locks.waiting)]
    for owner in list(owners):
        if owner.ticket is not None:
            waiting.append(owner.ticket)
        held: list[tuple[TableId, Target, int]] = [(table, key, power) for table, keys in owner.held.items() for key, power in keys.items()]
        held += [(table, each, power) for table, locks in old.items() for each, power in locks.ranges.get(owner, {}).items()]
        owner.held, owner.ticket, owner.awaited = {}, None, False
        for table, target, power in held:
            fresh.try_acquire(owner, table, target, LockMode(power & ~HARD), hard=power >= HARD)
    for ticket in waiting:
        ticket.state = TicketState.CANCELLED
    return fresh, waiting
