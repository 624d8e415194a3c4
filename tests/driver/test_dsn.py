"""Names of databases and options of `connect`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import khonsu_sql
from khonsu_engine.commands import Isolation
from khonsu_sql import dsn


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        (":memory:", None, None),
        (":memory:bank", None, "bank"),
        ("khonsu:///:memory:", None, None),
        ("khonsu:///:memory:bank", None, "bank"),
        ("/data/bank.khonsu", "/data/bank.khonsu", None),
        ("khonsu:////data/bank.khonsu", "/data/bank.khonsu", None),
        ("khonsu:////data/a%20b%3F", "/data/a b?", None),
        (Path("/data/bank.khonsu"), "/data/bank.khonsu", None),
        (b"/data/bank.khonsu", "/data/bank.khonsu", None),
        ("/data/../data/./bank", "/data/bank", None),
    ],
)
def test_names_of_databases(text: str, path: str | None, name: str | None) -> None:
    target = dsn.parse(text)
    assert (target.path, target.name) == (path, name)


def test_relative_paths_are_made_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    os.symlink(tmp_path / "there", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    expected = os.path.realpath(tmp_path / "there" / "db")
    assert dsn.parse("link/db").path == dsn.parse("khonsu:///there/db").path == expected


@pytest.mark.parametrize(
    ("name", "sqlstate"),
    [
        ("", "08001"),
        ("a\0b", "08001"),
        ("khonsu:///", "08001"),
        ("khonsu:bank", "08001"),
        ("khonsu:///a#b", "08001"),
        (None, "HY024"),
        (7, "HY024"),
        ("khonsu://host:1/db", "0A000"),
        ("khonsu://user:pw@host/db?tls=true", "0A000"),
    ],
)
def test_what_names_no_database(name: object, sqlstate: str) -> None:
    with pytest.raises(khonsu_sql.Error) as caught:
        khonsu_sql.connect(name)  # type: ignore[arg-type]
    assert caught.value.sqlstate == sqlstate


def test_an_unknown_option_names_the_nearest_known_one() -> None:
    with pytest.raises(khonsu_sql.InterfaceError, match="isolaton_level") as caught:
        khonsu_sql.connect(":memory:", isolaton_level="SERIALIZABLE")
    assert caught.value.hint == "Did you mean 'isolation_level'?"
    with pytest.raises(khonsu_sql.InvalidOption, match="xyzzy") as caught:
        khonsu_sql.connect("khonsu:///:memory:?xyzzy=1")
    assert "isolation_level" in (caught.value.hint or "")


@pytest.mark.parametrize("option", ["read_from", "tls"])
def test_options_of_later_versions_are_refused_by_name(option: str) -> None:
    with pytest.raises(khonsu_sql.NotSupportedError, match=option) as caught:
        khonsu_sql.connect(":memory:", **{option: "optimistic"})
    assert caught.value.sqlstate == "0A000"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("isolation_level", "CHAOS"),
        ("autocommit", "perhaps"),
        ("autocommit", 1),
        ("read_only", None),
        ("timeout", -1),
        ("timeout", "soon"),
        ("timeout", float("nan")),
        ("synchronous", "sometimes"),
        ("limits", 3),
    ],
)
def test_wrong_values_of_options(option: str, value: object) -> None:
    with pytest.raises(khonsu_sql.InvalidOptionValue):
        khonsu_sql.connect(":memory:", **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (None, Isolation.SERIALIZABLE),
        ("serializable", Isolation.SERIALIZABLE),
        ("REPEATABLE READ", Isolation.REPEATABLE_READ),
        ("repeatable_read", Isolation.REPEATABLE_READ),
        ("Repeatable-Read", Isolation.REPEATABLE_READ),
        (Isolation.REPEATABLE_READ, Isolation.REPEATABLE_READ),
        ("READ COMMITTED", Isolation.READ_COMMITTED),
        ("read_uncommitted", Isolation.READ_COMMITTED),
    ],
)
def test_isolation_levels(value: object, level: Isolation) -> None:
    assert dsn.isolation_of(value) is level


def test_options_of_a_url_and_keywords_over_them() -> None:
    url = dsn.parse("khonsu:///:memory:?isolation_level=repeatable+read&autocommit=yes&timeout=2.5&synchronous=OFF")
    options = dsn.options_of(dsn.DEFAULTS, url.options)
    assert (options.isolation, options.autocommit, options.timeout_seconds) == (Isolation.REPEATABLE_READ, True, 2.5)
    assert options.synchronous == "off"
    assert dsn.options_of({**dsn.DEFAULTS, "timeout": 1.0}, url.options).timeout_seconds == 1.0
