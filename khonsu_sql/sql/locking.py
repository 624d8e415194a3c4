"""FOR UPDATE and FOR SHARE bound: which tables of FROM are locked, and the query that finds their keys.

Called by `statements` with a bound SELECT; its plan is run by `locked_query`. The key columns of every locked table follow the user's
columns, so the rows that are locked are the rows that are returned. What has no such rows is refused by name, as in PostgreSQL: grouping,
DISTINCT, windows, the side of an outer join that NULLs may fill, subqueries and CTEs. Tables of subqueries elsewhere are read, not locked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlglot import exp

from khonsu_engine.mvcc.lock_table import LockMode
from khonsu_engine.schema.catalog import ROW_ID
from khonsu_sql.errors import FeatureNotSupported, UndefinedTable
from khonsu_sql.sql.dialect import write
from khonsu_sql.sql.functions import is_aggregate
from khonsu_sql.sql.lock_clauses import LockClause
from khonsu_sql.sql.plan import SPARE_ROWS, LockedQuery, Query, RowLock
from khonsu_sql.sql.relations import Binding, Occurrence, Relation, Scope
from khonsu_sql.sql.resolve import nearest, position_of
from khonsu_sql.sql.shape import Constant, Expression, Parameter
from khonsu_sql.sql.shapes import count_of, scope_resolver
from khonsu_sql.sql.system import is_view

__all__ = ["add_keys", "locked_query", "refuse_parts_of_locked", "row_locks", "take_counts"]

_PLAIN = frozenset(["expressions", "from_", "joins", "where", "order", "limit", "offset", "with_", "hint", "locks"])
_REFUSED = {
    "distinct": "DISTINCT clause",
    "group": "GROUP BY clause",
    "having": "HAVING clause",
    "qualify": "window functions",
    "windows": "window functions",
    "sample": "USING SAMPLE",
}


def refuse_parts_of_locked(tree: Any, clauses: Sequence[LockClause], sql: str) -> None:
    """Raises FeatureNotSupported (0A000) for a SELECT whose rows are not rows of tables."""
    kind = clauses[0].kind
    for part, value in tree.args.items():
        if value and part not in _PLAIN:
            raise FeatureNotSupported(f"{kind} is not allowed with {_REFUSED.get(part, part.upper())}", sql=sql)
    waiting = [*tree.expressions, tree.args.get("order")]
    while waiting:
        node = waiting.pop()
        if node is None or isinstance(node, exp.Query):
            continue
        if isinstance(node, exp.Window) or is_aggregate(node):
            what = "window" if isinstance(node, exp.Window) else "aggregate"
            raise FeatureNotSupported(f"{kind} is not allowed with {what} functions", position=position_of(node), sql=sql)
        waiting += node.iter_expressions()


# --- which tables


def row_locks(binding: Binding, tree: Any, clauses: Sequence[LockClause]) -> tuple[RowLock, ...]:
    """What is locked, in the order of FROM. A table that several clauses name gets the strongest mode, NOWAIT before SKIP LOCKED."""
    scope = binding.scopes[id(tree)]
    found: dict[int, RowLock] = {}
    for clause in clauses:
        for relation in _named(binding, tree, clause, scope) if clause.names else _all(binding, tree, clause, scope):
            occurrence = _lockable(binding, clause, relation)
            number = binding.occurrences.index(occurrence)
            known = found.get(number)
            mode, policy = clause.mode, clause.policy
            if known is not None:
                mode, policy = max(mode, known.mode), min(policy, known.policy, key=_POLICIES.index)
            found[number] = RowLock(number, occurrence.table, LockMode(mode), policy)
    return tuple(found[number] for number in sorted(found))


_POLICIES = ("nowait", "skip", "wait")


def _named(binding: Binding, tree: Any, clause: LockClause, scope: Scope) -> Iterator[Relation]:
    for name, position in clause.names:
        relation = next((relation for relation in scope.relations if relation.alias == name.casefold()), None)
        if relation is None:
            known = [relation.alias for relation in scope.relations if relation.alias]
            message = f'relation "{name}" in {clause.kind} clause not found in FROM clause'
            raise UndefinedTable(message, position=position, sql=binding.sql, hint=nearest(name, known, 'Did you mean "{}"?'))
        if relation.occurrence is None:
            what = next((kind for alias, kind in _others(tree) if alias == name.casefold()), "a function")
            raise FeatureNotSupported(f"{clause.kind} cannot be applied to {what}", position=position, sql=binding.sql)
        yield relation


def _all(binding: Binding, tree: Any, clause: LockClause, scope: Scope) -> Iterator[Relation]:
    """Every table of FROM. Functions and VALUES beside them have nothing to lock."""
    kinds = [kind for _, kind in _others(tree)]
    tables = [relation for relation in scope.relations if relation.occurrence is not None]
    refused = next((kind for kind in kinds if kind in (_SUBQUERY, _CTE)), None)
    if refused is None and not tables:
        refused = kinds[0] if kinds else "a SELECT without a table"
    if refused is not None:
        hint = f"Name the tables to be locked: {clause.kind} OF …" if tables else None
        raise FeatureNotSupported(f"{clause.kind} cannot be applied to {refused}", sql=binding.sql, hint=hint)
    yield from tables


_SUBQUERY, _CTE = "a subquery", "a WITH query"


def _others(tree: Any) -> Iterator[tuple[str, str]]:
    """(folded alias, what it is) of the items of FROM that are no tables."""
    ctes = {cte.alias.casefold() for cte in tree.find_all(exp.CTE)}
    first = tree.args.get("from_")
    waiting = [] if first is None else [first.this]
    waiting += [join.this for join in tree.args.get("joins") or ()]
    while waiting:
        item = waiting.pop(0)
        waiting += [join.this for join in item.args.get("joins") or ()]
        inner = item.this
        match item:
            case exp.Table() if isinstance(inner, exp.Identifier):
                if inner.name.casefold() in ctes and not item.db:
                    yield (item.alias or item.name).casefold(), _CTE
            case exp.Subquery() if not isinstance(inner, exp.Query | exp.Values | exp.Pivot):
                waiting.append(inner)
            case exp.Values() | exp.Subquery(this=exp.Values()):
                yield item.alias.casefold(), "VALUES"
            case exp.Subquery() | exp.Query() | exp.Pivot() | exp.Lateral(this=exp.Subquery() | exp.Query()):
                yield item.alias.casefold(), _SUBQUERY
            case _:
                yield item.alias.casefold(), "a function"


def _lockable(binding: Binding, clause: LockClause, relation: Relation) -> Occurrence:
    """Its occurrence, if every row of it that is returned can be named."""
    what = None
    if relation.occurrence is not None and is_view(relation.occurrence.table):
        what = "a system view"
    elif relation.semi:
        what = "the right side of a SEMI or ANTI join"
    elif relation.nullable:
        what = "the nullable side of an outer join"
    elif relation.pinned or relation.open:
        what = "a sample, a pivot, or a table in a POSITIONAL or ASOF join"
    if what is not None:
        hint = f"Name the other tables: {clause.kind} OF …" if not clause.names else None
        raise FeatureNotSupported(f"{clause.kind} cannot be applied to {what}", sql=binding.sql, hint=hint)
    assert relation.occurrence is not None
    return relation.occurrence


# --- the query


def add_keys(binding: Binding, tree: Any, locks: Sequence[RowLock]) -> list[str]:
    """Append the key columns of the locked tables to the select list. Returns their names."""
    scope = binding.scopes[id(tree)]
    relations = {id(relation.occurrence): relation for relation in scope.relations if relation.occurrence is not None}
    aliases = {table.name: table.alias for table in tree.find_all(exp.Table) if isinstance(table.this, exp.Identifier)}
    items, names = list(tree.expressions), list[str]()
    for lock in locks:
        occurrence = binding.occurrences[lock.source]
        relation = relations[id(occurrence)]
        if occurrence.whole and lock.table.has_row_id:
            _hide_row_id(binding, tree, scope, relation)
        for position in lock.table.key_columns:
            occurrence.columns |= 1 << position
            column = exp.Column(
                this=exp.to_identifier(_shown(relation, lock, position), quoted=True),
                table=exp.to_identifier(aliases[occurrence.name], quoted=True),
            )
            names.append(f"khonsu_key{len(names) + 1}")
            items.append(exp.Alias(this=column, alias=exp.to_identifier(names[-1], quoted=True)))
    tree.set("expressions", items)
    return names


def _shown(relation: Relation, lock: RowLock, position: int) -> str:
    """What the query calls a column: `AS x(a, b)` renames those that are not hidden."""
    visible = lock.table.visible
    return relation.names[visible.index(position)] if position in visible else lock.table.columns[position].name


def _hide_row_id(binding: Binding, tree: Any, scope: Scope, relation: Relation) -> None:
    """The stars of the select list leave out the hidden key that has to be served; whole rows cannot."""
    columns = list(tree.find_all(exp.Column))
    whole = any(not column.table and column.name.casefold() == relation.alias and id(column) not in binding.hits for column in columns)
    if whole or scope.natural or tree.find(exp.Columns):
        raise FeatureNotSupported("a whole-row reference to a table without primary key is not supported here", sql=binding.sql)
    for item in tree.expressions:
        star = item.this if isinstance(item, exp.Column) else item
        mine = not isinstance(item, exp.Column) or item.table.casefold() == relation.alias
        hidden = star.args.get("except_") or [] if isinstance(star, exp.Star) else None
        if hidden is not None and mine and all(name.name != ROW_ID for name in hidden):
            star.set("except_", [*hidden, exp.to_identifier(ROW_ID, quoted=True)])


def locked_query(
    binding: Binding, tree: Any, query: Query, locks: tuple[RowLock, ...], clauses: Sequence[LockClause], counts: Sequence[Any]
) -> LockedQuery:
    """The plan. `counts`: LIMIT and OFFSET that `take_counts` took off the tree, none without SKIP LOCKED."""
    covers = not any(tree.args.get(part) for part in ("limit", "offset")) and not counts
    kind, text = clauses[0].kind, " ".join(clause.text for clause in clauses)
    if not counts:
        return LockedQuery(query, locks, kind, text, covers)
    limit, offset = counts
    first = most = None
    if isinstance(limit, Constant) and isinstance(offset, Constant | None):
        most = limit.value + (0 if offset is None else offset.value) + SPARE_ROWS
        tree.set("limit", exp.Limit(expression=exp.Literal.number(most)))
        first = msgspec.structs.replace(query, sql=write(tree))
    return LockedQuery(query, locks, kind, text, False, limit, offset, first, most)


def take_counts(binding: Binding, tree: Any, locks: Sequence[RowLock]) -> tuple[Expression | None, Expression | None] | tuple[()]:
    """With SKIP LOCKED, LIMIT and OFFSET off the tree: they count rows that are free. Raises FeatureNotSupported."""
    if all(lock.policy != "skip" for lock in locks) or not (tree.args.get("limit") or tree.args.get("offset")):
        return ()
    resolve = scope_resolver(binding, binding.scopes[id(tree)])
    found = [_count(binding, count_of(tree.args.get(part), resolve)) for part in ("limit", "offset")]
    tree.set("limit", None)
    tree.set("offset", None)
    return found[0], found[1]


def _count(binding: Binding, count: Expression | bool | None) -> Expression | None:
    match count:
        case None | Parameter():
            return count
        case Constant(value=value) if value.__class__ is int and value >= 0:
            return count
    raise FeatureNotSupported("SKIP LOCKED with a LIMIT or OFFSET that is no number or parameter is not supported yet", sql=binding.sql)
