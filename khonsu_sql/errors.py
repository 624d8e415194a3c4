"""What can go wrong, as PEP 249's tree of exceptions with SQLSTATEs and subclasses where code branches on them.

Raised by every room of the front; `translate` turns the engine's errors into these, keeping the original as `__cause__`.
`sqlstate` decides the class (`by_sqlstate`, else its first two characters, as PostgreSQL's drivers do it), never a message text.
Nothing heavy is imported here: `import khonsu_sql` needs this file.

    Warning
    Error
    ├── InterfaceError        HY, 07 the driver was called wrongly
    └── DatabaseError
        ├── DataError         22, 21 a value cannot be what it should be
        ├── IntegrityError    23     a constraint says no
        ├── InternalError     24, 25, 2D, XX  cursor or transaction in the wrong state, damaged data
        ├── NotSupportedError 0A     refused by name
        ├── OperationalError  08, 40, 53, 54, 55, 57, 58  not the programmer's fault
        └── ProgrammingError  42, 3F the statement is wrong
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_sql.caret import caret_lines

if TYPE_CHECKING:
    from khonsu_engine.errors import EngineError

# fmt: off
__all__ = [
    "ActiveSqlTransaction", "AmbiguousColumn", "CannotCoerce", "CannotConnect", "CardinalityViolation",
    "CharacterNotInRepertoire", "CheckViolation", "CommitOutcomeUnknown", "ConnectionDoesNotExist", "DataCorrupted", "DataError",
    "DatabaseError", "DatatypeMismatch", "DeadlockDetected", "DiskFull", "DivisionByZero", "DuplicateColumn", "DuplicateTable", "Error",
    "FeatureNotSupported", "ForeignKeyViolation", "GroupingError", "IdleInTransactionTimeout", "InFailedSqlTransaction",
    "InsufficientPrivilege", "IntegrityError", "InterfaceError", "InternalError", "InvalidCursorState", "InvalidDatetimeFormat",
    "InvalidOption", "InvalidOptionValue", "InvalidParameterValue", "InvalidSavepointSpecification",
    "InvalidSchemaName", "InvalidTableDefinition", "InvalidTextRepresentation", "InvalidTransactionTermination",
    "IoError", "LockNotAvailable", "NoActiveSqlTransaction", "NotNullViolation", "NotSupportedError", "NumericValueOutOfRange",
    "ObjectInUse", "OperationalError", "OutOfMemory", "ParameterMismatch", "ProgramLimitExceeded", "ProgrammingError", "QueryCanceled",
    "ReadOnlySqlTransaction", "SerializationFailure", "SnapshotTooOld", "StatementTooComplex", "SyntaxError_",
    "TransactionTimeout", "UndefinedColumn",
    "UndefinedFunction", "UndefinedObject", "UndefinedParameter", "UndefinedTable", "UniqueViolation", "Warning",
    "by_sqlstate", "class_of", "translate",
]
# fmt: on


class Warning(Exception):
    """PEP 249: important warnings. Never raised by this version."""


class Error(Exception):
    """Base of all errors of this package.

    `message`      what happened, one line
    `sqlstate`     five characters (SQL standard, PostgreSQL's where it has none)
    `retryable`    the whole transaction may be run again and can then succeed (`run_transaction` does)
    `detail`, `hint`  more for a person
    `position`     1-based character position in `sql` of the offending token; `str()` then shows the line with a caret
    `attempts`     how often `run_transaction` tried before it let this error through
    `evidence`     what a conflict knows about its cause: rule, table, keys, the transactions and their timestamps (`docs/transactions.md`)
    """

    sqlstate: str = "HY000"
    retryable: bool = False
    attempts: int = 1

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
        position: int | None = None,
        sql: str | None = None,
        evidence: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.position = position
        self.sql = sql
        self.evidence = evidence if evidence is not None else {}
        if sqlstate is not None:
            self.sqlstate = sqlstate

    def __str__(self) -> str:
        lines = [self.message]
        if self.sql is not None and self.position is not None:
            lines += caret_lines(self.sql, self.position)
        if self.detail:
            lines.append(f"DETAIL:  {self.detail}")
        if self.hint:
            lines.append(f"HINT:  {self.hint}")
        return "\n".join(lines)


class InterfaceError(Error):
    """The driver was called wrongly; the database was not asked."""


class DatabaseError(Error):
    """Base of everything the database says."""


class DataError(DatabaseError):
    sqlstate = "22000"


class IntegrityError(DatabaseError):
    sqlstate = "23000"


class InternalError(DatabaseError):
    sqlstate = "XX000"


class NotSupportedError(DatabaseError):
    sqlstate = "0A000"


class OperationalError(DatabaseError):
    sqlstate = "58000"


class ProgrammingError(DatabaseError):
    sqlstate = "42000"


# --- the driver


class InvalidOption(InterfaceError):
    """An option of that name does not exist."""

    sqlstate = "HY092"


class InvalidOptionValue(InterfaceError):
    """An option exists, but not with this value, or not now."""

    sqlstate = "HY024"


class ParameterMismatch(ProgrammingError):
    """The number, the names or the style of the given parameters are not what the statement asks for."""

    sqlstate = "07001"


# --- values


class CardinalityViolation(DataError):
    """A subquery used as a value returned more than one row."""

    sqlstate = "21000"


class NumericValueOutOfRange(DataError):
    sqlstate = "22003"


class InvalidDatetimeFormat(DataError):
    sqlstate = "22007"


class DivisionByZero(DataError):
    sqlstate = "22012"


class CharacterNotInRepertoire(DataError):
    """Text that cannot be stored: invalid UTF-8, a lone surrogate, NUL."""

    sqlstate = "22021"


class InvalidParameterValue(DataError):
    sqlstate = "22023"


class InvalidTextRepresentation(DataError):
    """A value that is not one of the type it should have."""

    sqlstate = "22P02"


# --- constraints


class NotNullViolation(IntegrityError):
    sqlstate = "23502"


class ForeignKeyViolation(IntegrityError):
    sqlstate = "23503"


class UniqueViolation(IntegrityError):
    sqlstate = "23505"


class CheckViolation(IntegrityError):
    sqlstate = "23514"


# --- cursor and transaction states


class InvalidCursorState(InternalError):
    """The cursor is closed, has no result, or its result is gone (rolled back, or fetched in another way)."""

    sqlstate = "24000"


class ActiveSqlTransaction(InternalError):
    """Not possible inside a transaction."""

    sqlstate = "25001"


class ReadOnlySqlTransaction(InternalError):
    sqlstate = "25006"


class InvalidTransactionTermination(InternalError):
    """COMMIT or ROLLBACK where a block ends the transaction."""

    sqlstate = "2D000"


class InvalidSavepointSpecification(InternalError):
    """There is no savepoint of that name."""

    sqlstate = "3B001"


class NoActiveSqlTransaction(InternalError):
    sqlstate = "25P01"


class InFailedSqlTransaction(InternalError):
    """An earlier error failed the transaction; only ROLLBACK helps."""

    sqlstate = "25P02"


class IdleInTransactionTimeout(InternalError):
    """No statement for longer than idle_in_transaction_timeout: the transaction was rolled back; only ROLLBACK helps."""

    sqlstate = "25P03"


class TransactionTimeout(InternalError):
    """The transaction took longer than transaction_timeout and was rolled back; only ROLLBACK helps."""

    sqlstate = "25P04"


class DataCorrupted(InternalError):
    """Stored data is damaged; the message names what and where."""

    sqlstate = "XX001"


# --- refused by name


class FeatureNotSupported(NotSupportedError):
    sqlstate = "0A000"


# --- the world


class CannotConnect(OperationalError):
    """The database cannot be opened: unreadable, of another format, or newer than this program."""

    sqlstate = "08001"


class ConnectionDoesNotExist(OperationalError):
    """The connection is closed, or belongs to the process this one was forked from."""

    sqlstate = "08003"


class CommitOutcomeUnknown(OperationalError):
    """The commit was written but not confirmed: it may or may not be there after the next open. Never retried by itself.

    `transaction_id`: 16 bytes; the reopened database knows its outcome.
    """

    sqlstate = "08007"

    def __init__(self, message: str, *, transaction_id: bytes = b"", **rest: Any) -> None:
        super().__init__(message, **rest)
        self.transaction_id = transaction_id


class SerializationFailure(OperationalError):
    """Another transaction committed something this one depends on; run it again."""

    sqlstate = "40001"
    retryable = True


class DeadlockDetected(OperationalError):
    sqlstate = "40P01"
    retryable = True


class DiskFull(OperationalError):
    sqlstate = "53100"


class OutOfMemory(OperationalError):
    sqlstate = "53200"


class ProgramLimitExceeded(OperationalError):
    """Something is larger than the limit that protects everybody else."""

    sqlstate = "54000"


class StatementTooComplex(OperationalError):
    sqlstate = "54001"


class ObjectInUse(OperationalError):
    """Another process has the database open, or it is open here with other options."""

    sqlstate = "55006"


class LockNotAvailable(OperationalError):
    sqlstate = "55P03"


class QueryCanceled(OperationalError):
    """The statement was cancelled: `cancel()`, Ctrl-C or a timeout."""

    sqlstate = "57014"


class SnapshotTooOld(OperationalError):
    """What was there is no longer kept."""

    sqlstate = "72000"


class IoError(OperationalError):
    """The store refused; nothing of the commit happened."""

    sqlstate = "58030"


# --- the statement


class InvalidSchemaName(ProgrammingError):
    sqlstate = "3F000"


class InsufficientPrivilege(ProgrammingError):
    sqlstate = "42501"


class SyntaxError_(ProgrammingError):  # noqa: N801 - not Python's own
    sqlstate = "42601"


class DuplicateColumn(ProgrammingError):
    sqlstate = "42701"


class AmbiguousColumn(ProgrammingError):
    sqlstate = "42702"


class UndefinedColumn(ProgrammingError):
    sqlstate = "42703"


class UndefinedObject(ProgrammingError):
    """A type, setting or other named thing that does not exist."""

    sqlstate = "42704"


class GroupingError(ProgrammingError):
    sqlstate = "42803"


class DatatypeMismatch(ProgrammingError):
    sqlstate = "42804"


class CannotCoerce(ProgrammingError):
    sqlstate = "42846"


class UndefinedFunction(ProgrammingError):
    sqlstate = "42883"


class UndefinedTable(ProgrammingError):
    sqlstate = "42P01"


class UndefinedParameter(ProgrammingError):
    sqlstate = "42P02"


class DuplicateTable(ProgrammingError):
    sqlstate = "42P07"


class InvalidTableDefinition(ProgrammingError):
    sqlstate = "42P16"


def _leaves(parent: type[Error]) -> list[type[Error]]:
    children = parent.__subclasses__()
    return [leaf for child in children for leaf in _leaves(child)] if children else [parent]


by_sqlstate: dict[str, type[Error]] = {leaf.sqlstate: leaf for leaf in _leaves(Error)}
"""The named subclass of each SQLSTATE that has one."""

_by_class: dict[str, type[Error]] = {
    "07": ProgrammingError,
    "08": OperationalError,
    "0A": NotSupportedError,
    "21": DataError,
    "22": DataError,
    "23": IntegrityError,
    "24": InternalError,
    "25": InternalError,
    "2D": InternalError,
    "3B": InternalError,
    "3F": ProgrammingError,
    "40": OperationalError,
    "42": ProgrammingError,
    "53": OperationalError,
    "54": OperationalError,
    "55": OperationalError,
    "57": OperationalError,
    "58": OperationalError,
    "HY": InterfaceError,
    "XX": InternalError,
}


def class_of(sqlstate: str) -> type[Error]:
    """The exception class for `sqlstate`: its named subclass, else the class of its first two characters."""
    return by_sqlstate.get(sqlstate) or _by_class.get(sqlstate[:2], DatabaseError)


def translate(error: EngineError | Error, *, sql: str | None = None) -> Error:
    """The PEP 249 error for one of the engine; it keeps `error` as `__cause__`. To be raised by the caller.

    Evidence, detail, hint and `retryable` are taken over. An error of this package is returned as it is.
    """
    if isinstance(error, Error):
        return error
    options: dict[str, Any] = {"detail": error.detail, "hint": error.hint, "evidence": error.evidence, "sql": sql}
    transaction_id = getattr(error, "transaction_id", None)
    if transaction_id is not None:
        options["transaction_id"] = transaction_id
    translated = class_of(error.sqlstate)(error.message, sqlstate=error.sqlstate, **options)
    translated.retryable = error.retryable
    translated.__cause__ = error
    return translated
