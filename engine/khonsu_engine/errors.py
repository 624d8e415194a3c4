"""What can go wrong in the engine, as values that say whether a retry can help.

Called by every room of the engine; the front translates each class to its PEP 249 class by `sqlstate`
(`khonsu_sql.errors`). Nothing here knows SQL text. Messages say what, where and what to do.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CannotConnect",
    "CheckViolation",
    "CommitOutcomeUnknown",
    "CorruptDatabase",
    "DatabaseInUse",
    "DatetimeOutOfRange",
    "EngineClosed",
    "EngineError",
    "InvalidArgument",
    "InvalidTransactionState",
    "InvalidValue",
    "LimitExceeded",
    "NotNullViolation",
    "NotSupported",
    "NumericOutOfRange",
    "RevisionGone",
    "SchemaMismatch",
    "SerializationConflict",
    "StoreFailed",
    "StringTooLong",
    "UndefinedType",
    "UniqueViolation",
    "UnstorableText",
]


class EngineError(Exception):
    """Base of all engine errors.

    `sqlstate`: five characters of the SQL standard. `retryable`: the whole transaction may be run again.
    `detail`, `hint`: more for a person. `evidence`: what a conflict knows about its cause (`evidence.facts`).
    """

    sqlstate = "XX000"
    retryable = False

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None, evidence: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.evidence = evidence or {}


class SerializationConflict(EngineError):
    """Another transaction committed something this one depends on; run it again. Evidence names table, keys and rule."""

    sqlstate = "40001"
    retryable = True


class DeadlockDetected(EngineError):
    """Transactions wait for each other; this one is the youngest of them. Run it again."""

    sqlstate = "40P01"
    retryable = True


class LockNotAvailable(EngineError):
    """Somebody else has the lock, and it was not to be waited for (any longer)."""

    sqlstate = "55P03"


class UniqueViolation(EngineError):
    """A key of a primary key or unique constraint exists already."""

    sqlstate = "23505"


class NotNullViolation(EngineError):
    """NULL in a column that forbids it."""

    sqlstate = "23502"


class CheckViolation(EngineError):
    """A CHECK is false for a row that a conflict policy made."""

    sqlstate = "23514"


class InvalidValue(EngineError):
    """A value that is not one of the column's type (22P02, or 22021 for text that cannot be stored)."""

    sqlstate = "22P02"


class NumericOutOfRange(InvalidValue):
    """A number its type cannot hold."""

    sqlstate = "22003"


class DatetimeOutOfRange(InvalidValue):
    """A date or time that Python's calendar (years 1 to 9999, no infinity, no 24:00) cannot hold."""

    sqlstate = "22008"


class StringTooLong(InvalidValue):
    """More characters than the column's VARCHAR(n)."""

    sqlstate = "22001"


class UnstorableText(InvalidValue):
    """Text with NUL, a lone surrogate, or bytes that are not UTF-8."""

    sqlstate = "22021"


class UndefinedType(EngineError):
    """No type of that name. The message names the nearest."""

    sqlstate = "42704"


class NotSupported(EngineError):
    """A feature this version refuses by name."""

    sqlstate = "0A000"


class InvalidArgument(EngineError):
    """An argument that a call cannot take; the message says which, and what it takes."""

    sqlstate = "22023"


class InvalidTransactionState(EngineError):
    """The transaction has ended, or another thread is in the middle of a call of it."""

    sqlstate = "25000"


class SchemaMismatch(EngineError):
    """Rows of another schema than those they are to be joined with."""

    sqlstate = "42804"


class RevisionGone(EngineError):
    """That revision of a key is no longer kept. The message and the evidence (`oldest`) name the oldest readable one."""

    sqlstate = "72000"


class LimitExceeded(EngineError):
    """Something is larger than the limit that protects everybody else."""

    sqlstate = "54000"


class CannotConnect(EngineError):
    """The directory cannot be opened: unreadable, of another format, or newer than this program."""

    sqlstate = "08001"


class DatabaseInUse(CannotConnect):
    """Another process has the directory open."""

    sqlstate = "55006"


class CorruptDatabase(EngineError):
    """Stored data is damaged; the message names what and where. Never skipped silently."""

    sqlstate = "XX001"


class EngineClosed(EngineError):
    """The database was closed, or this process is a fork of the one that opened it."""

    sqlstate = "08003"


class StoreFailed(EngineError):
    """The store refused a write; nothing of the commit happened (disk full, I/O error before the append)."""

    sqlstate = "58030"


class CommitOutcomeUnknown(EngineError):
    """The record was appended and its sync failed: it may or may not be found at the next open.

    `transaction_id` names it; `Database.outcome` answers after the database was reopened.
    """

    sqlstate = "08007"

    def __init__(self, message: str, *, transaction_id: bytes, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.transaction_id = transaction_id
