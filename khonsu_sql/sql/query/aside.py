"""Ctrl-C and DuckDB: a thread in which the main thread has its work done while it waits where signals reach it.

Called by `cursors`. The main thread may sleep inside DuckDB for as long as a query takes without ever looking for
signals; waiting for a lock of Python's it is woken by them. Whatever the handler of the signal raises (KeyboardInterrupt, or what the
user likes) goes on as it is, after the work was interrupted and is over. A second Ctrl-C does not cut that short.

Where DuckDB does look for signals itself, it loses what their handlers raise: `listening`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import duckdb

__all__ = ["Aside", "listening"]

T = TypeVar("T")

SIGNALS_SECONDS = 0.1
"""A signal may be delivered to another thread, which does not wake the main thread from its lock; so it wakes by itself."""


_CTRL_C = re.compile(r"registered as '[^']*' failed: KeyboardInterrupt")


@contextmanager
def listening() -> Iterator[None]:
    """A signal handler that ran in DuckDB's care has raised something that is gone (nearly always Ctrl-C's KeyboardInterrupt): DuckDB
    says "Query interrupted", or, when it ran while a slot was asked something in Python, tells of it in the text of another error."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise
    except duckdb.Error as error:
        if _CTRL_C.search(str(error)):
            raise KeyboardInterrupt from error
        raise


class _Task:
    """Work that is waiting, running or over; abandoned work does not begin."""

    __slots__ = ("_abandoned", "_error", "_latch", "_over", "_result", "_started", "_work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._latch = threading.RLock()
        self._over = threading.Event()
        self._started = False
        self._abandoned = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """In the thread aside."""
        with self._latch:
            if self._abandoned:
                return
            self._started = True
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised by `wait`, in the thread whose work this is
            self._error = error
        self._over.set()

    def wait(self) -> Any:
        """The result, or what the work raised."""
        while not self._over.wait(SIGNALS_SECONDS):
            pass
        if self._error is not None:
            raise self._error
        return self._result

    def abandon(self, interrupt: Callable[[], None]) -> None:
        """Return when the work is over or will never begin."""
        while True:
            try:
                with self._latch:
                    self._abandoned = True
                while self._started and not self._over.is_set():
                    interrupt()
                    self._over.wait(0.01)
                return
            except KeyboardInterrupt:
                continue


class Aside:
    """The thread, started at the first call. One caller at a time, except that a signal handler may call within a call."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, work: Callable[[], T], interrupt: Callable[[], None]) -> T:
        """What `work` returns or raises. `interrupt` makes running work raise soon."""
        task = _Task(work)
        try:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="khonsu-query", daemon=True)
                self._thread.start()
            self._tasks.put(task)
            result: T = task.wait()
        except BaseException:
            task.abandon(interrupt)
            raise
        return result

    def _loop(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
            del task

    def close(self) -> None:
        """End the thread."""
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            self._tasks.put(None)
            thread.join(1.0)
