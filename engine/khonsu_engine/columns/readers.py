"""Rows out of Arrow buffers without Arrow objects: functions compiled for the columns of one record batch.

Called by `chunk`. `as_py` costs 0.3 to 0.8 µs a cell; an item of a memoryview 0.03. So each distinct list of column kinds gets one
generated function `row(i) -> tuple` (and one for the key) in which every cell is an expression over memoryviews, made once
per signature and cached; a chunk binds its own buffers to it. The generated text is put together from the fixed templates below
and from column numbers, never from data.

Values are canonical (`schema.values`). A kind that has no template reads through the type's own conversion, slower but exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from decimal import Context, Decimal
from functools import cache
from typing import Any
from uuid import UUID

import pyarrow as pa

from khonsu_engine.schema.temporal import beyond, time_of, timestamp_of, zoned_of
from khonsu_engine.schema.types import SqlType, rows_from_arrow
from khonsu_engine.schema.values import NAN

__all__ = ["cell_reader", "fixed_view", "kind_of", "offsets_and_data", "row_reader"]

_FORMATS = {
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float": "f",
    "double": "d",
    "date32[day]": "i",
    "time64[us]": "q",
    "timestamp[s]": "q",
    "timestamp[ms]": "q",
    "timestamp[us]": "q",
    "timestamp[ns]": "q",
    "timestamp[us, tz=UTC]": "q",
}
"""memoryview formats of the Arrow types whose values lie side by side."""

_TEMPLATES = {
    "number": "c{n}[i]",
    "float": "(c{n}[i] if c{n}[i] == c{n}[i] else nan)",
    "boolean": "(c{n}[i >> 3] >> (i & 7) & 1 == 1)",
    "text": 'str(c{n}[o{n}[i]:o{n}[i + 1]], "utf-8")',
    "uuid": 'UUID(str(c{n}[o{n}[i]:o{n}[i + 1]], "ascii"))',
    "bytes": "bytes(c{n}[o{n}[i]:o{n}[i + 1]])",
    "date": "date_of(c{n}[i])",
    "time": "time_of(c{n}[i])",
    "seconds": "timestamp_of(c{n}[i] * 1000000)",
    "milliseconds": "timestamp_of(c{n}[i] * 1000)",
    "timestamp": "timestamp_of(c{n}[i])",
    "zoned": "zoned_of(c{n}[i])",
    "wide": 'int.from_bytes(c{n}[i << 4:(i << 4) + 16], "little", signed=True)',
    "decimal": 'Decimal(int.from_bytes(c{n}[i << 4:(i << 4) + 16], "little", signed=True)).scaleb(o{n}, exact)',
    "object": "c{n}(i)",
    "null": "None",
}
"""v, o, c: validity, offsets (decimal: minus the scale) and values of column n."""

_KINDS = {
    "REAL": "float",
    "DOUBLE": "float",
    "BOOLEAN": "boolean",
    "VARCHAR": "text",
    "JSON": "text",
    "ENUM": "text",
    "UUID": "uuid",
    "BLOB": "bytes",
    "DATE": "date",
    "TIME": "time",
    "TIMESTAMP_S": "seconds",
    "TIMESTAMP_MS": "milliseconds",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "zoned",
    "HUGEINT": "wide",
    "DECIMAL": "decimal",
}
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def kind_of(sql_type: SqlType) -> str:
    """Which template reads the type: a key of `_TEMPLATES`."""
    return _KINDS.get(sql_type.kind) or ("number" if str(sql_type.arrow) in _FORMATS else "object")


def _date_of(days: int) -> date:
    try:
        return date.fromordinal(days + _EPOCH_ORDINAL)
    except (ValueError, OverflowError):
        raise beyond("date") from None


_NAMES: dict[str, Any] = {
    "nan": NAN,
    "UUID": UUID,
    "Decimal": Decimal,
    "exact": Context(prec=100),
    "date_of": _date_of,
    "time_of": time_of,
    "timestamp_of": timestamp_of,
    "zoned_of": zoned_of,
}


def fixed_view(array: pa.Array) -> memoryview:
    """The values of an array without offset whose type is in `_FORMATS`, as a typed memoryview."""
    form: Any = _FORMATS[str(array.type)]
    values: memoryview = memoryview(array.buffers()[1]).cast(form)
    return values[: len(array)]


def offsets_and_data(array: pa.Array) -> tuple[memoryview, memoryview]:
    """The n+1 offsets and the bytes of a text or binary array without offset."""
    _, offsets, data = array.buffers()
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    return memoryview(offsets).cast("q" if wide else "i"), memoryview(b"" if data is None else data)


def row_reader(arrays: Sequence[pa.Array], types: Sequence[SqlType], plain_floats: Sequence[bool] = ()) -> Callable[[int], tuple[Any, ...]]:
    """i -> the tuple of the i-th values. `plain_floats[n]`: column n is known to hold no NaN."""
    signature, bound = _bind(arrays, types, plain_floats)
    reader: Callable[[int], tuple[Any, ...]] = _factory(signature, True)(*bound)
    return reader


def cell_reader(array: pa.Array, sql_type: SqlType) -> Callable[[int], Any]:
    """i -> the i-th value."""
    signature, bound = _bind((array,), (sql_type,), ())
    reader: Callable[[int], Any] = _factory(signature, False)(*bound)
    return reader


Signature = tuple[tuple[str, bool], ...]


def _bind(arrays: Sequence[pa.Array], types: Sequence[SqlType], plain_floats: Sequence[bool]) -> tuple[Signature, list[Any]]:
    """(kind, has NULLs) of every column, and its (validity, offsets, values) one after another."""
    signature: list[tuple[str, bool]] = []
    bound: list[Any] = []
    for number, (array, sql_type) in enumerate(zip(arrays, types, strict=True)):
        kind = kind_of(sql_type)
        if array.null_count == len(array):
            kind = "null"
        elif kind == "float" and number < len(plain_floats) and plain_floats[number]:
            kind = "number"
        validity = memoryview(array.buffers()[0]) if array.null_count and kind not in ("object", "null") else None
        signature.append((kind, validity is not None))
        bound += [validity, *_buffers(kind, array, sql_type)]
    return tuple(signature), bound


def _buffers(kind: str, array: pa.Array, sql_type: SqlType) -> tuple[Any, Any]:
    """(offsets, values) of one column, in the form its template wants."""
    match kind:
        case "text" | "bytes" | "uuid":
            return offsets_and_data(array)
        case "boolean" | "wide" | "decimal":
            return -sql_type.scale, memoryview(array.buffers()[1])
        case "object":
            return None, _object_reader(array, sql_type)
        case "null":
            return None, None
    return None, fixed_view(array)


def _object_reader(array: pa.Array, sql_type: SqlType) -> Callable[[int], Any]:
    def value_at(i: int) -> Any:
        return rows_from_arrow((sql_type,), pa.record_batch([array.slice(i, 1)], names=["value"]))[0][0]

    return value_at


@cache
def _factory(signature: Signature, as_tuple: bool) -> Callable[..., Callable[[int], Any]]:
    """The function that binds buffers to the reader of one signature."""
    cells = []
    for number, (kind, nullable) in enumerate(signature):
        cell = _TEMPLATES[kind].format(n=number)
        cells.append(f"({cell} if v{number}[i >> 3] >> (i & 7) & 1 else None)" if nullable else cell)
    parameters = ", ".join(f"v{number}, o{number}, c{number}" for number in range(len(signature)))
    result = f"({', '.join(cells)},)" if as_tuple else cells[0]
    text = f"def bind({parameters}):\n    def read(i):\n        return {result}\n    return read\n"
    scope = dict(_NAMES)
    exec(text, scope)
    factory: Callable[..., Callable[[int], Any]] = scope["bind"]
    return factory
