"""Queries: block by block, names are resolved, tables become sources, conditions are given to them.

Called by `statements` and `writes`; calls `from_items`, `resolve`, `pushdown`. `bind_query` changes the tree in place and returns the
names of its columns (`names.UNKNOWN` where they are DuckDB's secret).

Left out, on purpose: types, aggregation rules, everything DuckDB checks by itself.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from khonsu_sql.errors import FeatureNotSupported, SyntaxError_
from khonsu_sql.sql.from_items import bind_from, bind_item
from khonsu_sql.sql.names import UNKNOWN, name_of
from khonsu_sql.sql.pushdown import push_down
from khonsu_sql.sql.relations import Binding, Ctes, Relation, Scope, columns_by_name
from khonsu_sql.sql.resolve import mark_all, position_of, resolve_column

__all__ = ["bind_query", "bind_with", "check_complete", "item_names", "output_names", "walk"]


def bind_query(binding: Binding, node: Any, outer: Scope | None, ctes: Ctes) -> list[str]:
    """Bind one query inside `outer`. Returns its columns' names."""
    ctes = bind_with(binding, node, outer, ctes)
    match node:
        case exp.Select():
            return _select(binding, node, outer, ctes)
        case exp.SetOperation():
            return _set_operation(binding, node, outer, ctes)
        case exp.Subquery():
            inner = isinstance(node.this, exp.Query | exp.Values)
            names = bind_query(binding, node.this, outer, ctes) if inner else _other(binding, node, outer, ctes)
            _modifiers(binding, node, names, outer, ctes)
            return names
        case exp.Values():
            return _values(binding, node, outer, ctes)
    return _other(binding, node, outer, ctes)


def _other(binding: Binding, node: Any, outer: Scope | None, ctes: Ctes) -> list[str]:
    """PIVOT as a statement, a table in parentheses: all columns of everything."""
    scope = Scope(outer, ctes)
    bind_item(binding, node.this, scope)
    mark_all(scope.relations)
    return [UNKNOWN]


def bind_with(binding: Binding, node: Any, outer: Scope | None, ctes: Ctes) -> Ctes:
    """The CTEs `node` begins with, added to those in reach. One without RECURSIVE does not see itself."""
    clause = node.args.get("with_")
    if clause is None:
        return ctes
    reached = dict(ctes)
    for cte in clause.expressions:
        given = cte.alias_column_names
        folded = cte.alias.casefold()
        if not isinstance(cte.this, exp.Query | exp.Values):
            raise FeatureNotSupported("WITH takes queries only", position=position_of(cte), sql=binding.sql)
        inner = {**reached, folded: [*given, UNKNOWN]} if clause.recursive else reached
        names = bind_query(binding, cte.this, outer, inner)
        known = UNKNOWN not in names[: len(given)]
        reached[folded] = [*given, *names[len(given) :]] if known else [*given, UNKNOWN]
    return reached


# --- one block


def _select(binding: Binding, node: Any, outer: Scope | None, ctes: Ctes) -> list[str]:
    scope = Scope(outer, ctes)
    source = node.args.get("from_")
    if source is not None:
        bind_from(binding, source.this, node.args.get("joins") or [], scope)
    if node.args.get("sample"):
        for relation in scope.relations:
            relation.pinned = True
    scope.aliases = {item.alias.casefold() for item in node.expressions if isinstance(item, exp.Alias)}
    for step in scope.steps:
        walk(binding, step.on, scope, strict=True)
    where = node.args.get("where")
    for item in (*node.expressions, where):
        walk(binding, item, scope, strict=True)
    for part in _LENIENT:
        clause = node.args.get(part)
        for item in clause if isinstance(clause, list) else [clause]:
            walk(binding, item, scope)
    push_down(binding, scope, where.this if where is not None else None)
    binding.scopes[id(node)] = scope
    return output_names(node, scope)


_LENIENT = ("distinct", "group", "having", "qualify", "windows", "order", "limit", "offset")


def output_names(node: Any, scope: Scope) -> list[str]:
    """The names of a select list, stars spelled out where they can be."""
    return [name for item in node.expressions for name in item_names(item, scope)]


def item_names(item: Any, scope: Scope) -> list[str]:
    """The names of one select item."""
    if isinstance(item, exp.Star):
        return _star(item, scope.relations, scope)
    if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        alias = item.table.casefold()
        return _star(item.this, [relation for relation in scope.relations if relation.alias == alias], None)
    return [name_of(item)]


def _star(star: Any, relations: list[Relation], scope: Scope | None) -> list[str]:
    """The columns `*` stands for, or UNKNOWN."""
    shown = [relation for relation in relations if not relation.semi]
    natural = scope is not None and scope.natural
    if not shown or natural or star.args.get("rename") or any(relation.open for relation in shown):
        return [UNKNOWN]
    left_out = {column.name.casefold() for column in star.args.get("except_") or ()}
    merged = set(scope.merged) if scope is not None else set()
    seen: set[str] = set()
    names = []
    for name in (name for relation in shown for name in relation.names):
        folded = name.casefold()
        if folded not in left_out and not (folded in merged and folded in seen):
            names.append(name)
        seen.add(folded)
    return names


# --- everything else


def _set_operation(binding: Binding, node: Any, outer: Scope | None, ctes: Ctes) -> list[str]:
    """UNION, EXCEPT, INTERSECT: each branch is a query of its own. Long chains lean to the left."""
    branches = [node.expression]
    by_name = bool(node.args.get("by_name"))
    left = node.this
    while isinstance(left, exp.SetOperation) and not left.args.get("with_"):
        _modifiers(binding, left, [UNKNOWN], outer, ctes)
        branches.append(left.expression)
        by_name = by_name or bool(left.args.get("by_name"))
        left = left.this
    names = bind_query(binding, left, outer, ctes)
    for branch in reversed(branches):
        others = bind_query(binding, branch, outer, ctes)
        if by_name or (len(others) != len(names) and UNKNOWN in (*names, *others)):
            names = [UNKNOWN]
        elif len(others) != len(names):
            raise SyntaxError_(
                f"each query of a set operation must have the same number of columns: {len(names)} and {len(others)}",
                position=position_of(branch),
                sql=binding.sql,
            )
    _modifiers(binding, node, names, outer, ctes)
    return names


def _modifiers(binding: Binding, node: Any, names: list[str], outer: Scope | None, ctes: Ctes) -> None:
    """ORDER BY and LIMIT of what is not one block name its result only."""
    relation = Relation("", columns_by_name(names), names, open=True)
    scope = Scope(outer, ctes, [relation])
    for part in ("order", "limit", "offset"):
        walk(binding, node.args.get(part), scope)


def _values(binding: Binding, node: Any, outer: Scope | None, ctes: Ctes) -> list[str]:
    scope = Scope(outer, ctes)
    for row in node.expressions:
        walk(binding, row, scope)
    first = node.expressions[0] if node.expressions else None
    width = len(first.expressions) if isinstance(first, exp.Tuple) else 1
    names = [f"col{number}" for number in range(width)]
    _modifiers(binding, node, names, outer, ctes)
    return names


def walk(binding: Binding, node: Any, scope: Scope, *, strict: bool = False) -> None:
    """Resolve every column of an expression and bind every query in it."""
    waiting = [node] if node is not None else []
    while waiting:
        found = waiting.pop()
        match found:
            case exp.Column():
                resolve_column(binding, found, scope, strict=strict)
                if isinstance(found.this, exp.Star):
                    waiting += found.this.iter_expressions()
            case exp.Exists():
                _shorten_exists(found)
                waiting += found.iter_expressions()
            case exp.Query():
                bind_query(binding, found, scope, scope.ctes)
            case exp.Star():
                if not isinstance(found.parent, exp.Count):
                    mark_all(scope.relations)
                waiting += found.iter_expressions()
            case exp.Columns():
                mark_all(scope.relations)
            case exp.Var() if found.name.upper() == "DEFAULT":
                raise SyntaxError_("DEFAULT is not allowed here", sql=binding.sql)
            case _:
                waiting += found.iter_expressions()


def _shorten_exists(node: Any) -> None:
    """EXISTS (SELECT * …) reads no column for its star."""
    inner = node.this.this if isinstance(node.this, exp.Subquery) else node.this
    if not isinstance(inner, exp.Select) or len(inner.expressions) != 1 or type(inner.expressions[0]) is not exp.Star:
        return
    if not any(inner.args.get(part) for part in ("distinct", "group", "having", "qualify", "order")):
        inner.set("expressions", [exp.Literal.number(1)])


def check_complete(binding: Binding, tree: Any) -> None:
    """No table may have escaped: it would reach DuckDB under a user's name."""
    for table in tree.find_all(exp.Table):
        if id(table) not in binding.done:
            raise FeatureNotSupported("a table is not supported here", position=position_of(table), sql=binding.sql)
