"""PEP 249's cursor: run statements, hand out rows as tuples or as Arrow.

Made by `connection.Connection.cursor`; calls the session under the connection's lock, and `source` for whatever is not a plain
list of tuples. `execute(…).fetchone()` of a point query is the hottest path there is: results of that kind stay in `_rows` and
`_index` and touch nothing else.

Invariants: `_rows` is a list only for a result that is plain (all there, no uncommitted changes, no row factory, not taken as
Arrow); `_source` is set for every other result with columns; both are None when there is nothing to fetch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from khonsu_sql.arrow_results import ArrowResults
from khonsu_sql.errors import InvalidCursorState, InvalidOptionValue, ParameterMismatch, ProgrammingError
from khonsu_sql.policies import policy_of
from khonsu_sql.session import IngestMode, Result
from khonsu_sql.source import CLOSED, ClosedLink, Source
from khonsu_sql.types import Description, describe

if TYPE_CHECKING:
    from khonsu_engine.commands import Collision, ConflictPolicy
    from khonsu_sql.connection import Connection
    from khonsu_sql.rows import RowFactory
    from khonsu_sql.session import Parameters, Session

__all__ = ["Cursor"]


_END = object()
_RUNNING = -1


def _in_use() -> ProgrammingError:
    """What a second thread is told: which of the two results it would see, nobody knows."""
    return ProgrammingError("the cursor is in use by another thread", sqlstate="HY010", hint="Give each thread a cursor, or a connection.")


class Cursor(ArrowResults):
    """One place where results appear. Not for several threads at a time; connections are.

    `arraysize`   rows of a `fetchmany` without a size (1)
    `connection`  the connection it belongs to
    `row_factory` what makes rows of tuples (`khonsu_sql.dict_row`, …), from the next statement on; None = tuples
    """

    __slots__ = ("__weakref__", "_index", "_link", "_result", "_rows", "_source", "arraysize", "connection", "row_factory")

    def __init__(self, connection: Connection, row_factory: RowFactory | None = None) -> None:
        self.connection = connection
        self.arraysize = 1
        self._link: Connection | ClosedLink = connection
        self.row_factory = row_factory
        self._result: Result | None = None
        self._rows: list[tuple[Any, ...]] | None = None
        self._index = 0
        self._source: Source | None = None

    # --- running statements

    def execute(self, sql: str, parameters: Parameters = None, *, on_conflict: str | ConflictPolicy | None = None) -> Self:
        """Run the statement(s) of `sql`; returns the cursor itself.

        `parameters`: a sequence for `?` and `$1`, a mapping for `:name` and `$name`. With several statements the first one's
        result comes first, `nextset` goes on. An earlier result of this cursor ends. `on_conflict`: the policy of rows that collide.
        Raises subclasses of `Error`.
        """
        if self._index < 0:
            raise _in_use()
        try:
            self._index = _RUNNING
            if self._source is not None:
                self._end("the cursor executed another statement")
            link = self._link
            self._rows = None
            with link._lock:
                session = link._session
                if session is None:
                    raise link._refusal()
                if on_conflict is None:
                    result = session.execute(sql, parameters)
                else:
                    result = session.execute(sql, parameters, on_conflict=policy_of(on_conflict))
            self._install(result)
        except BaseException:
            self._result = None
            self._index = 0
            raise
        return self

    def executemany(
        self,
        sql: str,
        seq_of_parameters: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        on_conflict: str | ConflictPolicy | None = None,
    ) -> Self:
        """Run one statement for each set of parameters: one plan, one transaction. `rowcount` is the sum."""
        if not isinstance(seq_of_parameters, Iterable) or isinstance(seq_of_parameters, str | bytes | Mapping):
            raise ParameterMismatch(f"executemany takes a sequence of parameter sets, not {type(seq_of_parameters).__name__}")
        sets, policy = list(seq_of_parameters), policy_of(on_conflict)
        with self._running(), self._link._lock:
            result = self._session().execute(sql, sets, many=True, on_conflict=policy)
        self._install(result)
        return self

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Something runs on this cursor, and nothing else may; an earlier result ends."""
        if self._index < 0:
            raise _in_use()
        try:
            self._index = _RUNNING
            self._end("the cursor executed another statement")
            yield
        finally:
            self._index = 0

    def ingest(self, table: str, data: Any, *, mode: str | IngestMode = IngestMode.CREATE) -> int:
        """Write all rows of `data` into `table`, streaming; returns how many.

        `data`: a pyarrow Table, RecordBatch, RecordBatchReader or Dataset, a polars or pandas frame, or anything that speaks
        `__arrow_c_stream__`. Columns go by name. `mode`: create (the table must not exist), append (it must), replace (its rows
        go first, or it is made), create_append. Part of the transaction like any statement.
        """
        from khonsu_sql.arrow import ingest_mode, reader_of

        chosen = ingest_mode(mode)
        reader = reader_of(data.fetch_record_batch() if isinstance(data, Cursor) else data)
        with self._running(), self._link._lock:
            count = self._session().ingest(table, reader, chosen)
        self._result = Result(None, count, "INGEST")
        return count

    def _session(self) -> Session:
        session = self._link._session
        if session is None:
            raise self._link._refusal()
        return session

    def nextset(self) -> bool | None:
        """Go on to the result of the next statement of a script. None when there is none; the current result ends in any case."""
        self._session()
        following = self._result.next if self._result is not None else None
        self._end("the cursor went on to the next result")
        if following is None:
            return None
        self._install(following)
        return True

    def _install(self, result: Result) -> None:
        self._result = result
        self._index = 0
        rows = result.rows
        if rows is None or result.validity is not None or self.row_factory is not None:
            self._open(result)
        else:
            self._rows = rows

    def _open(self, result: Result) -> None:
        """Make the source of a result that is not plain."""
        if result.columns is not None:
            make = self.row_factory(self) if self.row_factory is not None else None
            self._source = Source(self._link, result, make)
            if result.batches is not None:
                self.connection._sources.add(self._source)

    def _end(self, why: str) -> None:
        source, self._source = self._source, None
        self._result = None
        self._rows = None
        if source is not None:
            source.close(why)

    def close(self) -> None:
        """End the open result and refuse further work. Closing twice is fine."""
        self._end("the cursor is closed")
        self._link = CLOSED

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- rows

    def fetchone(self) -> Any:
        """The next row, or None when there is none left. Raises `InvalidCursorState` when no statement returned rows."""
        rows = self._rows
        if rows is not None and self._link._session is not None:
            index = self._index
            if index < len(rows):
                self._index = index + 1
                return rows[index]
            return None
        return self._open_source().one()

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next `size` rows (`arraysize` by default), fewer at the end."""
        count = self.arraysize if size is None else size
        if count < 0:
            raise InvalidOptionValue(f"fetchmany cannot fetch {count} rows")
        rows = self._rows
        if rows is None or self._link._session is None:
            return self._open_source().many(count)
        start, self._index = self._index, min(self._index + count, len(rows))
        return rows[start : self._index]

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        rows = self._rows
        if rows is None or self._link._session is None:
            return self._open_source().many(None)
        start, self._index = self._index, len(rows)
        return rows[start:]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        rows = self._rows
        if rows is not None and self._link._session is not None and self._index < len(rows):
            self._index += 1
            return rows[self._index - 1]
        row = self._open_source().one(_END) if rows is None or self._link._session is None else _END
        if row is _END:
            raise StopIteration
        return row

    def _open_source(self) -> Source:
        """The source of the current result, made of `_rows` if it was plain. Raises when there is nothing to fetch from."""
        self._session()
        if self._source is None:
            result = self._result
            if result is None or result.columns is None:
                what = f"{result.status or 'an empty statement'} returned no rows" if result else "no statement was executed"
                raise InvalidCursorState(f"there is nothing to fetch: {what}")
            self._source = Source(self._link, result, index=self._index)
            self._rows = None
        return self._source

    # --- what is known of the result

    @property
    def description(self) -> tuple[Description, ...] | None:
        """PEP 249: (name, type_code, display_size, internal_size, precision, scale, null_ok) per column; None without rows.

        The type code is the SQL type as text and equals its type object (`khonsu_sql.NUMBER`, …).
        """
        columns = self._result.columns if self._result is not None else None
        return None if columns is None else tuple([describe(column) for column in columns])

    @property
    def rowcount(self) -> int:
        """Rows the statement changed, or returns if that is known; else -1."""
        return -1 if self._result is None else self._result.rowcount

    @property
    def rownumber(self) -> int | None:
        """0-based number of the row the next fetch returns; None without a result."""
        if self._rows is not None:
            return self._index
        return None if self._source is None else self._source.row_number

    @property
    def lastrowid(self) -> None:
        """PEP 249 extension: always None. Row ids are hidden; use RETURNING."""
        return None

    @property
    def statusmessage(self) -> str | None:
        """The command tag of the current result: SELECT, INSERT, CREATE TABLE, …"""
        return None if self._result is None else self._result.status

    @property
    def notices(self) -> tuple[str, ...]:
        """What the statement had to say beside its result."""
        return () if self._result is None else self._result.notices

    @property
    def conflicts(self) -> tuple[Collision, ...]:
        """The rows a conflict policy decided, when the statement was a transaction by itself; else see `connection.last_commit`."""
        return () if self._result is None else self._result.conflicts

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """PEP 249: accepted; nothing needs to be told sizes here."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """PEP 249: accepted; nothing needs to be told sizes here."""

    def __reduce__(self) -> str:
        raise TypeError("a cursor cannot be pickled or copied")

    def __repr__(self) -> str:
        state = "closed" if self._link is CLOSED else "open"
        return f"<khonsu_sql.Cursor {state} at {id(self):#x}>"
