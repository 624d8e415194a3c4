"""What the columns of a result are called: the alias, the column's name, or else the expression as the user wrote it.

`written_items` reads the token list, because sqlglot's tree has forgotten how an expression was written (`x::int` is a CAST);
`name_of` and `UNNAMED` are for columns of subqueries, which must be known to resolve names. Called by `parse`, `queries`, `statements`.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp
from sqlglot.tokens import Token, TokenType

from khonsu_sql.sql.words import words_of

__all__ = ["UNKNOWN", "UNNAMED", "name_of", "written_items"]

NAME_CHARACTERS_MAX = 63

UNNAMED = "\0unnamed"
"""A column whose name is punctuation and words of DuckDB's own: no identifier of a user is equal to it."""

UNKNOWN = "\0unknown"
"""A column of which we do not know the name, or that may be several."""

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}
_ENDING = frozenset(
    """
    FROM WHERE GROUP HAVING ORDER LIMIT OFFSET FETCH UNION EXCEPT INTERSECT WINDOW QUALIFY FOR INTO USING RETURNING
    """.split()
)


def written_items(tokens: list[Token], sql: str, start_word: str = "SELECT") -> tuple[str, ...] | None:
    """The items of the statement's outermost SELECT (or RETURNING) list as written; None when there is no such list."""
    start = _list_start(tokens, start_word)
    if start is None:
        return None
    items: list[list[Token]] = [[]]
    depth = 0
    for token in tokens[start:]:
        if depth == 0 and words_of(token)[0] in _ENDING:
            break
        depth += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
        if depth == 0 and token.token_type is TokenType.COMMA:
            items.append([])
        else:
            items[-1].append(token)
    return tuple(_written(item, sql) for item in items if item)


def _list_start(tokens: list[Token], word: str) -> int | None:
    depth = 0
    for number, token in enumerate(tokens):
        if depth == 0 and words_of(token)[0] == word:
            return _after_distinct(tokens, number + 1)
        depth += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
    return None


def _after_distinct(tokens: list[Token], position: int) -> int:
    words = [words_of(token)[0] for token in tokens[position : position + 3]]
    if words[:1] == ["ALL"]:
        return position + 1
    if words[:1] != ["DISTINCT"]:
        return position
    if words[1:2] != ["ON"]:
        return position + 1
    depth = 0
    for number in range(position + 2, len(tokens)):
        depth += (tokens[number].token_type in _OPENING) - (tokens[number].token_type in _CLOSING)
        if depth == 0:
            return number + 1
    return len(tokens)


def _written(tokens: list[Token], sql: str) -> str:
    parts: list[str] = []
    before: Token | None = None
    for token in tokens:
        if before is not None and token.start > before.end + 1:
            parts.append(" ")
        if before is None or token.start != before.start:  # a parameter is two tokens at one place
            parts.append(sql[token.start : token.end + 1])
        before = token
    return "".join(parts)[:NAME_CHARACTERS_MAX]


def name_of(projection: Any) -> str:
    """The name of a select item: an identifier, UNNAMED or UNKNOWN."""
    match projection:
        case exp.Alias() | exp.Column() | exp.Dot():
            starred = isinstance(projection.this, exp.Star) or isinstance(projection.expression, exp.Star)
            return UNKNOWN if starred else projection.alias_or_name
        case exp.Paren():
            return name_of(projection.this)
        case exp.Literal() | exp.Binary() | exp.Case() | exp.Neg() | exp.Not() | exp.Null() | exp.Boolean() | exp.Parameter():
            return UNNAMED
        case exp.Anonymous() | exp.AggFunc() | exp.Cast() | exp.Window() | exp.Filter() | exp.Exists() | exp.Coalesce():
            return UNNAMED
    return UNKNOWN
