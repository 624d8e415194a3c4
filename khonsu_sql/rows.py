"""Row factories: what a cursor makes of each tuple.

`connection.row_factory` (for new cursors) and `cursor.row_factory` take a function that gets the cursor once per result and
returns the function that is called once per row, as psycopg 3 does it. None = plain tuples, the fastest.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from khonsu_sql.cursor import Cursor

__all__ = ["RowFactory", "RowMaker", "dict_row", "namedtuple_row", "scalar_row"]

RowMaker = Callable[[tuple[Any, ...]], Any]
RowFactory = Callable[["Cursor"], RowMaker]


def _names(cursor: Cursor) -> list[str]:
    return [column[0] for column in cursor.description or ()]


def dict_row(cursor: Cursor) -> RowMaker:
    """Rows as dictionaries by column name; of equal names the last one wins."""
    names = _names(cursor)
    return lambda row: dict(zip(names, row, strict=True))


def namedtuple_row(cursor: Cursor) -> RowMaker:
    """Rows as named tuples; a name that is no identifier becomes its position (`_0`)."""
    maker: RowMaker = namedtuple("Row", _names(cursor), rename=True)._make  # type: ignore[attr-defined]
    return maker


def scalar_row(cursor: Cursor) -> RowMaker:
    """The first column alone."""
    return lambda row: row[0]
