"""The edges of what a scan did not find: phantoms.

`connect_scans` is called by `check` after all keys are connected.
A key of the range that a scan neither found nor had written itself was in its initial state: the scan comes before the key's first write
(an anti-dependency with a predicate, Adya 1999 section 3.2.3). What a scan did find is read like any other key.
Invariants: linear in what was scanned and what was missing *before* the last key found; all later keys share a chain of hubs.
Keys that were also deleted are not judged, for the same reason as reads of null.
"""

from __future__ import annotations

from typing import Any

from khonsu_sql.checker.edges import EdgeKind, Edges
from khonsu_sql.checker.history import Range
from khonsu_sql.checker.intake import Ledger
from khonsu_sql.checker.items import Item, ScanRead
from khonsu_sql.checker.keys import contains, describe
from khonsu_sql.checker.registers import first_writers

__all__ = ["connect_scans"]

First = tuple[int, int, Any]  # a key's number, who may have written it first, the value


def connect_scans(ledger: Ledger, edges: Edges) -> int:
    """Edges from every scan to the first writers of what it missed; returns how many missing keys were not judged."""
    by_range: dict[Range, list[ScanRead]] = {}
    for scan in ledger.scans:
        by_range.setdefault(scan.range, []).append(scan)
    if not by_range:
        return 0
    written = sorted(((item.name, item) for item in ledger.items if item.written), key=lambda one: one[0])
    firsts = {item.number: _firsts(ledger, item) for _, item in written if not item.deleted}
    unresolved = 0
    for range_, scans in by_range.items():
        inside = [item for name, item in written if contains(range_, name)]
        targets = sorted((first for item in inside if not item.deleted for first in firsts[item.number]), key=lambda one: one[1])
        _connect(edges, scans, targets, describe(range_))
        deleted = {item.number for item in inside if item.deleted}
        unresolved += sum(len(deleted.difference(scan.judged)) for scan in scans) if deleted else 0
    return unresolved


def _firsts(ledger: Ledger, item: Item) -> list[First]:
    if not item.is_list:
        return [(item.number, number, value) for number, value in first_writers(ledger, item)]
    for value in item.longest:
        writer = item.writers.get(value)
        if writer is not None and ledger.members[writer]:
            return [(item.number, writer, value)]
    first = dict(reversed(item.written))
    return [(item.number, number, value) for number, value in first.items()]


def _connect(edges: Edges, scans: list[ScanRead], targets: list[First], words: str) -> None:
    """Hub i leads to the writers of targets i, i + 1, …: a scan goes there behind its last exception, and to what is before one by one."""
    if not targets:
        return
    hubs = edges.new_nodes(len(targets))
    for index, (item, writer, value) in enumerate(targets):
        edges.add(hubs + index, writer, EdgeKind.LINK, item, words, value)
        if index:
            edges.add(hubs + index - 1, hubs + index, EdgeKind.LINK, item, words, None)
    places: dict[int, int] = {}  # the last target of each key
    places_by_writer: dict[int, int] = {}
    for index, (item, writer, _) in enumerate(targets):
        places[item] = places_by_writer[writer] = index
    for scan in scans:
        judged = set(scan.judged)
        behind = max((places[item] for item in judged if item in places), default=-1)
        behind = max(behind, places_by_writer.get(scan.number, -1))
        for item, writer, value in targets[: behind + 1]:
            if item not in judged and writer != scan.number:
                edges.add(scan.number, writer, EdgeKind.PREDICATE_RW, item, words, value)
        if behind + 1 < len(targets):
            edges.add(scan.number, hubs + behind + 1, EdgeKind.PREDICATE_RW, targets[behind + 1][0], words, None)
