"""One pass over a range of RocksDB's keyspace, which never ends early and never outlives its store.

Called by `rocks`, the only one that has such cursors. The binding's own `items()` stops at a damaged block as if the data ended
there; here the end is an end only after the cursor's status said so. An open cursor keeps the directory locked, so the store
drops those of all open scans when it closes, and a step and the closing exclude each other (`reading`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from khonsu_engine.errors import EngineError

__all__ = ["Cursor", "Scan"]

SCAN_ROWS = 64
"""Pairs taken at a time."""


class Cursor(Protocol):
    """What the binding's iterator can do. `status` raises what went wrong."""

    def valid(self) -> bool: ...
    def status(self) -> None: ...
    def key(self) -> bytes: ...
    def value(self) -> bytes: ...
    def next(self) -> None: ...
    def prev(self) -> None: ...


class Scan:
    """The pairs of a positioned cursor, onwards, or backwards down to `start`. `cursor` is None once read out or its store closed."""

    def __init__(
        self,
        cursor: Cursor,
        bounds: object,
        start: bytes,
        reverse: bool,
        reading: threading.Lock,
        check: Callable[[], None],
        translated: Callable[[Exception], EngineError],
    ) -> None:
        """`check` raises EngineClosed when the store is closed. `bounds`: the options the cursor was made with, whose memory it
        goes on reading: without them it ends anywhere."""
        self.cursor: Cursor | None = cursor
        self._bounds = bounds
        self._start = start
        self._reverse = reverse
        self._reading = reading
        self._check = check
        self._translated = translated
        self._rows: list[tuple[bytes, bytes]] = []

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        if not self._rows:
            self._check()
            with self._reading:
                self._check()
                self._fill()
        if not self._rows:
            raise StopIteration
        return self._rows.pop()

    def _fill(self) -> None:
        if self.cursor is None:
            return
        try:
            self._rows = self._take(self.cursor)
        except Exception as error:
            self.cursor = None
            raise self._translated(error) from error
        if not self._rows:
            self.cursor = None

    def _take(self, cursor: Cursor) -> list[tuple[bytes, bytes]]:
        """The next pairs, the last one first; none at the end."""
        advance = cursor.prev if self._reverse else cursor.next
        rows: list[tuple[bytes, bytes]] = []
        while len(rows) < SCAN_ROWS and cursor.valid():
            key = cursor.key()
            if key < self._start:
                break
            rows.append((key, cursor.value()))
            advance()
        if not cursor.valid():
            cursor.status()
        rows.reverse()
        return rows
