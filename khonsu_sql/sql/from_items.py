"""The FROM clause: base tables and system views become sources under generated names, everything else becomes a relation with known or
unknown columns.

Called by `queries`, `inserts` and `changes`; calls back `Binding.query` for subqueries. Items are bound from left to right,
and each sees those before it (DuckDB takes any subquery in FROM for LATERAL). Joins are noted as `JoinStep`s, innermost first,
for `pushdown`.
"""

from __future__ import annotations

from typing import Any, NoReturn

from sqlglot import exp

from khonsu_engine.schema.catalog import Table
from khonsu_sql.errors import FeatureNotSupported, InsufficientPrivilege, InvalidSchemaName, ProgrammingError, UndefinedTable
from khonsu_sql.sql.names import UNKNOWN
from khonsu_sql.sql.relations import Binding, Hit, JoinStep, Relation, Scope, columns_by_name
from khonsu_sql.sql.resolve import mark_all, nearest, position_of, resolve_column
from khonsu_sql.sql.system import CONTENT_FUNCTION, SCHEMA, find_view, known_names

__all__ = ["bind_from", "bind_item", "bind_joins", "find_table", "replace_table"]

SYSTEM_SCHEMAS = frozenset(["information_schema", "pg_catalog", "temp", "system"])


def bind_from(binding: Binding, first: Any, joins: list[Any], scope: Scope) -> None:
    """`first` and what is joined to it, into `scope`. Raises UndefinedTable, InvalidSchemaName, ProgrammingError (42712)."""
    bind_joins(binding, joins, _group(binding, first, scope), scope)


def bind_joins(binding: Binding, joins: list[Any], left: list[Relation], scope: Scope) -> None:
    """What is joined to `left`."""
    for join in joins:
        left = _join(binding, join, left, scope)


def _group(binding: Binding, item: Any, scope: Scope) -> list[Relation]:
    """An item and the joins inside its parentheses."""
    relations = bind_item(binding, item, scope)
    for join in item.args.get("joins") or ():
        relations = _join(binding, join, relations, scope)
    return relations


def _join(binding: Binding, join: Any, left: list[Relation], scope: Scope) -> list[Relation]:
    right = _group(binding, join.this, scope)
    step = JoinStep(_kind(join), left, right, join.args.get("on"))
    if step.kind in ("semi", "anti"):
        for relation in right:
            relation.semi = True
    if join.method == "NATURAL":
        scope.natural = True
        mark_all([*left, *right])
    for name in join.args.get("using") or ():
        _using(binding, name, step, scope)
    scope.steps.append(step)
    return [*left, *right]


def _kind(join: Any) -> str:
    method, side, kind = join.method.upper(), join.side.upper(), join.kind.upper()
    if method not in ("", "NATURAL") or kind not in ("", "INNER", "CROSS", "OUTER", "SEMI", "ANTI"):
        return "other"
    if kind in ("SEMI", "ANTI"):
        return "other" if side else kind.lower()
    return side.lower() or "inner"


def _using(binding: Binding, name: Any, step: JoinStep, scope: Scope) -> None:
    """One merged column. Its values are the left side's, unless the left side may be filled with NULLs."""
    folded = name.name.casefold()
    sides = []
    for side in (step.left, step.right):
        hits: list[Hit] = [(relation, relation.columns[folded]) for relation in side if folded in relation.columns and not relation.semi]
        hits = hits or [(relation, relation.columns[folded]) for relation in side if folded in relation.columns]
        for relation, ordinal in hits:
            if relation.occurrence is not None:
                relation.occurrence.columns |= 1 << ordinal
        sides.append(hits)
    left, right = sides
    known = scope.merged.get(folded, [])
    certain = known is not None and len(right) == 1 and (len(left) == 1 or bool(known))
    if step.kind in ("inner", "left", "semi", "anti") and certain and known is not None:
        step.using.append((left[0], right[0]))
        scope.merged[folded] = [*(known or left[:1]), *([] if step.kind in ("semi", "anti") else right)]
    else:
        scope.merged[folded] = None


# --- items


def bind_item(binding: Binding, item: Any, scope: Scope) -> list[Relation]:
    """One item, without the joins it may carry; its relations are added to `scope`."""
    match item:
        case exp.Table():
            relations = [_table(binding, item, scope)]
        case exp.Subquery() if not isinstance(item.this, exp.Query | exp.Values | exp.Pivot):
            return _parenthesised(binding, item, scope)
        case exp.Lateral():
            relations = [_lateral(binding, item, scope)]
        case exp.Values():
            relations = [_relation(item, binding.query(item, scope, scope.ctes))]
        case exp.Subquery() | exp.Query() | exp.Pivot():
            relations = [_relation(item, binding.query(item, scope, scope.ctes))]
        case _:
            _walk_arguments(binding, item, scope)
            relations = [_function_relation(item, "unnest")]
    _transformed(item, relations)
    for relation in relations:
        _add(binding, relation, item, scope)
    return relations


def _add(binding: Binding, relation: Relation, item: Any, scope: Scope) -> None:
    explicit = bool(item.alias) or relation.occurrence is not None
    if explicit and relation.alias and any(relation.alias == other.alias for other in scope.relations):
        name = item.alias or relation.alias
        message = f'table name "{name}" specified more than once'
        position = position_of(item)
        raise ProgrammingError(message, sqlstate="42712", position=position, sql=binding.sql, hint="Give one of them an alias.")
    scope.relations.append(relation)


def _parenthesised(binding: Binding, item: Any, scope: Scope) -> list[Relation]:
    """`(a JOIN b ON …)`; its alias, if any, hides the names inside."""
    if not item.alias:
        relations = _group(binding, item.this, scope)
        _transformed(item, relations)
        return relations
    raise FeatureNotSupported("an alias for a join in parentheses is not supported yet", position=position_of(item), sql=binding.sql)


def _transformed(item: Any, relations: list[Relation]) -> None:
    """Samples and pivots look at all rows and columns."""
    if item.args.get("pivots"):
        mark_all(relations)
        for relation in relations:
            relation.open, relation.columns, relation.names, relation.pinned = True, {}, [UNKNOWN], True
    if item.args.get("sample") or item.find(exp.TableSample):
        for relation in relations:
            relation.pinned = True


def _lateral(binding: Binding, item: Any, scope: Scope) -> Relation:
    inner = item.this
    if isinstance(inner, exp.Subquery | exp.Query):
        return _relation(item, binding.query(inner, scope, scope.ctes))
    _walk_arguments(binding, inner, scope)
    return _function_relation(item, "")


def _walk_arguments(binding: Binding, node: Any, scope: Scope) -> None:
    """The arguments of a table function may name columns to its left."""
    waiting = [child for child in node.iter_expressions() if not isinstance(child, exp.TableAlias)]
    while waiting:
        found = waiting.pop()
        if isinstance(found, exp.Query):
            binding.query(found, scope, scope.ctes)
        elif isinstance(found, exp.Column):
            resolve_column(binding, found, scope, lenient=True)
        else:
            waiting += found.iter_expressions()


def _relation(item: Any, names: list[str]) -> Relation:
    names = _renamed(item, names)
    return Relation(item.alias.casefold(), columns_by_name(names), names, open=UNKNOWN in names)


def _renamed(item: Any, names: list[str]) -> list[str]:
    """`AS x(a, b)` names the first columns."""
    given = item.alias_column_names
    if UNKNOWN in names[: len(given)]:
        return [*given, UNKNOWN]
    return [*given, *names[len(given) :]]


_SINGLE_COLUMN = frozenset(["range", "generate_series", "explodinggenerateseries", "generateseries"])


def _function_relation(item: Any, default: str) -> Relation:
    """A table function: its columns are those of its alias, others may follow."""
    given = item.alias_column_names
    names = given if given and default.casefold() in _SINGLE_COLUMN else [*given, UNKNOWN]
    return Relation((item.alias or default).casefold(), columns_by_name(names), names, open=UNKNOWN in names)


# --- base tables


def _table(binding: Binding, item: Any, scope: Scope) -> Relation:
    binding.done.add(id(item))
    if isinstance(item.this, exp.Anonymous) and item.this.name.casefold() == CONTENT_FUNCTION:
        return _renamed_table(binding, item, _content(binding, item))
    if not isinstance(item.this, exp.Identifier):
        _walk_arguments(binding, item, scope)
        return _function_relation(item, item.this.name or type(item.this).__name__)
    folded = item.name.casefold()
    if not item.db and folded in scope.ctes:
        names = _renamed(item, scope.ctes[folded])
        return Relation((item.alias or item.name).casefold(), columns_by_name(names), names, open=UNKNOWN in names)
    table = _view(binding, item) or find_table(binding, item, list(scope.ctes))
    return _renamed_table(binding, item, table)


def _renamed_table(binding: Binding, item: Any, table: Table) -> Relation:
    """`table` under the name, and with the names of columns, that `item` gives it."""
    relation = replace_table(binding, item, table)
    given = item.alias_column_names
    if given:
        assert relation.occurrence is not None
        relation.occurrence.whole = True
        names = [*given, *relation.names[len(given) :]]
        relation.columns = {name.casefold(): position for name, position in zip(names, table.visible, strict=False)}
        relation.names = names
    return relation


def _view(binding: Binding, item: Any) -> Table | None:
    """The system view `item` names; None: it is in another schema. Raises UndefinedTable (42P01)."""
    if item.catalog or item.db.casefold() != SCHEMA:
        return None
    table = find_view(item.name)
    if table is None:
        raise UndefinedTable(
            f'table "{SCHEMA}.{item.name}" does not exist',
            position=position_of(item),
            sql=binding.sql,
            hint=nearest(item.name, known_names(), f'Did you mean "{SCHEMA}.{{}}"?'),
        )
    return table


def _content(binding: Binding, item: Any) -> Table:
    """The batch that `khonsu_batch('key')` names. Raises UndefinedTable (42P01), FeatureNotSupported for anything but a text constant."""
    arguments = item.this.expressions
    if len(arguments) != 1 or not isinstance(arguments[0], exp.Literal) or not arguments[0].is_string:
        message = f"{CONTENT_FUNCTION} takes one text constant: the columns of a batch must be known before the statement runs"
        raise FeatureNotSupported(message, position=position_of(item), sql=binding.sql)
    key = arguments[0].name
    table = binding.content(key)
    if table is None:
        raise UndefinedTable(f"there is no batch under key {key!r}", position=position_of(item), sql=binding.sql)
    if not item.alias:
        item.set("alias", exp.TableAlias(this=exp.to_identifier(CONTENT_FUNCTION, quoted=True)))
    return table


def find_table(binding: Binding, item: Any, others: list[str]) -> Table:
    """The base table `item` names. Raises UndefinedTable (42P01) with the nearest name, InvalidSchemaName (3F000), and for a system view,
    which cannot be written, InsufficientPrivilege (42501)."""
    view = _view(binding, item)
    if view is not None:
        message = f'permission denied: "{SCHEMA}.{view.name}" is a system view'
        raise InsufficientPrivilege(message, position=position_of(item), sql=binding.sql, hint="System views can only be read.")
    schema = item.db or "main"
    if item.catalog:
        raise FeatureNotSupported("names of databases are not supported", position=position_of(item), sql=binding.sql)
    if schema.casefold() != "main":
        _no_schema(binding, item, schema)
    table = binding.catalog.find(item.name, "main")
    if table is None:
        known = [known.name for known in binding.catalog.tables.values() if known.schema == "main"]
        view = None if item.db else find_view(item.name)
        raise UndefinedTable(
            f'table "{item.name}" does not exist',
            position=position_of(item),
            sql=binding.sql,
            hint=nearest(item.name, known + others, 'Did you mean "{}"?') if view is None else f'Did you mean "{SCHEMA}.{view.name}"?',
        )
    return table


def _no_schema(binding: Binding, item: Any, schema: str) -> NoReturn:
    position = position_of(item.args["db"])
    if schema.casefold() in SYSTEM_SCHEMAS:
        raise FeatureNotSupported(f'schema "{schema}" is not supported yet', position=position, sql=binding.sql)
    raise InvalidSchemaName(f'schema "{schema}" does not exist', position=position, sql=binding.sql, hint='There is one schema, "main".')


def replace_table(binding: Binding, item: Any, table: Table) -> Relation:
    """Make `item` name a new source; it keeps its alias, or gets its name as one."""
    occurrence = binding.occurrence(table)
    alias = item.alias or item.name
    if not item.alias:
        item.set("alias", exp.TableAlias(this=exp.to_identifier(item.name, quoted=True)))
    item.set("this", exp.to_identifier(occurrence.name, quoted=True))
    item.set("db", None)
    names = [table.columns[position].name for position in table.visible]
    columns = {table.columns[position].name.casefold(): position for position in table.visible}
    return Relation(alias.casefold(), columns, names, occurrence=occurrence)
