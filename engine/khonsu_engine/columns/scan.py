"""A table at one timestamp as Arrow record batches, for DuckDB.

Called by transactions through `TableVersion.scan`; consumed by the front, possibly on foreign threads and late.
`prepare_scan` decides everything at once: which chunks survive key range and zone maps, which of their rows are hidden. What comes out
is immune to later changes; files are opened only when their batches are asked for.

Nothing is copied or filtered out to hide a row. A piece (rows of one batch that follow each other) without hidden rows is a slice;
a few hidden rows are sliced around; otherwise every batch of the scan has a last BOOLEAN column `__live`, which the reader must
filter by. Hidden are: dead positions, positions superseded at or below the timestamp, log slots that had not begun or had ended,
and whatever the transaction's own writes replace. Own rows come last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from khonsu_engine.columns.key_order import order_of
from khonsu_engine.columns.key_search import NO_POSITIONS, Positions, chunks_between, find_many
from khonsu_engine.columns.recent import Recent, Superseded, recent_of
from khonsu_engine.columns.segment import Segment, segment_schema
from khonsu_engine.columns.segment_view import SegmentView
from khonsu_engine.columns.zone_map import may_match, range_meets
from khonsu_engine.commands import Key, KeyRange, Timestamp, Write
from khonsu_engine.mvcc.predicates import Predicate
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import arrow_from_rows

if TYPE_CHECKING:
    from khonsu_engine.columns.table_version import TableVersion

__all__ = ["LIVE", "Scan", "prepare_scan"]

LIVE = "__live"
"""Name of the last column of a masked scan."""

HIDDEN_ROWS_SLICED = 16
"""Up to so many hidden rows in all are sliced around."""

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class _Piece(NamedTuple):
    """Rows `start` to `stop` of the batch that `open` gives; `live` (None: all of them) says which are visible."""

    open: Callable[[], pa.RecordBatch]
    start: int
    stop: int
    live: Mask | None


class Scan:
    """An iterable of record batches with `schema`; may be iterated more than once.

    `masked`: the last column is `__live`. `segments_pruned` of `segments_total` segments hold nothing of interest;
    `chunks_pruned` of `chunks_total` likewise. `rows`: how many come out, hidden ones included."""

    __slots__ = ("_pieces", "_projection", "chunks_pruned", "chunks_total", "masked", "rows", "schema", "segments_pruned", "segments_total")

    def __init__(
        self, table: Table, projection: Sequence[int], pieces: list[_Piece], segments: tuple[int, int], chunks: tuple[int, int]
    ) -> None:
        self._pieces = _sliced_around(pieces)
        self._projection = list(projection)
        self.masked = any(piece.live is not None for piece in self._pieces)
        schema = segment_schema(table)
        fields = [schema.field(position) for position in projection]
        self.schema = pa.schema([*fields, pa.field(LIVE, pa.bool_())] if self.masked else fields)
        self.rows = sum(piece.stop - piece.start for piece in self._pieces)
        self.segments_pruned, self.segments_total = segments
        self.chunks_pruned, self.chunks_total = chunks

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for piece in self._pieces:
            batch = piece.open()
            count = piece.stop - piece.start
            if count != batch.num_rows:
                batch = batch.slice(piece.start, count)
            arrays = [batch.column(position) for position in self._projection]
            if self.masked:
                arrays.append(_live_array(count, piece.live))
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def to_table(self) -> pa.Table:
        """All batches as one table."""
        return pa.Table.from_batches(self, self.schema)


def _live_array(count: int, live: Mask | None) -> pa.Array:
    """`live` as an Arrow array; None: `count` times True."""
    bits = b"\xff" * ((count + 7) // 8) if live is None else np.packbits(live, bitorder="little")
    return pa.BooleanArray.from_buffers(pa.bool_(), count, [None, pa.py_buffer(bits)], 0)


def _sliced_around(pieces: list[_Piece]) -> list[_Piece]:
    """Pieces without masks, if there are few enough hidden rows for that."""
    hidden = sum(int(np.count_nonzero(~piece.live)) for piece in pieces if piece.live is not None)
    if hidden == 0 or hidden > HIDDEN_ROWS_SLICED:
        return pieces
    result: list[_Piece] = []
    for piece in pieces:
        if piece.live is None:
            result.append(piece)
            continue
        start = piece.start
        for gap in (*(np.flatnonzero(~piece.live) + piece.start).tolist(), piece.stop):
            if gap > start:
                result.append(_Piece(piece.open, start, gap, None))
            start = gap + 1
    return result


def prepare_scan(
    version: TableVersion,
    timestamp: Timestamp,
    projection: Sequence[int],
    range: KeyRange,
    predicate: Predicate,
    own: Mapping[Key, Write],
    own_segments: Sequence[Segment],
) -> Scan:
    """The scan of `version` at `timestamp`, see `TableVersion.scan`."""
    while version.previous is not None and timestamp < version.valid_from:
        version = version.previous
    prune = _Pruning(version.table, range, predicate)
    keys = list(own)
    log = recent_of(version.memtable)
    with log.latch:
        state = log.catch_up()
        superseded = _superseded_of(version).catch_up(log, state)
        open_batch = log.open_batch(state)
        own_slots = [log.begun_slot(state, key, timestamp) for key in keys]
    pieces: list[_Piece] = []
    for view, (positions, timestamps) in zip(version.segments, superseded, strict=True):
        hidden = positions[timestamps <= timestamp]
        pieces += _segment_pieces(view, _with_found(view.segment, hidden, keys), prune)
    for segment in own_segments:
        pieces += _segment_pieces(SegmentView(segment), _with_found(segment, NO_POSITIONS, keys), prune)
    pieces += _recent_pieces(state, open_batch, timestamp, [slot for slot in own_slots if slot >= 0])
    pieces += _own_pieces(version.table, own)
    return Scan(version.table, projection, pieces, prune.segments, prune.chunks)


def _superseded_of(version: TableVersion) -> Superseded:
    """Under the latch of the memtable's log."""
    found: Superseded | None = version.superseded
    if found is None:
        found = version.superseded = Superseded(version.segments)
    return found


def _with_found(segment: Segment, hidden: Positions, keys: list[Key]) -> Positions:
    """`hidden` and the positions of `keys`."""
    if not keys:
        return hidden
    found = find_many(segment, keys)
    return np.concatenate((hidden, found[found >= 0]))


class _Pruning:
    """What the reader is interested in, and the count of what was left out: (pruned, total)."""

    def __init__(self, table: Table, range: KeyRange, predicate: Predicate) -> None:
        self.range = range
        self.segments = (0, 0)
        self.chunks = (0, 0)
        self._predicate = predicate
        self._order = order_of(table)

    def chunks_of(self, segment: Segment) -> list[int]:
        """The chunks that may hold rows of interest, judged by what is known without opening them."""
        kept = [
            number
            for number, chunk in enumerate(segment.meta.chunks)
            if range_meets(self.range, chunk.first, chunk.last, self._order) and may_match(self._predicate, chunk.columns, chunk.rows)
        ]
        self.segments = (self.segments[0] + (not kept), self.segments[1] + 1)
        total = len(segment.meta.chunks)
        self.chunks = (self.chunks[0] + total - len(kept), self.chunks[1] + total)
        return kept


def _segment_pieces(view: SegmentView, hidden: Positions, prune: _Pruning) -> list[_Piece]:
    """The pieces of one segment: of the surviving chunks what lies within the key range."""
    segment = view.segment
    kept = set(prune.chunks_of(segment))
    if not kept:
        return []
    start, stop = segment.bounds(prune.range)
    live = _live_mask(view, hidden, start, stop)
    pieces = []
    rows = segment.meta.chunk_rows
    for number in chunks_between(segment, start, stop):
        if number in kept:
            offset = number * rows
            low, high = max(start, offset), min(stop, offset + rows)
            mask = None if live is None else live[low - start : high - start]
            pieces += _piece(_opener(segment, number), low - offset, high - offset, mask)
    return pieces


def _live_mask(view: SegmentView, hidden: Positions, start: int, stop: int) -> Mask | None:
    """True where a row between the positions is visible; None: everywhere."""
    low, high = np.searchsorted(view.dead, (start, stop))
    hidden = hidden[(hidden >= start) & (hidden < stop)]
    if low == high and not len(hidden):
        return None
    mask = view.live_mask(start, stop)
    mask[hidden - start] = False
    return mask


def _piece(open: Callable[[], pa.RecordBatch], start: int, stop: int, live: Mask | None) -> list[_Piece]:
    """One piece, or none if all its rows are hidden."""
    if live is not None:
        if live.all():
            live = None
        elif not live.any():
            return []
    return [_Piece(open, start, stop, live)] if start < stop else []


def _opener(segment: Segment, number: int) -> Callable[[], pa.RecordBatch]:
    return lambda: segment.chunk(number).batch


def _recent_pieces(state: Recent, open_batch: pa.RecordBatch | None, timestamp: Timestamp, own_slots: list[int]) -> list[_Piece]:
    """The pieces of the version log."""
    batches = list(state.sealed)
    if open_batch is not None:
        batches.append((state.slots - open_batch.num_rows, open_batch))
    if not batches:
        return []
    live = (state.begin[: state.slots] <= timestamp) & (state.end[: state.slots] > timestamp)
    live[own_slots] = False
    pieces = []
    for start, batch in batches:
        pieces += _piece(_constant(batch), 0, batch.num_rows, live[start : start + batch.num_rows])
    return pieces


def _constant(batch: pa.RecordBatch) -> Callable[[], pa.RecordBatch]:
    return lambda: batch


def _own_pieces(table: Table, own: Mapping[Key, Write]) -> list[_Piece]:
    """The rows the transaction has written."""
    rows = [write.row for write in own.values() if write.row is not None]
    if not rows:
        return []
    batch = arrow_from_rows([column.type for column in table.columns], rows, [column.name for column in table.columns])
    return [_Piece(_constant(batch), 0, batch.num_rows, None)]
