"""Who waits for whom in the end: the waits-for graph over all tables, never stored, followed from ticket to owner to ticket.

Called by `mvcc.lock_table` when a request has to wait. Calls `mvcc.lock_conflicts` for the edges. Left out: breaking the cycles found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from khonsu_engine.commands import TableId
from khonsu_engine.mvcc.lock_conflicts import LockOwner, LockTicket, blockers
from khonsu_engine.mvcc.lock_ranges import LockMode, Target

__all__ = ["cycle_through", "dependents"]


def cycle_through(ticket: LockTicket) -> list[LockTicket] | None:
    """Waiting tickets beginning with `ticket`, each waiting for the owner of the next and the last for that of the first, or None.

    Of the waiters of one target only the latest of a mode is followed. Whomever an earlier one of that mode, or a SHARED one before
    an EXCLUSIVE one, waits for, the later one waits for too, itself excepted: it reaches everybody the earlier one reaches. So a
    queue of n at one target costs n steps, not n². `ticket` itself does not count: to reach its owner is what is asked."""
    followed: dict[tuple[TableId, Target, LockMode], int] = {}

    def edges(step: LockTicket) -> Iterator[LockOwner]:
        table, target, place = step.table, step.target, step.place
        if step is not ticket:
            if followed.get((table, target, LockMode.EXCLUSIVE), 0) >= place or followed.get((table, target, step.mode), 0) >= place:
                return iter(())
            followed[table, target, step.mode] = place
        return reversed(list(blockers(step)))  # the latest first

    return _path(ticket, {ticket.owner}, set(), edges)


def dependents(owner: LockOwner, tickets: Iterable[LockTicket]) -> list[LockTicket]:
    """Those of `tickets` that wait for `owner`, directly or through others, in their order."""
    goals, seen = {owner}, set[LockOwner]()
    found = []
    for ticket in tickets:
        if ticket.owner not in goals:
            path = None if ticket.owner in seen else _path(ticket, goals, seen, blockers)
            if path is None:
                continue
            goals.update(step.owner for step in path)
        found.append(ticket)
    return found


def _path(
    start: LockTicket, goals: set[LockOwner], seen: set[LockOwner], edges: Callable[[LockTicket], Iterator[LockOwner]]
) -> list[LockTicket] | None:
    """The tickets from `start` to one whose owner waits for one of `goals`, each waiting for the owner of the next, or None.

    `seen`: owners from whom no goal can be reached; added to, so that several searches together look at each owner once."""
    path, branches = [start], [edges(start)]
    seen.add(start.owner)
    while branches:
        for owner in branches[-1]:
            if owner in goals:
                return path
            if owner not in seen:
                seen.add(owner)
                if owner.ticket is not None:
                    path.append(owner.ticket)
                    branches.append(edges(owner.ticket))
                    break
        else:
            path.pop()
            branches.pop()
    return None
