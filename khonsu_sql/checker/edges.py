"""Dependencies between transactions, as columns.

Filled by `lists`, `registers`, `ranges` and `orders`, read by `cycles` and `words`.
Nodes are numbers: transactions first, behind them nodes that stand for no transaction: a *hub* lets many readers point at many writers, a
*moment* is a point of real time. Both keep the number of edges linear where a naive graph has one for each pair.
Invariants: no edge from a transaction to itself; a hub is reached only by RW, PREDICATE_RW and LINK, left only by LINK; values name
versions (each is written once per key), None is the state before the first write or a deletion.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import Any

__all__ = ["EdgeKind", "Edges"]


class EdgeKind(IntEnum):
    """Why one transaction comes before another (Adya 1999, section 3.1). The order is the order of preference between parallel edges."""

    WW = 0
    WR = 1
    PROCESS = 2
    REALTIME = 3
    RW = 4
    PREDICATE_RW = 5
    LINK = 6


class Edges:
    """`add` keeps one edge; `source`, `target`, `kind` are parallel columns, and so are item, old and new, which only explanations need."""

    def __init__(self, transactions: int) -> None:
        self.nodes = transactions
        self.source = array("i")
        self.target = array("i")
        self.kind = array("b")
        self.item = array("i")
        self.old: list[Any] = []
        self.new: list[Any] = []

    def new_nodes(self, count: int) -> int:
        """Room for that many hubs or moments; the number of the first."""
        self.nodes += count
        return self.nodes - count

    def add(self, source: int, target: int, kind: EdgeKind, item: int, old: Any, new: Any) -> None:
        """`source` comes before `target`: `old` is the version overwritten or read, `new` the one written (`item`: its key's number)."""
        self.source.append(source)
        self.target.append(target)
        self.kind.append(kind)
        self.item.append(item)
        self.old.append(old)
        self.new.append(new)

    def fan(self, readers: list[int], writers: list[tuple[int, Any]], item: int, old: Any) -> None:
        """Every reader of `old` comes before every writer, but for itself; linear in both as soon as that is more than a few."""
        if len(readers) * len(writers) <= len(readers) + len(writers) + 8:
            for reader in readers:
                for writer, new in writers:
                    if reader != writer:
                        self.add(reader, writer, EdgeKind.RW, item, old, new)
            return
        # Hub i leads to writers i, i + 1, …; mirrored, mirror i to writers i, i - 1, …: a reader that writes too goes round itself.
        place = {writer: index for index, (writer, _) in enumerate(writers)}
        count = len(writers)
        down, up = self.new_nodes(count), self.new_nodes(count)
        for index, (writer, new) in enumerate(writers):
            self.add(down + index, writer, EdgeKind.LINK, item, old, new)
            self.add(up + index, writer, EdgeKind.LINK, item, old, new)
            if index:
                self.add(down + index - 1, down + index, EdgeKind.LINK, item, old, None)
                self.add(up + index, up + index - 1, EdgeKind.LINK, item, old, None)
        for reader in readers:
            own = place.get(reader)
            if own is None:
                self.add(reader, down, EdgeKind.RW, item, old, None)
                continue
            if own + 1 < count:
                self.add(reader, down + own + 1, EdgeKind.RW, item, old, None)
            if own:
                self.add(reader, up + own - 1, EdgeKind.RW, item, old, None)
