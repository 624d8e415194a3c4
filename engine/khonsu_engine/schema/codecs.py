"""Which conversions a type has: from `SqlType` to `Codec`.

Called by `sql_type` alone, once per type value. The conversions themselves stand in `numbers`, `temporal`, `intervals`, `texts`, `nested`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from khonsu_engine.schema import intervals, nested, numbers, temporal, texts
from khonsu_engine.schema.values import Codec

if TYPE_CHECKING:
    from khonsu_engine.schema.sql_type import SqlType

__all__ = ["codec_of"]


def codec_of(sql_type: SqlType) -> Codec:
    """The conversions of this type."""
    if sql_type.is_integer:
        return numbers.integer(sql_type.kind, sql_type.low, sql_type.high)
    match sql_type.kind:
        case "DECIMAL":
            return numbers.decimal(sql_type.precision, sql_type.scale)
        case "VARCHAR":
            return texts.varchar(sql_type.length)
        case "ENUM":
            return texts.enumeration(sql_type.members)
        case "LIST":
            return nested.list_codec(sql_type.sql, sql_type.parts[0].codec)
        case "STRUCT":
            return nested.struct_codec(sql_type.sql, tuple((name, part.codec) for name, part in sql_type.fields))
        case "TUPLE":
            return nested.tuple_codec(sql_type.sql, [part.codec for part in sql_type.parts])
        case "MAP":
            key, item = sql_type.parts
            return nested.map_codec(sql_type.sql, key.codec, item.codec, key.hashable)
    return _SIMPLE[sql_type.kind]


_SIMPLE: dict[str, Codec] = {
    "REAL": numbers.real(),
    "DOUBLE": numbers.double(),
    "BOOLEAN": numbers.boolean(),
    "BLOB": texts.blob(),
    "DATE": temporal.date_codec(),
    "TIME": temporal.time_codec(),
    "TIMESTAMP": temporal.timestamp_codec("TIMESTAMP", 1),
    "TIMESTAMP_MS": temporal.timestamp_codec("TIMESTAMP_MS", 1_000),
    "TIMESTAMP_S": temporal.timestamp_codec("TIMESTAMP_S", 1_000_000),
    "TIMESTAMP_NS": temporal.nanoseconds_codec(),
    "TIMESTAMPTZ": temporal.zoned_codec(),
    "INTERVAL": intervals.interval_codec(),
    "UUID": texts.uuid_codec(),
    "JSON": texts.json_text(),
    "NULL": texts.varchar(0),
}
