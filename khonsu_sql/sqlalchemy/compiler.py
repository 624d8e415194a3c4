"""SQLAlchemy's expressions as this database's SQL, where it differs from the standard that SQLAlchemy's own compilers write.

Made by `dialect`. Invariant: nothing a statement or a table asks for is left out in silence; what cannot be written raises
CompileError here, and what the database does not do yet it refuses by name itself.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import CompileError
from sqlalchemy.sql import compiler

__all__ = ["KhonsuCompiler", "KhonsuDDLCompiler", "KhonsuIdentifierPreparer", "KhonsuTypeCompiler"]


class KhonsuCompiler(compiler.SQLCompiler):
    """SELECT, INSERT, UPDATE, DELETE."""

    def limit_clause(self, select: Any, **kw: Any) -> str:
        """LIMIT and OFFSET, each of which may stand alone."""
        text = ""
        if select._limit_clause is not None:
            text += "\n LIMIT " + self.process(select._limit_clause, **kw)
        if select._offset_clause is not None:
            text += "\n OFFSET " + self.process(select._offset_clause, **kw)
        return text

    def for_update_clause(self, select: Any, **kw: Any) -> str:
        """FOR UPDATE and its kin, as PostgreSQL writes them."""
        asked = select._for_update_arg
        if asked.key_share:
            text = " FOR KEY SHARE" if asked.read else " FOR NO KEY UPDATE"
        else:
            text = " FOR SHARE" if asked.read else " FOR UPDATE"
        if asked.of:
            tables = dict.fromkeys(getattr(column, "table", column) for column in asked.of)
            text += " OF " + ", ".join(self.process(table, ashint=True, use_schema=False, **kw) for table in tables)
        return text + (" NOWAIT" if asked.nowait else "") + (" SKIP LOCKED" if asked.skip_locked else "")


class KhonsuDDLCompiler(compiler.DDLCompiler):
    """CREATE TABLE, DROP TABLE."""

    def get_column_specification(self, column: Any, **kw: Any) -> str:
        """One column. Raises CompileError for what would be left out."""
        if column.identity is not None:
            raise CompileError(f"column {column}: IDENTITY columns are not supported yet; give every row its key")
        if column.default is not None and column.default.is_sequence:
            raise CompileError(f"column {column}: sequences are not supported yet; give every row its key")
        text: str = super().get_column_specification(column, **kw)
        return text


class KhonsuTypeCompiler(compiler.GenericTypeCompiler):
    """Types with a time zone, and integers by name. The names of the methods are SQLAlchemy's."""

    def visit_datetime(self, type_: Any, **kw: Any) -> str:
        return self.visit_TIMESTAMP(type_, **kw)

    def visit_DATETIME(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return self.visit_TIMESTAMP(type_, **kw)

    def visit_TIMESTAMP(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "TIMESTAMP WITH TIME ZONE" if type_.timezone else "TIMESTAMP"

    def visit_time(self, type_: Any, **kw: Any) -> str:
        return self.visit_TIME(type_, **kw)

    def visit_TIME(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "TIME WITH TIME ZONE" if type_.timezone else "TIME"

    def visit_JSON(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "JSON"

    def visit_sized_integer(self, type_: Any, **kw: Any) -> str:
        return str(type_.name)


class KhonsuIdentifierPreparer(compiler.IdentifierPreparer):
    """Names that must be quoted: the standard's words, and those only DuckDB keeps for itself."""

    reserved_words = compiler.RESERVED_WORDS | {
        *("anti", "asof", "describe", "fetch", "glob", "ilike", "isnull", "lambda", "lateral", "map", "notnull", "overlaps"),
        *("pivot", "pivot_longer", "pivot_wider", "positional", "qualify", "returning", "semi", "show", "similar", "struct"),
        *("summarize", "tablesample", "unpivot", "variadic", "verbose", "window", "with"),
    }
