"""Parsed statements into plans: the door to binding, and the two things every execution needs. Called by `core`, `execute` and `context`.

Importing this loads neither sqlglot nor DuckDB; the first `bind` loads sqlglot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from khonsu_sql.sql.parameters import normalise
from khonsu_sql.sql.predicates import instantiate

if TYPE_CHECKING:
    from khonsu_engine.schema.catalog import Catalog, Table
    from khonsu_sql.sql.parse import Parsed
    from khonsu_sql.sql.plan import Statement

__all__ = ["bind", "instantiate", "normalise"]


def _nothing(key: str) -> Table | None:
    """Without a transaction there are no batches."""
    return None


def bind(parsed: Parsed, catalog: Catalog, content: Callable[[str], Table | None] = _nothing) -> Statement:
    """The statement's plan for the tables of `catalog`; `parsed` may be bound again, to another one.

    `content`: describes the keyed batch under a key as a table; None: there is none.

    Raises UndefinedTable (42P01), UndefinedColumn (42703), AmbiguousColumn (42702), InvalidSchemaName (3F000), DuplicateColumn (42701),
    SyntaxError_ (42601), FeatureNotSupported (0A000), InsufficientPrivilege (42501), … all with positions where there are any.
    """
    from khonsu_sql.sql.statements import bind_statement

    return bind_statement(parsed, catalog, content)
