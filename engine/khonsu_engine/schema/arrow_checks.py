"""Foreign Arrow data made ours: exact column types, every value one that its type may hold, checked by the column.

Called for `ingest`, bulk writes and INSERT … SELECT: the one place where columns get what `SqlType.canonical` gives single
values. Raises InvalidValue and its subclasses, never an Arrow error. What comes out may be stored without another look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from khonsu_engine.errors import InvalidValue, NumericOutOfRange, StringTooLong, UnstorableText
from khonsu_engine.schema.arrow_rows import arrow_array, arrow_schema, column_values
from khonsu_engine.schema.sql_type import SqlType

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["conform"]


def conform(types: Sequence[SqlType], batch: pa.RecordBatch, names: Sequence[str] | None = None, *, foreign: bool = True) -> pa.RecordBatch:
    """`batch` with exactly the Arrow types of `types`, every value storable. Columns are matched by position.

    `foreign`: the data did not come from DuckDB or from us: its buffers are validated too (UTF-8, offsets)."""
    import pyarrow as pa

    names = batch.schema.names if names is None else names
    arrays = [_conformed(sql_type, column, name, foreign) for sql_type, column, name in zip(types, batch.columns, names, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(types, names))


def _conformed(sql_type: SqlType, column: Any, name: str, foreign: bool) -> Any:
    import pyarrow as pa

    try:
        if foreign:
            column.validate(full=True)
        result = _cast(sql_type, column)
        _check(sql_type, result, foreign)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise _explained(error, sql_type, column, name) from error
    except InvalidValue as error:
        error.message = f"column {name!r}: {error.message}"
        error.args = (error.message,)
        raise
    return result


def _explained(error: Exception, sql_type: SqlType, column: Any, name: str) -> InvalidValue:
    text = str(error).splitlines()[0][:200]
    if "UTF8" in text or "UTF-8" in text:
        return UnstorableText(f"column {name!r}: text is not valid UTF-8")
    numeric = sql_type.is_integer or sql_type.kind in ("DECIMAL", "REAL")
    error_class = NumericOutOfRange if numeric and any(word in text for word in _RANGE_WORDS) else InvalidValue
    return error_class(f"column {name!r}: a value of Arrow type {column.type} is not a {sql_type.sql}", detail=text)


_RANGE_WORDS = ("not in range", "out of", "overflow", "fit")


def _cast(sql_type: SqlType, column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.types as of

    if column.type == sql_type.arrow:
        return column
    if isinstance(column, pa.ExtensionArray):
        return _from_extension(sql_type, column)
    if of.is_dictionary(column.type):
        return _cast(sql_type, column.dictionary_decode())
    if sql_type.kind == "UUID" and of.is_fixed_size_binary(column.type):
        return _uuid_strings(column)
    if sql_type.kind == "INTERVAL" and of.is_duration(column.type):
        return _intervals(sql_type, column)
    if sql_type.kind == "TIMESTAMPTZ" and of.is_timestamp(column.type) and column.type.tz is None:
        raise InvalidValue("a timestamp without a time zone cannot be stored as TIMESTAMPTZ", hint="Localise it first.")
    return column.cast(sql_type.arrow)


def _from_extension(sql_type: SqlType, column: Any) -> Any:
    """The extension types that have a home here; of any other the storage counts."""
    if column.type.extension_name == "arrow.uuid":
        return _uuid_strings(column.storage)
    if column.type.extension_name == "arrow.bool8":
        import pyarrow as pa

        return column.storage.cast(pa.bool_())
    return _cast(sql_type, column.storage)


def _uuid_strings(column: Any) -> Any:
    import pyarrow as pa

    return pa.array([None if value is None else str(UUID(bytes=value)) for value in column.to_pylist()], pa.string())


def _intervals(sql_type: SqlType, column: Any) -> Any:
    import pyarrow as pa

    microseconds = column.cast(pa.duration("us")).cast(pa.int64()).to_pylist()
    return arrow_array(sql_type, [None if value is None else sql_type.canonical(timedelta(microseconds=value)) for value in microseconds])


def _check(sql_type: SqlType, column: Any, foreign: bool) -> None:
    check = _CHECKS.get(sql_type.kind)
    if check is not None:
        check(sql_type, column, foreign)


def _check_text(sql_type: SqlType, column: Any, foreign: bool) -> None:
    import pyarrow.compute as pc

    if pc.any(pc.match_substring(column, "\0")).as_py():
        raise UnstorableText("text must not contain NUL", hint="Use a BLOB column for bytes.")
    if sql_type.length and (pc.max(pc.utf8_length(column)).as_py() or 0) > sql_type.length:
        raise StringTooLong(f"value too long for type {sql_type.sql}")


def _check_each(sql_type: SqlType, column: Any, foreign: bool) -> None:
    """Foreign text that must be canonical: one by one."""
    if foreign:
        for value in column.unique().to_pylist():
            if value is not None and str(sql_type.canonical(value)) != value:
                raise InvalidValue(f"{value[:80]!r} is not spelled as a {sql_type.sql} is")


def _check_enum(sql_type: SqlType, column: Any, foreign: bool) -> None:
    for value in column.unique().to_pylist():
        sql_type.canonical(value)


def _check_range(sql_type: SqlType, column: Any, foreign: bool) -> None:
    import pyarrow.compute as pc

    bounds = pc.min_max(column).as_py()
    low, high = Decimal(sql_type.low), Decimal(sql_type.high)
    if bounds["min"] is not None and not low <= bounds["min"] <= bounds["max"] <= high:
        raise NumericOutOfRange(f"value out of range for type {sql_type.sql}")


def _check_readable(sql_type: SqlType, column: Any, foreign: bool) -> None:
    """Dates, times and intervals that Python cannot hold are found by reading them."""
    column_values(sql_type, column)


def _check_parts(sql_type: SqlType, column: Any, foreign: bool) -> None:
    children = {"LIST": lambda: [column.flatten()], "MAP": lambda: [column.keys, column.items], "STRUCT": column.flatten}
    for part, child in zip(sql_type.parts, children[sql_type.kind](), strict=True):
        _check(part, child, foreign)


_CHECKS: dict[str, Callable[[SqlType, Any, bool], None]] = {
    "VARCHAR": _check_text,
    "JSON": _check_each,
    "UUID": _check_each,
    "ENUM": _check_enum,
    "HUGEINT": _check_range,
    "DATE": _check_readable,
    "TIME": _check_readable,
    "TIMESTAMP": _check_readable,
    "TIMESTAMP_S": _check_readable,
    "TIMESTAMP_MS": _check_readable,
    "TIMESTAMP_NS": _check_readable,
    "TIMESTAMPTZ": _check_readable,
    "LIST": _check_parts,
    "MAP": _check_parts,
    "STRUCT": _check_parts,
}
