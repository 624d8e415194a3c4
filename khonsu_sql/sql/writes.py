"""INSERT, UPDATE and DELETE: a query for what they write, and one for RETURNING.

Called by `statements`; calls `queries` and `from_items`. The query of an INSERT yields every visible column in catalog order, each cast to
its column's type, defaults filled in; that of UPDATE the key columns and then the new values, cast; that of DELETE the key columns.
So `dml` never looks at an expression. A row that FROM or USING joins several times comes several times; `dml` takes the first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlglot import exp

from khonsu_engine.commands import Operation
from khonsu_engine.schema.catalog import Column, Table
from khonsu_sql.errors import DuplicateColumn, Error, FeatureNotSupported, SyntaxError_, UndefinedColumn
from khonsu_sql.sql.dialect import READ_DUCKDB, parse_tokens
from khonsu_sql.sql.expressions import translate
from khonsu_sql.sql.from_items import bind_joins, find_table, replace_table
from khonsu_sql.sql.names import UNKNOWN
from khonsu_sql.sql.pushdown import push_down
from khonsu_sql.sql.queries import bind_query, bind_with, walk
from khonsu_sql.sql.relations import Binding, Occurrence, Relation, Scope
from khonsu_sql.sql.resolve import nearest, position_of
from khonsu_sql.sql.shape import Expression, Shape, ShapeSource
from khonsu_sql.sql.shapes import scope_resolver, where_of

__all__ = ["Written", "bind_write", "cast"]


class Written:
    """A bound write: `select` is its query's tree, `alias` what RETURNING may call the table."""

    def __init__(self, operation: Operation, table: Table, alias: str) -> None:
        self.operation = operation
        self.table = table
        self.alias = alias
        self.select: Any = None
        self.assigned: tuple[int, ...] = ()
        self.shape: Shape | None = None


def bind_write(binding: Binding, tree: Any) -> Written:
    """Bind the statement without its RETURNING. Raises as `queries` does, and DuplicateColumn, SyntaxError_ for lists that do not fit."""
    match tree:
        case exp.Insert():
            return _insert(binding, tree)
        case exp.Update():
            return _update(binding, tree)
    return _delete(binding, tree)


def cast(node: Any, column: Column) -> Any:
    """`node` as the column stores it."""
    return exp.Cast(this=node, to=exp.DataType(this=exp.DType.USERDEFINED, kind=column.type.sql))


def _named(node: Any, name: str) -> Any:
    """`exp.alias_` would copy `node`, and what its columns name is known by their ids."""
    return exp.Alias(this=node, alias=exp.to_identifier(name, quoted=True))


@lru_cache(maxsize=512)
def _stored(text: str) -> Any:
    return parse_tokens(READ_DUCKDB, READ_DUCKDB.tokenize(f"SELECT {text}"), text).expressions[0]


def _default(column: Column) -> Any:
    return exp.Null() if column.default is None else _stored(column.default).copy()


def _is_default(node: Any) -> bool:
    return isinstance(node, exp.Var) and node.name.upper() == "DEFAULT"


def _error(binding: Binding, node: Any, message: str, kind: type[Error] = SyntaxError_, hint: str | None = None) -> Error:
    return kind(message, position=position_of(node), sql=binding.sql, hint=hint)


def _position(binding: Binding, node: Any, table: Table) -> int:
    """The visible column `node` (an identifier or column) names."""
    position = table.position.get(node.name.casefold())
    if position is None or table.columns[position].hidden:
        hint = nearest(node.name, [table.columns[number].name for number in table.visible], 'Did you mean "{}"?')
        raise _error(binding, node, f'column "{node.name}" of table "{table.name}" does not exist', UndefinedColumn, hint)
    return position


def _refuse_parts(binding: Binding, tree: Any, parts: dict[str, str]) -> None:
    for part, what in parts.items():
        if tree.args.get(part):
            raise _error(binding, tree, f"{what} is not supported yet", FeatureNotSupported)


# --- INSERT


def _insert(binding: Binding, tree: Any) -> Written:
    _refuse_parts(binding, tree, _INSERT_PARTS)
    if tree.args.get("alternative"):
        raise _error(binding, tree, f"INSERT OR {tree.args['alternative'].upper()} is not supported yet", FeatureNotSupported)
    named = tree.this.expressions if isinstance(tree.this, exp.Schema) else []
    item = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    binding.done.add(id(item))
    table = find_table(binding, item, [])
    targets = _targets(binding, named, table)
    written = Written(Operation.INSERT, table, item.alias or item.name)
    ctes = bind_with(binding, tree, None, {})
    source = tree.expression
    if tree.args.get("default"):
        source, targets = exp.Values(expressions=[exp.Tuple(expressions=[])]), []
    if isinstance(source, exp.Values) and not any(source.args.get(part) for part in ("order", "limit", "offset", "alias")):
        _insert_values(binding, source, targets, written, Scope(None, ctes), has_ctes=bool(ctes))
    else:
        written.select = _insert_query(binding, source, targets, written, Scope(None, ctes))
    if ctes:
        written.select.set("with_", tree.args["with_"].pop())
    return written


_INSERT_PARTS = {
    "overwrite": "INSERT OVERWRITE", "ignore": "INSERT IGNORE", "by_name": "INSERT BY NAME", "conflict": "INSERT … ON CONFLICT",
    "exists": "IF EXISTS", "partition": "PARTITION", "where": "REPLACE WHERE", "source": "this INSERT", "settings": "SETTINGS",
}  # fmt: skip


def _targets(binding: Binding, named: list[Any], table: Table) -> list[int]:
    if not named:
        return list(table.visible)
    found: list[int] = []
    for node in named:
        position = _position(binding, node, table)
        if position in found:
            raise _error(binding, node, f'column "{node.name}" specified more than once', DuplicateColumn)
        found.append(position)
    return found


def _insert_values(binding: Binding, source: Any, targets: list[int], written: Written, scope: Scope, *, has_ctes: bool) -> None:
    table, rows, shapes = written.table, [], []
    resolve = scope_resolver(binding, scope)
    for row in source.expressions:
        cells = list(row.expressions) if isinstance(row, exp.Tuple) else [row]
        _check_width(binding, row, len(cells), len(targets))
        given: dict[int, Any] = {}
        for position, cell in zip(targets, cells, strict=True):
            if not _is_default(cell):
                walk(binding, cell, scope)
                given[position] = cell
        filled = [given.get(position) or _default(table.columns[position]) for position in table.visible]
        shapes.append(tuple(translate(cell, resolve) for cell in filled))
        rows.append(exp.Tuple(expressions=[cast(cell, table.columns[number]) for cell, number in zip(filled, table.visible, strict=True)]))
    values = exp.Values(expressions=rows)
    written.select = values
    if has_ctes:
        values.set("alias", exp.TableAlias(this=exp.to_identifier("rows", quoted=True)))
        written.select = exp.Select(expressions=[exp.Star()], from_=exp.From(this=values))
    if not binding.occurrences:
        written.shape = Shape("insert", (ShapeSource(table),), rows=tuple(shapes))


def _check_width(binding: Binding, node: Any, given: int, wanted: int) -> None:
    if given != wanted:
        more, fewer = ("expressions", "target columns") if given > wanted else ("target columns", "expressions")
        raise _error(binding, node, f"INSERT has more {more} than {fewer}: {given} values for {wanted} columns")


def _insert_query(binding: Binding, source: Any, targets: list[int], written: Written, scope: Scope) -> Any:
    """`SELECT CAST(…) … FROM (query) AS q(c1, c2, …)`."""
    table = written.table
    names = bind_query(binding, source, None, scope.ctes)
    columns = [exp.to_identifier(f"c{number}", quoted=True) for number in range(1, len(targets) + 1)]
    if UNKNOWN in names:
        source = _of_width(source, len(targets))
    else:
        _check_width(binding, source, len(names), len(targets))
    place = dict(zip(targets, columns, strict=True))
    items = []
    for position in table.visible:
        column = table.columns[position]
        value = exp.Column(this=place[position].copy()) if position in place else _default(column)
        items.append(_named(cast(value, column), column.name))
    alias = exp.TableAlias(this=exp.to_identifier("q", quoted=True), columns=columns)
    return exp.Select(expressions=items, from_=exp.From(this=exp.Subquery(this=source, alias=alias)))


def _of_width(source: Any, width: int) -> Any:
    """A query of unknown width behind an empty one of `width` columns: another width is then an error of DuckDB's."""
    empty = exp.Select(expressions=[exp.Null() for _ in range(width)], where=exp.Where(this=exp.false()))
    return exp.Union(this=empty, expression=exp.Subquery(this=source), distinct=False)


# --- UPDATE and DELETE


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
        _named(exp.Column(this=exp.to_identifier(name, quoted=True), table=alias.copy()), f"__key{number}")
        for number, name in enumerate(names, 1)
    ]


def _update(binding: Binding, tree: Any) -> Written:
    _refuse_parts(binding, tree, {"order": "UPDATE … ORDER BY", "limit": "UPDATE … LIMIT", "options": "this UPDATE"})
    written, relation, occurrence = _target(binding, tree.this, Operation.UPDATE)
    source = tree.args.get("from_")
    scope, joins = _join_others(binding, tree, relation, [source.this] if source is not None else [])
    assigned = _assignments(binding, tree, written.table)
    values = []
    for position, value in assigned:
        node = _default(written.table.columns[position]) if _is_default(value) else value
        if node is value:
            walk(binding, node, scope, strict=True)
        values.append((position, node))
    _finish(binding, tree, written, scope, joins, values)
    written.assigned = tuple(position for position, _ in values)
    _check_whole(binding, tree, occurrence)
    return written


def _delete(binding: Binding, tree: Any) -> Written:
    _refuse_parts(binding, tree, {"order": "DELETE … ORDER BY", "limit": "DELETE … LIMIT", "tables": "DELETE of several tables"})
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
            raise _error(binding, item, "syntax error in SET: expected column = value")
        left = item.this.this if isinstance(item.this, exp.Paren) else item.this
        if not isinstance(left, exp.Tuple):
            pairs.append((left, item.expression))
            continue
        if not isinstance(item.expression, exp.Tuple):
            raise _error(binding, item, "SET (…) = (SELECT …) is not supported yet", FeatureNotSupported, "Set each column by itself.")
        if len(left.expressions) != len(item.expression.expressions):
            raise _error(binding, item, "number of columns does not match number of values")
        pairs += zip(left.expressions, item.expression.expressions, strict=True)
    found: dict[int, Any] = {}
    for column, value in pairs:
        if not isinstance(column, exp.Column) or column.args.get("db"):
            raise _error(binding, column, "syntax error in SET: expected the name of a column")
        position = _position(binding, column.this, table)
        if position in found:
            raise _error(binding, column, f'multiple assignments to same column "{column.name}"')
        found[position] = value
    return list(found.items())


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
    news = [_named(cast(value, columns[position]), f"__new{number}") for number, (position, value) in enumerate(values, 1)]
    tree.this.set("joins", None)
    written.select = exp.Select(
        expressions=[*_keys(written), *news], from_=exp.From(this=tree.this), joins=joins, where=where, with_=tree.args.get("with_")
    )


def _check_whole(binding: Binding, tree: Any, occurrence: Occurrence) -> None:
    """A whole row would show the hidden key that has to be served."""
    if occurrence.whole and occurrence.table.has_row_id:
        raise _error(binding, tree, "a whole-row reference to a table without primary key is not supported here", FeatureNotSupported)
