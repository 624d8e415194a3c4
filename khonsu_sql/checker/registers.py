"""Edges of registers: the order of versions comes from commit indexes, else from reads that precede writes in one transaction.

Called by `check` for each register; writes to `Edges` and accuses in the `Ledger`.
With a commit index for every writer the order is total and the check as strong as for lists. Without, it is partial: the initial null is
first, and what a transaction read comes before what it wrote. Blind writes are then unordered: fewer anomalies are found, none is invented.
A read of null is the initial state unless the key was also deleted; then it is not judged, and counted in `unresolved`.
Source: Kingsbury & Alvaro 2020, section 5 (inference for registers).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from khonsu_sql.checker.edges import EdgeKind, Edges
from khonsu_sql.checker.intake import Ledger
from khonsu_sql.checker.items import Item
from khonsu_sql.checker.levels import Kind
from khonsu_sql.checker.updates import accuse_lost_updates

__all__ = ["connect_register", "first_writers"]


def connect_register(ledger: Ledger, item: Item, edges: Edges) -> int:
    """All that one register says about the order of transactions; returns how many of its reads were not judged."""
    readers, unresolved = _readers_by_version(ledger, item, edges)
    chain = _chain(ledger, item)
    for (before, old), (after, new) in pairwise(chain):
        edges.add(before, after, EdgeKind.WW, item.number, old, new)
    following: dict[Any, tuple[int, Any]] = {old: after for (_, old), after in pairwise(chain) if old is not None}
    if chain:
        following[None] = chain[0]
    for version, numbers in readers.items():
        if version in following:
            edges.fan(numbers, [following[version]], item.number, version)
    if len(chain) < len(item.written):
        _connect_unordered(ledger, item, edges, readers)
    rivals = {number for number, _ in item.written if ledger.commits[number] is None}
    updates = [(number, version) for number, version in item.updates if version in readers]
    accuse_lost_updates(ledger, item, updates, rivals, lambda value: value)
    return unresolved


def first_writers(ledger: Ledger, item: Item) -> list[tuple[int, Any]]:
    """Whose writes may have ended the initial state: the first of those with commit indexes, and those that did not read a later one."""
    chain = _chain(ledger, item)
    later = {number for number, version in item.updates if version is not None}
    return chain[:1] + [one for one in item.written if ledger.commits[one[0]] is None and one[0] not in later]


def _chain(ledger: Ledger, item: Item) -> list[tuple[int, Any]]:
    """The writes with commit indexes, in that order."""
    indexed = [(commit, number, value) for number, value in item.written if (commit := ledger.commits[number]) is not None]
    indexed.sort(key=lambda one: one[0])
    return [(number, value) for _, number, value in indexed]


def _readers_by_version(ledger: Ledger, item: Item, edges: Edges) -> tuple[dict[Any, list[int]], int]:
    """Who read which final version, with the WR edges; accuses reads of what must not be seen."""
    readers: dict[Any, list[int]] = {}
    unresolved = 0
    accused: set[Any] = set()
    for number, value in zip(item.readers, item.versions, strict=True):
        if value is None:
            if item.deleted:
                unresolved += 1
            else:
                readers.setdefault(None, []).append(number)
            continue
        who = item.writers.get(value)
        if who is None:
            if value not in accused:
                ledger.accuse(Kind.GARBAGE_READ, [number], f"{ledger.name(number)} read {item.name} = {value}, which nobody wrote")
            accused.add(value)
        elif who == number:
            ledger.accuse(Kind.INTERNAL, [number], f"{ledger.name(number)} read {item.name} = {value} before it wrote that itself")
        elif not ledger.members[who]:
            words = f"{ledger.name(number)} read {item.name} = {value}, which {ledger.name(who)} wrote, and it aborted"
            ledger.accuse(Kind.G1A, [who, number], words)
        else:
            edges.add(who, number, EdgeKind.WR, item.number, None, value)
            if value in item.intermediate:
                words = f"{ledger.name(number)} read {item.name} = {value}, which {ledger.name(who)} replaced before it committed"
                ledger.accuse(Kind.G1B, [who, number], words)
            else:
                readers.setdefault(value, []).append(number)
    return readers, unresolved


def _connect_unordered(ledger: Ledger, item: Item, edges: Edges, readers: dict[Any, list[int]]) -> None:
    """Writes without an index: behind all readers of the version their transaction had read; blind ones behind readers of null."""
    updaters: dict[Any, list[tuple[int, Any]]] = {}
    written = dict(item.written)
    based = set()
    for number, version in item.updates:
        based.add(number)
        free = ledger.commits[number] is None or (version is not None and ledger.commits[item.writers.get(version, number)] is None)
        if free and version in readers:
            updaters.setdefault(version, []).append((number, written[number]))
    if None in readers:
        blind = [one for one in item.written if one[0] not in based and ledger.commits[one[0]] is None]
        edges.fan(readers[None], blind, item.number, None)
    for version, writers in updaters.items():
        rivals = {number for number, _ in writers}
        edges.fan([number for number in readers[version] if number not in rivals], writers, item.number, version)
