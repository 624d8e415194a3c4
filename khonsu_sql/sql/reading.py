"""One statement's tokens into sqlglot's tree, read as PostgreSQL, or else as DuckDB. Called by `parse` and `define`.

What PostgreSQL's grammar cannot read is tried once as DuckDB; if both read it, PostgreSQL's meaning stands. The error is that of
the first reading.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.tokens import Token

from khonsu_sql.errors import Error, UndefinedFunction
from khonsu_sql.sql.dialect import READ, READ_DUCKDB, duckdb_only, parse_tokens, plain_text
from khonsu_sql.sql.lex import numbered, shifted, shown, syntax_error, tokenize
from khonsu_sql.sql.native import hide
from khonsu_sql.sql.normal import misread_alias, normalise_tree
from khonsu_sql.sql.plan import ParameterSpec

__all__ = ["Reading", "read_expression", "read_tree"]


_FUNCTION = re.compile(r"missing for <class 'sqlglot\.expressions\.(aggregate|array|functions|json|math|string|temporal)\.")


class Reading(msgspec.Struct, frozen=True):
    """A tree, the tokens it was read from, and its parameters."""

    tree: Any
    tokens: list[Token]
    parameters: ParameterSpec


def read_tree(tokens: list[Token], stop: int, sql: str, lead: str = "") -> Reading:
    """The tree of `tokens`, whose text ends at the 0-based character `stop`; `lead` stands before it. Raises SyntaxError_."""
    problem: Error | None = None
    start = tokens[0].start
    text = sql[start:stop]
    if not duckdb_only(tokens, text):
        read = _read(READ, tokens, sql, lead)
        if isinstance(read, Reading):
            return read
        problem = read
    try:
        read = _read(READ_DUCKDB, shifted(tokenize(text, READ_DUCKDB), start), sql, lead)
    except Error as error:
        read = error
    if isinstance(read, Reading):
        return read
    raise problem or read


def read_expression(tokens: list[Token], sql: str) -> Reading:
    """The tree of a single expression. Raises SyntaxError_."""
    reading = read_tree(tokens, tokens[-1].end + 1, sql, "SELECT")
    parts = {name for name, part in reading.tree.args.items() if part}
    if parts != {"expressions"} or len(reading.tree.expressions) != 1 or type(reading.tree.expressions[0]).__name__ == "Alias":
        raise syntax_error("syntax error: expected one expression", sql, tokens[0].start)
    return Reading(reading.tree.expressions[0].pop(), reading.tokens, reading.parameters)


def _read(dialect: Any, tokens: list[Token], sql: str, lead: str) -> Reading | Error:
    """The statement as `dialect` reads it, or why it cannot. Raises what holds in every dialect."""
    tokens, spec = numbered(tokens, sql)
    try:
        hidden = hide(tokens)
        tree = parse_tokens(dialect, [*dialect.tokenize(lead), *hidden] if lead else hidden, sql)
    except ParseError as error:
        return _syntax_error(error, tokens, sql)
    except (SqlglotError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        return syntax_error(f"syntax error: {plain_text(str(error))}", sql, tokens[0].start)
    if tree is None:
        return syntax_error("syntax error", sql, tokens[0].start)
    misread = misread_alias(tree, tokens, sql)
    return misread if misread is not None else Reading(normalise_tree(tree, sql), tokens, spec)


def _syntax_error(error: ParseError, tokens: list[Token], sql: str) -> Error:
    """PostgreSQL's words for it; sqlglot's own speak of classes."""
    told = error.errors[0] if error.errors else {}
    token = next((token for token in tokens if (token.line, token.col) == (told.get("line"), told.get("col"))), tokens[-1])
    description = plain_text(str(told.get("description", "")))
    if description.startswith("The number of provided arguments") or _FUNCTION.search(description):
        return UndefinedFunction("no function of that name takes these arguments", position=token.start + 1, sql=sql)
    text = shown(sql[token.start : token.end + 1])
    if description.startswith("Expecting ") and len(description) < 40:
        return syntax_error(f'syntax error at or near "{text}": {description[0].lower()}{description[1:]}', sql, token.start)
    return syntax_error(f'syntax error at or near "{text}"', sql, token.start)
