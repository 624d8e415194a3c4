"""What tables there are and how they are made, for SQLAlchemy's inspector.

Base of `dialect.KhonsuDialect`; asks `Connection.tables()` of the driver, which sees the open transaction's own DDL and begins none. Left
out, because the database has none of them: foreign keys, indexes beside the constraints' own, views, sequences, comments. Of the first
three that is told as an empty list; what SQLAlchemy asks beyond that raises NotImplementedError, as its default is.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import default
from sqlalchemy.exc import NoSuchTableError

from khonsu_sql.sqlalchemy.types import type_of

__all__ = ["Reflection"]

SCHEMA = "main"


class Reflection(default.DefaultDialect):
    """The half of the dialect that reads the catalog."""

    def _tables(self, connection: Any, schema: str | None) -> list[Any]:
        wanted = (schema or SCHEMA).casefold()
        return [table for table in connection.connection.driver_connection.tables() if table.schema == wanted]

    def _table(self, connection: Any, name: str, schema: str | None) -> Any:
        """Names know no case."""
        for table in self._tables(connection, schema):
            if table.name.casefold() == name.casefold():
                return table
        raise NoSuchTableError(name if schema is None else f"{schema}.{name}")

    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> bool:
        return any(table.name.casefold() == table_name.casefold() for table in self._tables(connection, schema))

    def get_schema_names(self, connection: Any, **kw: Any) -> list[str]:
        return [SCHEMA]

    def get_table_names(self, connection: Any, schema: str | None = None, **kw: Any) -> list[str]:
        return [table.name for table in self._tables(connection, schema)]

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        return [
            {
                "name": column.name,
                "type": type_of(column.type, column.name),
                "nullable": column.nullable,
                "default": column.default,
                "autoincrement": False,
            }
            for column in self._table(connection, table_name, schema).columns
        ]

    def get_pk_constraint(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        for key in self._table(connection, table_name, schema).keys:
            if key.primary:
                return {"constrained_columns": list(key.columns), "name": key.name}
        return {"constrained_columns": [], "name": None}

    def get_unique_constraints(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        keys = self._table(connection, table_name, schema).keys
        return [{"name": key.name, "column_names": list(key.columns)} for key in keys if not key.primary]

    def get_check_constraints(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        return [{"name": check.name, "sqltext": check.expression} for check in self._table(connection, table_name, schema).checks]

    def get_foreign_keys(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        self._table(connection, table_name, schema)
        return []

    def get_indexes(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> list[Any]:
        self._table(connection, table_name, schema)
        return []

    def get_view_names(self, connection: Any, schema: str | None = None, **kw: Any) -> list[str]:
        return []
