"""Edges of list-append keys: the order of the versions is the order of the values in the longest read.

Called by `check` for each list; writes to `Edges` and accuses in the `Ledger`.
Values of aborted transactions and values nobody wrote are told (G1a, garbage read) and then left out, so that what they also spoil is not
told a second time. Appends that nobody read come behind the longest read; among themselves only commit indexes order them.
Soundness: every edge holds in every serial order that explains the reads. Source: Kingsbury & Alvaro 2020, section 4 (traceability).
"""

from __future__ import annotations

from typing import Any

from khonsu_sql.checker.edges import EdgeKind, Edges
from khonsu_sql.checker.intake import Ledger, shown
from khonsu_sql.checker.items import Item
from khonsu_sql.checker.levels import Kind
from khonsu_sql.checker.updates import accuse_lost_updates

__all__ = ["connect_list"]


def connect_list(ledger: Ledger, item: Item, edges: Edges) -> None:
    """All that the reads of one list say about the order of transactions."""
    bad = _bad_values(ledger, item)
    order, reads = _settle(ledger, item, bad)
    writers = item.writers
    _connect_order(ledger, item, edges, order)
    _connect_reads(ledger, item, edges, order, reads)
    placed = set(order)
    unseen = [(number, value) for number, value in item.written if value not in placed]
    tail_readers = sorted({number for number, length in reads if length == len(order)})
    ordered = _ordered_by_commit(ledger, item, order, unseen)
    last = order[-1] if order else None
    before = (writers[last], last) if order else None
    for number, value in ordered:
        if before is not None and before[0] != number:
            edges.add(before[0], number, EdgeKind.WW, item.number, before[1], value)
        before = (number, value)
    if ordered:
        edges.fan(tail_readers, ordered[:1], item.number, last)
    _connect_unseen(ledger, item, edges, last, tail_readers, [one for one in unseen if ledger.commits[one[0]] is None])
    updates = dict(item.updates)
    versions = [(number, length) for number, length in reads if updates.get(number) == length]
    rivals = {number for number, _ in unseen} - {number for number, _ in ordered}
    accuse_lost_updates(ledger, item, versions, rivals, lambda length: order[length - 1] if length else None)


def _bad_values(ledger: Ledger, item: Item) -> set[Any]:
    """Values that must not have been read: of aborted transactions, of nobody, twice in one list. All are accused here."""
    bad: set[Any] = set()
    for number, values in [(item.longest_by, item.longest), *((number, values) for number, values, _ in item.odd)]:
        seen: set[Any] = set()
        for value in values:
            who = item.writers.get(value)
            if value in seen:
                ledger.accuse(Kind.DUPLICATE, [number], f"{ledger.name(number)} read {item.name} = {shown(values)}, with {value} twice")
            elif value not in bad and who is None:
                bad.add(value)
                ledger.accuse(Kind.GARBAGE_READ, [number], f"{ledger.name(number)} read {value} in {item.name}, which nobody appended")
            elif value not in bad and who is not None and not ledger.members[who]:
                bad.add(value)
                words = f"{ledger.name(number)} read {value} in {item.name}, which {ledger.name(who)} appended, and it aborted"
                ledger.accuse(Kind.G1A, [who, number], words)
            seen.add(value)
    return bad


def _settle(ledger: Ledger, item: Item, bad: set[Any]) -> tuple[list[Any], list[tuple[int, int]]]:
    """(the values of committed transactions in version order, each reader with how many of them it read)."""
    lists = [(item.longest_by, item.longest, len(item.longest)), *item.odd]
    clean = [(number, _clean(values, bad), len(_clean(values[:length], bad))) for number, values, length in lists]
    order = max((values for _, values, _ in clean), key=len)
    kept = _lengths_of_beginnings(item.longest, bad)
    reads = []
    common = _common_length(clean[0][1], order)
    for number, length in zip(item.readers, item.versions, strict=True):
        if kept[length] <= common:
            reads.append((number, kept[length]))
    accused: set[int] = set()
    for number, values, length in clean:
        if values == order[: len(values)]:
            if number >= 0 and number != item.longest_by:
                reads.append((number, length))
        elif number not in accused:
            accused.add(number)
            words = f"{ledger.name(number)} read {item.name} = {shown(values)}, somebody else {shown(order)}: neither begins the other"
            ledger.accuse(Kind.INCOMPATIBLE_ORDER, [number], words)
    return order, reads


def _lengths_of_beginnings(values: list[Any], bad: set[Any]) -> list[int]:
    """How much of each beginning of `values` is left without bad ones and repetitions."""
    lengths = [0]
    seen = set(bad)
    for value in values:
        lengths.append(lengths[-1] + (value not in seen))
        seen.add(value)
    return lengths


def _clean(values: list[Any], bad: set[Any]) -> list[Any]:
    return list(dict.fromkeys(value for value in values if value not in bad))


def _common_length(one: list[Any], other: list[Any]) -> int:
    return next((index for index, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), min(len(one), len(other)))


def _connect_order(ledger: Ledger, item: Item, edges: Edges, order: list[Any]) -> None:
    newest: int | None = None
    newest_by = -1
    for index, value in enumerate(order):
        who = item.writers[value]
        if index and item.writers[order[index - 1]] != who:
            edges.add(item.writers[order[index - 1]], who, EdgeKind.WW, item.number, order[index - 1], value)
        commit = ledger.commits[who]
        if commit is not None:
            if newest is not None and commit < newest:
                late, early = f"{ledger.name(who)} (commit {commit})", f"{ledger.name(newest_by)} (commit {newest})"
                words = f"{item.name} has {value} of {late} behind a value of {early}"
                ledger.accuse(Kind.INCOMPATIBLE_ORDER, [newest_by, who], words)
            newest, newest_by = commit, who


def _connect_reads(ledger: Ledger, item: Item, edges: Edges, order: list[Any], reads: list[tuple[int, int]]) -> None:
    writers = [item.writers[value] for value in order]
    for number, length in reads:
        if length:
            value = order[length - 1]
            who = writers[length - 1]
            if who == number:
                words = f"{ledger.name(number)} read {value} in {item.name} before it appended it itself"
                ledger.accuse(Kind.INTERNAL, [number], words)
                continue
            edges.add(who, number, EdgeKind.WR, item.number, None, value)
            if value in item.intermediate:
                words = f"{ledger.name(number)} read {item.name} up to {value}, but {ledger.name(who)} appended more before it committed"
                ledger.accuse(Kind.G1B, [who, number], words)
                continue
        if length < len(order) and writers[length] != number:
            edges.add(number, writers[length], EdgeKind.RW, item.number, order[length - 1] if length else None, order[length])


def _ordered_by_commit(ledger: Ledger, item: Item, order: list[Any], unseen: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Appends nobody read, in commit order where that is known; one that belongs before a value that was read got lost."""
    commits = [commit for value in order if (commit := ledger.commits[item.writers[value]]) is not None]
    newest = max(commits, default=None)
    ordered = []
    for number, value in unseen:
        commit = ledger.commits[number]
        if commit is not None and newest is not None and commit < newest:
            words = (
                f"{ledger.name(number)} appended {value} to {item.name} with commit {commit}, and reads that show commit {newest} miss it"
            )
            ledger.accuse(Kind.LOST_APPEND, [number], words)
        elif commit is not None:
            ordered.append((commit, number, value))
    return [(number, value) for _, number, value in sorted(ordered, key=lambda one: one[0])]


def _connect_unseen(ledger: Ledger, item: Item, edges: Edges, last: Any, tail_readers: list[int], unseen: list[tuple[int, Any]]) -> None:
    """Appends nobody read and no index orders: behind the last version that was read and behind everybody who read it."""
    first = dict(reversed(unseen))
    if last is not None:
        for number, value in first.items():
            if number != item.writers[last]:
                edges.add(item.writers[last], number, EdgeKind.WW, item.number, last, value)
        first.pop(item.writers[last], None)
    rivals = first.keys() & set(tail_readers)
    edges.fan([number for number in tail_readers if number not in rivals], list(first.items()), item.number, last)
    blind = [(number, value) for number, value in first.items() if number not in rivals]
    edges.fan(sorted(rivals), blind, item.number, last)
