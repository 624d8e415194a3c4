"""KhonsuDialect: how SQLAlchemy connects, and what it may expect.

Found by SQLAlchemy through the entry points `khonsu` and `khonsu.khonsu_sql`. URLs:

    khonsu:///shop.khonsu           a directory; four slashes make it absolute
    khonsu:///:memory:, khonsu://   in memory, private to the engine and shared by its connections
    khonsu:///:memory:name          in memory, shared within the process
    …?locking=pessimistic&timeout=5 options of `khonsu_sql.connect`

A transaction begins with the first statement, as in the driver. Left out until their versions: identity columns and sequences (give every
row its key), schemas, foreign keys, indexes, two-phase commit. Uses the driver's public surface only.
"""

from __future__ import annotations

from itertools import count
from types import ModuleType
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from khonsu_sql.sqlalchemy.compiler import KhonsuCompiler, KhonsuDDLCompiler, KhonsuIdentifierPreparer, KhonsuTypeCompiler
from khonsu_sql.sqlalchemy.reflection import SCHEMA, Reflection

__all__ = ["KhonsuDialect"]

LEVELS = ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED")
AUTOCOMMIT = "AUTOCOMMIT"
CLOSED = "08003"

_engines = count(1)


class KhonsuDialect(Reflection):
    """The dialect. See the module."""

    name = "khonsu"
    driver = "khonsu_sql"
    default_paramstyle = "qmark"
    supports_statement_cache = True

    statement_compiler = KhonsuCompiler
    ddl_compiler = KhonsuDDLCompiler
    type_compiler_cls = KhonsuTypeCompiler
    preparer = KhonsuIdentifierPreparer

    supports_alter = False
    supports_default_values = True
    supports_default_metavalue = True
    supports_multivalues_insert = True
    supports_native_boolean = True
    supports_native_decimal = True
    supports_native_uuid = True
    supports_sane_rowcount = True
    supports_sane_multi_rowcount = True
    insert_returning = update_returning = delete_returning = True
    favor_returning_over_lastrowid = True
    postfetch_lastrowid = False

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        import khonsu_sql

        return khonsu_sql

    def create_connect_args(self, url: URL) -> Any:
        """Arguments of `connect`. Raises ArgumentError for URLs that name a server."""
        if url.host or url.port or url.username or url.password:
            raise ArgumentError(
                f"{url.render_as_string()!r} names a server; write khonsu:///relative/path or khonsu:////absolute/path, or khonsu://"
            )
        database = url.database or ":memory:"
        if database == ":memory:":  # one database for all connections of the engine, not one for each
            database = f":memory:sqlalchemy engine {next(_engines)}"
        return [database], dict(url.query)

    # --- transactions

    def get_isolation_level_values(self, dbapi_connection: Any) -> Any:
        return (*LEVELS, AUTOCOMMIT)

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        return AUTOCOMMIT if dbapi_connection.autocommit else dbapi_connection.isolation_level

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        dbapi_connection.autocommit = level == AUTOCOMMIT
        if level != AUTOCOMMIT:
            dbapi_connection.isolation_level = level

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:
        return bool(dbapi_conn.autocommit)

    # --- the connection

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Raises when the connection was closed, or belongs to the process this one was forked from. Begins no transaction."""
        return bool(dbapi_connection.transaction_status)

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        return getattr(e, "sqlstate", None) == CLOSED

    def _get_default_schema_name(self, connection: Any) -> str:
        return SCHEMA

    def _get_server_version_info(self, connection: Any) -> tuple[int, ...]:
        return tuple(int(part) for part in self.loaded_dbapi.__version__.split(".") if part.isdigit())
