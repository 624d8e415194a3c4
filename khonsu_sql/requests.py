"""What a session can be asked, as values, and any failure as an error of this package.

Made by `local` (in a cluster by the gateway, from what a client sent), stepped through by `core`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from khonsu_engine.commands import ConflictPolicy
from khonsu_engine.errors import EngineError
from khonsu_sql.errors import Error, InterfaceError, InternalError, OutOfMemory, StatementTooComplex, translate
from khonsu_sql.session import IngestMode, Parameters, TransactionOptions
from khonsu_sql.sql.plan import TransactionControl

__all__ = ["Answered", "Begin", "End", "Execute", "Ingest", "Request", "Savepoint", "control_of", "translated"]


class Execute(msgspec.Struct, frozen=True):
    sql: str
    parameters: Parameters = None
    many: bool = False
    on_conflict: ConflictPolicy | None = None


class Ingest(msgspec.Struct, frozen=True):
    table: str
    reader: Any
    mode: IngestMode


class Begin(msgspec.Struct, frozen=True):
    options: TransactionOptions


class End(msgspec.Struct, frozen=True):
    """`commit`: else rollback. Without a transaction, nothing happens."""

    commit: bool


class Savepoint(msgspec.Struct, frozen=True):
    """`action`: savepoint, release or rollback to."""

    action: str
    name: str


class Answered(msgspec.Struct, frozen=True):
    """The ticket the last step returned was waited for; `error`: what the wait raised."""

    error: BaseException | None = None


Request = Execute | Ingest | Begin | End | Savepoint | Answered


def control_of(request: Begin | End | Savepoint) -> TransactionControl:
    """The statement that says the same."""
    match request:
        case Begin(options=options):
            return TransactionControl("begin", *msgspec.structs.astuple(options))
        case End(commit=commit):
            return TransactionControl("commit" if commit else "rollback")
        case Savepoint(action=action, name=name):
            return TransactionControl(action, name=name)


def translated(error: Exception, sql: Any) -> Error:
    """The error to raise for `error`, whatever it is. `sql`: what was given as the statement."""
    if isinstance(error, Error):
        return error
    if sql is not None and not isinstance(sql, str):  # found out late, where it does not cost every statement a look
        return InterfaceError(f"a statement is text, not {type(sql).__name__}", sqlstate="HY024")
    if isinstance(error, EngineError):
        return translate(error, sql=sql)
    if isinstance(error, RecursionError):
        return StatementTooComplex("the statement is nested too deeply", sql=sql)
    if isinstance(error, MemoryError):
        return OutOfMemory("out of memory")
    return InternalError(f"unexpected {type(error).__name__}: {error}", hint="This is a bug of khonsu_sql: please report it.")
