"""Strongly connected components: where cycles are.

Called by `cycles` and `check`. Tarjan 1972, without recursion, on columns. Invariants: a component's number is greater than or equal to
those of all it leads to (reverse topological order), so a path never goes to a greater number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Columns", "adjacency", "components", "cyclic"]

Columns = np.ndarray[Any, np.dtype[Any]]


def adjacency(nodes: int, source: Columns, *ties: Columns) -> tuple[Columns, Columns]:
    """(offsets, edge numbers): the edges of node n are edges[offsets[n]:offsets[n + 1]], ordered by `ties`."""
    edges = np.lexsort((*reversed(ties), source))
    offsets = np.zeros(nodes + 1, np.int64)
    np.cumsum(np.bincount(source, minlength=nodes), out=offsets[1:])
    return offsets, edges


def components(nodes: int, source: Columns, target: Columns) -> list[int]:
    """Every node's component, numbered in reverse topological order."""
    offset_column, edges = adjacency(nodes, source)
    offsets, targets = offset_column.tolist(), target[edges].tolist()
    index = [0] * nodes  # the order of discovery from 1, 0 for not yet
    low = [0] * nodes
    result = [-1] * nodes
    following = offsets[:-1]
    stack: list[int] = []
    path: list[int] = []
    discovered = found = 0
    for root in range(nodes):
        if index[root]:
            continue
        path.append(root)
        while path:
            node = path[-1]
            if not index[node]:
                discovered += 1
                index[node] = low[node] = discovered
                stack.append(node)
            position, end, lowest = following[node], offsets[node + 1], low[node]
            while position < end:
                after = targets[position]
                position += 1
                if not index[after]:
                    path.append(after)
                    break
                if result[after] < 0 and low[after] < lowest:
                    lowest = low[after]
            low[node], following[node] = lowest, position
            if path[-1] != node:
                continue
            path.pop()
            if lowest == index[node]:
                while result[node] < 0:
                    result[stack.pop()] = found
                found += 1
            if path and lowest < low[path[-1]]:
                low[path[-1]] = lowest
    return result


def cyclic(nodes: int, source: Columns, target: Columns) -> Columns:
    """Every node's component, -1 for nodes that are on no cycle."""
    component = np.array(components(nodes, source, target), np.int64)
    if not nodes:
        return component
    sizes = np.bincount(component)
    component[sizes[component] < 2] = -1
    return component
