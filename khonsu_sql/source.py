"""The part of a result that has not been handed out yet, whichever way it came and whichever way it leaves.

Made by `cursor` for every result that is not a plain list of tuples: one that streams as Arrow batches, that shows uncommitted
changes, that has a row factory, or whose rows are wanted as Arrow. Calls `khonsu_sql.arrow` for conversions.

Invariants: rows leave as tuples or as Arrow, not first as Arrow and then as tuples; nothing leaves after the connection was
closed, the cursor went on, or the transaction whose changes it shows was rolled back. A latch of its own, so that one
statement of the connection can read what another one streams (`cursor.ingest("t", other_cursor)`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from khonsu_sql.errors import Error, InvalidCursorState

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from khonsu_sql.session import Result, Session

__all__ = ["CLOSED", "ClosedLink", "Link", "Source"]


class Link(Protocol):
    """What a result needs of its connection: `_session` is None once it must not be used any more, `_refusal()` says why."""

    _session: Session | None

    def _refusal(self) -> Error: ...


class ClosedLink:
    """Stands in for the connection of a closed cursor."""

    _session: Session | None = None
    _lock = threading.Lock()

    def _refusal(self) -> Error:
        return InvalidCursorState("the cursor is closed")


CLOSED = ClosedLink()


class Source:
    """`rows[index:]`, then the batches of `reader`, of a result with columns. `make`: a row factory's maker, or None."""

    __slots__ = ("__weakref__", "_batch", "_before", "_ended", "_index", "_latch", "_link", "_make", "_reader", "_result", "_rows")

    def __init__(self, link: Link, result: Result, make: Callable[[tuple[Any, ...]], Any] | None = None, index: int = 0) -> None:
        self._link = link
        self._result = result
        self._make = make
        self._rows: list[tuple[Any, ...]] = result.rows if result.rows is not None else []
        self._index = index
        self._before = 0
        self._batch: pa.RecordBatch | None = None
        self._reader: Any = result.batches
        self._ended: str | None = None
        self._latch = threading.Lock()

    @property
    def row_number(self) -> int:
        """How many rows were handed out."""
        return self._before + self._index

    def check(self) -> None:
        """Raises unless rows may still leave."""
        if self._ended is not None:
            raise InvalidCursorState(self._ended, hint="Execute the query again.")
        self._check_alive()

    def _check_alive(self) -> None:
        if self._link._session is None:
            raise self._link._refusal()
        if self._result.validity is not None:
            self._result.validity.check()

    def one(self, end: object = None) -> Any:
        """The next row, or `end` when there is none."""
        self.check()
        while self._index >= len(self._rows):
            with self._fetching():
                if not self._refill():
                    return end
        row = self._rows[self._index]
        self._index += 1
        return row if self._make is None else self._make(row)

    def many(self, count: int | None) -> list[Any]:
        """The next `count` rows, or all that are left."""
        self.check()
        with self._fetching():
            taken = self._taken(count)
        return taken if self._make is None else [self._make(row) for row in taken]

    def _fetching(self) -> AbstractContextManager[None]:
        """Around a fetch. Never around a `yield`: what ends it takes a latch, which no finaliser may."""
        session = self._link._session
        if session is None:
            raise self._link._refusal()
        return session.fetching()

    def _taken(self, count: int | None) -> list[tuple[Any, ...]]:
        taken: list[tuple[Any, ...]] = []
        while count is None or len(taken) < count:
            if self._index >= len(self._rows) and not self._refill():
                break
            upto = len(self._rows) if count is None else min(len(self._rows), self._index + count - len(taken))
            taken += self._rows[self._index : upto]
            self._index = upto
        return taken

    def _refill(self) -> bool:
        """Replace `rows`, all handed out, by the next batch's. False at the end."""
        from khonsu_sql.arrow import rows_of

        batch = self._next_batch()
        if batch is None:
            return False
        self._before += self._index
        self._batch = batch
        self._rows = rows_of(batch, self._columns)
        self._index = 0
        return True

    @property
    def _columns(self) -> Any:
        return self._result.columns

    def _next_batch(self) -> pa.RecordBatch | None:
        with self._latch:
            if self._reader is None:
                return None
            try:
                batch: pa.RecordBatch = self._reader.read_next_batch()
            except StopIteration:
                self._release()
                return None
            except BaseException as error:
                self._ended = f"reading the result failed: {error or type(error).__name__}"  # a second read would look like the end
                self._release()
                raise
            return batch

    def arrow(self, how: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """What is left, as a schema and batches of it. No tuples leave afterwards; `how` names the method for the error that says so."""
        from khonsu_sql.arrow import batch_of, schema_of

        self.check()
        reader = self._reader
        schema = reader.schema if reader is not None else schema_of(self._columns)
        if self._batch is not None:
            first = self._batch.slice(self._index)
        else:
            first = batch_of(self._rows[self._index :], self._columns)
        self._ended = f"the rows of this result were taken as Arrow by {how}()"
        return schema, self._batches(first)

    def all(self, how: str) -> tuple[pa.Schema, list[pa.RecordBatch]]:
        """`arrow`, read to the end as one fetch."""
        with self._fetching():
            schema, batches = self.arrow(how)
            return schema, list(batches)

    def _batches(self, first: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        ended = self._ended
        batch: pa.RecordBatch | None = first
        while batch is not None:
            self._check_reading(ended)
            if batch.num_rows:
                yield batch
            with self._fetching():
                batch = self._next_batch()
        self._check_reading(ended)

    def _check_reading(self, ended: str | None) -> None:
        """For a reader that was handed out: nothing but it may have ended the result."""
        self._check_alive()
        if self._ended is not ended:
            raise InvalidCursorState(f"{self._ended}", hint="Read the batches before the cursor goes on.")

    def close(self, why: str) -> None:
        """End the result and release its snapshot; whoever still reads from it is told `why`."""
        with self._latch:
            self._ended = why
            self._rows = []
            self._batch = None
            self._release()

    def _release(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
