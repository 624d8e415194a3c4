"""The names in force while a statement is bound: relations, scopes, and every place where a base table is read.

Data for `resolve`, `from_items`, `queries`, `pushdown` and the rooms of writes; mutable while one statement is bound, then gone.

Invariants: an `Occurrence` is one reference to a base table in the text, with its own name in the generated query; its columns only
grow, its filters are only those that `pushdown` proved harmless. A hidden column is in no `Relation.columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from khonsu_engine.commands import ALL_COLUMNS
from khonsu_engine.mvcc.predicates import Predicate, conjunction
from khonsu_engine.schema.catalog import Catalog, Table
from khonsu_sql.sql.names import UNKNOWN, UNNAMED
from khonsu_sql.sql.plan import PlannedRead, Source
from khonsu_sql.sql.system import is_content, is_view

__all__ = ["Binding", "Content", "Ctes", "Hit", "JoinStep", "Occurrence", "Relation", "Scope", "columns_by_name"]


@dataclass(eq=False, slots=True)
class Occurrence:
    """One place where the statement reads `table` (a base table or a system view), as `name` in DuckDB's text.

    columns  bit mask of those used;  whole  all of them, or not exactly known
    filters  all of which every row that matters satisfies
    """

    name: str
    table: Table
    columns: int = 0
    whole: bool = False
    filters: list[Predicate] = field(default_factory=list)

    def source(self) -> Source:
        columns = ALL_COLUMNS if self.whole else self.columns
        return Source(self.name, PlannedRead(self.table, columns, conjunction(tuple(self.filters))), self.projection())

    def projection(self) -> tuple[int, ...]:
        """Columns served, in catalog order: those used (hidden ones only if used), at least one."""
        table = self.table
        shown = table.visible if self.whole else ()
        positions = {*shown, *(number for number in range(len(table.columns)) if self.columns >> number & 1)}
        return tuple(sorted(positions)) or (min(table.key_columns) if not table.has_row_id else 0,)


@dataclass(eq=False, slots=True)
class Relation:
    """One item of a FROM clause.

    alias       folded name, "" for none
    columns     folded name -> ordinal (of a base table: position in the catalog)
    names       in order, as `*` shows them
    open        it may have columns we do not know
    occurrence  of a base table
    nullable    an outer join may fill it with NULLs;  pinned  no filter may thin it out (samples, ASOF, …)
    semi        the right side of a SEMI or ANTI join: named in its ON only
    """

    alias: str
    columns: dict[str, int]
    names: list[str]
    open: bool = False
    occurrence: Occurrence | None = None
    nullable: bool = False
    pinned: bool = False
    semi: bool = False


Hit = tuple[Relation, int]
"""A column of a relation, by its ordinal."""


@dataclass(eq=False, slots=True)
class JoinStep:
    """One join, of the relations to its left and right. `kind`: inner, left, right, full, semi, anti, or other (filters nothing)."""

    kind: str
    left: list[Relation]
    right: list[Relation]
    on: Any = None
    using: list[tuple[Hit, Hit]] = field(default_factory=list)


Content = Callable[[str], Table | None]
"""Key of a batch -> what describes it as a table, or None."""

Ctes = Mapping[str, list[str]]
"""Folded name of each visible CTE -> names of its columns."""


@dataclass(eq=False, slots=True)
class Scope:
    """The names one query block sees: its relations, the aliases of its select list, and what is around it.

    merged  folded name of each USING column -> the columns that were merged; None when their values may differ (RIGHT, FULL)
    natural a NATURAL join merges columns we do not compute
    """

    outer: Scope | None
    ctes: Ctes
    relations: list[Relation] = field(default_factory=list)
    aliases: set[str] = field(default_factory=set)
    merged: dict[str, list[Hit] | None] = field(default_factory=dict)
    natural: bool = False
    steps: list[JoinStep] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Binding:
    """The state of binding one statement.

    sql     the whole text, for carets;  taken  folded names a generated source must not have
    locals  folded names of lambda parameters;  hits  id(column node) -> what it names in its own scope
    query   binds a query node inside a scope: `queries.bind_query`
    content key -> the batch under it as a table, or None
    done    id(table node) of those that were looked at;  scopes  id(SELECT node) -> its scope
    """

    catalog: Catalog
    sql: str
    query: Callable[[Any, Scope | None, Ctes], list[str]]
    content: Content
    taken: set[str] = field(default_factory=set)
    locals: set[str] = field(default_factory=set)
    occurrences: list[Occurrence] = field(default_factory=list)
    hits: dict[int, list[Hit]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    scopes: dict[int, Scope] = field(default_factory=dict)

    def occurrence(self, table: Table) -> Occurrence:
        """A new one, under a name nobody else uses."""
        number = len(self.occurrences) + 1
        while f"k{number}" in self.taken:
            number += 1
        found = Occurrence(f"k{number}", table)
        self.taken.add(found.name)
        self.occurrences.append(found)
        return found

    @property
    def tables(self) -> tuple[Table, ...]:
        """The base tables read, each once. System views stand in no catalog and never change, but for the contents of batches."""
        read = [occurrence.table for occurrence in self.occurrences]
        return tuple({table.id: table for table in read if not is_view(table) or is_content(table)}.values())


def columns_by_name(names: list[str]) -> dict[str, int]:
    """Ordinals by folded name; of equal names the first, as DuckDB numbers the others."""
    found: dict[str, int] = {}
    for number, name in enumerate(names):
        if name not in (UNKNOWN, UNNAMED):
            found.setdefault(name.casefold(), number)
    return found
