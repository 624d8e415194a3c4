"""Text into tokens, statement by statement: what must hold before a parser may see it, and its parameters, numbered.

Called by `parse` and `define`; calls sqlglot's tokenizer. Everything a hostile text could do to a recursive parser is bounded here:
size (54000), nesting of brackets and CASE, runs of prefix words, chains of subscripts (54001).

Invariants: token positions are 0-based characters of the whole text; after `numbered` a parameter of any style is the two tokens
`$` and n (1-based place in the normalised list), so their order is the text's, whatever the tree looks like.
"""

from __future__ import annotations

from typing import Any

from sqlglot.errors import TokenError
from sqlglot.tokens import Token, TokenType

from khonsu_sql.errors import (
    CharacterNotInRepertoire,
    Error,
    InterfaceError,
    ParameterMismatch,
    ProgramLimitExceeded,
    StatementTooComplex,
    SyntaxError_,
)
from khonsu_sql.sql.dialect import GUARDED, READ
from khonsu_sql.sql.plan import ParameterSpec
from khonsu_sql.sql.quotes import Piece, pieces, without_dollar_quotes

__all__ = ["NESTING_MAX", "check_text", "numbered", "shifted", "shown", "split", "syntax_error", "tokenize"]

NESTING_MAX = 200
PREFIX_RUN_MAX = 100
SUBSCRIPTS_MAX = 100
PARAMETERS_MAX = 65_535

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}
_OPERANDS = {
    TokenType.VAR, TokenType.NUMBER, TokenType.STRING, TokenType.IDENTIFIER, TokenType.PLACEHOLDER, TokenType.PARAMETER,
    TokenType.COMMA, TokenType.SEMICOLON, TokenType.STAR, TokenType.NULL, TokenType.DOT, *_OPENING, *_CLOSING,
}  # fmt: skip
_MORE_FOLLOWS = (TokenType.COMMA, TokenType.IN)
_NOT_AFTER_COMMA = {*_CLOSING, TokenType.COMMA, TokenType.SEMICOLON, TokenType.FROM, TokenType.WHERE}
_NOT_BEFORE_COMMA = {*_OPENING, None, TokenType.SELECT, TokenType.FROM, TokenType.WHERE, TokenType.SET, TokenType.VALUES}
"""sqlglot reads over a comma that separates nothing, and over IN without a list."""
# sqlglot reads a subquery without parentheses here, and recurses in compiled code that overflows the stack: there were no bound.
_NO_QUERY_FOLLOWS = (TokenType.FROM, TokenType.JOIN, TokenType.INTO, TokenType.LATERAL, TokenType.USING, TokenType.COMMA)
_PARAMETERS = {TokenType.PLACEHOLDER, TokenType.PARAMETER, TokenType.COLON}
_BRACKETS = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE}
_NO_PARAMETERS = ParameterSpec()
_VALUE_ENDS = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.STRING, TokenType.NUMBER, TokenType.IDENTIFIER}
_UNFINISHED = {"text": "quoted text", "identifier": "quoted identifier", "comment": "comment", "dollar": "dollar-quoted text"}


def shown(text: str) -> str:
    """A piece of a statement for a message: short, and without characters that control a terminal."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= 40 else f"{text[:37]}..."


def syntax_error(message: str, sql: str, start: int | None, *, hint: str | None = None) -> SyntaxError_:
    """42601 at the 0-based character `start`."""
    return SyntaxError_(message, position=None if start is None else start + 1, sql=sql, hint=hint)


def check_text(sql: str, bytes_max: int) -> None:
    """Raises ProgramLimitExceeded (54000), CharacterNotInRepertoire (22021) or SyntaxError_ (NUL)."""
    if not isinstance(sql, str):
        raise InterfaceError(f"a statement is text, not {type(sql).__name__}", sqlstate="HY024")
    if len(sql) > bytes_max:
        raise _too_long(len(sql), bytes_max)
    if "\0" in sql:
        raise syntax_error("a statement must not contain NUL", sql, sql.index("\0"), hint="Pass binary data as parameters.")
    if sql.isascii():
        return
    try:
        size = len(sql.encode("utf-8"))
    except UnicodeEncodeError as error:
        message = "a statement must not contain lone surrogates, which UTF-8 cannot encode"
        raise CharacterNotInRepertoire(message, position=error.start + 1) from None
    if size > bytes_max:
        raise _too_long(size, bytes_max)


def _too_long(size: int, size_max: int) -> Error:
    return ProgramLimitExceeded(
        f"the statement has {size} bytes or more, the limit is {size_max}",
        hint="Pass data as parameters or with ingest(), or raise the setting statement_bytes_max.",
    )


def tokenize(sql: str, dialect: Any = READ) -> list[Token]:
    """The tokens of `sql`. Raises SyntaxError_ for what is not closed, StatementTooComplex for what nests too deeply."""
    text, mark, quotes = without_dollar_quotes(sql)
    try:
        tokens: list[Token] = dialect.tokenize(text)
    except TokenError as error:
        raise _untokenizable(sql, error) from error
    if quotes:
        tokens = [_dollar_quoted(token, quotes[token.start], mark) if token.start in quotes else token for token in tokens]
    _check_brackets(tokens, sql)
    return [_decimal(token, sql) if token.token_type in (TokenType.HEX_STRING, TokenType.BIT_STRING) else token for token in tokens]


def _untokenizable(sql: str, error: Exception) -> Error:
    for piece in pieces(sql):
        if not piece.closed:
            return syntax_error(f"unterminated {_UNFINISHED[piece.kind]}", sql, piece.start)
    return syntax_error(f"syntax error: {str(error).partition(' from ')[0]}", sql, None)


def _with_text(token: Token, text: str, kind: TokenType | None = None, *, shift: int = 0, wide: int = 0) -> Token:
    return Token(kind or token.token_type, text, token.line, token.col, token.start + shift, token.end + shift + wide, [])


def _dollar_quoted(token: Token, quote: Piece, mark: str) -> Token:
    text = token.text.replace(mark, "'")
    return Token(token.token_type, text, token.line, token.col, quote.start, quote.stop - 1, [])


def _decimal(token: Token, sql: str) -> Token:
    """`0x1F` and `0b101` are numbers; `x'1F'` stays what it is."""
    source = sql[token.start : token.end + 1]
    if source[:2].lower() not in ("0x", "0b"):
        return token
    return _with_text(token, str(int(source.replace("_", ""), 0)), TokenType.NUMBER)


def _check_brackets(tokens: list[Token], sql: str) -> None:
    depth = run = subscripts = 0
    before: TokenType | None = None
    for token in tokens:
        kind = token.token_type
        if kind in _OPENING:
            depth += 1
            subscripts = subscripts + 1 if before is TokenType.R_BRACKET and kind is TokenType.L_BRACKET else 0
        elif kind in _CLOSING:
            depth = max(0, depth - 1)
        if (before in _MORE_FOLLOWS and kind in _NOT_AFTER_COMMA) or (kind is TokenType.COMMA and before in _NOT_BEFORE_COMMA):
            raise syntax_error(f'syntax error at or near "{token.text}"', sql, token.start)
        if kind is TokenType.SELECT and before in _NO_QUERY_FOLLOWS:
            raise syntax_error(f'syntax error at or near "{shown(token.text)}"', sql, token.start, hint="A subquery stands in parentheses.")
        run = 0 if kind in _OPERANDS else run + 1
        if depth > NESTING_MAX or run > PREFIX_RUN_MAX or subscripts > SUBSCRIPTS_MAX:
            raise StatementTooComplex(
                f"the statement is nested too deeply: more than {NESTING_MAX} levels", position=token.start + 1, sql=sql
            )
        before = kind
    if before in _MORE_FOLLOWS:
        raise syntax_error(f'syntax error at the end: something must follow "{tokens[-1].text}"', sql, tokens[-1].start)


def split(tokens: list[Token], sql: str) -> list[tuple[list[Token], int]]:
    """The tokens of each statement and where its text ends; empty ones are left out."""
    statements: list[tuple[list[Token], int]] = []
    current: list[Token] = []
    for token in tokens:
        if token.token_type is not TokenType.SEMICOLON:
            current.append(token)
        elif current:
            statements.append((current, token.start))
            current = []
    return [*statements, (current, len(sql))] if current else statements


def shifted(tokens: list[Token], offset: int) -> list[Token]:
    """The tokens of a part of a text, placed in the whole."""
    return [_with_text(token, token.text, shift=offset) for token in tokens] if offset else tokens


# --- parameters


def numbered(tokens: list[Token], sql: str) -> tuple[list[Token], ParameterSpec]:
    """One statement's tokens with its parameters as `$n`, and what it expects. Raises ParameterMismatch for two styles in one."""
    kinds = {token.token_type for token in tokens}
    if not kinds & _PARAMETERS:
        return tokens, _NO_PARAMETERS
    brackets = _innermost(tokens) if TokenType.COLON in kinds else None
    result: list[Token] = []
    seen: dict[str, int] = {}
    style, count, skip = "none", 0, False
    for number, token in enumerate(tokens):
        found = None
        if skip:
            skip = False
            continue
        if token.token_type in _PARAMETERS:
            following = tokens[number + 1] if number + 1 < len(tokens) else None
            in_list = brackets is not None and brackets[number]
            found = _parameter(token, following, result[-1] if result else None, in_list, sql)
        if found is None:
            result.append(token)
            continue
        kind, name = found
        if style not in ("none", kind):
            raise ParameterMismatch("a statement has parameters of one style: ?, $1 or :name", position=token.start + 1, sql=sql)
        style, skip = kind, kind != "qmark"
        place = _place(kind, name, seen, count)
        count = max(count, place)
        wide = following.end - token.end if skip and following is not None else 0
        result += [_with_text(token, "$", TokenType.PARAMETER, wide=wide), _with_text(token, str(place), TokenType.NUMBER, wide=wide)]
    if count > PARAMETERS_MAX:
        raise ProgramLimitExceeded(f"a statement has at most {PARAMETERS_MAX} parameters, not {count}")
    return result, ParameterSpec(style, tuple(seen) if style == "named" else (), count)


def _innermost(tokens: list[Token]) -> list[bool]:
    """For each token: is the innermost bracket around it `[` or `{`?"""
    found: list[bool] = []
    brackets: list[bool] = [False]
    for token in tokens:
        kind = token.token_type
        if kind in _BRACKETS:
            brackets.append(kind is not TokenType.L_PAREN)
        elif kind in (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE) and len(brackets) > 1:
            brackets.pop()
        found.append(brackets[-1])
    return found


def _place(kind: str, name: str, seen: dict[str, int], count: int) -> int:
    """1-based place in the normalised list."""
    match kind:
        case "qmark":
            return count + 1
        case "numeric":
            return int(name)
        case _:
            return seen.setdefault(name, len(seen) + 1)


def _parameter(token: Token, following: Token | None, before: Token | None, in_list: bool, sql: str) -> tuple[str, str] | None:
    """(style, name) of the parameter that begins with `token`, if one does."""
    kind = token.token_type
    if kind is TokenType.PLACEHOLDER:
        return "qmark", ""
    if kind not in (TokenType.PARAMETER, TokenType.COLON) or token.text not in ("$", ":"):
        return None
    name = _adjacent_name(token, following, sql)
    if kind is TokenType.PARAMETER:
        if name.isdecimal() and 0 < len(name) < 10 and int(name):
            return "numeric", name
        if not name or name[0].isdecimal():
            raise syntax_error('syntax error at or near "$"', sql, token.start, hint="Parameters are ?, $1, :name or $name.")
        return "named", name
    if not name or name[0].isdecimal() or (in_list and _ends_value(before)):
        return None
    return "named", name


def _adjacent_name(token: Token, following: Token | None, sql: str) -> str:
    """The word that follows without a space, as it was written."""
    if following is None or following.start != token.end + 1 or following.token_type is TokenType.STRING:
        return ""
    name = sql[following.start : following.end + 1]
    return name if name.replace("_", "a").isalnum() else ""


def _ends_value(token: Token | None) -> bool:
    """In `x[a:b]` and `{'a':b}` the colon separates; in `x[:b]` and `{'a': :b}` a parameter begins."""
    if token is None or token.token_type in _VALUE_ENDS:
        return token is not None
    return token.text.replace("_", "a").isalnum() and token.text.lower() not in GUARDED
