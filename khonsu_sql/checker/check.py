"""The whole check, from transactions to a report.

Called by `khonsu check`, tests and benchmarks; calls `intake`, the rooms that make edges, `cycles` and `words`.
Invariants: the history is read once, as a stream; a history that a serial execution explains has no anomaly (the edges hold in every one).
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from khonsu_sql.checker.cycles import find_cycles
from khonsu_sql.checker.edges import EdgeKind, Edges
from khonsu_sql.checker.history import Status, Transaction
from khonsu_sql.checker.intake import Ledger
from khonsu_sql.checker.levels import Kind, Level, Variant
from khonsu_sql.checker.lists import connect_list
from khonsu_sql.checker.orders import concurrent_pairs, connect_processes, connect_real_time
from khonsu_sql.checker.ranges import connect_scans
from khonsu_sql.checker.registers import connect_register
from khonsu_sql.checker.report import Anomaly, Counts, Report
from khonsu_sql.checker.words import explain

__all__ = ["check"]

EDGE_NAMES = {
    EdgeKind.WW: "ww",
    EdgeKind.WR: "wr",
    EdgeKind.RW: "rw",
    EdgeKind.PREDICATE_RW: "predicate-rw",
    EdgeKind.PROCESS: "process",
    EdgeKind.REALTIME: "realtime",
}


def check(history: Iterable[Transaction], level: Level | str | None = None, *, allow_vacuous: bool = False) -> Report:
    """Judge `history`. `level` is what `Report.ok` asks for (None: no anomaly at all).

    Raises HistoryError for a history that cannot be judged, ValueError for an unknown level.
    """
    wanted = None if level is None else Level(level)
    ledger = Ledger()
    with _without_collector():
        ledger.take(history)
        edges = Edges(len(ledger.ids))
        connect_processes(ledger, edges)
        unresolved = 0
        for item in ledger.items:
            if item.is_list:
                connect_list(ledger, item, edges)
            else:
                unresolved += connect_register(ledger, item, edges)
        unresolved += connect_scans(ledger, edges)
        connect_real_time(ledger, edges)
        cycles = find_cycles(edges, len(ledger.ids))
    for cycle in cycles:
        numbers = tuple(ledger.ids[step.source] for step in cycle.steps)
        ledger.anomalies.append(Anomaly(cycle.kind, cycle.variant, numbers, explain(ledger, edges, cycle)))
    kinds, variants = list(Kind), list(Variant)
    ledger.anomalies.sort(key=lambda anomaly: (variants.index(anomaly.variant), kinds.index(anomaly.kind)))
    return Report(tuple(ledger.anomalies), _count(ledger, edges, unresolved), wanted, allow_vacuous)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of objects that live to the end: looking for garbage among them again and again costs more than the check."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _count(ledger: Ledger, edges: Edges, unresolved: int) -> Counts:
    source, target = np.frombuffer(edges.source, np.int32), np.frombuffer(edges.target, np.int32)
    kind = np.frombuffer(edges.kind, np.int8)
    numbers = np.bincount(kind, minlength=len(EdgeKind)).tolist()
    process = np.full(edges.nodes, -1)  # hubs and moments are of no process, that is of another one
    process[: len(ledger.ids)] = ledger.processes
    data = np.isin(kind, (EdgeKind.WW, EdgeKind.WR, EdgeKind.RW, EdgeKind.PREDICATE_RW))
    return Counts(
        transactions=len(ledger.ids),
        committed=sum(ledger.members),
        aborted=ledger.statuses.count(Status.ABORTED),
        unknown=ledger.statuses.count(Status.UNKNOWN),
        edges={name: numbers[kind] for kind, name in EDGE_NAMES.items()},
        conflicts=int((process[source[data]] != process[target[data]]).sum()),
        concurrent_pairs=concurrent_pairs(ledger),
        unresolved_reads=unresolved,
    )
