"""What `import khonsu_sql` gives and what it must not load."""

from __future__ import annotations

import configparser
import datetime
import subprocess
import sys
from pathlib import Path

import pytest

import khonsu_sql

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("duckdb", "pyarrow", "sqlglot", "rocksdict", "grpc", "numpy", "pandas", "polars")


def test_pep_249_globals() -> None:
    assert (khonsu_sql.apilevel, khonsu_sql.threadsafety, khonsu_sql.paramstyle) == ("2.0", 2, "qmark")


def test_import_loads_nothing_heavy() -> None:
    code = f"import khonsu_sql, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": f"{ROOT}:{ROOT / 'engine'}"}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_every_public_name_exists() -> None:
    assert [name for name in khonsu_sql.__all__ if not hasattr(khonsu_sql, name)] == []


def test_the_version_is_the_one_of_the_package() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert settings["metadata"]["version"] == khonsu_sql.__version__


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("VARCHAR", "STRING"),
        ("VARCHAR(20)", "STRING"),
        ("UUID", "STRING"),
        ("BLOB", "BINARY"),
        ("BIGINT", "NUMBER"),
        ("DECIMAL(18,3)", "NUMBER"),
        ("BOOLEAN", "NUMBER"),
        ("TIMESTAMP WITH TIME ZONE", "DATETIME"),
        ("INTERVAL", "DATETIME"),
    ],
)
def test_a_type_code_equals_the_object_of_its_family_only(code: str, family: str) -> None:
    families = ("STRING", "BINARY", "NUMBER", "DATETIME", "ROWID")
    assert [name for name in families if code == getattr(khonsu_sql, name)] == [family]
    assert [name for name in families if getattr(khonsu_sql, name) == code] == [family]


@pytest.mark.parametrize("code", ["INTEGER[]", "STRUCT(a INTEGER)", "MAP(VARCHAR, INTEGER)", "DECIMAL(3,1)[]"])
def test_nested_types_are_of_no_family(code: str) -> None:
    assert not any(code == getattr(khonsu_sql, name) for name in ("STRING", "BINARY", "NUMBER", "DATETIME", "ROWID"))


def test_constructors() -> None:
    assert khonsu_sql.Date(2026, 11, 21) == datetime.date(2026, 11, 21)
    assert khonsu_sql.Time(1, 2, 3) == datetime.time(1, 2, 3)
    assert khonsu_sql.Timestamp(2026, 11, 21, 1, 2, 3) == datetime.datetime(2026, 11, 21, 1, 2, 3)
    assert khonsu_sql.Binary(b"x") == b"x"
    now = datetime.datetime(2026, 11, 21, 1, 2, 3)
    assert khonsu_sql.DateFromTicks(now.timestamp()) == now.date()
    assert khonsu_sql.TimeFromTicks(now.timestamp()) == now.time()
    assert khonsu_sql.TimestampFromTicks(now.timestamp()) == now
