"""What INSERT, UPDATE and DELETE have in common: their target, its columns, casts and defaults. Called by `inserts` and `changes`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlglot import exp

from khonsu_engine.commands import Operation
from khonsu_engine.schema.catalog import Column, Table
from khonsu_sql.errors import Error, FeatureNotSupported, SyntaxError_, UndefinedColumn
from khonsu_sql.sql.dialect import READ_DUCKDB, parse_tokens
from khonsu_sql.sql.relations import Binding
from khonsu_sql.sql.resolve import nearest, position_of
from khonsu_sql.sql.shape import Shape

__all__ = ["Written", "cast", "column_position", "default_of", "error_at", "is_default", "named", "refuse_parts"]


class Written:
    """A bound write: `select` is its query's tree, `alias` what RETURNING may call the table."""

    def __init__(self, operation: Operation, table: Table, alias: str) -> None:
        self.operation = operation
        self.table = table
        self.alias = alias
        self.select: Any = None
        self.assigned: tuple[int, ...] = ()
        self.deltas: tuple[tuple[int, int | None], ...] = ()
        self.shape: Shape | None = None


def cast(node: Any, column: Column) -> Any:
    """`node` as the column stores it."""
    return exp.Cast(this=node, to=exp.DataType(this=exp.DType.USERDEFINED, kind=column.type.sql))


def named(node: Any, name: str) -> Any:
    """`exp.alias_` would copy `node`, and what its columns name is known by their ids."""
    return exp.Alias(this=node, alias=exp.to_identifier(name, quoted=True))


@lru_cache(maxsize=512)
def _stored(text: str) -> Any:
    return parse_tokens(READ_DUCKDB, READ_DUCKDB.tokenize(f"SELECT {text}"), text).expressions[0]


def default_of(column: Column) -> Any:
    return exp.Null() if column.default is None else _stored(column.default).copy()


def is_default(node: Any) -> bool:
    return isinstance(node, exp.Var) and node.name.upper() == "DEFAULT"


def error_at(binding: Binding, node: Any, message: str, kind: type[Error] = SyntaxError_, hint: str | None = None) -> Error:
    return kind(message, position=position_of(node), sql=binding.sql, hint=hint)


def column_position(binding: Binding, node: Any, table: Table) -> int:
    """The visible column `node` (an identifier or column) names."""
    position = table.position.get(node.name.casefold())
    if position is None or table.columns[position].hidden:
        hint = nearest(node.name, [table.columns[number].name for number in table.visible], 'Did you mean "{}"?')
        raise error_at(binding, node, f'column "{node.name}" of table "{table.name}" does not exist', UndefinedColumn, hint)
    return position


def refuse_parts(binding: Binding, tree: Any, parts: dict[str, str]) -> None:
    for part, what in parts.items():
        if tree.args.get(part):
            raise error_at(binding, tree, f"{what} is not supported yet", FeatureNotSupported)
