"""Waist 0: what a connection needs of a session, local or remote.

Called by `connection` and `cursor`; implemented by `khonsu_sql.local` (embedded) and later `khonsu_sql.remote`.
A session runs one statement at a time; only `cancel` may be called from another thread, and `close` while the session sleeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from khonsu_engine.commands import Collision, ConflictPolicy, Isolation, Outcome
from khonsu_engine.locks import Locking
from khonsu_sql.errors import InvalidCursorState

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from khonsu_engine.watches import Watch
    from khonsu_sql.table_description import TableDescription

__all__ = [
    "ColumnInfo",
    "IngestMode",
    "Parameters",
    "Result",
    "SavepointMark",
    "Session",
    "TransactionOptions",
    "TransactionStatus",
    "Validity",
]

Parameters = Sequence[Any] | Mapping[str, Any] | None


class IngestMode(Enum):
    """What `ingest` does with the table: make it, add to it, empty it first, or make it when absent."""

    CREATE = "create"
    APPEND = "append"
    REPLACE = "replace"
    CREATE_APPEND = "create_append"


class TransactionStatus(Enum):
    """As psql's prompt shows it."""

    IDLE = "idle"
    ACTIVE = "active"
    FAILED = "failed"


class TransactionOptions(msgspec.Struct, frozen=True):
    """None = the session's default."""

    isolation: Isolation | None = None
    read_only: bool | None = None
    locking: Locking | None = None
    on_conflict: ConflictPolicy | None = None


class ColumnInfo(msgspec.Struct, frozen=True):
    """One column of a result. `type` is the `SqlType` of `khonsu_engine.schema.types`."""

    name: str
    type: Any
    nullable: bool | None = None


class SavepointMark(msgspec.Struct, frozen=True):
    """A savepoint. `mark`: of the engine. `shown`: how many validities there were. `local`: what SET LOCAL had given."""

    name: str
    mark: int
    shown: int
    local: Mapping[str, Any]


class Validity:
    """Whether results that show a transaction's own writes may still be fetched from: one per transaction, shared by them.

    The session breaks it when the transaction is rolled back (or its COMMIT fails); the driver calls `check` before each fetch.
    """

    __slots__ = ("broken",)

    def __init__(self) -> None:
        self.broken = False

    def check(self) -> None:
        """Raises `InvalidCursorState` (24000) once the transaction is gone."""
        if self.broken:
            raise InvalidCursorState(
                "the transaction whose changes this result shows was rolled back", hint="Run the query again to see what is there now."
            )


class Result(msgspec.Struct, gc=False):
    """What one statement returned.

    `columns`: None when the statement returns no rows. `rowcount`: rows affected, or rows returned when known, else -1.
    Either `rows` (list of tuples of Python values as the driver hands them out) or `batches` (a `pa.RecordBatchReader` that
    owns its snapshot), never both. `status`: the command tag (`SELECT`, `INSERT`, `CREATE TABLE`, …).
    `conflicts`: the rows a conflict policy decided, where the statement was a transaction by itself.
    `validity`: not None when the rows show uncommitted changes of their own transaction; its `check()` comes before each fetch.
    """

    columns: tuple[ColumnInfo, ...] | None
    rowcount: int
    status: str
    rows: list[tuple[Any, ...]] | None = None
    batches: Any = None
    notices: tuple[str, ...] = ()
    next: Result | None = None
    validity: Validity | None = None
    conflicts: tuple[Collision, ...] = ()


class Session(Protocol):
    """A session on a database. Every method raises `khonsu_sql.errors.Error` subclasses only."""

    autocommit: bool
    isolation: Isolation
    locking: Locking

    @property
    def status(self) -> TransactionStatus: ...
    def execute(self, sql: str, parameters: Parameters = None, *, many: bool = False, on_conflict: ConflictPolicy | None = None) -> Result:
        """Run the statement(s) of `sql`. Several statements give a chain of results (`Result.next`).

        With `many`, `parameters` is a sequence of parameter sets for one statement (one plan, one transaction).
        `on_conflict`: the policy of its writes; None: what table, transaction and session say."""
        ...

    def fetching(self) -> AbstractContextManager[None]:
        """Around each fetch of a result that streams, in the thread that fetches: for as long as that takes statement_timeout counts."""
        ...

    def ingest(self, table: str, reader: pa.RecordBatchReader, mode: IngestMode) -> int: ...
    def tables(self) -> tuple[TableDescription, ...]: ...
    def begin(self, options: TransactionOptions) -> None: ...
    def commit(self) -> Outcome | None: ...
    def rollback(self) -> None: ...
    def savepoint(self, action: str, name: str) -> None:
        """`action`: savepoint, release or rollback to."""
        ...

    def last_commit(self) -> Outcome | None:
        """How the last transaction of this session that wrote and committed ended, once it is durable; also after Ctrl-C in it."""
        ...

    def retried(self) -> None:
        """Count that `run_transaction` tries again."""
        ...

    @property
    def mark(self) -> object:
        """What tells the open transaction from every other one: compare with `is`."""
        ...

    def refuse_unrecorded(self, what: str) -> None:
        """Raises 0A000 when the transaction does not record what it reads, which `what` needs; 25P02 when it has failed."""
        ...

    def watch(self) -> Watch:
        """What the open transaction has read, for `sleep`. Takes its writes back; to be rolled back then. 25000: nothing was read."""
        ...

    def sleep(self, watch: Watch, timeout_seconds: float | None) -> bool:
        """Until something that was read has changed; False at the timeout. Not under the connection's lock.

        Raises QueryCanceled after `cancel`, ConnectionDoesNotExist after `close`, and when nothing will ever change again."""
        ...

    def checkpoint(self) -> None: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...
