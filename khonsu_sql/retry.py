"""`run_transaction`: run a function in a transaction, again and again while it meets retryable errors or calls `retry()`.

Called by users. What takes connections of this driver is here; for SQLAlchemy's engines, connections, sessions and their makers it is
`khonsu_sql.sqlalchemy.transactions`, loaded when such an object comes. Waits after errors grow with decorrelated jitter (Brooker,
"Exponential Backoff And Jitter", AWS Architecture Blog 2015): uniform between the shortest wait and three times the last one, capped.
After `retry()` there is no such wait: the attempt sleeps until something it has read is changed (`blocking`).

Invariants: only errors with `retryable`, and those the caller asked for, are tried again; one with an unknown outcome never is, as it may
have happened. A `run_transaction` within another one on the same connection never runs anything again: the outer one does.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from khonsu_engine.commands import ConflictPolicy, Isolation
from khonsu_engine.locks import Locking
from khonsu_sql.blocking import Abandoned, Attempt
from khonsu_sql.connection import Connection
from khonsu_sql.errors import (
    ActiveSqlTransaction,
    Error,
    FeatureNotSupported,
    InterfaceError,
    InvalidOptionValue,
    InvalidTransactionTermination,
    QueryCanceled,
)

if TYPE_CHECKING:
    from khonsu_engine.watches import Watch

__all__ = ["RetryReport", "run_transaction"]

WAIT_SECONDS_MIN = 0.0005
WAIT_SECONDS_MAX = 0.25

T = TypeVar("T")

REASONS_MAX = 16
UNKNOWN_OUTCOME = "08007"


class RetryReport(msgspec.Struct):
    """What one `run_transaction` went through, kept up to date while it runs.

    `attempts`        how often the function was called
    `reasons`         the errors of failed attempts, oldest first, the last `REASONS_MAX` of them
    `waited_seconds`  between attempts after errors
    `retries`         how many attempts gave up by `retry()`
    `slept_seconds`   until something these had read was changed
    """

    attempts: int = 0
    reasons: tuple[Error, ...] = ()
    waited_seconds: float = 0.0
    retries: int = 0
    slept_seconds: float = 0.0


class TransactionSettings(msgspec.Struct, frozen=True):
    """What every attempt's transaction is begun with; None = the connection's own."""

    isolation_level: str | Isolation | None
    read_only: bool | None
    locking: str | Locking | None
    on_conflict: str | ConflictPolicy | None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


def run_transaction(
    connectable: Any,
    function: Callable[[Any], T],
    *,
    isolation_level: str | Isolation | None = None,
    read_only: bool | None = None,
    locking: str | Locking | None = None,
    on_conflict: str | ConflictPolicy | None = None,
    deadline_seconds: float | None = 30.0,
    attempts_max: int | None = None,
    retry_sqlstates: Collection[str] = (),
    on_retry: Callable[[RetryReport], object] | None = None,
    report: RetryReport | None = None,
) -> T:
    """Call `function(connection)` in a fresh transaction, commit, return its result; after a retryable error do it all again.

    `connectable`      a connection of this driver; or SQLAlchemy's Engine or Connection (`function` gets a Connection) or its
                       sessionmaker, scoped_session or Session (`function` gets a Session; a maker's is closed at the end)
    `function`         may run several times, so it should change nothing but the database. It must not commit or roll back (2D000)
    `isolation_level`, `read_only`, `locking`, `on_conflict`: as for `Connection.transaction`
    `deadline_seconds` no attempt begins, and no sleep of `retry()` lasts, longer than that after the call; None: for ever. An attempt
                       under way is not interrupted
    `attempts_max`     how many attempts may end in an error
    `retry_sqlstates`  further errors to be tried again, such as 55P03 (lock timeout)
    `on_retry`         called with the report after each attempt that will be made again, before the wait
    `report`           a `RetryReport` to be filled; that of a driver's connection is its `last_retry`, too

    Gives up with the last error, which has `attempts` and a note; with QueryCanceled (57014) when the deadline ends a sleep. The
    connection must be idle (else 25001), but inside a function that `run_transaction` runs on the same connection: then `function` runs
    once, in a savepoint, its errors are the outer one's to retry, and so are the limits.
    """
    settings = TransactionSettings(isolation_level, read_only, locking, on_conflict)
    course = _Course(deadline_seconds, attempts_max, retry_sqlstates, on_retry, report)
    if isinstance(connectable, Connection):
        if connectable._attempt is not None and connectable._attempt.here:
            return course.once(lambda: _nested(connectable, function, settings))
        connectable.last_retry = course.report
        return course.run(lambda: _attempt(connectable, function, settings), lambda: _count(connectable))
    return course.run(_foreign(connectable, function, settings))


# --- one attempt


class _Asleep(msgspec.Struct, frozen=True):
    """An attempt called `retry()`: on what its connection is to sleep."""

    connection: Connection
    watch: Watch

    def sleep(self, timeout_seconds: float | None) -> bool:
        return self.connection._open_session().sleep(self.watch, timeout_seconds)


def _attempt(connection: Connection, function: Callable[[Connection], T], settings: TransactionSettings) -> T | _Asleep:
    _refuse_if_open(connection.in_transaction)  # before a later attempt it is another thread's
    attempt = Attempt()
    watch: Watch | None = None
    try:
        with connection.transaction(**settings.given()):
            connection._attempt = attempt
            try:
                result = function(connection)
                attempt.refuse_if_abandoned()
            except Abandoned as given_up:
                if given_up is attempt.abandoned:
                    with connection._lock:
                        watch = connection._open_session().watch()
                raise
            finally:
                connection._attempt = None
        return result
    except Abandoned as given_up:
        if watch is None:
            raise  # of another connection
        attempt.abandoned = given_up.__traceback__ = None  # its frames hold open results, and so snapshots
        return _Asleep(connection, watch)


def _count(connection: Connection) -> None:
    if connection._session is not None:
        connection._session.retried()


def _nested(connection: Connection, function: Callable[[Connection], T], settings: TransactionSettings) -> T:
    with connection.transaction(**settings.given()):
        return function(connection)


def _foreign(connectable: Any, function: Callable[[Any], T], settings: TransactionSettings) -> Callable[[], T]:
    """How an attempt on an object of SQLAlchemy's is run."""
    if "sqlalchemy" in sys.modules:
        from khonsu_sql.sqlalchemy import transactions

        if transactions.takes(connectable):
            others = ", ".join(sorted(settings.given().keys() - {"isolation_level"}))
            if others:
                hint = "Give them to create_engine, as options of the URL."
                raise FeatureNotSupported(f"{others} is not supported through SQLAlchemy", hint=hint)
            if settings.isolation_level is not None and not transactions.takes_level(connectable):
                hint = "Use connection.execution_options(isolation_level=…)."
                raise FeatureNotSupported(
                    "isolation_level is not supported for a Connection of SQLAlchemy's, which keeps its own", hint=hint
                )

            def attempt() -> T:
                _refuse_if_open(transactions.in_transaction(connectable))
                with transactions.begun(connectable, settings.isolation_level) as begun:
                    result = function(begun.argument)
                    if not begun.active:
                        raise InvalidTransactionTermination(
                            "the function has ended the transaction that run_transaction began",
                            hint="run_transaction commits after it; raise an exception to roll back.",
                        )
                return result

            return attempt
    takes = "a khonsu_sql connection, or SQLAlchemy's Engine, Connection, sessionmaker or Session"
    raise InterfaceError(f"run_transaction takes {takes}, not {type(connectable).__name__}", sqlstate="HY024")


def _refuse_if_open(is_open: bool) -> None:
    if is_open:
        raise ActiveSqlTransaction("run_transaction needs a connection without an open transaction", hint="Commit or roll back first.")


# --- from attempt to attempt


class _Course:
    """The attempts of one call, and what bounds them."""

    def __init__(
        self,
        deadline_seconds: float | None,
        attempts_max: int | None,
        retry_sqlstates: Collection[str],
        on_retry: Callable[[RetryReport], object] | None,
        report: RetryReport | None,
    ) -> None:
        if attempts_max is not None and attempts_max < 1:
            raise InvalidOptionValue(f"attempts_max must be at least 1, not {attempts_max!r}")
        if deadline_seconds is not None and not deadline_seconds >= 0:
            raise InvalidOptionValue(f"deadline_seconds must not be negative, it is {deadline_seconds!r}")
        if isinstance(retry_sqlstates, str) or UNKNOWN_OUTCOME in retry_sqlstates:
            raise InvalidOptionValue(f"retry_sqlstates is a collection of SQLSTATEs other than {UNKNOWN_OUTCOME}, not {retry_sqlstates!r}")
        self._deadline_seconds = deadline_seconds
        self._end = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        self._attempts_max = attempts_max
        self._sqlstates = frozenset(retry_sqlstates)
        self._on_retry = on_retry
        self._pause = WAIT_SECONDS_MIN
        self.report = RetryReport() if report is None else report
        for name, value in msgspec.structs.asdict(RetryReport()).items():
            setattr(self.report, name, value)

    def once(self, attempt: Callable[[], T]) -> T:
        self.report.attempts = 1
        return attempt()

    def run(self, attempt: Callable[[], T | _Asleep], count: Callable[[], None] | None = None) -> T:
        """`count`: that something goes wrong and is tried again."""
        while True:
            self.report.attempts += 1
            try:
                result = attempt()
            except Exception as error:
                if not self._goes_on(error):
                    raise
            else:
                if not isinstance(result, _Asleep):
                    return result
                self._sleep(result)
                continue
            if count is not None:
                count()
            time.sleep(self._pause)
            self.report.waited_seconds += self._pause

    def _goes_on(self, error: Exception) -> bool:
        """Is there to be another attempt after `error`, which is ours or SQLAlchemy's for one of ours?"""
        cause = error if isinstance(error, Error) else getattr(error, "orig", None)
        if not isinstance(cause, Error):
            return False
        report = self.report
        report.reasons = (*report.reasons[1 - REASONS_MAX :], cause)
        self._pause = min(WAIT_SECONDS_MAX, random.uniform(WAIT_SECONDS_MIN, self._pause * 3))
        retryable = (cause.retryable or cause.sqlstate in self._sqlstates) and cause.sqlstate != UNKNOWN_OUTCOME
        late = self._end is not None and time.monotonic() + self._pause > self._end
        if retryable and not late and report.attempts - report.retries != self._attempts_max:
            self._tell()
            return True
        cause.attempts = report.attempts
        if retryable or report.attempts > 1:
            why = f"; the deadline of {self._deadline_seconds:g} s left no time for another" if late and retryable else ""
            error.add_note(f"run_transaction gave up after {report.attempts} attempt(s){why}")
        return False

    def _sleep(self, asleep: _Asleep) -> None:
        """Until something that was read has changed. Raises 57014 at the deadline, and what ends a sleep."""
        report = self.report
        report.retries += 1
        self._tell()
        begun = time.monotonic()
        try:
            changed = asleep.sleep(None if self._end is None else max(0.0, self._end - begun))
            if not changed:
                raise QueryCanceled(
                    f"retry() slept until the deadline of {self._deadline_seconds:g} s: nothing that was read has changed",
                    hint="Raise deadline_seconds; None is without end.",
                )
        except Error as error:
            error.attempts = report.attempts
            raise
        finally:
            report.slept_seconds += time.monotonic() - begun

    def _tell(self) -> None:
        if self._on_retry is not None:
            self._on_retry(self.report)
