"""What a simple statement says, with every column resolved: the hand-over from `bind` to the point path's compiler.

Made by `expressions` (out of sqlglot's tree, which ends there) and kept on `plan.Statement.shape`; read by `point`, which compiles what it
can reproduce exactly, and by `predicates`. Immutable values; no sqlglot object, no SQL text. A statement that is more than one
SELECT block over base tables, or an INSERT, UPDATE or DELETE of one table, has no shape. What an expression cannot say in these
words is `Opaque`: whoever meets one falls back to DuckDB.

Invariants: `ColumnRef.source` counts `Shape.sources`; a literal has DuckDB's type (`TEXT_LITERAL` takes the other side's);
nothing was simplified, so an error DuckDB would raise can be raised as well.
"""

from __future__ import annotations

from typing import Any

import msgspec

from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import SqlType

__all__ = [
    "Call",
    "CastTo",
    "ColumnRef",
    "Constant",
    "Expression",
    "Merged",
    "Opaque",
    "Operation",
    "OrderItem",
    "Output",
    "Parameter",
    "Shape",
    "ShapeSource",
]


class ColumnRef(msgspec.Struct, frozen=True):
    """Column `column` (position in the catalog) of the `source`-th table of the statement."""

    source: int
    column: int


class Merged(msgspec.Struct, frozen=True):
    """A column that JOIN … USING made one of several: equal in all of them where none was filled with NULLs."""

    columns: tuple[ColumnRef, ...]


class Constant(msgspec.Struct, frozen=True):
    """A literal. `type`: INTEGER, BIGINT, HUGEINT, DECIMAL(p,s), DOUBLE, BOOLEAN, BLOB; None for NULL and for text in quotes,
    which takes the type of what it meets."""

    value: Any
    type: SqlType | None = None


class Parameter(msgspec.Struct, frozen=True):
    """The `index`-th normalised parameter; its type is that of the value given."""

    index: int


class CastTo(msgspec.Struct, frozen=True):
    """CAST(operand AS type); an error if it cannot be done."""

    operand: Expression
    type: SqlType


class Operation(msgspec.Struct, frozen=True):
    """An operator.

    Two operands: `+ - * / % || = <> < <= > >=` and `is not distinct from`. One: `neg`, `not`, `is null`, `is true`, `is false`.
    Any number: `and`, `or` (flattened, at least two), `in` (the first is the value, the rest is the list).
    BETWEEN is an `and`.
    """

    name: str
    operands: tuple[Expression, ...]


class Call(msgspec.Struct, frozen=True):
    """A function or aggregate by its folded SQL name (`count(*)` is `count` of nothing). Windows and FILTER are `Opaque`."""

    name: str
    operands: tuple[Expression, ...]
    distinct: bool = False


class Opaque(msgspec.Struct, frozen=True):
    """Something only DuckDB evaluates."""


Expression = ColumnRef | Merged | Constant | Parameter | CastTo | Operation | Call | Opaque


class Output(msgspec.Struct, frozen=True):
    """One column of the result."""

    expression: Expression
    name: str


class OrderItem(msgspec.Struct, frozen=True):
    """One ORDER BY item. `expression` may name an output: then it is that output's expression already."""

    expression: Expression
    descending: bool
    nulls_first: bool


class ShapeSource(msgspec.Struct, frozen=True):
    """One base table. `join`: `""` for the first, else `inner` or `left`; `on`: the conjuncts of its ON or USING."""

    table: Table
    join: str = ""
    on: tuple[Expression, ...] = ()


class Shape(msgspec.Struct, frozen=True):
    """A statement in one block.

    kind      select, insert, update, delete
    sources   SELECT: the tables of FROM; else the target alone
    where     its conjuncts
    outputs   the select list or RETURNING, stars expanded; empty without RETURNING
    order, limit, offset  of SELECT (no DISTINCT, GROUP BY, HAVING, QUALIFY or window is in a shape)
    assigned  UPDATE: (column, new value), to be cast to the column's type
    rows      INSERT … VALUES: one expression per visible column in catalog order, defaults filled in, to be cast likewise;
              None for every other INSERT
    """

    kind: str
    sources: tuple[ShapeSource, ...]
    where: tuple[Expression, ...] = ()
    outputs: tuple[Output, ...] = ()
    order: tuple[OrderItem, ...] = ()
    limit: Expression | None = None
    offset: Expression | None = None
    assigned: tuple[tuple[int, Expression], ...] = ()
    rows: tuple[tuple[Expression, ...], ...] | None = None
