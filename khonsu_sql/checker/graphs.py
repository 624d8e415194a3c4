"""A graph of dependencies as NumPy columns, and shortest paths in it.

Made by `cycles` of `Edges`, restricted to what is on cycles. Invariants: nodes are dense; `label` is the node's number in `Edges`, `edge`
each edge's; the length of a path is the number of transactions on it, hubs and moments count nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from khonsu_sql.checker.components import Columns, adjacency, cyclic
from khonsu_sql.checker.edges import EdgeKind, Edges

__all__ = ["Graph", "Paths", "graph_of_cycles"]


class Graph(NamedTuple):
    """Columns by edge: source, target, kind, edge. Columns by node: label, and whether it is a transaction (`real`)."""

    source: Columns
    target: Columns
    kind: Columns
    edge: Columns
    label: Columns
    real: Columns

    def only(self, kinds: Iterable[EdgeKind]) -> Graph:
        """The same nodes with the edges of these kinds."""
        mask = np.isin(self.kind, list(kinds))
        return self._replace(source=self.source[mask], target=self.target[mask], kind=self.kind[mask], edge=self.edge[mask])

    def cyclic(self) -> Columns:
        return cyclic(len(self.label), self.source, self.target)

    def without_adjacent(self) -> Graph:
        """Two nodes for each: n, and n + nodes for "reached by an anti-dependency", which no second one leaves (Fekete et al. 2005)."""
        nodes = len(self.label)
        anti = np.isin(self.kind, (EdgeKind.RW, EdgeKind.PREDICATE_RW))
        link = self.kind == EdgeKind.LINK
        plain = ~anti & ~link
        pick = np.concatenate([np.flatnonzero(plain), np.flatnonzero(plain), np.flatnonzero(anti), np.flatnonzero(link)])
        second = np.repeat([0, 1, 0, 1], [plain.sum(), plain.sum(), anti.sum(), link.sum()]) * nodes
        behind = np.repeat([0, 0, 1, 1], [plain.sum(), plain.sum(), anti.sum(), link.sum()]) * nodes
        return Graph(
            self.source[pick] + second,
            self.target[pick] + behind,
            self.kind[pick],
            self.edge[pick],
            np.concatenate([self.label, self.label]),
            np.concatenate([self.real, self.real]),
        )


def graph_of_cycles(edges: Edges, transactions: int) -> Graph | None:
    """What is on cycles at all, or None when nothing is, the usual case."""
    source, target = (np.frombuffer(column, np.int32).astype(np.int64) for column in (edges.source, edges.target))
    kind = np.frombuffer(edges.kind, np.int8)
    component = cyclic(edges.nodes, source, target)
    inside = np.flatnonzero((component[source] >= 0) & (component[source] == component[target]))
    if not len(inside):
        return None
    label = np.unique(source[inside])
    places = np.searchsorted(label, source[inside]), np.searchsorted(label, target[inside])
    return Graph(*places, kind[inside], inside, label, label < transactions)


class Paths:
    """Shortest paths in one graph; `steps` counts the work."""

    def __init__(self, graph: Graph) -> None:
        offsets, order = adjacency(len(graph.label), graph.source, graph.kind)
        self._offsets = offsets.tolist()
        self._targets = graph.target[order].tolist()
        self._edges = graph.edge[order].tolist()
        self._real = graph.real.tolist()
        self.steps = 0

    def shortest(self, start: int, goal: int, length_max: int, allowed: Callable[[int], bool]) -> list[int] | None:
        """The edges of the shortest path with at most `length_max` transactions behind `start`, over allowed nodes."""
        came: dict[int, tuple[int, int]] = {start: (-1, -1)}
        distance = {start: 0}
        waiting = deque([start])
        done = set()
        while waiting:
            node = waiting.popleft()
            if node in done:
                continue
            done.add(node)
            if node == goal:
                break
            length = distance[node]
            for position in range(self._offsets[node], self._offsets[node + 1]):
                after = self._targets[position]
                further = length + self._real[after]
                self.steps += 1
                if further > length_max or further >= distance.get(after, length_max + 1) or not allowed(after):
                    continue
                distance[after] = further
                came[after] = (node, self._edges[position])
                if self._real[after]:
                    waiting.append(after)
                else:
                    waiting.appendleft(after)
        return _walk_back(came, goal) if goal in done else None


def _walk_back(came: dict[int, tuple[int, int]], node: int) -> list[int]:
    found = []
    while came[node][0] >= 0:
        node, edge = came[node]
        found.append(edge)
    return found[::-1]
