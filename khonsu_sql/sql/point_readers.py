"""How a point function reads a row, an entry, a range: code for it inside a transaction, and on the last durable state without one.

Called by `point` and `point_scan`, which put the pieces into their loops.
"""

from __future__ import annotations

from collections.abc import Sequence

from khonsu_sql.sql.point_access import Access

__all__ = ["PINNED", "Alone", "Inside", "Unrecorded"]

PINNED = (
    "tables = state.tables",
    "timestamp = state.durable",
    "if tables is not state.tables: raise FALLBACK",
)
"""A snapshot without registering it: the table versions, and a timestamp that was durable while they were the newest."""


class Inside:
    """Reading in a transaction."""

    checked = False

    def __init__(self, masks: Sequence[int]) -> None:
        self.masks = masks

    def record(self, access: Access) -> list[str]:
        source = access.choice.source
        return [f"transaction.record({access.table.id}, EVERY_KEY, filter{source}, {self.masks[source]})"]

    def row(self, access: Access, key: str, recorded: bool = False) -> str:
        if recorded:
            return f"transaction.peek({access.table.id}, {key})"
        return f"transaction.get({access.table.id}, {key}, columns={self.masks[access.choice.source]})"

    def entry(self, access: Access, key: str) -> str:
        assert access.index is not None
        return f"transaction.get({access.index.id}, {key})"

    def rows(self, access: Access, reverse: bool) -> str:
        source = access.choice.source
        return f"transaction.rows({access.table.id}, {access.bounds}, filter{source}, columns={self.masks[source]}, reverse={reverse})"

    def entries(self, access: Access, reverse: bool, recorded: bool) -> str:
        assert access.index is not None
        return f"transaction.rows({access.index.id}, {access.bounds}, {None if recorded else 'ALL'}, reverse={reverse})"


class Unrecorded(Inside):
    """Reading in a transaction what somebody else will record, or nobody."""

    def record(self, access: Access) -> list[str]:
        return []

    def row(self, access: Access, key: str, recorded: bool = False) -> str:
        return super().row(access, key, recorded=True)

    def entry(self, access: Access, key: str) -> str:
        assert access.index is not None
        return f"transaction.peek({access.index.id}, {key})"

    def rows(self, access: Access, reverse: bool) -> str:
        return f"transaction.rows({access.table.id}, {access.bounds}, None, reverse={reverse})"

    def entries(self, access: Access, reverse: bool, recorded: bool) -> str:
        return super().entries(access, reverse, recorded=True)


class Alone:
    """Reading the last durable state."""

    checked = True

    def record(self, access: Access) -> list[str]:
        return []

    def row(self, access: Access, key: str, recorded: bool = False) -> str:
        return f"find{access.choice.source}({key}, timestamp)"

    def entry(self, access: Access, key: str) -> str:
        assert access.index is not None
        return f"tables[{access.index.id}].get({key}, timestamp)"

    def rows(self, access: Access, reverse: bool) -> str:
        return f"tables[{access.table.id}].rows(timestamp, {access.bounds}, reverse={reverse})"

    def entries(self, access: Access, reverse: bool, recorded: bool) -> str:
        assert access.index is not None
        return f"tables[{access.index.id}].rows(timestamp, {access.bounds}, reverse={reverse})"
