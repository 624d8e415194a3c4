"""What a transaction has read: keys with columns, predicates, and the guards among them.

Part of `transaction`, which records before it reads. Invariants: what a statement of the user read stays read, also when a savepoint is
rolled back; only a statement that starts again inside the engine, unseen, takes its own reads back (`restore`), but for columns
by which it widened an older read of the same key. `keys` is one dict for good: the transaction writes into it itself.
"""

from __future__ import annotations

from collections.abc import Collection

from khonsu_engine.commands import Key, ReadPredicate, TableId

__all__ = ["ReadMark", "ReadSet"]

ReadMark = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""How many predicates, guards, and keys of each table there were. Dicts keep the order of insertion."""

Keys = dict[TableId, dict[Key, int]]


class ReadSet:
    """`keys`, `guard_keys`: table -> key -> columns read; `predicates`, `guards`: everything that is not a point."""

    __slots__ = ("guard_keys", "guards", "keys", "predicates")

    def __init__(self) -> None:
        self.keys: Keys = {}
        self.predicates: list[ReadPredicate] = []
        self.guards: list[ReadPredicate] = []
        self.guard_keys: Keys = {}

    @property
    def empty(self) -> bool:
        """Is there nothing to validate?"""
        return not (self.keys or self.predicates or self.guards or self.guard_keys)

    def forget(self, tables: Collection[TableId]) -> None:
        """Nothing was read in `tables`, which exist no more and never did for anybody else. Marks made before are void."""
        self.predicates[:] = [read for read in self.predicates if read.table not in tables]
        self.guards[:] = [read for read in self.guards if read.table not in tables]
        for table in tables:
            self.keys.pop(table, None)
            self.guard_keys.pop(table, None)

    def restore(self, mark: ReadMark) -> None:
        """Forget what was added since `mark`."""
        predicates, guards, keys, guard_keys = mark
        del self.predicates[predicates:]
        del self.guards[guards:]
        _shorten(self.keys, keys)
        _shorten(self.guard_keys, guard_keys)


def _shorten(keys: Keys, sizes: tuple[int, ...]) -> None:
    while len(keys) > len(sizes):
        keys.popitem()
    for by_key, size in zip(keys.values(), sizes, strict=True):
        while len(by_key) > size:
            by_key.popitem()
