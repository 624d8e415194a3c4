"""Edges of time: the order within each process, and real time; and how much of the history ran side by side.

Called by `check`. Real time: whoever completed before another was invoked comes before it (Herlihy & Wing 1990; strict serializability).
That is quadratically many pairs. Here time has *moments*: a transaction leads to the moment of its completion, each moment to the next
one, the last moment before an invocation to the transaction; so there are at most three edges for each transaction, whatever the number of
processes, and paths over moments are exactly the pairs. An unknown transaction has an invocation and no completion.
Invariants: equal times are no order in real time; within a process the next may be invoked at the very time the last one completed.
"""

from __future__ import annotations

import numpy as np

from khonsu_sql.checker.edges import EdgeKind, Edges
from khonsu_sql.checker.history import HistoryError, Status
from khonsu_sql.checker.intake import Ledger

__all__ = ["concurrent_pairs", "connect_processes", "connect_real_time"]


def connect_processes(ledger: Ledger, edges: Edges) -> None:
    """Each transaction of a process after the one before it. Raises HistoryError for two at one time."""
    last_completed: dict[int, tuple[int, int]] = {}
    last_committed: dict[int, int] = {}
    for number in sorted(range(len(ledger.ids)), key=lambda number: (ledger.invoked[number], ledger.completed[number] or 0)):
        process = ledger.processes[number]
        before = last_completed.get(process)
        if before is not None and ledger.invoked[number] < before[0]:
            raise HistoryError(
                number + 1, f"its process is still busy with line {before[1] + 1} then: a process runs one transaction at a time"
            )
        completed = ledger.completed[number]
        if completed is not None:
            last_completed[process] = (completed, number)
        if ledger.members[number]:
            committed = last_committed.get(process)
            if committed is not None:
                edges.add(committed, number, EdgeKind.PROCESS, -1, None, None)
            if ledger.statuses[number] is Status.COMMITTED:
                last_committed[process] = number


def connect_real_time(ledger: Ledger, edges: Edges) -> None:
    """Moments, and the edges over them."""
    invoked = [number for number, member in enumerate(ledger.members) if member]
    completed = [number for number in invoked if ledger.statuses[number] is Status.COMMITTED]
    times = np.array([ledger.invoked[number] for number in invoked] + [ledger.completed[number] for number in completed], np.int64)
    who = np.array(invoked + completed, np.int64)
    ends = np.arange(len(times)) >= len(invoked)
    order = np.lexsort((ends, times))  # at one time invocations come first: equal times are no order
    who, ends = who[order], ends[order]
    begins_moment = ends.copy()
    begins_moment[1:] &= ~ends[:-1]
    moment = np.cumsum(begins_moment) - 1
    count = int(begins_moment.sum())
    first = edges.new_nodes(count)
    for number, end, at in zip(who.tolist(), ends.tolist(), (moment + first).tolist(), strict=True):
        if end:
            edges.add(number, at, EdgeKind.REALTIME, -1, None, None)
        elif at >= first:
            edges.add(at, number, EdgeKind.REALTIME, -1, None, None)
    for at in range(first, first + count - 1):
        edges.add(at, at + 1, EdgeKind.REALTIME, -1, None, None)


def concurrent_pairs(ledger: Ledger) -> int:
    """How many pairs of committed transactions overlapped in time."""
    numbers = [number for number, status in enumerate(ledger.statuses) if status is Status.COMMITTED]
    invoked = np.array([ledger.invoked[number] for number in numbers], np.int64)
    completed = np.array([ledger.completed[number] for number in numbers], np.int64)
    apart = np.searchsorted(np.sort(completed), invoked, side="right").sum()
    _, instants = np.unique(invoked[invoked == completed], return_counts=True)
    apart -= (instants * (instants + 1) // 2).sum()  # those without duration at one time: each was counted with itself, each pair twice
    return len(numbers) * (len(numbers) - 1) // 2 - int(apart)
