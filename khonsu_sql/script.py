"""What one call consists of: its statements, parsed, then bound one by one, and its results.

Called by `core`. A call of one statement may be known to the plan cache already; then it is not parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from khonsu_sql.errors import NoActiveSqlTransaction, ParameterMismatch, SyntaxError_
from khonsu_sql.session import Parameters, Result
from khonsu_sql.sql.execute import writes
from khonsu_sql.sql.plan import LockTable, Setting, Statement, TransactionControl
from khonsu_sql.sql.system import describe_content

if TYPE_CHECKING:
    from khonsu_engine.transaction import LocalTransaction
    from khonsu_sql.sql.cache import PlanCache
    from khonsu_sql.sql.settings import Settings

__all__ = ["Unit", "bound", "chained", "grouped", "script_of"]


class Unit:
    """One statement of a call. `sql`: the whole text, when this is its only statement: the cache's key.

    `plan`: of the cached statement, or what the parser could tell without a catalog (transaction control, settings), else None.
    """

    __slots__ = ("parsed", "plan", "sql")

    def __init__(self, sql: str | None, parsed: Any, plan: Any) -> None:
        self.sql = sql
        self.parsed = parsed
        self.plan = plan

    @property
    def controls(self) -> bool:
        return isinstance(self.plan, TransactionControl)

    @property
    def alone(self) -> bool:
        return isinstance(self.plan, TransactionControl | Setting)

    @property
    def locks_table(self) -> bool:
        return isinstance(self.plan if self.parsed is None else self.parsed.tree, LockTable)

    @property
    def writes(self) -> bool:
        return writes(self.plan) if self.parsed is None else self.parsed.writes


def script_of(sql: str, parameters: Parameters, many: bool, cached: Statement | None, settings: Settings) -> Sequence[Unit]:
    """The statements of a call. `cached`: the bound statement, when the text is known. Raises SyntaxError_, ParameterMismatch."""
    if cached is not None:
        return (Unit(sql, None, cached.plan),)
    parsed = parsed_of(sql, settings)
    if len(parsed) == 1:
        return (Unit(sql, parsed[0], parsed[0].plan),)
    if many:
        raise SyntaxError_(f"executemany runs one statement, not {len(parsed)}")
    if parameters:
        raise ParameterMismatch("a call of several statements takes no parameters", hint="Execute them one by one.")
    return [Unit(None, part, part.plan) for part in parsed]


def parsed_of(sql: str, settings: Settings) -> Sequence[Any]:
    """The statements of a text. Raises SyntaxError_."""
    from khonsu_sql.sql.parse import parse

    return parse(sql, settings.statement_bytes_max)


def grouped(script: Sequence[Unit], *, by_itself: bool) -> Sequence[Sequence[Unit]]:
    """What is one transaction where calls are transactions `by_itself`: the whole call, unless it contains transaction control.

    Raises NoActiveSqlTransaction (25P01) for a LOCK TABLE that would end with itself."""
    whole = by_itself and not any(unit.controls for unit in script)
    if by_itself and script and script[0].locks_table and (len(script) == 1 or not whole):
        raise NoActiveSqlTransaction("LOCK TABLE can only be used in transaction blocks", hint="BEGIN one.")
    return [script] if whole and script else [[unit] for unit in script]


def bound(unit: Unit, transaction: LocalTransaction, plans: PlanCache, settings: Settings) -> Statement:
    """The statement against this transaction's catalog: from the cache, else bound now (and kept, unless it is private)."""
    catalog = transaction.catalog
    if unit.sql is not None:
        statement = plans.find(unit.sql, catalog)
        if statement is not None:
            return statement
    from khonsu_sql.sql.bind import bind
    from khonsu_sql.sql.point import compiled

    parsed = unit.parsed
    if parsed is None:
        assert unit.sql is not None
        parsed = parsed_of(unit.sql, settings)[0]
    statement = compiled(bind(parsed, catalog, partial(describe_content, transaction)))
    if unit.sql is not None and not transaction.changed_catalog:
        plans.add(unit.sql, statement, catalog)
    return statement


def chained(results: list[Result]) -> Result:
    """The first, from which the others follow."""
    if not results:
        return Result(None, -1, "")
    for result, following in pairwise(results):
        result.next = following
    return results[0]
