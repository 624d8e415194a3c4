"""What of one session runs in DuckDB at the moment, so that another thread can stop it.

Called by `evaluator` and by open streams. A DuckDB interrupt that comes before the query has begun is lost, so it is repeated until the
call is over; one that comes after it would hit whoever has the cursor next, so a call and its interrupts exclude each other.
The latch is one that its thread may take again: a signal handler of the main thread may interrupt the main thread's own call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["Calls", "Runner"]

T = TypeVar("T")

PATIENCE_SECONDS = 1.0
"""How long `interrupt` repeats itself: DuckDB looks for interrupts between chunks, not within a function."""


class Runner(Protocol):
    """The cursor a call runs on."""

    def run(self, work: Callable[[], T], aside: bool = False) -> T: ...
    def interrupt(self) -> None: ...


class _Call:
    __slots__ = ("_cursor", "_latch", "_over", "thread")

    def __init__(self, cursor: Runner) -> None:
        self._cursor = cursor
        self._latch = threading.RLock()
        self._over: Any = False
        self.thread = threading.get_ident()

    def end(self) -> None:
        with self._latch:
            waiting, self._over = self._over, True
        if isinstance(waiting, threading.Event):
            waiting.set()

    def interrupt(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.nudge() and self.thread != threading.get_ident() and time.monotonic() < deadline:
            over = self._over
            if isinstance(over, threading.Event):
                over.wait(0.01)

    def nudge(self) -> bool:
        """Interrupt once. False when the call is over."""
        with self._latch:
            if self._over is True:
                return False
            if self._over is False:
                self._over = threading.Event()
            self._cursor.interrupt()
            return True


class Calls:
    """The running calls of one session: one statement, and the fetches of results that stream."""

    __slots__ = ("_check_cancelled", "_running")

    def __init__(self, check_cancelled: Callable[[], None] | None = None) -> None:
        self._check_cancelled = check_cancelled
        self._running: set[_Call] = set()

    def run(self, cursor: Runner, work: Callable[[], T], aside: bool = False) -> T:
        """`work` on `cursor`; `interrupt` from another thread, or Ctrl-C, makes it raise. `aside`: it does not look for signals itself."""
        call = _Call(cursor)
        self._running.add(call)
        try:
            if self._check_cancelled is not None:
                self._check_cancelled()
            return cursor.run(work, aside)
        finally:
            call.end()
            self._running.discard(call)

    def stops(self, thread: int) -> list[Callable[[], object]]:
        """What interrupts once that which runs now in `thread`, and nothing that runs later; to be repeated while it matters."""
        return [call.nudge for call in tuple(self._running) if call.thread == thread]

    def interrupt(self) -> None:
        """Interrupt whatever runs. From any thread."""
        for call in tuple(self._running):
            call.interrupt()
