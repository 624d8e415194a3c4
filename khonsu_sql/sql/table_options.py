"""The options of a table and its columns: what they say about conflicts.

Called by `define` and `alter` to read them and by `ddl` to apply them. An option that does not exist is refused by name.
"""

from __future__ import annotations

from msgspec.structs import replace

from khonsu_engine.mvcc.policies import MERGE_RULES, merge_rule_fits
from khonsu_engine.schema.catalog import Column, Table
from khonsu_sql.errors import DatatypeMismatch, FeatureNotSupported, InvalidParameterValue, UndefinedColumn, UndefinedObject
from khonsu_sql.policies import NAMES, policy_named
from khonsu_sql.sql.control import refuse
from khonsu_sql.sql.plan import TableOption
from khonsu_sql.sql.resolve import nearest
from khonsu_sql.sql.words import Words

__all__ = ["altered", "read_options"]

POLICY = "conflict_resolution"
RULE = "merge"


def read_options(words: Words, column: str | None, *, reset: bool = False) -> list[TableOption]:
    """`(name = value, …)`, or with `reset` `(name, …)`."""
    words.expect("(")
    options = []
    while True:
        name = words.name("the name of an option").casefold()
        if name != (POLICY if column is None else RULE):
            words.position -= 1
            what = "table" if column is None else "column"
            raise refuse(words, f'the {what} option "{name}"', f"There is {POLICY if column is None else RULE}.")
        value = None
        if not reset:
            words.expect("=")
            value = words.take().text
        options.append(TableOption(column, name, value))
        if words.accept(")"):
            return options
        words.expect(",")


def altered(table: Table, options: tuple[TableOption, ...]) -> tuple[str | None, tuple[Column, ...]]:
    """Policy and columns of `table` with these options. Raises UndefinedColumn, UndefinedObject, DatatypeMismatch, FeatureNotSupported."""
    policy, columns = table.conflict_resolution, list(table.columns)
    for option in options:
        if option.column is None:
            policy = None if option.value is None else _policy(option.value)
            continue
        position = table.position.get(option.column.casefold())
        if position is None or table.columns[position].hidden:
            hint = nearest(option.column, [column.name for column in table.columns], 'Did you mean "{}"?')
            raise UndefinedColumn(f'column "{option.column}" of table "{table.name}" does not exist', hint=hint)
        columns[position] = _with_rule(table, position, option.value)
    return policy, tuple(columns)


def _policy(text: str) -> str:
    policy = policy_named(text)
    if policy is None:
        raise InvalidParameterValue(f"invalid value for {POLICY}: {text!r}", hint=f"Use {', '.join(NAMES)}.")
    return policy.name.lower()


def _with_rule(table: Table, position: int, rule: str | None) -> Column:
    column = table.columns[position]
    if rule is None:
        return replace(column, merge=None)
    rule = rule.casefold()
    if rule not in MERGE_RULES:
        raise UndefinedObject(f"there is no merge rule {rule!r}", hint=f"Use {', '.join(MERGE_RULES)}.")
    if position in table.key_columns or any(position in index.columns for index in table.indexes):
        raise FeatureNotSupported(
            f'column "{column.name}" cannot have a merge rule: it is part of a key', hint="Unique entries never take a conflict policy."
        )
    if not merge_rule_fits(rule, column.type):
        raise DatatypeMismatch(f'merge rule {rule} does not fit column "{column.name}" of type {column.type.sql}')
    return replace(column, merge=rule)
