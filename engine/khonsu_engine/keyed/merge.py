"""What APPEND makes of two batches: one pure function.

Called by `policies`, and by `batches` to check what is given. The result is what `theirs` holds, without the rows whose key column equals
that of a row of `mine`, and then all of `mine`, each in its own order. NULL equals nothing; NaN equals NaN, and 0.0 equals -0.0, as in SQL.
Every Arrow type may stand in any column, the key column included; NULLs stay NULLs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as of

from khonsu_engine.errors import InvalidArgument, LimitExceeded, NotSupported, SchemaMismatch, UniqueViolation

__all__ = ["DEFAULT_COLUMN", "merged"]

DEFAULT_COLUMN = "id"
"""The key column, where nothing else is said and there is one of that name."""

_COMPARED = (
    *(of.is_integer, of.is_boolean, of.is_string, of.is_large_string, of.is_binary, of.is_large_binary, of.is_fixed_size_binary),
    *(of.is_date, of.is_time, of.is_timestamp, of.is_duration, of.is_decimal128, of.is_decimal256),
)
"""Types whose values `is_in` compares as SQL does."""


def merged(theirs: pa.RecordBatch | None, mine: pa.RecordBatch, column: str | None = None) -> pa.RecordBatch:
    """`theirs` (None: there is nothing yet) with `mine` appended; see above. `column`: the key column instead of `id`.

    Raises SchemaMismatch, InvalidArgument (no such column, or two of that name), UniqueViolation (two rows of `mine` have one key),
    LimitExceeded (a column of the result is larger than Arrow can hold)."""
    if theirs is not None and not theirs.schema.equals(mine.schema):
        raise SchemaMismatch(
            "the appended batch has another schema than the stored one",
            detail=f"Stored: {_described(theirs.schema)}. Appended: {_described(mine.schema)}.",
            hint="write() replaces the whole batch, whatever its schema.",
        )
    position = _position(mine.schema, column)
    mine_keys = None if position is None else _comparable(mine.column(position))
    if mine_keys is not None:
        _refuse_twice(mine_keys, mine.schema.names[position])
    if theirs is None or not theirs.num_rows:
        return mine
    if not mine.num_rows:
        return theirs
    kept = theirs if position is None else _without(theirs, _hits(_comparable(theirs.column(position)), mine_keys))
    try:
        return pa.concat_batches([kept, pa.RecordBatch.from_arrays(mine.columns, schema=theirs.schema)])
    except pa.ArrowInvalid as error:
        raise LimitExceeded(f"the batches together are more than Arrow can hold in one: {error}") from error


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}{'' if field.nullable else ' not null'}" for field in schema)


def _position(schema: pa.Schema, column: str | None) -> int | None:
    if column is not None and not isinstance(column, str):
        raise InvalidArgument(f"column takes the name of a column, not {type(column).__name__}")
    name = DEFAULT_COLUMN if column is None else column
    found: list[int] = schema.get_all_field_indices(name)
    if len(found) > 1:
        raise InvalidArgument(f"the batch has {len(found)} columns of the name {name!r}: which one is the key?")
    if not found and column is not None:
        raise InvalidArgument(f"the batch has no column {name!r}", hint=f"It has {', '.join(map(repr, schema.names)) or 'none'}.")
    return found[0] if found else None


# -- equality of keys -------------------------------------------------------------------------------------------------


def _comparable(keys: pa.Array) -> pa.Array | list[Hashable]:
    """`keys` as an array that Arrow can compare, or as Python values (None: NULL)."""
    if of.is_dictionary(keys.type):
        return _comparable(keys.dictionary_decode())
    if of.is_run_end_encoded(keys.type):
        return _comparable(pc.run_end_decode(keys))
    if isinstance(keys.type, pa.BaseExtensionType):
        return _comparable(keys.storage)
    if of.is_float32(keys.type) or of.is_float64(keys.type):
        return pc.add(keys, pa.scalar(0.0, keys.type))  # -0.0 becomes 0.0
    if any(is_it(keys.type) for is_it in _COMPARED):
        return keys
    try:
        return [_frozen(value) for value in keys.to_pylist()]
    except (ValueError, ArithmeticError, pa.ArrowException) as error:
        raise NotSupported(f"a column of type {keys.type} cannot be compared: {error}") from error


def _frozen(value: Any) -> Hashable:
    match value:
        case dict():
            return tuple((name, _frozen(part)) for name, part in value.items())
        case list() | tuple():
            return tuple(_frozen(part) for part in value)
        case float() if value != value:
            return _NAN
    return value  # type: ignore[no-any-return]


_NAN = ("NaN",)


def _refuse_twice(keys: pa.Array | list[Hashable], name: str) -> None:
    values = keys if isinstance(keys, list) else keys.drop_null()
    if isinstance(values, list):
        known = Counter(value for value in values if value is not None)
        twice = next((value for value, count in known.items() if count > 1), None)
    else:
        counts = pc.value_counts(values)
        more = pc.greater(counts.field("counts"), 1)
        twice = counts.field("values").filter(more)[0].as_py() if pc.any(more).as_py() else None
    if twice is not None:
        text = repr(twice)
        shown = text if len(text) <= 100 else text[:99] + "…"
        raise UniqueViolation(f"two appended rows have the same {name!r}: {shown}", hint="Append one row for each key.")


def _hits(theirs: pa.Array | list[Hashable], mine: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of `theirs` are among `mine`."""
    if isinstance(theirs, list):
        wanted = {value for value in mine if value is not None}
        return np.fromiter((value is not None and value in wanted for value in theirs), np.bool_, len(theirs))
    found: np.ndarray[Any, np.dtype[np.bool_]] = pc.is_in(theirs, value_set=mine, skip_nulls=True).to_numpy(zero_copy_only=False)
    return found


def _without(batch: pa.RecordBatch, gone: np.ndarray[Any, np.dtype[np.bool_]]) -> pa.RecordBatch:
    """The rows of `batch` that are not marked, in order."""
    if not gone.any():
        return batch
    try:
        return batch.filter(pa.array(~gone))
    except pa.ArrowNotImplementedError:  # views and run ends: by slices
        edges = np.flatnonzero(np.diff(np.concatenate(([True], gone, [True]))))
        starts, stops = edges[::2].tolist(), edges[1::2].tolist()
        parts = [batch.slice(start, stop - start) for start, stop in zip(starts, stops, strict=True)]
        return pa.concat_batches([batch.slice(0, 0), *parts])
