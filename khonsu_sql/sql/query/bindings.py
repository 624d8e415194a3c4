"""What we use of DuckDB 2.0 that is not public, in one file, with the public ways that mean the same.

Called by `cursors`. A *slot* is a name on one DuckDB cursor under which statements read whatever table is bound to it at the moment:
registering costs 300 µs, binding nothing. `open_stream` runs a statement and gives its batches as they come, with DuckDB's own
names of their types, which Arrow forgets (UUID, JSON, ENUM, HUGEINT).

The private ways: `DuckDBPyConnection._register_arrow_source` with a subclass of `duckdb._sources.arrow.ArrowScanSource`, and
`DuckDBPyConnection._submit`. Where one is missing, public ones take their place: `register` at every binding, and a relation.
DuckDB asks a slot for columns by number; the filters it offers are never accepted: what is read is decided before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import duckdb
import pyarrow as pa

__all__ = ["NOTHING", "PRIVATE", "Description", "Slot", "make_slot", "open_stream"]

try:
    from duckdb._sources.arrow import ArrowScanSource

    PRIVATE = all(hasattr(duckdb.DuckDBPyConnection, name) for name in ("_register_arrow_source", "_submit"))
except ImportError:  # another DuckDB than the one setup.cfg pins: slow is better than broken
    ArrowScanSource = object  # type: ignore[assignment, misc]
    PRIVATE = False

NOTHING = pa.table({"nothing": pa.nulls(0)})
"""What a slot holds that nobody uses."""

Description = Sequence[tuple[Any, ...]]
"""(name, DuckDB's type, …) of each column of a result."""


class Slot(Protocol):
    """A name on a cursor. `error`: what was raised while DuckDB read from it."""

    error: BaseException | None

    def bind(self, table: pa.Table) -> None:
        """Statements that start from now on read `table` under the slot's name."""
        ...


class _Source(ArrowScanSource):
    """Its schema is read anew for every statement: between two of them the slot may be bound to a table of another shape."""

    schema_is_stable = False

    def __init__(self, table: pa.Table) -> None:
        super().__init__(table)
        self.error: BaseException | None = None

    def bind(self, table: pa.Table) -> None:
        self.obj = table
        self.error = None

    def __arrow_c_schema__(self) -> object:
        with self._kept():
            return self.obj.schema.__arrow_c_schema__()

    def rows(self) -> int:
        """Exact; DuckDB orders joins by it."""
        with self._kept():
            count: int = self.obj.num_rows
            return count

    def accepts(self, predicate: object) -> bool:
        return False

    def stream(self, columns: Sequence[int] | None, filters: Sequence[object]) -> tuple[object, bool]:
        """One scan, on whichever thread DuckDB likes."""
        with self._kept():
            if columns is None:
                return self.obj.__arrow_c_stream__(), False
            return self.obj.select(list(columns)).__arrow_c_stream__(), True

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """What is raised here, a signal's KeyboardInterrupt included, would reach the caller of the query as text only."""
        try:
            yield
        except BaseException as error:
            self.error = error
            raise


class _Registered:
    """A slot by public means: the table is registered whenever one is bound."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        self.error: BaseException | None = None

    def bind(self, table: pa.Table) -> None:
        self._connection.register(self._name, table)


def make_slot(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> Slot:
    """The slot `name` on `connection`, bound to `table` (which has at least one column)."""
    if PRIVATE:
        source = _Source(table)
        connection._register_arrow_source(name, source)
        return source
    slot = _Registered(connection, name)
    slot.bind(table)
    return slot


def open_stream(
    connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, values: list[Any], batch_rows: int
) -> tuple[Description, pa.RecordBatchReader]:
    """Run `statement`; its columns, and its batches of `batch_rows` rows. Until they are read or closed `connection` does nothing else."""
    if PRIVATE:
        result = connection._submit(statement.query, values, "stream", batch_rows)
        return result.description, result.arrow_reader()
    relation = connection.sql(statement, params=values)
    reader = relation.to_arrow_reader(batch_rows)
    assert reader is not None
    return relation.description, reader
