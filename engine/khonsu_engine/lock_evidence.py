"""Why a lock that was waited for will not come, as an error with evidence. Called by `locks`, outside of its latch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from khonsu_engine.commands import KeyRange, TableId, Timestamp
from khonsu_engine.errors import DeadlockDetected, LockNotAvailable
from khonsu_engine.evidence import deadlock, facts, lock_timeout
from khonsu_engine.mvcc.lock_table import LockTicket, Target, TicketState

__all__ = ["PlaceOf", "refusal_of"]

PlaceOf = Callable[[TableId, Target], tuple[str, str | None, str | None]]
"""What a lock is on: base table, index, and the key or range as text (`evidence.place_of` for one database)."""


def refusal_of(
    ticket: LockTicket, blockers: tuple[Any, ...] | None, read_timestamp: Timestamp | None, place_of: PlaceOf
) -> DeadlockDetected | LockNotAvailable | None:
    """The error for a decided `ticket`; None: it is not refused. `blockers`: it is too late, and these were in the way."""
    cycle = tuple(owner.name for owner in ticket.cycle) if ticket.state is TicketState.DEADLOCK else ()
    if blockers is None and not cycle:
        return None
    mine = ticket.owner.name
    others = cycle[cycle.index(mine) + 1 :] + cycle[: cycle.index(mine)] if blockers is None else blockers
    table, index, text = place_of(ticket.table, ticket.target)
    keys = () if text is None else (text if isinstance(ticket.target, KeyRange) else ticket.target,)
    known = facts(
        "deadlock" if blockers is None else "intent",
        (table, index),
        keys,
        transaction_id=mine,
        read_timestamp=read_timestamp,
        other=next(iter(others), None),
    )
    return deadlock(known, cycle) if blockers is None else lock_timeout(known, blockers)
