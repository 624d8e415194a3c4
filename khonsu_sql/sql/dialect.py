"""How SQL is read and written, as declarations: sqlglot's dialects with our corrections. Called by `lex`, `parse`, `define` and `bind`.

Text is read as PostgreSQL (`READ`); what PostgreSQL cannot read, and the few constructs that it would silently read as
something else (`duckdb_only`), is read as DuckDB (`READ_DUCKDB`). It is always written as DuckDB. With `sqlglot[c]` neither
Parser nor Generator can be subclassed, so these are Dialects with tables of their own and nothing more; `normal` puts right
what is left.

Corrections: `1_000` is a number, `?||x` a parameter and an operator (dollar quotes: `quotes`); DESC puts NULLs first and FLOAT is
eight bytes in both readings. EXPLAIN, SHOW and the like are ordinary words here: `control` and `refusals` read them.
"""

from __future__ import annotations

import logging
import re
from itertools import pairwise
from typing import Any, ClassVar

from sqlglot import ErrorLevel
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import UnsupportedError
from sqlglot.tokens import Token, TokenType

from khonsu_sql.errors import FeatureNotSupported

__all__ = ["GUARDED", "READ", "READ_DUCKDB", "duckdb_only", "parse_tokens", "plain_text", "write"]

_OPERATORS_OF_OTHERS = ("?|", "?&", "?::")


class KhonsuPostgres(Postgres):
    """What our users write."""

    NUMBERS_CAN_BE_UNDERSCORE_SEPARATED = True

    class Tokenizer(Postgres.Tokenizer):
        COMMANDS: ClassVar[set[TokenType]] = set()
        HEREDOC_STRINGS: ClassVar[list[str | tuple[str, str]]] = []
        KEYWORDS = {word: kind for word, kind in Postgres.Tokenizer.KEYWORDS.items() if word not in _OPERATORS_OF_OTHERS}
        SINGLE_TOKENS = {**Postgres.Tokenizer.SINGLE_TOKENS, "$": TokenType.PARAMETER}


class KhonsuDuckDB(DuckDB):
    """What only DuckDB can read."""

    NULL_ORDERING = "nulls_are_large"

    class Tokenizer(DuckDB.Tokenizer):
        COMMANDS: ClassVar[set[TokenType]] = set()
        HEREDOC_STRINGS: ClassVar[list[str | tuple[str, str]]] = []
        KEYWORDS = {
            **{word: kind for word, kind in DuckDB.Tokenizer.KEYWORDS.items() if word not in _OPERATORS_OF_OTHERS},
            "FLOAT": TokenType.DOUBLE,
        }
        SINGLE_TOKENS = {**DuckDB.Tokenizer.SINGLE_TOKENS, "$": TokenType.PARAMETER}


READ = KhonsuPostgres()
READ_DUCKDB = KhonsuDuckDB()
_WRITE = DuckDB()

# DuckDB's reserved words and its names of joins, types and functions (duckdb_keywords(), compared by a test). None of them is
# an alias without AS: PostgreSQL's reading of `t POSITIONAL JOIN u` would be a cross join, that of `SUMMARIZE t` a column.
GUARDED = frozenset(
    """
    all analyse analyze and anti any array as asc asof asymmetric at authorization binary both by case cast check collate
    collation column columns concurrently constraint create cross default deferrable desc describe distinct do else end except
    false fetch for foreign freeze from full generated glob group having ilike in initially inner intersect into is isnull join
    lambda lateral leading left like limit map natural not notnull null offset on only or order outer overlaps pivot pivot_longer
    pivot_wider placing positional primary qualify references returning right select semi show similar some struct summarize
    symmetric table tablesample then to trailing true try_cast tuple union unique unpack unpivot using variadic verbose when where
    window with
    """.split()
)

_ONLY_DUCKDB = (("MAP", "{"), ("POSITIONAL", "JOIN"), ("USING", "SAMPLE"))
_HINTS = re.compile(r"\b(map\s*\{|positional|sample|tablesample)", re.IGNORECASE)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

# Its remarks on what it translates are not for our users' standard error.
logging.getLogger("sqlglot").addHandler(logging.NullHandler())
logging.getLogger("sqlglot").propagate = False


def plain_text(message: str) -> str:
    """An error message of sqlglot without terminal colours."""
    return _ANSI.sub("", message)


def duckdb_only(tokens: list[Token], text: str) -> bool:
    """Is there something in `text` that PostgreSQL would read, but not as what it is?"""
    if not _HINTS.search(text):
        return False
    words = [token.text.upper() for token in tokens]
    for number, pair in enumerate(pairwise(words)):
        if pair in _ONLY_DUCKDB and tokens[number].token_type not in (TokenType.STRING, TokenType.IDENTIFIER):
            return True
        if pair[0] == "TABLESAMPLE" and tokens[number + 1].token_type is TokenType.NUMBER:
            return True
    return False


def parse_tokens(dialect: Any, tokens: list[Token], sql: str) -> Any:
    """The tree of one statement. Raises sqlglot's ParseError."""
    return dialect.parser(error_level=ErrorLevel.IMMEDIATE).parse(tokens, sql)[0]


def write(tree: Any) -> str:
    """DuckDB's text for `tree`, without comments. Raises FeatureNotSupported for what DuckDB has no words for."""
    try:
        text: str = tree.sql(dialect=_WRITE, unsupported_level=ErrorLevel.RAISE, comments=False, copy=False)
    except UnsupportedError as error:
        raise FeatureNotSupported(plain_text(str(error))) from error
    return text
