"""UPDATE and DELETE: a query that yields the key columns of the target's rows, then the new values, cast.

Called by `statements`; calls `queries` and `from_items`. A row that FROM or USING joins several times comes several times; `dml` takes
the first.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from khonsu_engine.commands import Operation
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import SqlType
from khonsu_sql.errors import FeatureNotSupported
from khonsu_sql.sql.expressions import translate
from khonsu_sql.sql.from_items import bind_joins, find_table, replace_table
from khonsu_sql.sql.pushdown import push_down
from khonsu_sql.sql.queries import bind_with, walk
from khonsu_sql.sql.relations import Binding, Occurrence, Relation, Scope
from khonsu_sql.sql.shape import Expression, Shape, ShapeSource
from khonsu_sql.sql.shapes import scope_resolver, where_of
from khonsu_sql.sql.targets import Written, cast, column_position, default_of, error_at, is_default, named, refuse_parts

__all__ = ["bind_delete", "bind_update"]

DELTA_DIGITS_MAX = 18
"""A literal with more digits is no delta: it may be a floating-point number to DuckDB."""


def _target(binding: Binding, item: Any, operation: Operation) -> tuple[Written, Relation, Occurrence]:
    binding.done.add(id(item))
    table = find_table(binding, item, [])
    relation = replace_table(binding, item, table)
    assert relation.occurrence is not None
    for position in table.key_columns:
        relation.occurrence.columns |= 1 << position
    return Written(operation, table, item.alias), relation, relation.occurrence


def _keys(written: Written) -> list[Any]:
    """The key columns, under names that no user's column has."""
    alias = exp.to_identifier(written.alias, quoted=True)
    names = [written.table.columns[position].name for position in written.table.key_columns]
    return [
        named(exp.Column(this=exp.to_identifier(name, quoted=True), table=alias.copy()), f"__key{number}")
        for number, name in enumerate(names, 1)
    ]


def bind_update(binding: Binding, tree: Any) -> Written:
    """Bind the statement without its RETURNING. Raises as `queries` does; SyntaxError_ for assignments that do not fit."""
    refuse_parts(binding, tree, {"order": "UPDATE … ORDER BY", "limit": "UPDATE … LIMIT", "options": "this UPDATE"})
    written, relation, occurrence = _target(binding, tree.this, Operation.UPDATE)
    source = tree.args.get("from_")
    scope, joins = _join_others(binding, tree, relation, [source.this] if source is not None else [])
    assigned = _assignments(binding, tree, written.table)
    deltas = _deltas(tree, assigned, written.table, relation.alias)
    values = []
    for position, value in assigned:
        node = default_of(written.table.columns[position]) if is_default(value) else value
        if node is value:
            walk(binding, node, scope, strict=True)
        values.append((position, node))
    _finish(binding, tree, written, scope, joins, values)
    written.assigned = tuple(position for position, _ in values)
    if not occurrence.whole and all(other is occurrence or other.table is not written.table for other in binding.occurrences):
        written.deltas = deltas
    _check_whole(binding, tree, occurrence)
    return written


def bind_delete(binding: Binding, tree: Any) -> Written:
    """Bind the statement without its RETURNING. Raises as `queries` does."""
    refuse_parts(binding, tree, {"order": "DELETE … ORDER BY", "limit": "DELETE … LIMIT", "tables": "DELETE of several tables"})
    written, relation, occurrence = _target(binding, tree.this, Operation.DELETE)
    scope, joins = _join_others(binding, tree, relation, tree.args.get("using") or [])
    _finish(binding, tree, written, scope, joins, [])
    _check_whole(binding, tree, occurrence)
    return written


def _join_others(binding: Binding, tree: Any, relation: Relation, items: list[Any]) -> tuple[Scope, list[Any]]:
    """The target and what FROM or USING adds to it."""
    scope = Scope(None, bind_with(binding, tree, None, {}), [relation])
    joins: list[Any] = [*(tree.this.args.get("joins") or ())]
    for item in items:
        nested = item.args.get("joins") or []
        item.set("joins", None)
        joins += [exp.Join(this=item), *nested]
    bind_joins(binding, joins, [relation], scope)
    for step in scope.steps:
        walk(binding, step.on, scope, strict=True)
    return scope, joins


def _assignments(binding: Binding, tree: Any, table: Table) -> list[tuple[int, Any]]:
    """(column, new value) of each item of SET; `(a, b) = (1, 2)` is two."""
    pairs: list[tuple[Any, Any]] = []
    for item in tree.expressions:
        if not isinstance(item, exp.EQ):
            raise error_at(binding, item, "syntax error in SET: expected column = value")
        left = item.this.this if isinstance(item.this, exp.Paren) else item.this
        if not isinstance(left, exp.Tuple):
            pairs.append((left, item.expression))
            continue
        if not isinstance(item.expression, exp.Tuple):
            raise error_at(binding, item, "SET (…) = (SELECT …) is not supported yet", FeatureNotSupported, "Set each column by itself.")
        if len(left.expressions) != len(item.expression.expressions):
            raise error_at(binding, item, "number of columns does not match number of values")
        pairs += zip(left.expressions, item.expression.expressions, strict=True)
    found: dict[int, Any] = {}
    for column, value in pairs:
        if not isinstance(column, exp.Column) or column.args.get("db"):
            raise error_at(binding, column, "syntax error in SET: expected the name of a column")
        position = column_position(binding, column.this, table)
        if position in found:
            raise error_at(binding, column, f'multiple assignments to same column "{column.name}"')
        found[position] = value
    return list(found.items())


def _deltas(tree: Any, assigned: list[tuple[int, Any]], table: Table, alias: str) -> tuple[tuple[int, int | None], ...]:
    """The columns set to themselves plus or minus a literal or parameter, and mentioned nowhere else; with the parameter's index."""
    mentioned = [node.name.casefold() for node in tree.find_all(exp.Column)]
    found: list[tuple[int, int | None]] = []
    for position, value in assigned:
        name = table.columns[position].name.casefold()
        if not isinstance(value, exp.Add | exp.Sub) or mentioned.count(name) != 2:
            continue
        own, other = value.this, value.expression
        if isinstance(value, exp.Add) and not isinstance(own, exp.Column):
            own, other = other, own
        if not isinstance(own, exp.Column) or own.name.casefold() != name or own.args.get("db") or own.table.casefold() not in ("", alias):
            continue
        other = other.this if isinstance(other, exp.Neg) else other
        if isinstance(other, exp.Parameter):
            found.append((position, int(other.this.name) - 1))
        elif isinstance(other, exp.Literal) and not other.is_string and _holds(table.columns[position].type, other.name):
            found.append((position, None))
    return tuple(found)


def _holds(sql_type: SqlType, number: str) -> bool:
    """Does a column of this type hold the number of that text exactly, and DuckDB read it as one?"""
    whole, _, fraction = number.partition(".")
    digits = whole + fraction
    return digits.isdecimal() and len(digits) <= DELTA_DIGITS_MAX and len(fraction) <= (sql_type.scale if sql_type.kind == "DECIMAL" else 0)


def _finish(binding: Binding, tree: Any, written: Written, scope: Scope, joins: list[Any], values: list[tuple[int, Any]]) -> None:
    """Resolve WHERE, thin out what is read, build the SELECT."""
    where = tree.args.get("where")
    walk(binding, where, scope, strict=True)
    push_down(binding, scope, where.this if where is not None else None)
    if len(scope.relations) == 1 and len(binding.occurrences) == 1 and not scope.ctes:
        resolve = scope_resolver(binding, scope)
        assigned: list[tuple[int, Expression]] = [(position, translate(value, resolve)) for position, value in values]
        written.shape = Shape(
            written.operation.name.lower(), (ShapeSource(written.table),), where_of(tree, resolve), assigned=tuple(assigned)
        )
    columns = written.table.columns
    news = [named(cast(value, columns[position]), f"__new{number}") for number, (position, value) in enumerate(values, 1)]
    tree.this.set("joins", None)
    written.select = exp.Select(
        expressions=[*_keys(written), *news], from_=exp.From(this=tree.this), joins=joins, where=where, with_=tree.args.get("with_")
    )


def _check_whole(binding: Binding, tree: Any, occurrence: Occurrence) -> None:
    """A whole row would show the hidden key that has to be served."""
    if occurrence.whole and occurrence.table.has_row_id:
        raise error_at(binding, tree, "a whole-row reference to a table without primary key is not supported here", FeatureNotSupported)
