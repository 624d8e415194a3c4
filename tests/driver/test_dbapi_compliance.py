"""The public-domain PEP 249 suite of Stuart Bishop (PyPI `dbapi-compliance`), whole, but for its three by-design overrides."""

from __future__ import annotations

import pytest

import khonsu_sql

dbapi20 = pytest.importorskip("dbapi20", reason="dbapi-compliance is not installed: pip install dbapi-compliance")


class TestCompliance(dbapi20.DatabaseAPI20Test):  # type: ignore[misc, name-defined]
    driver = khonsu_sql
    connect_args = (":memory:dbapi_compliance",)

    def setUp(self) -> None:
        self.keeper = khonsu_sql.connect(*self.connect_args)
        super().setUp()

    def tearDown(self) -> None:
        super().tearDown()
        self.keeper.close()

    def test_nextset(self) -> None:
        """By design left to drivers: several statements in one call are several results."""
        connection = self._connect()
        try:
            cursor = connection.cursor()
            self.executeDDL1(cursor)
            for statement in self._populate():
                cursor.execute(statement)
            cursor.execute(f"SELECT count(*) FROM {self.table_prefix}booze; SELECT name FROM {self.table_prefix}booze")
            assert cursor.fetchall() == [(len(self.samples),)]
            assert cursor.nextset()
            assert len(cursor.fetchall()) == len(self.samples)
            assert cursor.nextset() is None
        finally:
            connection.close()

    def test_setoutputsize(self) -> None:
        """By design left to drivers: a no-op that does not cut anything."""
        connection = self._connect()
        try:
            cursor = connection.cursor()
            cursor.setoutputsize(1, 0)
            assert cursor.execute("SELECT 'abc'").fetchone() == ("abc",)
        finally:
            connection.close()

    def test_non_idempotent_close(self) -> None:
        """By design replaced: the suite of 2015 wants the second close to raise; modern drivers accept it."""
        connection = self._connect()
        connection.close()
        connection.close()
        assert connection.closed
