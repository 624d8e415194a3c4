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

from khonsu_engine.errors import DatetimeOutOfRange, InvalidValue, NumericOutOfRange, StringTooLong, UnstorableText
from khonsu_engine.schema.arrow_bounds import check_bounds
from khonsu_engine.schema.arrow_rows import arrow_array, arrow_schema
from khonsu_engine.schema.sql_type import SqlType
from khonsu_engine.schema.texts import shortened
from khonsu_engine.schema.values import NeedsCast, shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["conform"]

_UUID_PATTERN = r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z"
_RANGE_WORDS = ("not in range", "out of", "overflow", "fit", "would cause data loss", "truncated")


def conform(types: Sequence[SqlType], batch: pa.RecordBatch, names: Sequence[str] | None = None, *, foreign: bool = True) -> pa.RecordBatch:
    """`batch` with exactly the Arrow types of `types`, every value storable. Columns are matched by position; `names` rename them.

    `foreign`: the data did not come from DuckDB or from us: its buffers, UUIDs and JSON texts are validated too.
    Columns that need nothing are passed on as they are. Raises InvalidValue naming the column."""
    import pyarrow as pa

    names = batch.schema.names if names is None else names
    columns = zip(types, batch.columns, names, strict=True)
    arrays = [_conformed(sql_type, column, name, foreign) for sql_type, column, name in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(types, names))


def _conformed(sql_type: SqlType, column: Any, name: str, foreign: bool) -> Any:
    import pyarrow as pa

    try:
        if foreign:
            column.validate(full=True)
        result = _respelled(sql_type, _cast(sql_type, column))
        _check(sql_type, result, foreign)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise _explained(error, sql_type, column, name) from error
    except InvalidValue as error:
        raise _named(error, name) from None
    return result


def _named(error: InvalidValue, name: str) -> InvalidValue:
    """The same error, saying in which column. There is no cast left to fall back on."""
    error_class = InvalidValue if isinstance(error, NeedsCast) else type(error)
    return error_class(f"column {name!r}: {error.message}", detail=error.detail, hint=error.hint)


def _explained(error: Exception, sql_type: SqlType, column: Any, name: str) -> InvalidValue:
    text = str(error).partition("\n")[0][:200]
    if "UTF8" in text or "UTF-8" in text:
        return UnstorableText(f"column {name!r}: text is not valid UTF-8")
    if "acceptable range" in text:
        return DatetimeOutOfRange(f"column {name!r}: {text}")
    numeric = sql_type.is_integer or sql_type.kind in ("DECIMAL", "REAL")
    error_class = NumericOutOfRange if numeric and any(word in text for word in _RANGE_WORDS) else InvalidValue
    return error_class(f"column {name!r}: a value of Arrow type {column.type} is not a {sql_type.sql}", detail=text)


def _cast(sql_type: SqlType, column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.types as of

    if column.type == sql_type.arrow:
        return column
    if isinstance(column, pa.ExtensionArray):
        return _from_extension(sql_type, column)
    if of.is_dictionary(column.type):
        return _cast(sql_type, column.dictionary_decode())
    if sql_type.kind == "UUID" and of.is_fixed_size_binary(column.type) and column.type.byte_width == 16:
        return _uuid_strings(column)
    if sql_type.kind == "INTERVAL" and of.is_duration(column.type):
        microseconds = column.cast(pa.duration("us")).cast(pa.int64()).to_pylist()
        durations = [None if value is None else timedelta(microseconds=value) for value in microseconds]
        return arrow_array(sql_type, [sql_type.canonical(duration) for duration in durations])
    if of.is_timestamp(column.type) and (column.type.tz is None) != (sql_type.kind != "TIMESTAMPTZ"):
        raise InvalidValue(f"a value of Arrow type {column.type} is not a {sql_type.sql}", hint="Convert it to or from UTC first.")
    return column.cast(sql_type.arrow)


def _from_extension(sql_type: SqlType, column: Any) -> Any:
    """The extension types that have a home here; of any other the storage counts."""
    import pyarrow as pa

    match column.type.extension_name:
        case "arrow.uuid":
            return _uuid_strings(column.storage)
        case "arrow.bool8":
            return column.storage.cast(pa.bool_())
    return _cast(sql_type, column.storage)


def _uuid_strings(column: Any) -> Any:
    import pyarrow as pa

    return pa.array([None if value is None else str(UUID(bytes=value)) for value in column.to_pylist()], pa.string())


def _respelled(sql_type: SqlType, column: Any) -> Any:
    """Text in its canonical spelling: UUIDs in lower case, VARCHAR(n) without the blanks beyond n."""
    import pyarrow.compute as pc

    if sql_type.kind == "UUID":
        return pc.utf8_lower(column)
    if _too_long(sql_type, column):
        return arrow_array(sql_type, [value and shortened(value, sql_type.length) for value in column.to_pylist()])
    return column


def _too_long(sql_type: SqlType, column: Any) -> bool:
    import pyarrow.compute as pc

    return bool(sql_type.length) and (pc.max(pc.utf8_length(column)).as_py() or 0) > sql_type.length


def _check(sql_type: SqlType, column: Any, foreign: bool) -> None:
    check = _CHECKS.get(sql_type.kind) or (_FOREIGN_CHECKS.get(sql_type.kind) if foreign else None)
    if check is not None:
        check(sql_type, column)
    for part, child in zip(sql_type.parts, _children(sql_type, column), strict=True):
        _check(part, child, foreign)


def _children(sql_type: SqlType, column: Any) -> list[Any]:
    """The columns that a column of lists, maps or structs is made of."""
    match sql_type.kind:
        case "LIST":
            return [column.flatten()]
        case "MAP":
            return [column.keys, column.items]
        case "STRUCT":
            return list(column.flatten())
    return []


def _check_text(sql_type: SqlType, column: Any) -> None:
    import pyarrow.compute as pc

    if pc.any(pc.match_substring(column, "\0")).as_py():
        raise UnstorableText("text must not contain NUL", hint="Use a BLOB column for bytes.")
    if _too_long(sql_type, column):
        raise StringTooLong(f"value too long for type {sql_type.sql}")


def _check_uuid(sql_type: SqlType, column: Any) -> None:
    import pyarrow.compute as pc

    bad = column.filter(pc.invert(pc.match_substring_regex(column, _UUID_PATTERN)))
    if len(bad):
        raise InvalidValue(f"not a UUID in its usual spelling: {shown(bad[0].as_py())}")


def _check_each(sql_type: SqlType, column: Any) -> None:
    """Members of an ENUM, texts of JSON: one by one, each once."""
    for value in column.unique().to_pylist():
        sql_type.canonical(value)


def _check_range(sql_type: SqlType, column: Any) -> None:
    import pyarrow.compute as pc

    bounds = pc.min_max(column).as_py()
    low, high = Decimal(sql_type.low), Decimal(sql_type.high)
    if bounds["min"] is not None and not low <= bounds["min"] <= bounds["max"] <= high:
        raise NumericOutOfRange(f"value out of range for type {sql_type.sql}")


def _check_calendar(sql_type: SqlType, column: Any) -> None:
    check_bounds(column)


def _check_interval(sql_type: SqlType, column: Any) -> None:
    if any(value is not None and value[2] % 1000 for value in column.to_pylist()):
        raise DatetimeOutOfRange("an INTERVAL has microseconds, not nanoseconds")


_CHECKS: dict[str, Callable[[SqlType, Any], None]] = {
    "VARCHAR": _check_text,
    "ENUM": _check_each,
    "HUGEINT": _check_range,
    "DATE": _check_calendar,
    "TIME": _check_calendar,
    "TIMESTAMP": _check_calendar,
    "TIMESTAMP_S": _check_calendar,
    "TIMESTAMP_MS": _check_calendar,
    "TIMESTAMP_NS": _check_calendar,
    "TIMESTAMPTZ": _check_calendar,
    "INTERVAL": _check_interval,
}

_FOREIGN_CHECKS: dict[str, Callable[[SqlType, Any], None]] = {"UUID": _check_uuid, "JSON": _check_each}
"""What DuckDB guarantees for its own results."""
