"""Text into statements that can be bound: the one door to sqlglot. Called by `core`.

    text → tokens (`lex`) → statements → control | DDL (`define`) | a tree (`reading`), checked (`refusals`)

Invariants: raises `khonsu_sql.errors` only, with positions; a user's text goes no further than this; nothing is parsed and ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from sqlglot import exp
from sqlglot.tokens import Token

from khonsu_sql.errors import StatementTooComplex
from khonsu_sql.sql.alter import read_alter_table
from khonsu_sql.sql.control import control_plan, refuse
from khonsu_sql.sql.define import read_create_table, read_drop_table
from khonsu_sql.sql.lex import check_text, split, tokenize
from khonsu_sql.sql.lock_clauses import LockClause, lock_clauses, read_lock_table
from khonsu_sql.sql.names import written_items
from khonsu_sql.sql.plan import AlterTable, CreateTable, DropTable, LockTable, ParameterSpec, Setting, TransactionControl
from khonsu_sql.sql.reading import read_tree
from khonsu_sql.sql.refusals import refuse_clauses, refuse_history, refuse_statement
from khonsu_sql.sql.words import Words

__all__ = ["LIMIT_BYTES", "Parsed", "parse"]

LIMIT_BYTES = 1 << 20


class Parsed(msgspec.Struct):
    """One statement.

    sql         the whole text it came from (for carets)
    plan        the plan of transaction control and settings, which need no catalog; else None
    tree        sqlglot's tree, or the CreateTable, AlterTable or DropTable of DDL, or LockTable
    parameters  what it expects
    items       its select list (or RETURNING list) as written, for the names of columns
    locks       its FOR UPDATE and FOR SHARE
    explain     EXPLAIN stood before it
    again       reads the tree once more: `bind` changes the one it takes
    """

    sql: str
    plan: TransactionControl | Setting | None = None
    tree: Any = None
    parameters: ParameterSpec = ParameterSpec()
    items: tuple[str, ...] | None = None
    locks: tuple[LockClause, ...] = ()
    explain: bool = False
    again: Callable[[], Any] | None = None
    taken: bool = False

    @property
    def writes(self) -> bool:
        """Does it begin by writing or locking (so that its snapshot is the newest one)?"""
        writing = isinstance(self.tree, exp.Insert | exp.Update | exp.Delete | CreateTable | AlterTable | DropTable | LockTable)
        return not self.explain and (writing or bool(self.locks))

    def take(self) -> Any:
        """A tree that the caller may change: the one that was read, and when that is gone another (a copy would cost as much)."""
        if self.taken and self.again is not None:
            return self.again()
        self.taken = True
        return self.tree


def parse(sql: str, limit_bytes: int = LIMIT_BYTES) -> tuple[Parsed, ...]:
    """The statements of `sql`, none for blank text.

    Raises SyntaxError_ (42601) with its position, FeatureNotSupported (0A000), ProgramLimitExceeded (54000: more than
    `limit_bytes` bytes), StatementTooComplex (54001), CharacterNotInRepertoire (22021), UndefinedObject (42704: types),
    ParameterMismatch (07001: mixed styles).
    """
    check_text(sql, limit_bytes)
    try:
        return tuple(_statement(tokens, stop, sql) for tokens, stop in split(tokenize(sql), sql))
    except RecursionError as error:
        raise StatementTooComplex("the statement is nested too deeply", sql=sql) from error


def _statement(tokens: list[Token], stop: int, sql: str) -> Parsed:
    words = Words(tokens if _is_small(tokens[0]) else tokens[:_LEADING], sql)
    plan = control_plan(words)
    if plan is not None:
        return Parsed(sql, plan)
    explain = words.accept("EXPLAIN")
    if explain:
        _check_explain(words)
        tokens = tokens[1:]
    refuse_statement(words)
    if words.word in ("CREATE", "DROP", "ALTER"):
        return Parsed(sql, None, _definition(words))
    if words.word == "LOCK":
        return Parsed(sql, None, read_lock_table(words))
    refuse_history(tokens, sql)
    reading = read_tree(tokens, stop, sql)
    if not isinstance(reading.tree, exp.Query | exp.Values | exp.Pivot | exp.Insert | exp.Update | exp.Delete):
        raise words.error()
    refuse_clauses(reading.tree, sql)
    locks = lock_clauses(reading.tree, sql)
    returning = isinstance(reading.tree, exp.Insert | exp.Update | exp.Delete)
    items = written_items(reading.tokens, sql, "RETURNING" if returning else "SELECT")
    return Parsed(sql, None, reading.tree, reading.parameters, items, locks, explain, lambda: read_tree(tokens, stop, sql).tree)


_LEADING = 8


def _is_small(token: Token) -> bool:
    """Is this no statement that may be long, so that all its words are ours to read?"""
    return token.text.upper() not in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "FROM", "(", "EXPLAIN")


def _check_explain(words: Words) -> None:
    options = words.word == "(" and words.ahead(1) not in ("SELECT", "WITH", "(", "VALUES", "FROM")
    if options or words.word in ("ANALYZE", "ANALYSE", "VERBOSE"):
        raise refuse(words, f"EXPLAIN {words.word}")
    if words.word in ("CREATE", "DROP", "ALTER", "EXPLAIN", "LOCK", ""):
        raise words.error("EXPLAIN takes SELECT, INSERT, UPDATE or DELETE")


def _definition(words: Words) -> CreateTable | AlterTable | DropTable:
    if words.word == "ALTER":
        return read_alter_table(words)
    return read_create_table(words) if words.word == "CREATE" else read_drop_table(words)
