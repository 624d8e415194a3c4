"""EXPLAIN: which way a statement goes, in one line.

Called by `execute`. `point path: …` says what the compiled function does; `DuckDB path: …` names each table scanned with how many
of its segments the filter leaves out, of how many there are. The statement does not run. Left out: ANALYZE, operators (issue C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from khonsu_engine.schema.types import VARCHAR
from khonsu_sql.session import ColumnInfo, Result
from khonsu_sql.sql.context import Context, scan_of
from khonsu_sql.sql.plan import (
    CreateTable,
    DropTable,
    LockedQuery,
    Plan,
    PointLock,
    PointRead,
    PointWrite,
    Query,
    WriteFromQuery,
)
from khonsu_sql.sql.system import is_view, shown_name

__all__ = ["explain"]


def explain(plan: Plan, values: Sequence[Any], context: Context) -> Result:
    """One row, one column: the line."""
    line = _line(plan, values, context)
    return Result((ColumnInfo("QUERY PLAN", VARCHAR, False),), 1, "EXPLAIN", [(line,)])


def _line(plan: Plan, values: Sequence[Any], context: Context) -> str:
    match plan:
        case PointRead() | PointWrite() | PointLock():
            if context.settings.point_path:
                return f"point path: {plan.description}"
            return _line(plan.fallback, values, context)
        case Query():
            return f"DuckDB path: {_scans(plan, values, context)}"
        case LockedQuery(query=query, text=text):
            return f"DuckDB path: {_scans(query, values, context)}, {text}"
        case WriteFromQuery(operation=operation, table=table, query=query):
            return f"DuckDB path: {operation.name.lower()} {table.name} from {_scans(query, values, context)}"
        case CreateTable(table=table):
            return f"catalog: create table {table.name}"
        case DropTable(names=names):
            return f"catalog: drop table {', '.join(name for _, name in names)}"
    return f"session: {type(plan).__name__}"


def _scans(query: Query, values: Sequence[Any], context: Context) -> str:
    parts = []
    for source in query.sources:
        if is_view(source.read.table):
            parts.append(f"system view {shown_name(source.read.table)}")
            continue
        scan = scan_of(source, values, context)
        parts.append(f"scan {source.read.table.name} ({scan.segments_pruned} of {scan.segments_total} segments pruned)")
    return ", ".join(parts) or "no table"
