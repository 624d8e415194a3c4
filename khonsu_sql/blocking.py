"""`retry` and `or_else`: STM's composable blocking, inside a function that `run_transaction` runs.

`Connection.retry` and `Connection.or_else` are the functions of this room. `retry` gives an attempt up by raising `Abandoned` through the
user's function; `or_else` catches it, takes back what its first alternative wrote, and tries the second; what nobody catches reaches
`retry.run_transaction`, which rolls back, sleeps until something changes that the attempt has read, and runs it again.

Invariants: what an abandoned alternative has read stays read; an abandoned attempt never commits, also when the function swallows
`Abandoned`.
Source: Harris, Marlow, Peyton Jones, Herlihy, "Composable Memory Transactions", PPoPP 2005.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

from khonsu_sql.errors import InternalError, NoActiveSqlTransaction

if TYPE_CHECKING:
    from khonsu_sql.connection import Connection

__all__ = ["Abandoned", "Attempt", "or_else", "retry"]

T = TypeVar("T")


class Abandoned(BaseException):
    """Raised by `retry()`. No Exception: `except Exception` between `retry()` and `run_transaction` must not take it for an error."""


class Attempt:
    """One run of a function by `run_transaction`. `abandoned`: how it was given up, as long as no `or_else` has gone on."""

    __slots__ = ("_thread", "abandoned")

    def __init__(self) -> None:
        self.abandoned: Abandoned | None = None
        self._thread = threading.get_ident()

    @property
    def here(self) -> bool:
        """Is it this thread's? Others may share the connection."""
        return self._thread == threading.get_ident()

    def refuse_if_abandoned(self) -> None:
        """A function returns: it must not have swallowed what `retry()` raised."""
        if self.abandoned is not None:
            raise InternalError(
                "the transaction called retry() and went on",
                sqlstate="25000",
                hint="Let what retry() raises pass: a bare `except:` or a `return` in `finally` stops it.",
            ) from self.abandoned


def retry(self: Connection) -> NoReturn:
    """Give this attempt up, sleep until something it has read is changed by somebody else, and run the function again.

    Only inside a function that `run_transaction` runs (else 25P01), in a transaction that records what it reads: SERIALIZABLE
    and not read only (else 0A000). When nothing was read, `run_transaction` raises 25000. Within `or_else` the other alternative is
    tried first.
    """
    attempt = _attempt_of(self, "retry()")
    with self._lock:
        self._open_session().refuse_unrecorded("retry()")
    attempt.abandoned = Abandoned("the attempt was given up by retry()")
    raise attempt.abandoned


def or_else(self: Connection, first: Callable[[Connection], T], second: Callable[[Connection], T]) -> T:
    """The result of `first(connection)`; if that calls `retry()`, what it wrote is taken back, and it is that of `second(connection)`.

    If both call `retry()` the whole transaction does, and wakes up when something changes that either has read. Nests. Only inside
    a function that `run_transaction` runs (else 25P01).
    """
    attempt = _attempt_of(self, "or_else()")
    try:
        with self.transaction():
            result = first(self)
            attempt.refuse_if_abandoned()
        return result
    except Abandoned as given_up:
        if given_up is not attempt.abandoned:
            raise  # of another connection
        attempt.abandoned = None
    return second(self)


def _attempt_of(connection: Connection, what: str) -> Attempt:
    attempt = connection._attempt
    if attempt is None or not attempt.here:
        hint = "Have the function run by run_transaction, on this very connection."
        raise NoActiveSqlTransaction(f"{what} can only be used inside run_transaction", hint=hint)
    return attempt
