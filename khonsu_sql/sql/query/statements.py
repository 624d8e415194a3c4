"""The text that is run for a query, and the statement parsed for each text.

Called by `execution`. A statement that DuckDB has parsed and run once starts 140 µs sooner than its text. It depends on no cursor, no
instance and no table: it is bound anew whenever it runs. Sources that must be masked or cast come first as CTEs of the source's
name; `NOT MATERIALIZED` makes them views, and as each name occurs once in the text, nothing is computed twice. They join a list of CTEs
that the query has itself, because DuckDB forgets the inner list of `WITH … (WITH … SELECT …)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

import duckdb

from khonsu_engine.schema.sql_type import quoted
from khonsu_sql.sql.query.relations import Served

__all__ = ["Prepared", "forget", "prepare", "text_of"]

_OWN_LIST = re.compile(r"WITH(?:\s+RECURSIVE)?(?=[\s\"])", re.IGNORECASE)
_INNER_LIST = re.compile(r"\([\s(]*WITH[\s\"]", re.IGNORECASE)

KEPT_MAX = 2_000
KEPT_CHARACTERS_MAX = 20_000


class Prepared:
    """A statement, and what is known of its results from earlier runs, for choosing how to fetch them; it may be wrong.

    arrow   they have columns that only Arrow carries faithfully
    few     the last one was small enough to be fetched as rows; None: not known
    """

    __slots__ = ("arrow", "few", "statement")

    def __init__(self, statement: duckdb.Statement) -> None:
        self.statement = statement
        self.arrow = False
        self.few: bool | None = None

    def as_rows(self, small_input: bool) -> bool:
        """Whether to fetch rows first."""
        return not self.arrow and (self.few is not False if small_input else self.few is True)


_kept: dict[str, Prepared] = {}


def text_of(sql: str, relations: Sequence[Served]) -> str:
    """`sql`, with what must stand between its names and the slots of those names."""
    views = [f"{quoted(served.name)} AS NOT MATERIALIZED ({served.select})" for served in relations if served.select is not None]
    if not views:
        return sql
    own = _OWN_LIST.match(sql)
    if own is not None:
        return f"{own[0]} {', '.join(views)}, {sql[own.end() :]}"
    body = f"SELECT * FROM ({sql})" if _INNER_LIST.match(sql) else sql
    return f"WITH {', '.join(views)} {body}"


def prepare(text: str, connection: duckdb.DuckDBPyConnection) -> Prepared:
    """The statement of `text`, parsed on `connection` if it was not kept. Raises DuckDB's exceptions."""
    found = _kept.get(text)
    if found is None:
        (statement,) = connection.extract_statements(text)
        found = Prepared(statement)
        if len(text) <= KEPT_CHARACTERS_MAX:
            if len(_kept) >= KEPT_MAX:
                for old in list(islice(_kept, KEPT_MAX // 4)):
                    _kept.pop(old, None)
            _kept[text] = found
    return found


def forget() -> None:
    """Let all statements go."""
    _kept.clear()
