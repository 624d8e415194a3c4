"""What a transaction will write: rows by key, bulk files, and its own DDL; with the way back to any savepoint.

Part of `transaction`. Invariants: the dicts are the same objects for good, because the transaction reads them on every path; every
change appends to `undo` first how it is taken back. A single write is undone by itself; what is rare and touches much (bulk
writes, DDL) by a copy of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from khonsu_engine.commands import Bulk, Key, Operation, TableId, Write

if TYPE_CHECKING:
    from khonsu_engine.columns.segment import Segment
    from khonsu_engine.columns.table_version import TableVersion
    from khonsu_engine.schema.catalog import Table

__all__ = ["WriteSet"]


class WriteSet:
    """`rows`: table -> key -> write; `bulk`: table -> bulk writes in order; `definitions`: what DDL made of a name (None: dropped);
    `created`: the tables made here, by id; `dropped`: the ids of older ones."""

    __slots__ = ("bulk", "created", "definitions", "dropped", "rows", "undo")

    def __init__(self) -> None:
        self.rows: dict[TableId, dict[Key, Write]] = {}
        self.bulk: dict[TableId, list[Bulk]] = {}
        self.created: dict[TableId, TableVersion] = {}
        self.dropped: set[TableId] = set()
        self.definitions: dict[tuple[str, str], Table | None] = {}
        self.undo: list[Any] = []

    @property
    def parts(self) -> tuple[Bulk, ...]:
        """All bulk writes."""
        return tuple(part for parts in self.bulk.values() for part in parts)

    def keep(self) -> None:
        """Before a change that is no single write."""
        rows = {table: dict(by_key) for table, by_key in self.rows.items()}
        bulk = {table: list(parts) for table, parts in self.bulk.items()}
        self.undo.append((rows, bulk, dict(self.created), set(self.dropped), dict(self.definitions)))

    def inserted_since(self, mark: int) -> list[tuple[TableId, Key]]:
        """The keys that were found free, and written, since `len(undo)` was `mark`."""
        found = [entry[:2] for entry in self.undo[mark:] if len(entry) == 3 and entry[2] is None]
        return [(table, key) for table, key in found if key in self.rows.get(table, ()) and self.rows[table][key].before is None]

    def rollback_to(self, mark: int) -> tuple[Bulk, ...]:
        """Back to where `len(undo)` was `mark`. Returns the bulk writes that went."""
        before = self.parts
        while len(self.undo) > mark:
            entry = self.undo[-1]  # taken off last: an interrupt between repeats it
            if len(entry) == 3:
                self._take_back(*entry)
            else:
                self._restore(*entry)
            self.undo.pop()
        kept = {id(part) for part in self.parts}
        return tuple(part for part in before if id(part) not in kept)

    def replace_deletions(self, table: TableId, segments: Sequence[Segment]) -> None:
        """A key deleted here and written again in bulk is updated: own writes lie over own bulk rows, so the deletion must not stay."""
        by_key = self.rows.get(table, {})
        for key, write in [(key, write) for key, write in by_key.items() if write.row is None]:
            for segment in segments:
                row = segment.get(key)
                if row is not None:
                    operation = Operation.INSERT if write.before is None else Operation.UPDATE
                    by_key[key] = Write(operation, key, row, write.before, write.base)

    def _take_back(self, table: TableId, key: Key, earlier: Write | None) -> None:
        by_key = self.rows.get(table, {})
        if earlier is not None:
            by_key[key] = earlier
            return
        by_key.pop(key, None)
        if not by_key:
            self.rows.pop(table, None)

    def _restore(self, rows: Any, bulk: Any, created: Any, dropped: Any, definitions: Any) -> None:
        for kept, now in ((rows, self.rows), (bulk, self.bulk), (created, self.created), (definitions, self.definitions)):
            now.clear()
            now.update({name: value.copy() if isinstance(value, dict | list) else value for name, value in kept.items()})
        self.dropped.clear()
        self.dropped.update(dropped)
