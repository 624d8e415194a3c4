"""CREATE TABLE and DROP TABLE, read by ourselves: the grammar is small, and types, names and errors are ours.

Called by `parse`; calls `definitions` for the meaning of the parts. Nothing is read and ignored: what a table cannot have yet is
refused by name (0A000).
"""

from __future__ import annotations

from typing import NoReturn

from msgspec.structs import replace
from sqlglot.tokens import TokenType

from khonsu_engine.schema.catalog import Table
from khonsu_sql.errors import InsufficientPrivilege, InvalidSchemaName
from khonsu_sql.sql.control import refuse
from khonsu_sql.sql.definitions import ColumnSyntax, Constraint, table_of
from khonsu_sql.sql.plan import CreateTable, DropTable
from khonsu_sql.sql.system import SCHEMA, is_reserved
from khonsu_sql.sql.table_options import altered, read_options
from khonsu_sql.sql.words import Words

__all__ = ["read_create_table", "read_drop_table", "table_name"]

_TABLE_CONSTRAINTS = ("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "EXCLUDE", "LIKE")
_COLUMN_CONSTRAINTS = ("CONSTRAINT", "NOT", "NULL", "PRIMARY", "UNIQUE", "CHECK", "DEFAULT", "REFERENCES", "GENERATED", "COLLATE")
_REFUSED_IN_COLUMN = {
    "REFERENCES": "FOREIGN KEY (REFERENCES)",
    "AS": "a generated column",
    "NULLS": "NULLS NOT DISTINCT",
    **{
        word: word
        for word in """
        AUTOINCREMENT AUTO_INCREMENT COLLATE COMMENT COMPRESSION DEFERRABLE GENERATED IDENTITY INITIALLY STORAGE USING
        """.split()
    },
}
_REFUSED_AFTER = ("AS", "INHERITS", "PARTITION", "WITH", "ON", "TABLESPACE", "USING", "WITHOUT", "STRICT", "COMMENT", "OF")
_OPENING = (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE)
_CLOSING = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END)


def read_create_table(words: Words) -> CreateTable:
    """The plan of a CREATE TABLE at the cursor, with ids 0."""
    words.expect("CREATE", "TABLE")
    if_not_exists = words.accept("IF", "NOT", "EXISTS")
    schema, name = table_name(words)
    if schema == SCHEMA:
        raise _denied(words, f'permission denied to create "{SCHEMA}.{name}"')
    if words.word in _REFUSED_AFTER:
        raise refuse(words, f"CREATE TABLE {words.word}", "CREATE TABLE, then INSERT … SELECT." if words.word == "AS" else None)
    columns, constraints = _elements(words)
    options = read_options(words, None) if words.accept("WITH") else []
    if words.word in _REFUSED_AFTER:
        raise refuse(words, f"CREATE TABLE (…) {words.word}")
    words.end()
    table: Table = table_of(schema, name, columns, constraints, words)
    policy, _ = altered(table, tuple(options))
    table = replace(table, conflict_resolution=policy)
    return CreateTable(table, if_not_exists)


def read_drop_table(words: Words) -> DropTable:
    """The plan of a DROP TABLE at the cursor. CASCADE and RESTRICT are the same: nothing depends on a table yet."""
    words.expect("DROP", "TABLE")
    if_exists = words.accept("IF", "EXISTS")
    names = [table_name(words)]
    while words.accept(","):
        names.append(table_name(words))
    if not words.accept("CASCADE"):
        words.accept("RESTRICT")
    words.end()
    return DropTable(tuple(names), if_exists)


def _denied(words: Words, message: str) -> InsufficientPrivilege:
    return InsufficientPrivilege(message, sql=words.sql, hint=f'The schema "{SCHEMA}" holds system views, which can only be read.')


def table_name(words: Words) -> tuple[str, str]:
    """(schema, name) at the cursor, of a table that is to be made or changed. Raises InsufficientPrivilege (42501) for a system view."""
    start = words.position
    name = words.name("the name of a table")
    if not words.accept("."):
        return "main", name
    schema, name = name, words.name("the name of a table")
    if schema.casefold() == SCHEMA:
        if is_reserved(name):
            raise _denied(words, f'permission denied: "{SCHEMA}.{name}" is a system view')
        return SCHEMA, name
    if schema.casefold() != "main":
        position = words.tokens[start].start + 1
        raise InvalidSchemaName(f'schema "{schema}" does not exist', position=position, sql=words.sql, hint='There is one schema, "main".')
    return "main", name


def _elements(words: Words) -> tuple[list[ColumnSyntax], list[Constraint]]:
    """`(column type …, constraint, …)`."""
    words.expect("(")
    columns: list[ColumnSyntax] = []
    constraints: list[Constraint] = []
    while True:
        if words.word in _TABLE_CONSTRAINTS:
            constraints.append(_table_constraint(words))
        else:
            columns.append(_column(words, constraints))
        if words.accept(")"):
            return columns, constraints
        words.expect(",")


def _column(words: Words, constraints: list[Constraint]) -> ColumnSyntax:
    token = words.token
    name = words.name("the name of a column")
    start = words.position
    while not words.at_end and words.word not in (",", ")", *_COLUMN_CONSTRAINTS, *_REFUSED_IN_COLUMN):
        _skip(words)
    if words.position == start:
        if words.word in _REFUSED_IN_COLUMN:
            raise refuse(words, _REFUSED_IN_COLUMN[words.word])
        words.fail(f'expected the type of column "{name}"')
    column = ColumnSyntax(name, token, words.text(start, words.position), words.tokens[start])
    while words.word not in (",", ")") and not words.at_end:
        _column_constraint(words, column, constraints)
    return column


def _skip(words: Words) -> None:
    """Step over one token, or over everything between brackets."""
    depth = 0
    while True:
        kind = words.take().token_type
        depth += (kind in _OPENING) - (kind in _CLOSING)
        if depth <= 0:
            return


def _column_constraint(words: Words, column: ColumnSyntax, constraints: list[Constraint]) -> None:
    name = words.name("the name of a constraint") if words.accept("CONSTRAINT") else None
    token = words.token
    if words.accept("NOT", "NULL"):
        column.nullable = False
    elif words.accept("NULL"):
        column.nullable = True
    elif words.accept("DEFAULT"):
        column.default = _expression(words)
    elif words.accept("PRIMARY", "KEY"):
        constraints.append(Constraint("primary", token, name, [(column.name, column.token)]))
    elif words.accept("UNIQUE"):
        constraints.append(Constraint("unique", token, name, [(column.name, column.token)]))
    elif words.accept("CHECK"):
        constraints.append(_check(words, Constraint("check", token, name, [(column.name, column.token)])))
    else:
        _refuse_constraint(words)


def _refuse_constraint(words: Words) -> NoReturn:
    if words.word in _REFUSED_IN_COLUMN:
        raise refuse(words, _REFUSED_IN_COLUMN[words.word])
    if words.word == "NOT" and words.ahead(1) == "DEFERRABLE":
        raise refuse(words, "NOT DEFERRABLE")
    words.fail()


def _table_constraint(words: Words) -> Constraint:
    name = words.name("the name of a constraint") if words.accept("CONSTRAINT") else None
    token = words.token
    if words.accept("PRIMARY", "KEY"):
        found = Constraint("primary", token, name, _column_list(words))
    elif words.accept("UNIQUE"):
        found = Constraint("unique", token, name, _column_list(words))
    elif words.accept("CHECK"):
        found = _check(words, Constraint("check", token, name, []))
    elif words.word in ("FOREIGN", "EXCLUDE", "LIKE"):
        raise refuse(words, {"FOREIGN": "FOREIGN KEY", "EXCLUDE": "EXCLUDE", "LIKE": "CREATE TABLE (LIKE …)"}[words.word])
    else:
        words.fail()
    if words.word not in (",", ")"):
        _refuse_constraint(words)
    return found


def _column_list(words: Words) -> list[tuple[str, object]]:
    if words.word in _REFUSED_IN_COLUMN:
        raise refuse(words, _REFUSED_IN_COLUMN[words.word])
    words.expect("(")
    columns: list[tuple[str, object]] = []
    while True:
        token = words.token
        columns.append((words.name("the name of a column"), token))
        if words.accept(")"):
            return columns
        words.expect(",")


def _check(words: Words, constraint: Constraint) -> Constraint:
    start = words.position + 1
    if words.word != "(":
        words.expect("(")
    _skip(words)
    constraint.expression = words.tokens[start : words.position - 1]
    if not constraint.expression:
        words.position -= 1
        words.fail("expected an expression")
    if words.word == "NO":
        raise refuse(words, "NO INHERIT")
    return constraint


def _expression(words: Words) -> list[object]:
    """The tokens of a DEFAULT: at least one item, up to the next constraint."""
    start = words.position
    while not words.at_end and words.word not in (",", ")"):
        if words.position > start and _begins_constraint(words):
            break
        _skip(words)
    if words.position == start:
        words.fail("expected an expression")
    return list(words.tokens[start : words.position])


def _begins_constraint(words: Words) -> bool:
    if words.word == "NOT":
        return words.ahead(1) in ("NULL", "DEFERRABLE")
    return words.word in _COLUMN_CONSTRAINTS or words.word in ("DEFERRABLE", "INITIALLY")
