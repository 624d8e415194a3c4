"""What the statements and the transaction of one session may still take: statement_timeout, transaction_timeout and
idle_in_transaction_timeout.

Made by `core`; told by `local` when a statement begins and ends (`begin`, `rest`) and when rows are fetched (`fetching`); the reaper of the
database looks at it (`look`) when something may be due. While no timeout is set (`Settings.timed`) nobody comes here.

    resting ──begin──▶ running ──rest──▶ resting

The reaper rolls back only the transaction of a session that rests. What runs is cancelled: it is marked, whatever it waits for is stopped,
and it finds the mark where it looks for cancellations, as `cancel` does it; the last time just before its commit is ordered, so a
commit that has its place in the log is never taken back.

Invariants: resting, running and what the reaper does about them change under one latch, which is held for a statement's beginning and
end, not for the statement, and outside of all others; a mark belongs to one statement or fetch and dies with it; stops reach only
calls that were seen running under the latch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import inf
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING
from weakref import ref

from khonsu_sql.errors import Error, IdleInTransactionTimeout, QueryCanceled, TransactionTimeout
from khonsu_sql.session import TransactionStatus

if TYPE_CHECKING:
    from types import TracebackType

    from khonsu_engine.protocols import Ticket
    from khonsu_engine.reaper import Reaper
    from khonsu_sql.session_transaction import SessionTransaction
    from khonsu_sql.sql.settings import Settings

__all__ = ["UNTIMED", "Deadlines", "Fetching"]

Stop = Callable[[], object]
IDLE = TransactionStatus.IDLE

PAUSE_SECONDS = 0.01
PAUSE_SECONDS_MAX = 0.5
"""A stop may come before there is anything to stop, so it is repeated, less and less often."""


def statement_timed_out() -> Error:
    return QueryCanceled("canceling statement due to statement timeout", hint="Raise statement_timeout, or let the statement do less.")


def transaction_timed_out() -> Error:
    return TransactionTimeout("terminating transaction due to transaction timeout", hint="It was rolled back: ROLLBACK, then begin again.")


def idle_timed_out() -> Error:
    hint = "It was rolled back: ROLLBACK, then begin again."
    return IdleInTransactionTimeout("terminating transaction due to idle-in-transaction timeout", hint=hint)


class Running:
    """A statement or a fetch of `thread` (0: it is over). `timeout`: the error once `deadline` has passed; `expired`: told to stop."""

    __slots__ = ("__weakref__", "deadline", "expired", "pause", "thread", "timeout")

    def __init__(self) -> None:
        self.thread = 0
        self.deadline = inf
        self.timeout = statement_timed_out
        self.expired = False
        self.pause = PAUSE_SECONDS

    def start(self, deadline: float, timeout: Callable[[], Error]) -> None:
        """In this thread, from now on."""
        self.thread = get_ident()
        self.deadline = deadline
        self.timeout = timeout
        self.expired = False
        self.pause = PAUSE_SECONDS


class Deadlines:
    """Of one session. `stops`: of a thread -> what ends that which it waits for at the moment; each may be called late, or twice.

    `active`: a statement or a fetch runs under a timeout."""

    def __init__(self, settings: Settings, transaction: SessionTransaction, reaper: Reaper, stops: Callable[[int], Sequence[Stop]]) -> None:
        self._settings = settings
        self._transaction = transaction
        self._reaper = reaper
        self._stops = stops
        self._latch = threading.Lock()
        self.active = False
        self._resting = False
        self._statement = Running()
        self._fetches: dict[int, ref[Running]] = {}  # by thread
        self._begun = self._touched = 0.0  # the transaction; the last statement or fetch
        self._scheduled = inf

    # --- the session's threads

    def begin(self) -> None:
        """A statement begins, or the next one of a script: its time counts from now, a transaction's that begins with it, too."""
        settings, now = self._settings, monotonic()
        with self._latch:
            self._resting = False
            if self._transaction.status is IDLE:
                self._begun = now
            deadline, whole = now + (settings.statement_timeout or inf), self._begun + (settings.transaction_timeout or inf)
            if whole <= deadline:
                self._statement.start(whole, transaction_timed_out)
            else:
                self._statement.start(deadline, statement_timed_out)
            self.active = True
            self._schedule(self._statement.deadline)

    def rest(self) -> None:
        """The statement is over. A transaction that is open waits for the next one; the reaper may end it."""
        now = monotonic()
        with self._latch:
            self._statement.thread = 0
            self.active = bool(self._fetches)
            self._touched = now
            self._resting = self._settings.timed
            self._schedule(self._rest_ends()[0])

    def told(self, error: Error) -> Error:
        """What the statement raises that was told to stop, and so raised `error`. Out of time with its transaction, it ends that."""
        running = self._statement
        if running.thread == 0 or not running.expired:
            return error
        if running.timeout is transaction_timed_out:
            self._transaction.terminate(transaction_timed_out)
        return running.timeout()

    def leave(self) -> None:
        """The reaper keeps away from the transaction from now on, until the next `rest`."""
        with self._latch:
            self._resting = False
            self._statement.thread = 0
            self.active = bool(self._fetches)

    def count_again(self) -> None:
        """transaction_timeout was set: what is left of the transaction counts from now."""
        self._begun = monotonic()

    def check(self) -> None:
        """Raises if what this thread does was told to stop."""
        running = self._mine()
        if running is not None and running.expired:
            raise running.timeout()

    def wait(self, ticket: Ticket) -> None:
        """Until `ticket` is answered, or the time of what this thread does is over."""
        running = self._mine() if self.active else None
        left = inf if running is None else running.deadline - monotonic()
        if running is None or left == inf:
            ticket.wait()
        elif not ticket.wait(max(0.0, left)):
            running.expired = True
            raise running.timeout()

    def fetching(self) -> Fetching:
        """Around a fetch from a result that streams."""
        return Fetching(self)

    def begin_fetch(self) -> Running | None:
        """None: this thread's statement, or an outer fetch, does it."""
        deadline = monotonic() + (self._settings.statement_timeout or inf)
        with self._latch:
            if self._mine() is not None:
                return None
            running = Running()
            running.start(deadline, statement_timed_out)
            self._fetches[running.thread] = ref(running)
            self.active = True
            self._schedule(deadline)
            return running

    def end_fetch(self, running: Running) -> None:
        """It is over; a transaction is idle from now on."""
        now = monotonic()
        with self._latch:
            self._fetches.pop(running.thread, None)
            self.active = bool(self._fetches) or self._statement.thread != 0
            self._touched = now
            self._schedule(self._rest_ends()[0])

    def _mine(self) -> Running | None:
        if self._statement.thread == get_ident():
            return self._statement
        reference = self._fetches.get(get_ident())
        return None if reference is None else reference()

    def _schedule(self, moment: float) -> None:
        if moment < self._scheduled:
            self._reaper.watch(self, moment)
            self._scheduled = moment

    # --- the reaper's thread

    def look(self, now: float) -> float:
        """See `khonsu_engine.reaper.Watched.look`."""
        stops: list[Stop] = []
        with self._latch:
            fetches = [found for reference in self._fetches.values() if (found := reference()) is not None]
            moments = [self._lapse(each, now, stops) for each in (self._statement, *fetches) if each.thread]
            if self._resting:
                moments.append(self._reap(now, fetches=bool(fetches)))
            self._scheduled = moment = min(moments, default=inf)
        for stop in stops:
            stop()
        return moment

    def _lapse(self, running: Running, now: float, stops: list[Stop]) -> float:
        if now < running.deadline:
            return running.deadline
        running.expired = True
        stops += self._stops(running.thread)
        running.pause = min(2 * running.pause, PAUSE_SECONDS_MAX)
        return now + running.pause

    def _reap(self, now: float, *, fetches: bool) -> float:
        moment, error = self._rest_ends(fetches=fetches)
        if now < moment:
            return moment
        self._resting = False
        self._transaction.terminate(error)
        return inf

    def _rest_ends(self, *, fetches: bool = False) -> tuple[float, Callable[[], Error]]:
        """When the transaction of a session that rests is out of time, and the error that says so. `fetches`: it is not idle."""
        settings = self._settings
        if not self._resting or self._transaction.status is IDLE or self._transaction.terminated:
            return inf, idle_timed_out
        idle = inf if fetches else self._touched + (settings.idle_in_transaction_timeout or inf)
        whole = self._begun + (settings.transaction_timeout or inf)
        return (whole, transaction_timed_out) if whole <= idle else (idle, idle_timed_out)


class Fetching:
    """The time of one fetch, as a context; `None` for a session without timeouts."""

    __slots__ = ("_deadlines", "_running")

    def __init__(self, deadlines: Deadlines | None) -> None:
        self._deadlines = deadlines
        self._running: Running | None = None

    def __enter__(self) -> None:
        if self._deadlines is not None:
            self._running = self._deadlines.begin_fetch()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        running, self._running = self._running, None
        if running is not None and self._deadlines is not None:
            self._deadlines.end_fetch(running)
            if running.expired and isinstance(error, QueryCanceled):
                raise running.timeout() from None


UNTIMED = Fetching(None)
"""Of a session without timeouts."""
