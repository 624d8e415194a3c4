"""Types of the database as SQLAlchemy's, both ways.

Called by `reflection` (`type_of`) and `compiler`. What SQLAlchemy has no class for and what is not just another integer stays without a
type (NullType): its values come as the driver hands them out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import types as sqltypes
from sqlalchemy.util import warn

__all__ = ["SizedInteger", "type_of"]


class SizedInteger(sqltypes.Integer):
    """An integer type that SQLAlchemy does not know by itself: `SizedInteger("UBIGINT")`."""

    __visit_name__ = "sized_integer"

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"SizedInteger({self.name!r})"


_SIZED = ("TINYINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")

_MAKERS: dict[str, Callable[..., sqltypes.TypeEngine[Any]]] = {
    "SMALLINT": sqltypes.SMALLINT,
    "INTEGER": sqltypes.INTEGER,
    "BIGINT": sqltypes.BIGINT,
    "DECIMAL": sqltypes.DECIMAL,
    "REAL": sqltypes.REAL,
    "DOUBLE": sqltypes.DOUBLE,
    "BOOLEAN": sqltypes.BOOLEAN,
    "VARCHAR": sqltypes.VARCHAR,
    "CHAR": sqltypes.CHAR,
    "BLOB": sqltypes.BLOB,
    "DATE": sqltypes.DATE,
    "TIME": sqltypes.TIME,
    "TIMESTAMP": sqltypes.TIMESTAMP,
    "TIMESTAMPTZ": lambda: sqltypes.TIMESTAMP(timezone=True),
    "UUID": sqltypes.UUID,
    "JSON": sqltypes.JSON,
    **{name: (lambda name=name: SizedInteger(name)) for name in _SIZED},
}

_TYPE = re.compile(r"([A-Z_ ]+?)(?:\(([\d, ]+)\))?")


def type_of(text: str, column: str) -> sqltypes.TypeEngine[Any]:
    """The type for the SQL text of one (`DECIMAL(10,2)`); NullType, with a warning that names `column`, for those without a class."""
    read = _TYPE.fullmatch(text)
    maker = None if read is None else _MAKERS.get(read[1])
    if read is None or maker is None:
        warn(f"Did not recognize type {text!r} of column {column!r}")
        return sqltypes.NullType()
    return maker(*(int(number) for number in (read[2] or "").split(",") if number))
