"""INSERT: a query that yields every visible column in catalog order, each cast to its column's type, defaults filled in.

Called by `statements`; calls `queries`. So `dml` never looks at an expression.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from khonsu_engine.commands import Operation
from khonsu_engine.schema.catalog import Table
from khonsu_sql.errors import DuplicateColumn, FeatureNotSupported
from khonsu_sql.sql.expressions import translate
from khonsu_sql.sql.from_items import find_table
from khonsu_sql.sql.names import UNKNOWN
from khonsu_sql.sql.queries import bind_query, bind_with, walk
from khonsu_sql.sql.relations import Binding, Scope
from khonsu_sql.sql.shape import Shape, ShapeSource
from khonsu_sql.sql.shapes import scope_resolver
from khonsu_sql.sql.targets import Written, cast, column_position, default_of, error_at, is_default, named, refuse_parts

__all__ = ["bind_insert"]

SHAPE_ROWS_MAX = 100
"""More rows are no point statement."""

CAST_OUTSIDE_ROWS_MIN = 16
"""From so many rows on, columns of plain literals are cast once instead of in each row: a quarter of the time."""


def bind_insert(binding: Binding, tree: Any) -> Written:
    """Bind the statement without its RETURNING. Raises as `queries` does; DuplicateColumn, SyntaxError_ for lists that do not fit."""
    refuse_parts(binding, tree, _INSERT_PARTS)
    if tree.args.get("alternative"):
        raise error_at(binding, tree, f"INSERT OR {tree.args['alternative'].upper()} is not supported yet", FeatureNotSupported)
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
    if source is None:
        raise error_at(
            binding, item, f'syntax error: what is to be inserted into "{item.name}"?', hint="VALUES (…), a query, or DEFAULT VALUES."
        )
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
        position = column_position(binding, node, table)
        if position in found:
            raise error_at(binding, node, f'column "{node.name}" specified more than once', DuplicateColumn)
        found.append(position)
    return found


def _insert_values(binding: Binding, source: Any, targets: list[int], written: Written, scope: Scope, *, has_ctes: bool) -> None:
    table = written.table
    rows = [_filled(binding, row, targets, table, scope) for row in source.expressions]
    if not binding.occurrences and len(rows) <= SHAPE_ROWS_MAX:
        resolve = scope_resolver(binding, scope)
        written.shape = Shape("insert", (ShapeSource(table),), rows=tuple(tuple(translate(cell, resolve) for cell in row) for row in rows))
    columns = [table.columns[position] for position in table.visible]
    outside = [len(rows) >= CAST_OUTSIDE_ROWS_MIN and _of_one_kind([row[number] for row in rows]) for number in range(len(columns))]
    for row in rows:
        row[:] = [cell if out else cast(cell, column) for cell, column, out in zip(row, columns, outside, strict=True)]
    written.select = exp.Values(expressions=[exp.Tuple(expressions=row) for row in rows])
    if has_ctes or any(outside):
        names = [exp.to_identifier(f"c{number}", quoted=True) for number in range(len(columns))]
        written.select.set("alias", exp.TableAlias(this=exp.to_identifier("rows", quoted=True), columns=names))
        values = [exp.Column(this=name.copy()) for name in names]
        items = [cast(value, column) if out else value for value, column, out in zip(values, columns, outside, strict=True)]
        written.select = exp.Select(expressions=items, from_=exp.From(this=written.select))


def _filled(binding: Binding, row: Any, targets: list[int], table: Table, scope: Scope) -> list[Any]:
    """The values of one row for all visible columns, defaults filled in."""
    cells = list(row.expressions) if isinstance(row, exp.Tuple) else [row]
    _check_width(binding, row, len(cells), len(targets))
    given: dict[int, Any] = {}
    for position, cell in zip(targets, cells, strict=True):
        if not is_default(cell):
            if not isinstance(cell, exp.Literal):
                walk(binding, cell, scope)
            given[position] = cell
    return [given[position] if position in given else default_of(table.columns[position]) for position in table.visible]


def _of_one_kind(cells: list[Any]) -> bool:
    """All integers that fit 64 bits, or all text, or all truth values; NULLs beside: casting them together is casting each."""
    kinds: set[str] = set()
    for cell in cells:
        value = cell.this if isinstance(cell, exp.Neg) else cell
        if isinstance(value, exp.Literal) and not value.is_string:
            kinds.add("integer" if value.name.isdecimal() and len(value.name) <= 18 else "number")
        elif isinstance(cell, exp.Literal | exp.Boolean):
            kinds.add("text" if isinstance(cell, exp.Literal) else "boolean")
        elif not isinstance(cell, exp.Null):
            return False
    return len(kinds) <= 1 and "number" not in kinds


def _check_width(binding: Binding, node: Any, given: int, wanted: int) -> None:
    if given != wanted:
        more, fewer = ("expressions", "target columns") if given > wanted else ("target columns", "expressions")
        raise error_at(binding, node, f"INSERT has more {more} than {fewer}: {given} values for {wanted} columns")


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
        value = exp.Column(this=place[position].copy()) if position in place else default_of(column)
        items.append(named(cast(value, column), column.name))
    alias = exp.TableAlias(this=exp.to_identifier("q", quoted=True), columns=columns)
    return exp.Select(expressions=items, from_=exp.From(this=exp.Subquery(this=source, alias=alias)))


def _of_width(source: Any, width: int) -> Any:
    """A query of unknown width behind an empty one of `width` columns: another width is then an error of DuckDB's."""
    empty = exp.Select(expressions=[exp.Null() for _ in range(width)], where=exp.Where(this=exp.false()))
    return exp.Union(this=empty, expression=exp.Subquery(this=source), distinct=False)
