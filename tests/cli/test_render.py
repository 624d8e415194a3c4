"""Results as text."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pytest

from khonsu_sql.cli.render import Table, cell, expanded, row_count, width


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "NULL"),
        (True, "t"),
        (False, "f"),
        (-5, "-5"),
        (1.5, "1.5"),
        (2.0, "2"),
        (1e300, "1e+300"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (float("nan"), "NaN"),
        (Decimal("1.50"), "1.50"),
        (Decimal("1E+3"), "1000"),
        ("plain", "plain"),
        ("esc\x1b[31m", "esc\\x1B[31m"),
        (b"\x00\xff", "\\x00ff"),
        (datetime.date(2026, 2, 3), "2026-02-03"),
        (datetime.time(1, 2, 3, 4), "01:02:03.000004"),
        (datetime.datetime(2026, 2, 3, 4, 5, 6), "2026-02-03 04:05:06"),
        (datetime.datetime(2026, 2, 3, tzinfo=datetime.UTC), "2026-02-03 00:00:00+00"),
        (datetime.datetime(2026, 2, 3, tzinfo=datetime.timezone(-datetime.timedelta(hours=3, minutes=30))), "2026-02-03 00:00:00-03:30"),
        (datetime.timedelta(days=1, seconds=5), "1 day 00:00:05"),
        (datetime.timedelta(days=-2), "-2 days"),
        (datetime.timedelta(seconds=-5), "-00:00:05"),
        (datetime.timedelta(days=-1, seconds=-5), "-1 day -00:00:05"),
        (datetime.timedelta(), "00:00:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([1, None, "a, b"], "[1, NULL, 'a, b']"),
        ({"x": 1, "y": "it's"}, "{'x': 1, 'y': 'it''s'}"),
    ],
)
def test_cells(value: Any, text: str) -> None:
    assert cell(value) == text


def aligned(names: list[str], numeric: list[bool], rows: list[tuple[Any, ...]]) -> str:
    table = Table(names, numeric)
    body = table.body(rows)
    return "\n".join([*table.header(), *body])


def test_numbers_stand_right_and_names_in_the_middle() -> None:
    rows = [(1, "alice", None), (1000, "b", 2.5)]
    assert aligned(["id", "name", "balance"], [True, False, True], rows) == (
        "  id  | name  | balance \n"
        "------+-------+---------\n"
        "    1 | alice |    NULL\n"
        " 1000 | b     |     2.5"
    )  # fmt: skip


def test_the_last_column_has_no_space_after_it() -> None:
    assert aligned(["a", "b"], [False, False], [("x", "long value"), ("", "")]).splitlines()[2:] == [" x | long value", "   | "]


def test_values_of_several_lines() -> None:
    assert aligned(["a", "b"], [False, True], [("one\nthree", 5), ("x", 6)]) == (
        "   a   | b \n"
        "-------+---\n"
        " one  +| 5\n"
        " three | \n"
        " x     | 6"
    )  # fmt: skip


def test_wide_letters_take_two_columns() -> None:
    assert width("数a") == 3 and width("e\u0301") == 1
    lines = aligned(["name", "n"], [False, True], [("数据", 1), ("abcdef", 2)]).splitlines()
    assert lines[2:] == [" 数据   | 1", " abcdef | 2"]


def test_expanded() -> None:
    assert "\n".join(expanded(["id", "name"], [(1, "alice"), (2, "a\nb")], 1)) == (
        "-[ RECORD 1 ]\n"
        "id   | 1\n"
        "name | alice\n"
        "-[ RECORD 2 ]\n"
        "id   | 2\n"
        "name | a+\n"
        "     | b"
    )  # fmt: skip
    assert expanded(["a long column name"], [("a value",)], 7)[0] == "-[ RECORD 7 ]------+--------"


def test_row_count() -> None:
    assert [row_count(count) for count in (0, 1, 2)] == ["(0 rows)", "(1 row)", "(2 rows)"]
