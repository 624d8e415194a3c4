"""Short ways to write histories down, and the only judge that needs no theory: trying all serial orders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, permutations
from typing import Any, NamedTuple

from khonsu_sql.checker import Append, Level, Read, ReadList, Scan, Status, Transaction, Write
from khonsu_sql.checker.keys import contains


class Bad(NamedTuple):
    """`classes`: exactly these are found; `strongest`: the level that still allows them."""

    story: str
    classes: set[str]
    strongest: Level | None
    history: list[Transaction]


def t(
    name: int,
    *operations: Any,
    at: tuple[int, int] | None = None,
    process: int | None = None,
    status: str = "committed",
    commit: int | None = None,
) -> Transaction:
    """A transaction that overlaps all others, in a process of its own, unless it says otherwise."""
    begin, end = at or (name, 1000 + name)
    return Transaction(name, name if process is None else process, Status(status), begin, list(operations), end, commit)


def append(key: str, value: int) -> Append:
    return Append(key, value)


def values(key: str, *found: int) -> ReadList:
    return ReadList(key, list(found))


def write(key: str, value: int | None) -> Write:
    return Write(key, value)


def read(key: str, value: int | None) -> Read:
    return Read(key, value)


def scan(range_: Any, **found: Any) -> Scan:
    return Scan(range_, found)


# --- brute force


def is_serializable(history: Sequence[Transaction], *, commit_order: bool = False) -> bool:
    """Is there a serial order that explains every read? Unknown transactions may be part of it or not."""
    certain = [one for one in history if one.status is Status.COMMITTED]
    unknown = [one for one in history if one.status is Status.UNKNOWN]
    return any(
        explains(order) and (not commit_order or follows_commits(order))
        for count in range(len(unknown) + 1)
        for chosen in combinations(unknown, count)
        for order in permutations([*certain, *chosen])
    )


def explains(order: Iterable[Transaction]) -> bool:
    """Would these transactions, one after another, have read what they read?"""
    state: dict[str, Any] = {}
    return all(step(state, operation) for transaction in order for operation in transaction.operations)


def step(state: dict[str, Any], operation: Any) -> bool:
    """Do it; False if a read should have found something else."""
    match operation:
        case Append(key=key, value=value):
            state[key] = [*state.get(key, []), value]
        case Write(key=key, value=None):
            state.pop(key, None)
        case Write(key=key, value=value):
            state[key] = value
        case ReadList(key=key, values=found):
            return bool(state.get(key, []) == found)
        case Read(key=key, value=found):
            return bool(state.get(key) == found)
        case Scan(range=range_, found=found):
            return {key: value for key, value in state.items() if contains(range_, key)} == found
    return True


def follows_commits(order: Iterable[Transaction]) -> bool:
    """Is every key written in the order of the commit indexes?"""
    last: dict[str, int] = {}
    for transaction in order:
        for operation in transaction.operations:
            if isinstance(operation, Write):
                assert transaction.commit is not None
                if last.get(operation.key, 0) > transaction.commit:
                    return False
                last[operation.key] = transaction.commit
    return True
