"""Parsed statements into plans, against one catalog. Called by `bind`; calls every other room of binding.

Invariants: the tree it takes from `Parsed` is its own to change; DuckDB's text is written from our tree, names base tables by
generated names only, and its parameters `$1`… without gaps; what was bound against is in `Statement.tables`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlglot import exp

from khonsu_engine.schema.catalog import Catalog, Table
from khonsu_sql.errors import Error, GroupingError, StatementTooComplex, UndefinedTable
from khonsu_sql.sql.changes import bind_delete, bind_update
from khonsu_sql.sql.dialect import write
from khonsu_sql.sql.from_items import find_table, replace_table
from khonsu_sql.sql.functions import check_functions, is_aggregate
from khonsu_sql.sql.inserts import bind_insert
from khonsu_sql.sql.locking import add_keys, locked_query, refuse_parts_of_locked, row_locks, take_counts
from khonsu_sql.sql.names import UNKNOWN, UNNAMED, name_of
from khonsu_sql.sql.parse import Parsed
from khonsu_sql.sql.plan import AlterTable, CreateTable, DropTable, Explain, LockTable, Plan, Query, Statement, WriteFromQuery
from khonsu_sql.sql.queries import bind_query, check_complete, item_names, output_names, walk
from khonsu_sql.sql.relations import Binding, Content, Scope
from khonsu_sql.sql.resolve import nearest, position_of
from khonsu_sql.sql.shape import Output
from khonsu_sql.sql.shapes import outputs_of, scope_resolver, select_shape
from khonsu_sql.sql.targets import Written

__all__ = ["bind_statement"]


def bind_statement(parsed: Parsed, catalog: Catalog, content: Content) -> Statement:
    """The plan of `parsed` for the tables of `catalog`. `content`: key -> the batch under it as a table, or None."""
    try:
        statement = _bind(parsed, catalog, content)
    except RecursionError as error:
        raise StatementTooComplex("the statement is nested too deeply", sql=parsed.sql) from error
    except Error as error:
        error.sql = error.sql or parsed.sql
        raise
    return msgspec.structs.replace(statement, plan=Explain(statement.plan)) if parsed.explain else statement


def _bind(parsed: Parsed, catalog: Catalog, content: Content) -> Statement:
    match parsed.tree:
        case None:
            assert parsed.plan is not None
            return Statement(parsed.plan, parsed.parameters)
        case CreateTable() | AlterTable():
            return Statement(parsed.tree, parsed.parameters)
        case DropTable():
            _check_dropped(parsed.tree, catalog)
            return Statement(parsed.tree, parsed.parameters)
        case LockTable():
            return _lock_table(parsed, catalog)
    tree = parsed.take()
    check_functions(tree, parsed.sql)
    binding = new_binding(tree, catalog, parsed.sql, content)
    if isinstance(tree, exp.Insert | exp.Update | exp.Delete):
        return _write(parsed, binding, tree)
    return _query(parsed, binding, tree)


def new_binding(tree: Any, catalog: Catalog, sql: str, content: Content) -> Binding:
    """Fresh state. Names that CTEs and parameters of lambdas take are noted before anything is looked up."""
    binding = Binding(catalog, sql, lambda node, outer, ctes: bind_query(binding, node, outer, ctes), content)
    for node in tree.find_all(exp.Lambda, exp.Comprehension, exp.CTE):
        match node:
            case exp.CTE():
                binding.taken.add(node.alias.casefold())
            case exp.Lambda():
                binding.locals.update(name.name.casefold() for name in node.expressions)
            case _:
                binding.locals.update(name.name.casefold() for name in node.expression.find_all(exp.Identifier))
    return binding


def _check_dropped(plan: DropTable, catalog: Catalog) -> None:
    for schema, name in plan.names:
        if not plan.if_exists and catalog.find(name, schema) is None:
            known = [table.name for table in catalog.tables.values() if table.schema == "main"]
            raise UndefinedTable(f'table "{name}" does not exist', hint=nearest(name, known, 'Did you mean "{}"?'))


def _lock_table(parsed: Parsed, catalog: Catalog) -> Statement:
    binding = Binding(catalog, parsed.sql, lambda node, outer, ctes: [], lambda key: None)
    named = [exp.Table(this=exp.to_identifier(name), db=exp.to_identifier(schema)) for schema, name in parsed.tree.names]
    tables = tuple(find_table(binding, table, []) for table in named)
    return Statement(msgspec.structs.replace(parsed.tree, tables=tables), parsed.parameters, tables)


# --- queries


def _query(parsed: Parsed, binding: Binding, tree: Any) -> Statement:
    if parsed.locks:
        refuse_parts_of_locked(tree, parsed.locks, parsed.sql)
        tree.set("locks", None)
    names = bind_query(binding, tree, None, {})
    names = _name_columns(tree, parsed.items, names, binding)
    check_complete(binding, tree)
    shape = select_shape(binding, tree, names)
    plan = _locked(parsed, binding, tree, names) if parsed.locks else _plan(binding, tree, names)
    return Statement(plan, parsed.parameters, binding.tables, shape)


def _locked(parsed: Parsed, binding: Binding, tree: Any, names: list[str]) -> Plan:
    """FOR UPDATE, FOR SHARE."""
    locks = row_locks(binding, tree, parsed.locks)
    counts = take_counts(binding, tree, locks)
    keys = add_keys(binding, tree, locks)
    return locked_query(binding, tree, _plan(binding, tree, [*names, *keys]), locks, parsed.locks, counts)


def _plan(binding: Binding, tree: Any, names: list[str]) -> Query:
    parameters = _renumber(tree)
    sources = tuple(occurrence.source() for occurrence in binding.occurrences)
    return Query(write(tree), sources, parameters, None if UNKNOWN in names or UNNAMED in names else tuple(names))


def _renumber(tree: Any) -> tuple[int, ...]:
    """Number the parameters of one query without gaps; returns which of the statement's each one is."""
    nodes = list(tree.find_all(exp.Parameter))
    used = sorted({int(node.this.name) for node in nodes})
    place = {number: str(position) for position, number in enumerate(used, 1)}
    for node in nodes:
        node.set("this", exp.Literal.number(place[int(node.this.name)]))
    return tuple(number - 1 for number in used)


def _name_columns(tree: Any, written: tuple[str, ...] | None, names: list[str], binding: Binding) -> list[str]:
    """Give every expression of the outermost select list its name. Returns all names as the user sees them."""
    block = tree
    while isinstance(block, exp.SetOperation | exp.Subquery):
        block = block.this
    if not isinstance(block, exp.Select):
        return names
    items = block.expressions
    if written is None or len(written) != len(items):
        written = tuple(item.sql(dialect="duckdb", comments=False)[:63] for item in items)
    found = []
    for number, (item, text) in enumerate(zip(items, written, strict=True)):
        if _several(item):
            found += item_names(item, binding.scopes[id(block)])
        elif name_of(item) in (UNKNOWN, UNNAMED):
            _set_alias(block, number, item, text)
            found.append(text)
        else:
            found.append(_shown(item, binding))
    return found


def _set_alias(block: Any, number: int, item: Any, text: str) -> None:
    """Keeps `item` the node it is: what it names is known by its id."""
    items = list(block.expressions)
    items[number] = exp.Alias(this=item, alias=exp.to_identifier(text, quoted=True))
    block.set("expressions", items)


def _several(item: Any) -> bool:
    """May it be more than one column?"""
    if isinstance(item, exp.Star | exp.Explode | exp.Unnest) or item.find(exp.Columns):
        return True
    return isinstance(item, exp.Column | exp.Dot) and (isinstance(item.this, exp.Star) or isinstance(item.expression, exp.Star))


def _shown(item: Any, binding: Binding) -> str:
    """A column's own spelling."""
    hits = binding.hits.get(id(item))
    if hits and isinstance(item, exp.Column):
        relation, ordinal = hits[0]
        if relation.occurrence is not None:
            return relation.occurrence.table.columns[ordinal].name
    return name_of(item)


# --- writes


def _write(parsed: Parsed, binding: Binding, tree: Any) -> Statement:
    returning = tree.args.get("returning")
    if returning is not None:
        returning.pop()
    written = _bind_write(binding, tree)
    check_complete(binding, written.select)
    shape = written.shape
    tables: tuple[Table, ...] = (written.table, *binding.tables)
    answer: Query | None = None
    if returning is not None:
        answer, outputs, others = _returning(parsed, binding, returning, written)
        tables += others
        shape = None if shape is None or outputs is None else msgspec.structs.replace(shape, outputs=outputs)
    query = _plan(binding, written.select, [UNKNOWN])
    plan: Plan = WriteFromQuery(written.operation, written.table, query, written.assigned, answer, written.deltas)
    distinct = tuple({table.id: table for table in tables}.values())
    return Statement(plan, parsed.parameters, distinct, shape)


def _bind_write(binding: Binding, tree: Any) -> Written:
    match tree:
        case exp.Insert():
            return bind_insert(binding, tree)
        case exp.Update():
            return bind_update(binding, tree)
    return bind_delete(binding, tree)


def _returning(
    parsed: Parsed, before: Binding, clause: Any, written: Written
) -> tuple[Query, tuple[Output, ...] | None, tuple[Table, ...]]:
    """`SELECT items FROM target`: the target is served with the affected rows."""
    for item in clause.expressions:
        _check_row_expression(item, parsed.sql)
    alias = exp.TableAlias(this=exp.to_identifier(written.alias, quoted=True))
    target = exp.Table(this=exp.to_identifier(written.table.name, quoted=True), alias=alias)
    select = exp.Select(expressions=clause.expressions, from_=exp.From(this=target))
    binding = new_binding(select, before.catalog, parsed.sql, before.content)
    binding.taken |= before.taken
    relation = replace_table(binding, target, written.table)
    binding.done.add(id(target))
    scope = Scope(None, {}, [relation])
    binding.scopes[id(select)] = scope
    for item in select.expressions:
        walk(binding, item, scope, strict=True)
    names = _name_columns(select, parsed.items, output_names(select, scope), binding)
    check_complete(binding, select)
    simple = len(binding.occurrences) == 1
    outputs = outputs_of(select.expressions, names, scope, scope_resolver(binding, scope)) if simple else None
    return _plan(binding, select, names), outputs, binding.tables


def _check_row_expression(item: Any, sql: str) -> None:
    """RETURNING looks at one row at a time."""
    waiting = [item]
    while waiting:
        found = waiting.pop()
        if is_aggregate(found) or isinstance(found, exp.Window):
            what = "window" if isinstance(found, exp.Window) else "aggregate"
            raise GroupingError(f"{what} functions are not allowed in RETURNING", position=position_of(found), sql=sql)
        if not isinstance(found, exp.Query):
            waiting += found.iter_expressions()
