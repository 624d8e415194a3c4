"""Arrow in and out of the driver: what `ingest` takes, and rows as tuples from batches and back.

Called by `cursor` and `source` at first use, so this file may import pyarrow. Knows the types through `SqlType` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from khonsu_engine.errors import EngineError
from khonsu_engine.schema.types import arrow_from_rows, arrow_schema, python_rows_from_arrow
from khonsu_sql.errors import DataError, Error, InvalidOptionValue, translate
from khonsu_sql.session import ColumnInfo, IngestMode

__all__ = ["batch_of", "ingest_mode", "reader_of", "rows_of", "schema_of"]


def reader_of(data: Any) -> pa.RecordBatchReader:
    """`data` as a stream of batches, copied as little as its owner allows. Raises `InvalidOptionValue` for what is not Arrow-like.

    Whatever goes wrong while it is read is a `DataError` with the original as its cause.
    """
    match data:
        case pa.Table():
            return data.to_reader()
        case pa.RecordBatch():
            return pa.RecordBatchReader.from_batches(data.schema, [data])
    try:
        reader = data if isinstance(data, pa.RecordBatchReader) else _foreign_reader(data)
    except pa.ArrowException as error:
        raise DataError(f"the data to ingest cannot be read as Arrow: {error}") from error
    return pa.RecordBatchReader.from_batches(reader.schema, _guarded(reader))


def _guarded(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except Error:
        raise
    except Exception as error:
        raise DataError(f"reading the data to ingest failed: {error}") from error


def _foreign_reader(data: Any) -> pa.RecordBatchReader:
    module = type(data).__module__.partition(".")[0]
    if module == "pandas" and hasattr(data, "columns"):
        return pa.Table.from_pandas(data, preserve_index=False).to_reader()
    if module == "polars" and hasattr(data, "collect_schema") and hasattr(data, "collect"):
        data = data.collect()
    if module == "pyarrow" and hasattr(data, "scanner"):
        data = data.scanner()
    if module == "pyarrow" and hasattr(data, "to_reader"):
        return data.to_reader()
    if hasattr(data, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(data)
    if hasattr(data, "__arrow_c_array__"):
        return reader_of(pa.record_batch(data))
    raise InvalidOptionValue(
        f"ingest cannot read {type(data).__name__} as Arrow",
        hint="It takes pyarrow tables, batches, readers and datasets, polars and pandas frames, and whatever has __arrow_c_stream__.",
    )


def schema_of(columns: Sequence[ColumnInfo]) -> pa.Schema:
    """The Arrow schema of a result."""
    return arrow_schema([column.type for column in columns], [column.name for column in columns])


def rows_of(batch: pa.RecordBatch, columns: Sequence[ColumnInfo]) -> list[tuple[Any, ...]]:
    """The rows of `batch` as the driver hands them out. Raises `DataError` for dates that Python cannot hold."""
    try:
        return python_rows_from_arrow([column.type for column in columns], batch)
    except EngineError as error:
        raise translate(error) from error


def batch_of(rows: Sequence[tuple[Any, ...]], columns: Sequence[ColumnInfo]) -> pa.RecordBatch:
    """The inverse of `rows_of`."""
    types = [column.type for column in columns]
    convert = [None if each.python_identity else each.canonical for each in types]
    if any(each is not None for each in convert):
        rows = [tuple([value if c is None else c(value) for c, value in zip(convert, row, strict=True)]) for row in rows]
    return arrow_from_rows(types, rows, [column.name for column in columns])


def ingest_mode(mode: str | IngestMode) -> IngestMode:
    """The mode of that name. Raises `InvalidOptionValue`."""
    try:
        return IngestMode(mode)
    except ValueError:
        names = ", ".join(each.value for each in IngestMode)
        raise InvalidOptionValue(f"ingest has no mode {mode!r}", hint=f"Modes are {names}.") from None
