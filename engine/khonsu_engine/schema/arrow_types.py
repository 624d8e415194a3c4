"""From Arrow's types to SQL's: for results of DuckDB (which also tells its own name of the type) and for data that users bring.

Called by the front's results and `ingest`. Raises NotSupported for types without a home here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_engine.errors import NotSupported
from khonsu_engine.schema.sql_type import SqlType
from khonsu_engine.schema.type_names import parse_type

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["type_of_arrow"]

_SIMPLE: dict[str, str] = {
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "halffloat": "REAL",
    "float": "REAL",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
    "string": "VARCHAR",
    "large_string": "VARCHAR",
    "string_view": "VARCHAR",
    "binary": "BLOB",
    "large_binary": "BLOB",
    "binary_view": "BLOB",
    "date32[day]": "DATE",
    "date64[ms]": "DATE",
    "time32[s]": "TIME",
    "time32[ms]": "TIME",
    "time64[us]": "TIME",
    "time64[ns]": "TIME",
    "timestamp[s]": "TIMESTAMP_S",
    "timestamp[ms]": "TIMESTAMP_MS",
    "timestamp[us]": "TIMESTAMP",
    "timestamp[ns]": "TIMESTAMP_NS",
    "month_day_nano_interval": "INTERVAL",
    "null": "NULL",
}

_EXTENSIONS = {"arrow.uuid": "UUID", "arrow.json": "JSON", "arrow.bool8": "BOOLEAN"}


def type_of_arrow(arrow: pa.DataType, duckdb_type_name: str | None = None) -> SqlType:
    """The SQL type of an Arrow column. DuckDB's name, when known, decides: Arrow has forgotten UUID, JSON, ENUM and HUGEINT."""
    if duckdb_type_name is not None:
        return parse_type(duckdb_type_name, duckdb=True)
    name = str(arrow)
    if name in _SIMPLE:
        return SqlType(_SIMPLE[name])
    found = _parametrised(arrow)
    if found is None:
        raise NotSupported(f"Arrow type {name[:200]} has no SQL type here", hint="Cast the column first.")
    return found


def _parametrised(arrow: Any) -> SqlType | None:
    import pyarrow.types as of

    if of.is_decimal(arrow) and 0 <= arrow.scale <= arrow.precision <= 38:
        return SqlType("DECIMAL", precision=arrow.precision, scale=arrow.scale)
    if of.is_timestamp(arrow):
        return SqlType("TIMESTAMPTZ")
    if of.is_duration(arrow):
        return SqlType("INTERVAL")
    if of.is_fixed_size_binary(arrow):
        return SqlType("BLOB")
    if of.is_dictionary(arrow) or of.is_run_end_encoded(arrow):
        return type_of_arrow(arrow.value_type)
    if of.is_map(arrow):
        return SqlType("MAP", key=type_of_arrow(arrow.key_type), element=type_of_arrow(arrow.item_type))
    if of.is_struct(arrow) and arrow.num_fields:
        return SqlType("STRUCT", fields=tuple((field.name, type_of_arrow(field.type)) for field in arrow))
    if _is_list(arrow):
        return SqlType("LIST", element=type_of_arrow(arrow.value_type))
    extension = getattr(arrow, "extension_name", None)
    return SqlType(_EXTENSIONS[extension]) if extension in _EXTENSIONS else None


def _is_list(arrow: Any) -> bool:
    import pyarrow.types as of

    kinds = (of.is_list, of.is_large_list, of.is_fixed_size_list, of.is_list_view, of.is_large_list_view)
    return any(kind(arrow) for kind in kinds)
