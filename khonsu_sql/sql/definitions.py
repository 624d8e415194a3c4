"""What the parts of a CREATE TABLE mean: types, keys, constraints with their names, expressions in canonical text.

Called by `define`. Constraint names are PostgreSQL's: t_pkey, t_a_key, t_a_check. DEFAULT and CHECK are stored as DuckDB's text, written
from the tree; their columns are quoted names of the table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from sqlglot import exp

import khonsu_engine.errors as engine_errors
from khonsu_engine.schema.catalog import ROW_ID, Check, Column, Index, Table
from khonsu_engine.schema.types import BIGINT, NeedsCast, SqlType, parse_type
from khonsu_sql.errors import (
    DuplicateColumn,
    Error,
    FeatureNotSupported,
    GroupingError,
    InvalidTableDefinition,
    InvalidTextRepresentation,
    ProgrammingError,
    UndefinedColumn,
    UndefinedParameter,
    translate,
)
from khonsu_sql.sql.dialect import write
from khonsu_sql.sql.functions import check_functions, is_aggregate
from khonsu_sql.sql.reading import read_expression
from khonsu_sql.sql.resolve import nearest, position_of
from khonsu_sql.sql.words import Words

__all__ = ["ColumnSyntax", "Constraint", "table_of"]

RESERVED = (ROW_ID, "__live", "__ts")
COLUMNS_MAX = 1_600


@dataclass(slots=True)
class ColumnSyntax:
    """A column as written. `token`, `type_token`: where; `default`: the tokens of its expression."""

    name: str
    token: Any
    type_text: str
    type_token: Any
    nullable: bool | None = None
    default: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Constraint:
    """PRIMARY KEY, UNIQUE or CHECK (`kind`: primary, unique, check), of `columns` (name, token)."""

    kind: str
    token: Any
    name: str | None
    columns: list[tuple[str, Any]]
    expression: list[Any] = field(default_factory=list)


def table_of(schema: str, name: str, columns: list[ColumnSyntax], constraints: list[Constraint], words: Words) -> Table:
    """The table, ids 0. Raises DuplicateColumn, InvalidTableDefinition, UndefinedColumn, UndefinedObject, FeatureNotSupported, …"""
    return _Definition(name, columns, words.sql).table(schema, constraints)


class _Definition:
    def __init__(self, name: str, columns: list[ColumnSyntax], sql: str) -> None:
        self.name = name
        self.sql = sql
        self.names: set[str] = set()
        self.places: dict[str, int] = {}
        if not columns:
            raise InvalidTableDefinition(f'table "{name}" has no columns', sql=sql)
        if len(columns) > COLUMNS_MAX:
            raise self._error(columns[COLUMNS_MAX].token, f"a table has at most {COLUMNS_MAX:,} columns", ProgrammingError, "54011")
        for number, column in enumerate(columns):
            folded = column.name.casefold()
            if folded in RESERVED:
                raise self._error(column.token, f'column name "{column.name}" is reserved', InvalidTableDefinition)
            if folded in self.places:
                raise self._error(column.token, f'column "{column.name}" specified more than once', DuplicateColumn)
            self.places[folded] = number
        self.columns = [self._column(column) for column in columns]
        self.syntax = columns

    def table(self, schema: str, constraints: list[Constraint]) -> Table:
        primary = [constraint for constraint in constraints if constraint.kind == "primary"]
        if len(primary) > 1:
            raise self._error(primary[1].token, f'multiple primary keys for table "{self.name}" are not allowed', InvalidTableDefinition)
        key, key_name = self._key(primary[0]) if primary else ((), "")
        indexes = [self._index(constraint) for constraint in constraints if constraint.kind == "unique"]
        checks = tuple(self._check(constraint) for constraint in constraints if constraint.kind == "check")
        columns = tuple(self.columns)
        if not key:
            columns = (*columns, Column(ROW_ID, BIGINT, nullable=False, hidden=True))
            key = (len(columns) - 1,)
        distinct = {index.columns: index for index in reversed(indexes) if index.columns != key}
        kept = tuple(index for index in indexes if distinct.get(index.columns) is index)
        return Table(0, schema, self.name, 0, columns, key, key_name, checks, kept)

    # --- columns

    def _column(self, syntax: ColumnSyntax) -> Column:
        try:
            column_type = parse_type(syntax.type_text)
        except engine_errors.EngineError as error:
            raise self._placed(translate(error, sql=self.sql), syntax.type_token) from error
        if column_type.kind == "NULL":
            raise self._error(syntax.type_token, 'a column cannot have the type "NULL"', InvalidTableDefinition)
        default = self._default(syntax, column_type) if syntax.default else None
        return Column(syntax.name, column_type, syntax.nullable is not False, default)

    def _default(self, syntax: ColumnSyntax, column_type: SqlType) -> str:
        tree = self._expression(syntax.default, "DEFAULT")
        for node in tree.find_all(exp.Column):
            raise self._at(node, "a DEFAULT expression cannot refer to columns", FeatureNotSupported)
        self._check_literal(tree, column_type, syntax.default[0])
        return write(tree)

    def _check_literal(self, tree: Any, column_type: SqlType, token: Any) -> None:
        """A text that is certainly no value of the type."""
        if not isinstance(tree, exp.Literal) or not tree.is_string:
            return
        try:
            column_type.canonical(tree.name)
        except NeedsCast:
            if not _possible(column_type, tree.name):
                message = f"invalid default for type {column_type.sql}: {tree.name!r}"
                raise self._error(token, message, InvalidTextRepresentation) from None
        except engine_errors.EngineError as error:
            raise self._placed(translate(error, sql=self.sql), token) from error

    # --- constraints

    def _positions(self, constraint: Constraint) -> tuple[int, ...]:
        found: list[int] = []
        for name, token in constraint.columns:
            position = self.places.get(name.casefold())
            if position is None:
                raise self._unknown(name, token.start)
            if position in found:
                raise self._error(token, f'column "{name}" appears twice in a constraint', DuplicateColumn)
            if not self.columns[position].type.can_be_key:
                what = "a primary key" if constraint.kind == "primary" else "UNIQUE"
                raise self._error(token, f"type {self.columns[position].type.sql} in {what} is not supported", FeatureNotSupported)
            found.append(position)
        return tuple(found)

    def _key(self, constraint: Constraint) -> tuple[tuple[int, ...], str]:
        positions = self._positions(constraint)
        for position in positions:
            column = self.columns[position]
            if self.syntax[position].nullable:
                raise self._error(constraint.token, f'conflicting NULL and PRIMARY KEY for column "{column.name}"', InvalidTableDefinition)
            self.columns[position] = Column(column.name, column.type, False, column.default)
        return positions, self._constraint_name(constraint, "pkey", [])

    def _index(self, constraint: Constraint) -> Index:
        positions = self._positions(constraint)
        return Index(0, self._constraint_name(constraint, "key", [self.columns[position].name for position in positions]), positions)

    def _check(self, constraint: Constraint) -> Check:
        tree = self._expression(constraint.expression, "CHECK")
        positions: set[int] = set()
        for node in list(tree.find_all(exp.Column)):
            positions.add(self._check_column(node))
        names = [self.columns[position].name for position in sorted(positions)]
        return Check(self._constraint_name(constraint, "check", names if len(names) == 1 else []), write(tree), tuple(sorted(positions)))

    def _check_column(self, node: Any) -> int:
        """Quote the column's name and drop the table's."""
        parts = [part for part in (node.args.get(name) for name in ("catalog", "db", "table", "this")) if part is not None]
        if len(parts) > 1 and parts[0].name.casefold() == self.name.casefold() and parts[0].name.casefold() not in self.places:
            node.set(("catalog", "db", "table")[4 - len(parts)], None)
            parts = parts[1:]
        position = self.places.get(parts[0].name.casefold())
        if position is None:
            raise self._unknown(parts[0].name, parts[0].meta.get("start"))
        parts[0].set("this", self.columns[position].name)
        parts[0].set("quoted", True)
        return position

    def _constraint_name(self, constraint: Constraint, suffix: str, columns: list[str]) -> str:
        name = constraint.name
        if name is None:
            name = base = "_".join([self.name, *columns, suffix])
            number = 0
            while name.casefold() in self.names:
                number += 1
                name = f"{base}{number}"
        elif name.casefold() in self.names:
            message = f'constraint "{name}" for table "{self.name}" already exists'
            raise self._error(constraint.token, message, ProgrammingError, "42710")
        self.names.add(name.casefold())
        return name

    # --- expressions

    def _expression(self, tokens: list[Any], what: str) -> Any:
        reading = read_expression(tokens, self.sql)
        tree = reading.tree
        for node in tree.walk():
            match node:
                case exp.Parameter():
                    raise self._at(node, f"a {what} expression cannot have parameters", UndefinedParameter)
                case exp.Query() | exp.Table():
                    raise self._at(node, f"a subquery in a {what} expression is not supported", FeatureNotSupported)
                case _ if is_aggregate(node):
                    raise self._at(node, f"aggregate functions are not allowed in a {what} expression", GroupingError)
                case exp.Window():
                    raise self._at(node, f"window functions are not allowed in a {what} expression", GroupingError)
                case exp.Star() | exp.Columns():
                    raise self._at(node, f"* is not allowed in a {what} expression", FeatureNotSupported)
        check_functions(tree, self.sql)
        return tree

    # --- errors

    def _unknown(self, name: str, start: int | None) -> UndefinedColumn:
        hint = nearest(name, [column.name for column in self.columns], 'Did you mean "{}"?')
        return UndefinedColumn(f'column "{name}" does not exist', position=None if start is None else start + 1, sql=self.sql, hint=hint)

    def _at(self, node: Any, message: str, kind: type[Error]) -> Error:
        return kind(message, position=position_of(node), sql=self.sql)

    def _error(self, token: Any, message: str, kind: type[Error], sqlstate: str | None = None) -> Error:
        return kind(message, position=token.start + 1, sql=self.sql, sqlstate=sqlstate)

    def _placed(self, error: Error, token: Any) -> Error:
        error.position = token.start + 1
        return error


def _possible(column_type: SqlType, text: str) -> bool:
    """May DuckDB read `text` as a value of this type? Only numbers, UUIDs and booleans are ruled out here."""
    try:
        if column_type.is_integer or column_type.kind in ("DECIMAL", "REAL", "DOUBLE"):
            Decimal(text.strip().replace("_", ""))
        elif column_type.kind == "UUID":
            UUID(text.strip())
        elif column_type.kind == "BOOLEAN":
            return text.strip().lower() in ("true", "false", "t", "f", "1", "0", "yes", "no", "y", "n", "on", "off")
    except (ValueError, InvalidOperation):
        return False
    return True
