"""Does what a transaction read, guarded and wrote still stand? Precision locking, in commit order.

Called by `state_machine.validate` where commands are ordered, and by the committing thread before that for everything
already published (then only the remainder is looked at inside the critical section). A core: no clock, no I/O.

Rules (Neumann, Mühlbauer, Kemper 2015; Berenson et al. 1995 for first-committer-wins):
* a write conflicts when its key has a version, tombstones included, newer than the write's base, at every level;
* a point read conflicts when its key has a newer version that inserted, deleted, or changed a column read;
* a predicate conflicts with an insert or delete whose image satisfies it, and with an update when exactly one image does,
  or when one does and a column read changed;
* a guard is a read that is validated at every level.
Invariants: the change list of a table holds every change newer than the oldest registered snapshot, oldest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from khonsu_engine.commands import Bulk, Commit, Key, KeyRange, ReadPredicate, Refusal, Row, TableId, Timestamp, Write
from khonsu_engine.mvcc.predicates import matcher

__all__ = ["BulkChange", "Changes", "conflict_of", "in_range"]

EVIDENCE_KEYS_MAX = 8


class BulkChange(msgspec.Struct, frozen=True):
    """Many rows published at once: new segments and, with `truncate`, the death of everything older."""

    timestamp: Timestamp
    segments: tuple[Any, ...]
    truncate: bool


Changes = Mapping[TableId, Sequence[Any]]
"""Per table the committed changes, oldest first: `columns.version.Version` values and `BulkChange`s."""


def conflict_of(tables: Mapping[TableId, Any], changes: Changes, command: Commit, floor: Timestamp) -> Refusal | None:
    """The first conflict between `command` and what was committed, or None.

    `floor`: everything published up to there was validated before (0: nothing was). `tables`: the newest table versions.
    """
    return (
        _write_conflict(tables, changes, command.writes, floor)
        or _bulk_conflict(tables, changes, command.bulk, floor)
        or _point_conflict(tables, changes, command.guard_keys, command, floor, "catalog")
        or _predicate_conflict(changes, command.guards, floor, "catalog")
        or _point_conflict(tables, changes, command.reads, command, floor, "read-write")
        or _predicate_conflict(changes, command.predicates, floor, "read-write")
    )


def _newer(changes: Sequence[Any], timestamp: Timestamp) -> Iterator[Any]:
    """Changes above `timestamp`, newest first."""
    for change in reversed(changes):
        if change.timestamp <= timestamp:
            return
        yield change


def _write_conflict(
    tables: Mapping[TableId, Any], changes: Changes, writes: Mapping[TableId, Mapping[Key, Write]], floor: Timestamp
) -> Refusal | None:
    for table, by_key in writes.items():
        if floor and len(by_key) > 16:
            refusal = _changed_keys(changes.get(table, ()), table, by_key, floor)
            if refusal is not None:
                return refusal
            continue
        version = tables.get(table)
        if version is None:  # made by this very transaction
            continue
        newest = version.newest
        for key, write in by_key.items():
            timestamp = newest(key, write.base)
            if timestamp > write.base:
                return Refusal("write-write", table, (key,), timestamp)
    return None


def _changed_keys(changes: Sequence[Any], table: TableId, keys: Mapping[Key, Any], floor: Timestamp) -> Refusal | None:
    """The first of `keys` that was changed after `floor`, whatever its base: all of them were validated up to there."""
    for change in _newer(changes, floor):
        if isinstance(change, BulkChange):
            if change.truncate:
                return Refusal("write-write", table, (), change.timestamp)
            for key in keys:
                if any(segment.find(key) >= 0 for segment in change.segments):
                    return Refusal("write-write", table, (key,), change.timestamp)
        elif change.key in keys:
            return Refusal("write-write", table, (change.key,), change.timestamp)
    return None


def _bulk_conflict(tables: Mapping[TableId, Any], changes: Changes, bulk: Sequence[Bulk], floor: Timestamp) -> Refusal | None:
    for part in bulk:
        for change in _newer(changes.get(part.table, ()), max(part.base, floor)):
            key = _bulk_collision(part, change)
            if key is not None:
                return Refusal("write-write", part.table, key, change.timestamp)
    return None


def _bulk_collision(part: Bulk, change: Any) -> tuple[Key, ...] | None:
    """The keys (possibly unknown: empty) on which a bulk write and a later change meet, or None."""
    if part.truncate or (isinstance(change, BulkChange) and change.truncate):
        return ()
    if isinstance(change, BulkChange):
        overlap = any(mine.overlaps(theirs) for mine in part.segments for theirs in change.segments)
        return () if overlap else None
    if any(segment.find(change.key) >= 0 for segment in part.segments):
        return (change.key,)
    return None


def _point_conflict(
    tables: Mapping[TableId, Any],
    changes: Changes,
    reads: Mapping[TableId, Mapping[Key, int]],
    command: Commit,
    floor: Timestamp,
    rule: str,
) -> Refusal | None:
    read_timestamp = command.read_timestamp
    for table, by_key in reads.items():
        if table in command.created:
            continue
        version = tables.get(table)
        if version is None:
            return Refusal("catalog", table, (), read_timestamp)
        listed = changes.get(table, ())
        if floor >= read_timestamp:  # the list knows what `newest` may have forgotten, for a watch, which holds no snapshot
            touched = _touched_key(listed, by_key, floor)
            if touched is not None:
                return Refusal(rule, table, (touched[0],), touched[1])
            continue
        newest = version.newest
        for key, columns in by_key.items():
            timestamp = newest(key, read_timestamp)
            if timestamp > read_timestamp and _touched(listed, key, columns, read_timestamp):
                return Refusal(rule, table, (key,), timestamp)
    return None


def _touched_key(changes: Sequence[Any], reads: Mapping[Key, int], since: Timestamp) -> tuple[Key, Timestamp] | None:
    """The first key of `reads` a change after `since` touches, with that change's timestamp: one pass over the changes."""
    for change in _newer(changes, since):
        if isinstance(change, BulkChange):
            for key in reads:
                if change.truncate or any(segment.find(key) >= 0 for segment in change.segments):
                    return key, change.timestamp
            continue
        columns = reads.get(change.key)
        if columns is not None and (change.row is None or change.before is None or _differs(change.before, change.row, columns)):
            return change.key, change.timestamp
    return None


def _touched(changes: Sequence[Any], key: Key, columns: int, since: Timestamp) -> bool:
    """Was `key` inserted, deleted, or changed in one of `columns` after `since`?"""
    for change in _newer(changes, since):
        if isinstance(change, BulkChange):
            if change.truncate or any(segment.find(key) >= 0 for segment in change.segments):
                return True
        elif change.key == key and (change.row is None or change.before is None or _differs(change.before, change.row, columns)):
            return True
    return False


def _differs(before: Row, after: Row, columns: int) -> bool:
    """Do two images differ in one of `columns`? A value that cannot be compared differs, and so does one that is only shown otherwise
    (0.0 and -0.0, also within a list)."""
    number = 0
    for old, new in zip(before, after, strict=True):
        if columns >> number & 1 and old is not new:
            kind = type(old)
            if old != new or kind is not type(new) or (kind in _SHOWN_OTHERWISE and repr(old) != repr(new)):
                return True
        number += 1
    return False


_SHOWN_OTHERWISE = frozenset((float, tuple, dict))
"""Types with values that are equal and not the same."""


def _predicate_conflict(changes: Changes, predicates: Sequence[ReadPredicate], floor: Timestamp, rule: str) -> Refusal | None:
    for read in predicates:
        listed = changes.get(read.table, ())
        since = max(read.timestamp, floor)
        if not listed or listed[-1].timestamp <= since:
            continue
        matches = matcher(read.predicate)
        for change in _newer(listed, since):
            if _change_matches(change, read, matches):
                keys = () if isinstance(change, BulkChange) else (change.key,)
                return Refusal(rule, read.table, keys, change.timestamp)
    return None


def _change_matches(change: Any, read: ReadPredicate, matches: Callable[[Row], bool]) -> bool:
    if isinstance(change, BulkChange):
        return change.truncate or any(segment.may_match(read.range, read.predicate) for segment in change.segments)
    if not in_range(change.key, read.range):
        return False
    before, after = change.before, change.row
    old = before is not None and matches(before)
    new = after is not None and matches(after)
    if old and new:
        return _differs(before, after, read.columns)
    return old or new


def in_range(key: Any, range: KeyRange) -> bool:
    """Is `key` within `range`? A comparison that fails counts as yes, and so does one with NaN, which Python orders with nothing and
    we above everything: only a key that is certainly outside is outside (widen, never narrow)."""
    try:
        return _above(key, range.low, range.low_inclusive) and _below(key, range.high, range.high_inclusive)
    except TypeError:
        return True


def _above(key: Any, low: Any, inclusive: bool) -> bool:
    if low is None:
        return True
    part = key[: len(low)] if isinstance(low, tuple) else key
    return not part < low if inclusive else not part <= low


def _below(key: Any, high: Any, inclusive: bool) -> bool:
    if high is None:
        return True
    part = key[: len(high)] if isinstance(high, tuple) else key
    return not part > high if inclusive else not part >= high
