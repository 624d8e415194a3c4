"""`run_transaction`: run a function in a transaction, again and again while it meets retryable errors.

Called by users; uses only the connection's public surface, but for the count of retries. Waits between attempts grow with decorrelated
jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015): uniform between the shortest wait and three times the
last one, capped.

Invariant: only errors with `retryable` are tried again; one with an unknown outcome never is, as it may have happened.
Left out until their version: SQLAlchemy sessions, `retry` and `or_else`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from khonsu_engine.commands import Isolation
from khonsu_sql.connection import Connection
from khonsu_sql.errors import ActiveSqlTransaction, Error, InterfaceError, InvalidOptionValue

__all__ = ["RetryReport", "run_transaction"]

WAIT_SECONDS_MIN = 0.0005
WAIT_SECONDS_MAX = 0.25

T = TypeVar("T")


class RetryReport(msgspec.Struct, frozen=True):
    """What one `run_transaction` went through. `reasons`: the error of each failed attempt, oldest first, at most `REASONS_MAX`."""

    attempts: int
    reasons: tuple[Error, ...]
    waited_seconds: float


REASONS_MAX = 16


def run_transaction(
    connectable: Connection,
    function: Callable[[Connection], T],
    *,
    isolation_level: str | Isolation | None = None,
    deadline_seconds: float = 30.0,
    attempts_max: int | None = None,
) -> T:
    """Call `function(connection)` in a fresh transaction, commit, return its result; after a retryable error do it all again.

    `function` may run several times, so it should change nothing but the database. No attempt starts later than `deadline_seconds`
    after the call or as number `attempts_max` + 1; then the last error is raised, with `attempts` and a note. In every case
    `connection.last_retry` reports attempts and reasons. The connection must be idle (else 25001).
    """
    _check(connectable, deadline_seconds, attempts_max)
    started = time.monotonic()
    waited, pause = 0.0, WAIT_SECONDS_MIN
    reasons: list[Error] = []
    attempts = 0
    while True:
        attempts += 1
        try:
            with connectable.transaction(isolation_level=isolation_level):
                result = function(connectable)
            connectable.last_retry = RetryReport(attempts, tuple(reasons), waited)
            return result
        except Error as error:
            reasons = [*reasons[1 - REASONS_MAX :], error]
            pause = min(WAIT_SECONDS_MAX, random.uniform(WAIT_SECONDS_MIN, pause * 3))
            late = time.monotonic() + pause - started > deadline_seconds
            if not error.retryable or late or attempts == attempts_max:
                connectable.last_retry = RetryReport(attempts, tuple(reasons), waited)
                _give_up(error, attempts, deadline_seconds if late and error.retryable else None)
                raise
        if connectable._session is not None:
            connectable._session.retried()
        time.sleep(pause)
        waited += pause


def _give_up(error: Error, attempts: int, deadline_seconds: float | None) -> None:
    error.attempts = attempts
    if attempts > 1 or error.retryable:
        why = "" if deadline_seconds is None else f"; the deadline of {deadline_seconds:g} s left no time for another"
        error.add_note(f"run_transaction gave up after {attempts} attempt(s){why}")


def _check(connectable: Connection, deadline_seconds: float, attempts_max: int | None) -> None:
    if not isinstance(connectable, Connection):
        raise InterfaceError(f"run_transaction takes a khonsu_sql connection, not {type(connectable).__name__}", sqlstate="HY024")
    if attempts_max is not None and attempts_max < 1:
        raise InvalidOptionValue(f"attempts_max must be at least 1, not {attempts_max!r}")
    if not deadline_seconds >= 0:
        raise InvalidOptionValue(f"deadline_seconds must not be negative, it is {deadline_seconds!r}")
    if connectable.in_transaction:
        raise ActiveSqlTransaction("run_transaction needs a connection without an open transaction", hint="Commit or roll back first.")
