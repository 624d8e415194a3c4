"""How the running statement of a session is told to stop: `cancel` of another thread, or its time is over.

Made by `core`, which keeps it up to date about what it waits for; asked by everything that runs long (`check`). A cancellation is a mark;
then whatever the statement waits for is ended, so that it looks. What waits for the sync of a commit is not ended by `cancel`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from khonsu_engine.lock_waiter import LockWaiter
from khonsu_sql.deadlines import Deadlines
from khonsu_sql.errors import QueryCanceled
from khonsu_sql.session_transaction import SessionTransaction
from khonsu_sql.sql.query import Evaluator

if TYPE_CHECKING:
    from khonsu_engine.database import Database
    from khonsu_engine.protocols import Ticket
    from khonsu_sql.sql.settings import Settings

__all__ = ["Cancellation"]


class Cancellation:
    """Of one session, with what it stops: its `transaction`, its `evaluator`, and the `deadlines` of both."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._cancelled = False
        self._waiting: Ticket | None = None
        self.transaction = SessionTransaction(database, settings, self.check)
        self.evaluator = Evaluator(self.check)
        self.deadlines = Deadlines(settings, self.transaction, database.reaper, self._stops)

    def forget(self) -> None:
        """A request begins: what was cancelled before it is over."""
        self._cancelled = False

    def wait_for(self, ticket: Ticket) -> None:
        """The statement waits for that from now on."""
        self._waiting = ticket
        if self._cancelled and isinstance(ticket, LockWaiter):
            ticket.wake()  # `cancel` came before there was anything to wake

    def cancel(self) -> None:
        """Cancel the running statement, if any. From any thread."""
        self._cancelled = True
        waiting = self._waiting
        if isinstance(waiting, LockWaiter):
            waiting.wake()
        self.evaluator.interrupt()

    def check(self) -> None:
        """Raises what says that the statement, or the fetch, of this thread was told to stop."""
        if self.deadlines.active:
            self.deadlines.check()
        if self._cancelled:
            raise QueryCanceled("the statement was cancelled")

    def _stops(self, thread: int) -> list[Callable[[], object]]:
        """What ends that which the thread waits for now."""
        waiting = self._waiting
        return [*self.evaluator.stops(thread), *([waiting.wake] if isinstance(waiting, LockWaiter) else ())]
