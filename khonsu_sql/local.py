"""LocalSession: a session on a database in this process. It is `core.SessionCore` and a wait.

Called by `connection`; loaded at the first connect. The sessions of one database share its plan cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from khonsu_engine.commands import ConflictPolicy, Isolation, Outcome
from khonsu_engine.errors import EngineError
from khonsu_engine.lock_waiter import LockWaiter
from khonsu_engine.locks import Locking
from khonsu_sql.core import SessionCore
from khonsu_sql.deadlines import UNTIMED, Fetching
from khonsu_sql.errors import ConnectionDoesNotExist, Error, QueryCanceled, TransactionTimeout, translate
from khonsu_sql.fast_lane import FastLane, wait_out
from khonsu_sql.read_record import refuse_unrecorded, watch_of
from khonsu_sql.requests import Answered, Begin, End, Execute, Ingest, Request, Savepoint, translated
from khonsu_sql.session import IngestMode, Parameters, Result, TransactionOptions, TransactionStatus
from khonsu_sql.sessions import register
from khonsu_sql.sql.cache import plans_of
from khonsu_sql.sql.settings import NO_TIMEOUTS, Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.database import Database
    from khonsu_engine.watches import Watch
    from khonsu_sql.dsn import Options
    from khonsu_sql.table_description import TableDescription

__all__ = ["LocalSession", "session_on"]


class LocalSession:
    """`session.Session` on an open `Database`, which it does not close."""

    def __init__(
        self,
        database: Database,
        *,
        isolation: Isolation = Isolation.SERIALIZABLE,
        autocommit: bool = False,
        read_only: bool = False,
        locking: Locking = Locking.ADAPTIVE,
        lock_timeout_seconds: float = 10.0,
        on_conflict: ConflictPolicy = ConflictPolicy.FAIL,
        timeouts: Mapping[str, float] = NO_TIMEOUTS,
    ) -> None:
        """`timeouts`: seconds by the names of their settings."""
        settings = Settings(
            isolation=isolation, read_only=read_only, locking=locking, lock_timeout_seconds=lock_timeout_seconds, timeouts=timeouts
        )
        settings.conflict_resolution = on_conflict
        plans = plans_of(database)
        self._database = database
        self._settings = settings
        self._core = SessionCore(database, plans, settings, autocommit=autocommit)
        self._lane = FastLane(self._core, database, plans)
        self._asleep: set[Watch] = set()
        self._closed = False
        register(database, self)

    # --- statements

    def execute(self, sql: str, parameters: Parameters = None, *, many: bool = False, on_conflict: ConflictPolicy | None = None) -> Result:
        """See `session.Session.execute`. Cached point statements take the fast lane."""
        if self._settings.timed:
            return self._finish(Execute(sql, parameters, many, on_conflict))
        if not many and on_conflict is None:
            try:
                result = self._lane.run(sql, parameters)
            except Exception as error:
                raise translated(error, sql) from error
            except BaseException:
                self._core.interrupted()
                raise
            if result is not None:
                return result
        return self._finish(Execute(sql, parameters, many, on_conflict))

    def ingest(self, table: str, reader: pa.RecordBatchReader, mode: IngestMode) -> int:
        """Returns the number of rows written."""
        return self._finish(Ingest(table, reader, mode)).rowcount

    def _finish(self, request: Request) -> Result:
        """The answer to `request`. Ctrl-C, wherever it comes, leaves no work half done behind."""
        try:
            return self._timed(request)
        except Exception:
            raise
        except BaseException:
            self._core.interrupted(ends=isinstance(request, End))
            raise

    def _timed(self, request: Request) -> Result:
        """With the timeouts that are set: it may set them itself."""
        settings, deadlines = self._settings, self._core.deadlines
        timed = settings.timed
        try:
            if timed:
                deadlines.begin()
            return (self._by_lane(request) if timed else None) or self._steps(request)
        except (QueryCanceled, TransactionTimeout) as error:
            told = deadlines.told(error)
            if told is error:
                raise
            raise told from None
        finally:
            if timed or settings.timed:
                deadlines.rest()

    def _by_lane(self, request: Request) -> Result | None:
        """As in `execute`, for a session with timeouts."""
        if not isinstance(request, Execute) or request.many or request.on_conflict is not None:
            return None
        try:
            return self._lane.run(request.sql, request.parameters)
        except Error:
            raise
        except Exception as error:
            raise translated(error, request.sql) from error

    def _steps(self, request: Request) -> Result:
        """Step until there is a result, waiting for what must be waited for. A wait that raises (Ctrl-C too) is told to the core."""
        core = self._core
        answer = core.step(request)
        while not isinstance(answer, Result):
            failure: BaseException | None = None
            try:
                if isinstance(answer, LockWaiter):  # Ctrl-C ends it at once, whereas the outcome of a commit is always told
                    answer.wait()
                else:
                    wait_out(answer, core.deadlines)
            except BaseException as error:  # noqa: BLE001 - it is raised again by the core, which cleans up first
                failure = error
            answer = core.step(Answered(failure))
        return answer

    def cancel(self) -> None:
        """Cancel the running statement, or the sleep: it raises QueryCanceled. From any thread."""
        for watch in list(self._asleep):
            watch.cancel()
        self._core.cancel()

    def tables(self) -> tuple[TableDescription, ...]:
        """The tables this session sees now."""
        from khonsu_sql.table_description import describe

        if not self._settings.timed:
            return describe(self._core.catalog)
        try:
            self._core.deadlines.begin()
            return describe(self._core.catalog)
        finally:
            self._core.deadlines.rest()

    def fetching(self) -> Fetching:
        """See `session.Session.fetching`."""
        return self._core.deadlines.fetching() if self._settings.timed else UNTIMED

    def checkpoint(self) -> None:
        """Turn recent versions into segments and shorten the log. Raises what made it fail."""
        try:
            self._database.checkpoint()
        except EngineError as error:
            raise translate(error) from error

    # --- transactions

    def begin(self, options: TransactionOptions) -> None:
        self._finish(Begin(options))

    def commit(self) -> Outcome | None:
        """How the transaction ended; None without one. Raises what made it fail; then it was rolled back."""
        if self._core.transaction.status is TransactionStatus.IDLE:
            return None
        self._finish(End(commit=True))
        return self._core.transaction.outcome

    def rollback(self) -> None:
        self._finish(End(commit=False))

    def savepoint(self, action: str, name: str) -> None:
        self._finish(Savepoint(action, name))

    @property
    def mark(self) -> object:
        """What tells the open transaction from every other one: compare with `is`."""
        return self._core.transaction._options

    def refuse_unrecorded(self, what: str) -> None:
        """Raises 0A000 when what is read is not recorded, which `what` needs; 25P02."""
        refuse_unrecorded(self._core.transaction, what)

    def watch(self) -> Watch:
        """What the open transaction has read, to sleep on. Raises 25000, 25P02."""
        return watch_of(self._core.transaction)

    def sleep(self, watch: Watch, timeout_seconds: float | None) -> bool:
        """See `session.Session.sleep`."""
        self._asleep.add(watch)
        try:
            if self._closed:  # looked at after the watch was shown to `close`
                watch.cancel()
            changed = watch.wait(timeout_seconds)
        except EngineError as error:
            raise translate(error) from error
        finally:
            self._asleep.discard(watch)
        if self._closed:
            raise ConnectionDoesNotExist("the connection was closed while retry() slept", hint="Connect again.")
        if watch.cancelled:
            raise QueryCanceled("retry() was cancelled")
        return changed

    def last_commit(self) -> Outcome | None:
        """See `session.Session.last_commit`. Raises CommitOutcomeUnknown."""
        try:
            return self._database.last_outcome(self._core.transaction.name)
        except EngineError as error:
            raise translate(error) from error

    def retried(self) -> None:
        """One attempt more of `run_transaction`, for khonsu.metrics."""
        self._database.retries.add()

    @property
    def name(self) -> bytes:
        """8 random bytes: the second half of its transactions' ids."""
        return self._core.transaction.name

    @property
    def working(self) -> bool:
        """Is a request under way? From any thread; statements of the fast lane, which take microseconds, do not show."""
        return self._core._work is not None

    @property
    def status(self) -> TransactionStatus:
        return self._core.transaction.status

    @property
    def autocommit(self) -> bool:
        return self._core.autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self._core.autocommit = value

    @property
    def isolation(self) -> Isolation:
        """Of transactions that name none; the setting `default_transaction_isolation`."""
        return self._core.settings.default_transaction_isolation

    @isolation.setter
    def isolation(self, value: Isolation) -> None:
        self._core.settings.default_transaction_isolation = value

    @property
    def locking(self) -> Locking:
        """Of transactions that name none; the setting `locking`."""
        return self._core.settings.locking

    @locking.setter
    def locking(self, value: Locking) -> None:
        self._core.settings.locking = value

    def close(self) -> None:
        """Roll back, end the sleep. Idempotent."""
        self._closed = True
        for watch in list(self._asleep):
            watch.cancel()
        self._core.close()


def session_on(database: Database, options: Options) -> LocalSession:
    """A session as a connection's options want it."""
    return LocalSession(
        database,
        isolation=options.isolation,
        autocommit=options.autocommit,
        read_only=options.read_only,
        locking=options.locking,
        lock_timeout_seconds=options.timeout_seconds,
        on_conflict=options.on_conflict,
        timeouts=options.timeouts,
    )
