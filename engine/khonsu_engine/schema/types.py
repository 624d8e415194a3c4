"""SQL types, their canonical values, and the conversions between SQL, Python, Arrow and the log: the door to this folder's rooms.

    values        canonical values, their table, NeedsCast, Interval
    numbers, temporal, intervals, texts, nested   the conversions, family by family
    codecs        which conversions a type has
    sql_type      SqlType and the one table of kinds
    type_names    parse_type: PostgreSQL's and DuckDB's names
    arrow_types   Arrow's types -> SqlType
    arrow_rows    rows of canonical or Python values <-> Arrow batches, the only converters of both evaluation paths
    arrow_checks  foreign Arrow data -> ours, checked by the column
    keys          order-preserving bytes

Everyone imports from here (`encode_key` and `decode_key` apart). Importing it does not load pyarrow.
"""

from __future__ import annotations

from khonsu_engine.schema.arrow_checks import conform
from khonsu_engine.schema.arrow_rows import arrow_from_rows, arrow_schema, python_rows_from_arrow, rows_from_arrow
from khonsu_engine.schema.arrow_types import type_of_arrow
from khonsu_engine.schema.keys import order_key
from khonsu_engine.schema.sql_type import BIGINT, BLOB, BOOLEAN, DOUBLE, INTEGER, KINDS, VARCHAR, SqlType
from khonsu_engine.schema.type_names import parse_type
from khonsu_engine.schema.values import NAN, Interval, NeedsCast

__all__ = [
    "BIGINT",
    "BLOB",
    "BOOLEAN",
    "DOUBLE",
    "INTEGER",
    "KINDS",
    "NAN",
    "VARCHAR",
    "Interval",
    "NeedsCast",
    "SqlType",
    "arrow_from_rows",
    "arrow_schema",
    "conform",
    "order_key",
    "parse_type",
    "python_rows_from_arrow",
    "rows_from_arrow",
    "type_of_arrow",
]
