"""Cycles of dependencies, named after Adya: which orders of transactions are impossible.

Called by `check` with all edges. For each variant (dependencies alone, then with the order in processes, then with real time) and each
class: components of the graph with the edges of that class, and in each of them the smallest cycle among those tried.
Invariants: every component of a variant yields at least one cycle, so the verdict is exact, also when `STEPS_MAX` ends the search for the
best example and a G-single may be told as G-nonadjacent. A component with a cycle told in an earlier variant is not told again.
The classes: G0 only WW; G1c WW and WR; G-single exactly one anti-dependency; G-nonadjacent several, no two in succession, which snapshot
isolation does not allow either (Fekete et al. 2005); G2-item two in succession; G2 with a predicate among them.
Source: Adya 1999 chapter 4; Kingsbury & Alvaro 2020 section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np

from khonsu_sql.checker.components import Columns, components
from khonsu_sql.checker.edges import EdgeKind, Edges
from khonsu_sql.checker.graphs import Graph, Paths, graph_of_cycles
from khonsu_sql.checker.levels import Kind, Variant

__all__ = ["Cycle", "Step", "find_cycles"]

TRIES = 32
STEPS_MAX = 20_000_000

DATA = (EdgeKind.WW, EdgeKind.WR, EdgeKind.RW, EdgeKind.PREDICATE_RW, EdgeKind.LINK)
ANTI = (EdgeKind.RW, EdgeKind.PREDICATE_RW)
ORDERS = {
    Variant.PLAIN: (),
    Variant.PROCESS: (EdgeKind.PROCESS,),
    Variant.REALTIME: (EdgeKind.PROCESS, EdgeKind.REALTIME),
}


class Step(NamedTuple):
    """One transaction before another: `edge` says how it begins, `last` (behind hubs or moments) what the other one did."""

    source: int
    target: int
    kind: EdgeKind
    edge: int
    last: int


class Cycle(NamedTuple):
    """Each step begins where the one before it ended, the first where the last one ended."""

    kind: Kind
    variant: Variant
    steps: list[Step]


def find_cycles(edges: Edges, transactions: int) -> list[Cycle]:
    """At least one cycle of each component and class."""
    graph = graph_of_cycles(edges, transactions)
    found: list[Cycle] = []
    if graph is None:
        return found
    told = np.zeros(len(graph.label), bool)
    for variant, orders in ORDERS.items():
        search = _Search(edges, transactions, graph.only((*DATA, *orders)), variant, told)
        search.run()
        found += search.found
        numbers = [step.source for cycle in search.found for step in cycle.steps]
        told |= np.isin(graph.label, numbers)
    return found


def _classify(steps: list[Step]) -> Kind:
    anti = [step.kind in ANTI for step in steps]
    if sum(anti) == 0:
        return Kind.G1C if any(step.kind is EdgeKind.WR for step in steps) else Kind.G0
    if sum(anti) == 1:
        return Kind.G_SINGLE
    if not any(one and other for one, other in zip(anti, anti[1:] + anti[:1], strict=True)):
        return Kind.G_NONADJACENT
    return Kind.G2 if any(step.kind is EdgeKind.PREDICATE_RW for step in steps) else Kind.G2_ITEM


class _Search:
    """The cycles of one variant."""

    def __init__(self, edges: Edges, transactions: int, graph: Graph, variant: Variant, told: Columns) -> None:
        self.found: list[Cycle] = []
        self._edges, self._transactions, self._graph, self._variant, self._told = edges, transactions, graph, variant, told
        self._steps = 0

    def run(self) -> None:
        orders = ORDERS[self._variant]
        whole = self._untold(self._graph, self._graph.cyclic())
        if (whole < 0).all():
            return
        self._dependencies((EdgeKind.WW, *orders), EdgeKind.WW)
        self._dependencies((EdgeKind.WW, EdgeKind.WR, *orders), EdgeKind.WR)
        self._without_adjacent(orders)
        self._everything(whole)

    def _untold(self, graph: Graph, component: Columns) -> Columns:
        """`component` without those that contain something that was told in an earlier variant."""
        told = np.resize(self._told, len(component))
        old = np.unique(component[told])
        return np.where(np.isin(component, old[old >= 0]), -1, component)

    def _candidates(
        self, graph: Graph, component: Columns, kinds: tuple[EdgeKind, ...]
    ) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
        """(component, its edges of these kinds as (source, target, edge), those between near transactions first)."""
        inside = (component[graph.source] >= 0) & (component[graph.source] == component[graph.target]) & np.isin(graph.kind, kinds)
        gap = np.abs(graph.label[graph.source] - graph.label[graph.target])
        places = np.flatnonzero(inside)
        places = places[np.lexsort((gap[places], component[graph.source[places]]))]
        rows = zip(
            component[graph.source[places]].tolist(),
            graph.source[places].tolist(),
            graph.target[places].tolist(),
            graph.edge[places].tolist(),
            strict=True,
        )
        for number, group in groupby(rows, key=lambda row: row[0]):
            yield number, [row[1:] for row in group]

    def _dependencies(self, kinds: tuple[EdgeKind, ...], needed: EdgeKind) -> None:
        """G0 and G1c: cycles with an edge of the kind that is needed."""
        graph = self._graph.only(kinds)
        component = self._untold(graph, graph.cyclic())
        inside = component.tolist()
        paths = Paths(graph)
        for number, candidates in self._candidates(graph, component, (needed,)):
            best = self._smallest(paths, candidates[:TRIES], lambda node, number=number: inside[node] == number)  # type: ignore[misc]
            if best is not None:
                self._tell(best)

    def _without_adjacent(self, orders: tuple[EdgeKind, ...]) -> None:
        """G-single where there is one, else a cycle with several anti-dependencies of which no two follow each other."""
        double = self._graph.without_adjacent()
        component = self._untold(double, double.cyclic())
        if (component < 0).all():
            return
        plain = self._graph.only((EdgeKind.WW, EdgeKind.WR, EdgeKind.LINK, *orders))
        rank = components(len(plain.label), plain.source, plain.target)
        paths, double_paths = Paths(plain), Paths(double)
        inside = component.tolist()
        nodes = len(plain.label)
        for number, candidates in self._candidates(double, component, ANTI):
            near = [(source, target - nodes, edge) for source, target, edge in candidates if rank[target - nodes] >= rank[source]]
            best = self._smallest_single(paths, near, rank)
            if best is None:
                best = self._smallest(double_paths, candidates[:TRIES], lambda node, number=number: inside[node] == number)  # type: ignore[misc]
            if best is not None:
                self._tell(best)

    def _smallest_single(self, paths: Paths, candidates: list[tuple[int, int, int]], rank: list[int]) -> list[int] | None:
        """One anti-dependency and a way back without any; ranks fall along a way, so what is below the goal's is not on it."""
        for place, (source, target, edge) in enumerate(candidates):
            lowest = rank[source]
            allowed: Callable[[int], bool] = lambda node, lowest=lowest: rank[node] >= lowest  # type: ignore[misc]  # noqa: E731
            before = paths.steps
            back = paths.shortest(target, source, len(rank), allowed)
            self._steps += paths.steps - before
            if back is not None:
                rest = self._smallest(paths, candidates[place + 1 : place + TRIES], lambda _: True, [edge, *back])
                return rest or [edge, *back]
            if self._steps > STEPS_MAX:
                break
        return None

    def _everything(self, whole: Columns) -> None:
        """G2 and G2-item, and whatever else is the only thing to tell of a component."""
        graph = self._graph
        paths = Paths(graph)
        inside = whole.tolist()
        has_told = {inside[node] for node in np.flatnonzero(np.isin(graph.label, self._numbers_found())).tolist()}
        for number, candidates in self._candidates(graph, whole, ANTI):
            best: dict[Kind, list[int]] = {}
            for candidate in candidates[:TRIES]:
                cycle = self._smallest(paths, [candidate], lambda node, number=number: inside[node] == number)  # type: ignore[misc]
                if cycle is not None:
                    kind = _classify(self._compress(cycle))
                    if kind not in best or self._length(cycle) < self._length(best[kind]):
                        best[kind] = cycle
                if self._steps > STEPS_MAX:
                    break
            for kind, cycle in sorted(best.items()):
                if kind in (Kind.G2, Kind.G2_ITEM) or number not in has_told:
                    self._tell(cycle)

    def _numbers_found(self) -> list[int]:
        return [step.source for cycle in self.found for step in cycle.steps]

    def _smallest(
        self, paths: Paths, candidates: list[tuple[int, int, int]], allowed: Callable[[int], bool], best: list[int] | None = None
    ) -> list[int] | None:
        """The cycle of fewest transactions through one of these edges, if it is smaller than `best`."""
        length = self._length(best) if best else len(self._graph.label) + 1
        for source, target, edge in candidates:
            if length == 2 or (best and self._steps > STEPS_MAX):
                break
            before = paths.steps
            back = paths.shortest(target, source, length, allowed)
            self._steps += paths.steps - before
            if back is not None and (best is None or self._length([edge, *back]) < length):
                best = [edge, *back]
                length = self._length(best)
        return best

    def _length(self, cycle: list[int]) -> int:
        return sum(self._edges.source[edge] < self._transactions for edge in cycle)

    def _compress(self, cycle: list[int]) -> list[Step]:
        """The steps from transaction to transaction."""
        steps = []
        begin = cycle[0]
        for edge in cycle:
            if self._edges.source[edge] < self._transactions:
                begin = edge
            target = self._edges.target[edge]
            if target < self._transactions:
                steps.append(Step(self._edges.source[begin], target, EdgeKind(self._edges.kind[begin]), begin, edge))
        return steps

    def _tell(self, cycle: list[int]) -> None:
        steps = self._compress(cycle)
        self.found.append(Cycle(_classify(steps), self._variant, steps))
