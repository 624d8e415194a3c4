"""Results as text, aligned as psql aligns them.

Called by `shell` with blocks of rows; returns lines. A large result is laid out block by block, each at least as wide as the one
before, so that memory stays bounded. Text that could steer a terminal is shown as escapes.
"""

from __future__ import annotations

import datetime
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

__all__ = ["Table", "cell", "expanded", "row_count", "width"]

NULL = "NULL"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def cell(value: Any) -> str:
    """One value as text."""
    write = _WRITERS.get(type(value), str)
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02X}", write(value))


def _write_float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value).removesuffix(".0")


def _write_timestamp(value: datetime.datetime) -> str:
    text = value.replace(tzinfo=None).isoformat(" ")
    offset = value.utcoffset()
    if offset is None:
        return text
    minutes = int(offset.total_seconds()) // 60
    sign, minutes = "-" if minutes < 0 else "+", abs(minutes)
    return f"{text}{sign}{minutes // 60:02d}" + (f":{minutes % 60:02d}" if minutes % 60 else "")


def _write_interval(value: datetime.timedelta) -> str:
    """As PostgreSQL: days, then a signed time."""
    days = value.days if value >= datetime.timedelta() or not (value.seconds or value.microseconds) else value.days + 1
    rest = value - datetime.timedelta(days=days)
    parts = [f"{days} day{'' if abs(days) == 1 else 's'}"] if days else []
    if rest or not days:
        clock = (datetime.datetime.min + abs(rest)).time().isoformat()
        parts.append(("-" if rest < datetime.timedelta() else "") + clock)
    return " ".join(parts)


def _nested(value: Any) -> str:
    """A value inside a list or a struct: text in quotes, so that a comma in it is one."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return cell(value)


_WRITERS: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: NULL,
    bool: lambda value: "t" if value else "f",
    float: _write_float,
    Decimal: lambda value: f"{value:f}",
    bytes: lambda value: "\\x" + value.hex(),
    datetime.datetime: _write_timestamp,
    datetime.timedelta: _write_interval,
    list: lambda value: "[" + ", ".join(map(_nested, value)) + "]",
    tuple: lambda value: "(" + ", ".join(map(_nested, value)) + ")",
    dict: lambda value: "{" + ", ".join(f"{_nested(key)}: {_nested(item)}" for key, item in value.items()) + "}",
}


def width(text: str) -> int:
    """Columns of a terminal that `text` takes: wide letters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(map(_letter_width, text))


def _letter_width(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _pad(text: str, columns: int, right: bool) -> str:
    space = " " * (columns - width(text))
    return space + text if right else text + space


def _centre(text: str, columns: int) -> str:
    space = columns - width(text)
    return " " * (space // 2) + text + " " * (space - space // 2)


class Table:
    """The aligned form of one result. `names`: of its columns; `numeric`: which ones are aligned to the right."""

    def __init__(self, names: Sequence[str], numeric: Sequence[bool]) -> None:
        self._names = [cell(name) for name in names]
        self._numeric = numeric
        self._widths = [width(name) for name in self._names]

    def header(self) -> list[str]:
        """Names and the line under them; after the first `body`, which decides the widths."""
        names = "|".join(f" {_centre(name, columns)} " for name, columns in zip(self._names, self._widths, strict=True))
        return [names, "+".join("-" * (columns + 2) for columns in self._widths)]

    def body(self, rows: Iterable[Sequence[Any]]) -> list[str]:
        """The lines of a block of rows; makes columns wider where needed."""
        cells = [[cell(value).split("\n") for value in row] for row in rows]
        for row in cells:
            for number, lines in enumerate(row):
                self._widths[number] = max(self._widths[number], *map(width, lines))
        return [line for row in cells for line in self._row(row)]

    def _row(self, row: list[list[str]]) -> Iterable[str]:
        """One row; a value of several lines is marked with a + where it goes on."""
        for place in range(max(map(len, row), default=1)):
            parts = [self._part(number, lines, place) for number, lines in enumerate(row)]
            if parts and not parts[-1].endswith("+"):
                parts[-1] = parts[-1][:1] + parts[-1][1:].rstrip(" ")
            yield "|".join(parts)

    def _part(self, number: int, lines: list[str], place: int) -> str:
        text = lines[place] if place < len(lines) else ""
        more = "+" if place + 1 < len(lines) else " "
        return " " + _pad(text, self._widths[number], self._numeric[number]) + more

    @property
    def line_width(self) -> int:
        """Columns of a terminal that the widest row so far takes."""
        return sum(self._widths) + 3 * len(self._widths) - 1


def expanded(names: Sequence[str], rows: Iterable[Sequence[Any]], first: int) -> list[str]:
    """Each row as a list of name and value; `first`: number of the first one."""
    shown = [cell(name) for name in names]
    left = max(map(width, shown), default=0)
    blocks = [[cell(value).split("\n") for value in row] for row in rows]
    right = max((width(line) for row in blocks for lines in row for line in lines), default=0)
    output = []
    for number, row in enumerate(blocks, first):
        rule = f"-[ RECORD {number} ]".ljust(left + 1, "-")
        rule += "+" if len(rule) == left + 1 else ""
        output.append(rule.ljust(left + right + 3, "-"))
        for name, lines in zip(shown, row, strict=True):
            output.append(f"{_pad(name, left, False)} | {lines[0]}{'+' if len(lines) > 1 else ''}".rstrip(" "))
            for place, line in enumerate(lines[1:], 2):
                output.append(f"{' ' * left} | {line}{'+' if place < len(lines) else ''}".rstrip(" "))
    return output


def row_count(count: int) -> str:
    """psql's last line."""
    return f"({count} row{'' if count == 1 else 's'})"
