"""Bound statements by their text, shared by all sessions on one database.

Called by `core` at every statement. An entry depends on the very `Table` values its statement was bound against: DDL on them
makes it invalid, DDL elsewhere does not. A transaction with uncommitted DDL may use an entry that stands in its own catalog, but
never adds one. Texts of several statements and long texts are not kept.

Invariants: `find` takes no latch; an entry's statement and the catalog it was last found valid in change together, as one tuple.
Eviction is second chance: when the cache is full the oldest entry goes, unless it was used since it was last looked at.
"""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakKeyDictionary

from khonsu_engine.schema.catalog import Catalog
from khonsu_sql.sql.plan import Statement

__all__ = ["PlanCache", "plans_of"]

ENTRIES_MAX = 2_000
TEXT_CHARACTERS_MAX = 20_000


class _Entry:
    __slots__ = ("bound", "used")

    def __init__(self, statement: Statement, catalog: Catalog) -> None:
        self.bound = (statement, catalog)
        self.used = False


class PlanCache:
    """At most `entries_max` statements."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries: dict[str, _Entry] = {}
        self._latch = threading.Lock()
        self._entries_max = entries_max

    def find(self, text: str, catalog: Catalog) -> Statement | None:
        """The statement bound for `text`, if it stands in `catalog`."""
        entry = self._entries.get(text)
        if entry is None:
            return None
        statement, known = entry.bound
        if known is not catalog:
            if not _stands(statement, catalog):
                return None
            entry.bound = (statement, catalog)
        entry.used = True
        return statement

    def add(self, text: str, statement: Statement, catalog: Catalog) -> None:
        """Keep `statement`, bound against `catalog`, in place of an older one of that text; not one that reads what no catalog holds."""
        if len(text) > TEXT_CHARACTERS_MAX or not _stands(statement, catalog):
            return
        with self._latch:
            if text not in self._entries and len(self._entries) >= self._entries_max:
                self._evict()
            self._entries[text] = _Entry(statement, catalog)

    def _evict(self) -> None:
        for text in list(self._entries):
            entry = self._entries.pop(text)
            if not entry.used:
                return
            entry.used = False
            self._entries[text] = entry
        self._entries.pop(next(iter(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)


def _stands(statement: Statement, catalog: Catalog) -> bool:
    """Does `catalog` hold the very tables `statement` was bound against?"""
    tables = catalog.tables
    return all(tables.get((table.schema, table.name.casefold())) is table for table in statement.tables)


_caches: WeakKeyDictionary[Any, PlanCache] = WeakKeyDictionary()
_latch = threading.Lock()


def plans_of(database: Any) -> PlanCache:
    """The cache that all sessions on `database` share."""
    with _latch:
        return _caches.setdefault(database, PlanCache())


def _forget_parent() -> None:
    """In a forked child: the latch may be held by a thread that is not here."""
    global _latch
    _latch = threading.Lock()


os.register_at_fork(after_in_child=_forget_parent)
