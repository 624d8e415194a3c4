"""What a column reference names, and which columns a statement therefore uses.

Called by `queries`, `from_items` and `changes` for every column of a statement. A reference marks every base table column it *might*
mean: too many are only read, too few would be wrong. It is an error of ours only when no relation in reach has it and all of them
are known; everything else DuckDB judges. `Binding.hits` keeps what a reference means in its own scope, for filters and shapes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, NoReturn

from sqlglot import exp

from khonsu_sql.errors import AmbiguousColumn, UndefinedColumn, UndefinedTable
from khonsu_sql.sql.names import UNKNOWN, UNNAMED
from khonsu_sql.sql.normal import start_of
from khonsu_sql.sql.relations import Binding, Hit, Relation, Scope
from khonsu_sql.sql.system import SCHEMA, is_view

__all__ = ["mark_all", "nearest", "position_of", "resolve_column", "scopes_of"]

# Words that PostgreSQL evaluates without parentheses and sqlglot takes for columns.
_NILADIC = frozenset(
    """
    user current_user session_user current_role current_schema current_catalog current_database localtime localtimestamp
    """.split()
)


def position_of(node: Any) -> int | None:
    """1-based position of `node` in the text, for an error."""
    start = start_of(node)
    return None if start is None else start + 1


def nearest(name: str, known: list[str], form: str = "Did you mean {}?") -> str | None:
    """A hint naming the nearest of `known`, if one is near."""
    by_fold = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), by_fold, 1, 0.6)
    return form.format(by_fold[near[0]]) if near else None


def scopes_of(scope: Scope | None) -> Iterator[Scope]:
    """`scope` and those around it, innermost first."""
    while scope is not None:
        yield scope
        scope = scope.outer


def mark_all(relations: list[Relation]) -> None:
    """A star, or a whole row: every column counts."""
    for relation in relations:
        if relation.occurrence is not None:
            relation.occurrence.whole = True


def _mark(relation: Relation, ordinal: int) -> None:
    if relation.occurrence is not None:
        relation.occurrence.columns |= 1 << ordinal


def resolve_column(binding: Binding, column: Any, scope: Scope, *, strict: bool = False, lenient: bool = False) -> None:
    """Mark what `column` uses and note what it names.

    strict   an alias of the select list is not meant: two columns of that name are an error
    lenient  never an error (arguments of table functions have names of their own)
    """
    parts = [column.args.get(part) for part in ("catalog", "db", "table", "this")]
    names = [part for part in parts if part is not None]
    if len(names) == 1:
        if not isinstance(column.this, exp.Star):
            _unqualified(binding, column, scope, strict, lenient)
    else:
        _qualified(binding, column, names, scope, lenient)


# --- t.a, main.t.a, khonsu.t.a, struct.field


def _qualified(binding: Binding, column: Any, names: list[Any], scope: Scope, lenient: bool) -> None:
    found = _relation(names[0].name.casefold(), scope)
    if found is None and len(names) > 2:
        found = _relation_in(names[0].name.casefold(), names[1].name.casefold(), scope)
        if found is not None:
            column.set("catalog" if len(names) == 4 else "db", None)
            names = names[1:]
    if found is not None:
        _of_relation(binding, column, names, found, scope, lenient)
    elif not _field(names[0].name.casefold(), scope) and not lenient and names[0].name.casefold() not in binding.locals:
        known = [relation.alias for reached in scopes_of(scope) for relation in reached.relations if relation.alias]
        raise UndefinedTable(
            f'missing FROM-clause entry for table "{names[0].name}"',
            position=position_of(names[0]),
            sql=binding.sql,
            hint=nearest(names[0].name, known, 'Did you mean the table "{}"?'),
        )


def _relation(alias: str, scope: Scope) -> tuple[Relation, Scope] | None:
    for reached in scopes_of(scope):
        for relation in reached.relations:
            if relation.alias == alias:
                return relation, reached
    return None


def _relation_in(schema: str, alias: str, scope: Scope) -> tuple[Relation, Scope] | None:
    """`_relation`, of that schema."""
    found = _relation(alias, scope) if schema in ("main", SCHEMA) else None
    if found is None:
        return None
    occurrence = found[0].occurrence
    return found if schema == (SCHEMA if occurrence is not None and is_view(occurrence.table) else "main") else None


def _of_relation(binding: Binding, column: Any, names: list[Any], found: tuple[Relation, Scope], scope: Scope, lenient: bool) -> None:
    relation, owner = found
    if isinstance(names[1], exp.Star):
        mark_all([relation])
        return
    ordinal = relation.columns.get(names[1].name.casefold())
    if ordinal is not None:
        _mark(relation, ordinal)
        if owner is scope and len(names) == 2:
            binding.hits[id(column)] = [(relation, ordinal)]
    elif not (relation.open or lenient or _expression_name(names[1].name, relation) or _field(names[0].name.casefold(), scope)):
        shown = f"{names[0].name}.{names[1].name}"
        _undefined(binding, names[1], shown, relation.names)


def _expression_name(name: str, relation: Relation) -> bool:
    """May `"sum(x)"` be what DuckDB calls a column without a name?"""
    return UNNAMED in relation.names and not name.isidentifier()


def _field(name: str, scope: Scope) -> bool:
    """Is `name` a column (of which a field is meant)? Marked, if so."""
    found = False
    for reached in scopes_of(scope):
        for relation in reached.relations:
            if name in relation.columns:
                _mark(relation, relation.columns[name])
                found = True
            found = found or relation.open
        found = found or name in reached.aliases
    return found


def _undefined(binding: Binding, node: Any, shown: str, known: list[str]) -> NoReturn:
    names = [name for name in known if name not in (UNKNOWN, UNNAMED)]
    raise UndefinedColumn(
        f'column "{shown}" does not exist',
        position=position_of(node),
        sql=binding.sql,
        hint=nearest(node.name, names, 'Did you mean "{}"?'),
    )


# --- a


def _unqualified(binding: Binding, column: Any, scope: Scope, strict: bool, lenient: bool) -> None:
    name = column.name.casefold()
    known = False
    for reached in scopes_of(scope):
        hits = [(relation, relation.columns[name]) for relation in reached.relations if name in relation.columns]
        for relation, ordinal in hits:
            _mark(relation, ordinal)
        if hits:
            if reached is scope:
                _own(binding, column, hits, scope, strict)
            return
        for relation in reached.relations:
            if relation.alias == name:
                mark_all([relation])
                known = True
            known = known or relation.open or _expression_name(column.name, relation)
        known = known or name in reached.aliases or reached.natural
    if not (known or lenient or name in binding.locals or name in _NILADIC):
        shown = [name for reached in scopes_of(scope) for relation in reached.relations for name in relation.names]
        _undefined(binding, column, column.name, shown)


def _own(binding: Binding, column: Any, hits: list[Hit], scope: Scope, strict: bool) -> None:
    """Found in its own scope, once or more often."""
    name = column.name.casefold()
    visible = [hit for hit in hits if not hit[0].semi] or hits
    merged = scope.merged.get(name, ())
    if len(visible) == 1 and not any(relation.open for relation in scope.relations):
        binding.hits[id(column)] = visible
    elif merged and {id(relation) for relation, _ in visible} <= {id(relation) for relation, _ in merged}:
        binding.hits[id(column)] = merged
    elif len(visible) > 1 and strict and not (scope.natural or name in scope.merged or name in scope.aliases):
        tables = ", ".join(f'"{relation.alias}"' for relation, _ in visible if relation.alias)
        raise AmbiguousColumn(
            f'column reference "{column.name}" is ambiguous',
            position=position_of(column),
            sql=binding.sql,
            detail=f"It could be a column of {tables}." if tables else None,
        )
