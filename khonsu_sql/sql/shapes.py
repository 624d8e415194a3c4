"""Simple statements in the words of `shape`, for the point path's compiler.

Called by `statements`, `inserts` and `changes`, once all names are bound.

A SELECT has a shape when it is one block over base tables joined by INNER or LEFT joins, without DISTINCT, grouping, windows, CTEs
or subqueries. Nothing is decided here about what the point path can do.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from khonsu_sql.sql.expressions import Resolver, conjuncts, resolver_of, translate
from khonsu_sql.sql.relations import Binding, JoinStep, Relation, Scope
from khonsu_sql.sql.shape import ColumnRef, Constant, Expression, Operation, OrderItem, Output, Shape, ShapeSource
from khonsu_sql.sql.system import is_view

__all__ = ["count_of", "outputs_of", "scope_resolver", "select_shape", "where_of"]

_PARTS = {"expressions", "from_", "joins", "where", "order", "limit", "offset"}


def scope_resolver(binding: Binding, scope: Scope) -> Resolver:
    """Columns of `scope` as ColumnRefs, base tables numbered in order."""
    return resolver_of({id(relation): number for number, relation in enumerate(scope.relations)}, binding.hits)


def select_shape(binding: Binding, tree: Any, names: list[str]) -> Shape | None:
    """The shape of a bound query whose columns are called `names`."""
    if not isinstance(tree, exp.Select) or {part for part, value in tree.args.items() if value} - _PARTS:
        return None
    scope = binding.scopes[id(tree)]
    resolve = scope_resolver(binding, scope)
    sources = _sources(binding, scope, resolve)
    if sources is None:
        return None
    outputs = outputs_of(tree.expressions, names, scope, resolve)
    order = _order(tree, outputs, resolve)
    limit, offset = count_of(tree.args.get("limit"), resolve), count_of(tree.args.get("offset"), resolve)
    if outputs is None or order is None or limit is False or offset is False:
        return None
    return Shape("select", sources, where_of(tree, resolve), outputs, order, limit, offset)  # type: ignore[arg-type]


def where_of(tree: Any, resolve: Resolver) -> tuple[Expression, ...]:
    where = tree.args.get("where")
    return () if where is None else tuple(translate(condition, resolve) for condition in conjuncts(where.this))


def _sources(binding: Binding, scope: Scope, resolve: Resolver) -> tuple[ShapeSource, ...] | None:
    relations = scope.relations
    plain = all(_plain(relation) for relation in relations)
    if not relations or not plain or scope.natural or len(binding.occurrences) != len(relations) or len(scope.steps) != len(relations) - 1:
        return None
    index = {id(relation): number for number, relation in enumerate(relations)}
    found: list[ShapeSource] = []
    for relation, step in zip(relations, [None, *scope.steps], strict=True):
        assert relation.occurrence is not None
        if step is None:
            found.append(ShapeSource(relation.occurrence.table))
            continue
        if step.kind not in ("inner", "left") or step.right != [relation]:
            return None
        found.append(ShapeSource(relation.occurrence.table, step.kind, _on(step, index, resolve)))
    return tuple(found)


def _plain(relation: Relation) -> bool:
    """Is it a base table, whole and as it is?"""
    return relation.occurrence is not None and not is_view(relation.occurrence.table) and not relation.pinned and not relation.open


def _on(step: JoinStep, index: dict[int, int], resolve: Resolver) -> tuple[Expression, ...]:
    conditions = [translate(condition, resolve) for condition in conjuncts(step.on)]
    for (left, first), (right, second) in step.using:
        conditions.append(Operation("=", (ColumnRef(index[id(left)], first), ColumnRef(index[id(right)], second))))
    return tuple(conditions)


def outputs_of(items: list[Any], names: list[str], scope: Scope, resolve: Resolver) -> tuple[Output, ...] | None:
    """The select list with its stars spelled out; None when one of them cannot be."""
    found: list[Expression] = []
    for item in items:
        star = item.this if isinstance(item, exp.Column) else item
        if not isinstance(star, exp.Star):
            found.append(translate(item.this if isinstance(item, exp.Alias) else item, resolve))
        elif scope.merged or any(star.args.values()):
            return None
        else:
            alias = item.table.casefold() if isinstance(item, exp.Column) else None
            for number, relation in enumerate(scope.relations):
                if alias is None or relation.alias == alias:
                    found += [ColumnRef(number, ordinal) for ordinal in relation.columns.values()]
    if len(found) != len(names):
        return None
    return tuple(Output(expression, name) for expression, name in zip(found, names, strict=True))


def _order(tree: Any, outputs: tuple[Output, ...] | None, resolve: Resolver) -> tuple[OrderItem, ...] | None:
    """ORDER BY prefers the names of outputs, and numbers are places in the select list."""
    clause = tree.args.get("order")
    if clause is None or outputs is None:
        return ()
    aliases = {item.alias.casefold(): item.this for item in tree.expressions if isinstance(item, exp.Alias)}
    found = []
    for item in clause.expressions:
        node = item.this
        if isinstance(node, exp.Column) and not node.table and node.name.casefold() in aliases:
            node = aliases[node.name.casefold()]
        elif isinstance(node, exp.Literal):
            if node.is_string or not node.name.isdecimal() or not 0 < int(node.name) <= len(outputs):
                return None
            found.append(_order_item(outputs[int(node.name) - 1].expression, item))
            continue
        elif isinstance(node, exp.Var):
            return None
        found.append(_order_item(translate(node, resolve), item))
    return tuple(found)


def _order_item(expression: Expression, item: Any) -> OrderItem:
    return OrderItem(expression, bool(item.args.get("desc")), bool(item.args.get("nulls_first")))


def count_of(clause: Any, resolve: Resolver) -> Expression | bool | None:
    """LIMIT or OFFSET; None without one, False for one of another kind."""
    if clause is None:
        return None
    if isinstance(clause, exp.Fetch):
        return False
    expression = translate(clause.expression, resolve)
    return False if expression == Constant(None) or clause.args.get("limit_options") else expression
