"""What one session asks of DuckDB: a query's rows or batches, or the values of some expressions.

Called by the rooms of `sql`. One per session, cheap to make: the DuckDB instances are the process's and start at the first query;
importing this file loads neither duckdb nor pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import msgspec

from khonsu_sql.session import ColumnInfo
from khonsu_sql.sql.query.calls import Calls

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.schema.types import SqlType
    from khonsu_sql.sql.plan import Query
    from khonsu_sql.sql.query.streams import Stream

__all__ = ["ROWS_MAX", "Evaluated", "Evaluator"]

ROWS_MAX = 10_000
"""Results with more rows than this stream."""


class Evaluated(msgspec.Struct):
    """The result of a query: `rows` as the driver hands them out, or `batches`, a stream that owns its snapshot; never both."""

    columns: tuple[ColumnInfo, ...]
    rows: list[tuple[Any, ...]] | None
    batches: Stream | None


class Evaluator:
    """Evaluates for one session. Every method raises `khonsu_sql.errors.Error`, or KeyboardInterrupt when Ctrl-C cancelled it.

    `check_cancelled` is called before DuckDB is, at a moment from which on `interrupt` reaches the call: a cancellation that came
    before shows there, one that comes later interrupts, none is lost.

    A *relation* is a `columns.scan.Scan` (an iterable of record batches with `schema` and `masked`) or a `pa.Table`, with the columns of
    its source's projection in that order, in the Arrow types of the catalog.
    """

    def __init__(self, check_cancelled: Callable[[], None] | None = None) -> None:
        self._calls = Calls(check_cancelled)
        self._streams: WeakSet[Stream] = WeakSet()

    def run(self, query: Query, values: Sequence[Any], relations: Mapping[str, Any], *, rows_max: int | None = ROWS_MAX) -> Evaluated:
        """A query for people: rows, or beyond `rows_max` of them batches. None: always rows.

        `values`: the statement's normalised parameter list. `relations`: by the names of the query's sources."""
        from khonsu_sql.sql.query.execution import job_of_query, select

        columns, rows, stream = select(self._calls, job_of_query(query, values, relations), rows_max)
        if stream is not None:
            self._streams.add(stream)
        return Evaluated(columns, rows, stream)

    def batches(self, query: Query, values: Sequence[Any], relations: Mapping[str, Any]) -> Stream:
        """The result as Arrow, whatever its size: for writes. Close it, or read it to its end."""
        from khonsu_sql.sql.query.execution import job_of_query, stream

        opened = stream(self._calls, job_of_query(query, values, relations))
        self._streams.add(opened)
        return opened

    def kept(self, columns: tuple[ColumnInfo, ...], batches: Sequence[pa.RecordBatch], *, rows_max: int | None = ROWS_MAX) -> Evaluated:
        """What was read of a result before, as `run` would have returned it."""
        from khonsu_sql.sql.query.execution import kept

        rows, stream = kept(columns, batches, rows_max)
        return Evaluated(columns, rows, stream)

    def evaluate(self, expressions: Sequence[str], table: pa.Table | None = None, types: Sequence[SqlType] | None = None) -> pa.Table:
        """One column per expression (DuckDB's dialect), one row per row of `table`, whose columns the expressions name; without a
        table one row. `types`: of the table's columns, needed where Arrow does not know them (UUID, JSON, ENUM, HUGEINT)."""
        from khonsu_sql.sql.query.execution import job_of_expressions, stream

        with stream(self._calls, job_of_expressions(expressions, table, types)) as opened:
            return opened.read_all()

    def interrupt(self) -> None:
        """Stop what runs: it raises QueryCanceled (57014). From any thread; returns when it is over, or after a second."""
        self._calls.interrupt()

    def stops(self, thread: int) -> list[Callable[[], object]]:
        """Functions that stop what runs now in `thread`, as far as one interrupt does; see `calls.Calls.stops`."""
        return self._calls.stops(thread)

    def close(self) -> None:
        """Interrupt what runs and end the streams that are still open: reading on finds their end."""
        self.interrupt()
        for stream in tuple(self._streams):
            stream.close()
