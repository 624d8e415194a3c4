"""SELECT … FOR UPDATE, FOR SHARE and LOCK TABLE run: find the rows, lock them, see that they are the newest, hand them out.

Called by `execute`; calls the transaction (`row_locks`) and, for the rows, the evaluator or a compiled function. Every lock is held before
the first row leaves. A row that somebody else holds is waited for (`LockWait`), one that turns out to be newer than the snapshot starts the
statement again (`Superseded`); both are the session's to catch. What earlier attempts have locked stays locked.

SKIP LOCKED returns some of the rows that match: at SERIALIZABLE its tables are read at the keys that are returned and nowhere else, so
that a consumer of a queue does not conflict with others who take other rows. An empty answer does not say that there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from khonsu_engine.commands import EVERY_KEY, Key
from khonsu_engine.evidence import facts
from khonsu_engine.mvcc.key_ranges import point_key
from khonsu_engine.mvcc.predicates import In, Predicate
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import conform, rows_from_arrow
from khonsu_sql.errors import InvalidParameterValue, LockNotAvailable
from khonsu_sql.session import Result
from khonsu_sql.sql.bind import instantiate
from khonsu_sql.sql.context import Context, keys_of, relations_of, result_of
from khonsu_sql.sql.plan import LockedQuery, LockTable, PointLock, Query, RowLock
from khonsu_sql.sql.point_code import FALLBACK
from khonsu_sql.sql.shape import Constant, Expression, Parameter

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_sql.sql.query.streams import Stream

__all__ = ["lock_tables", "run_locked", "run_point_locked"]

Keys = Sequence[Key]
"""Of one row of the result: of each lock of the plan in turn."""


def run_locked(plan: LockedQuery, values: Sequence[Any], context: Context) -> Result:
    """The rows from DuckDB."""
    _lock_ranges(plan, values, context)
    if plan.skips:
        return _skipping(plan, values, context)
    with _opened(plan, plan.query, values, context) as stream:
        columns = stream.columns
        batches = list(stream)
    for batch in batches:
        context.check_cancelled()
        for lock, keys in zip(plan.locks, _keys_of(plan, batch), strict=True):
            _lock_rows(lock, keys, context)
    return _result(plan, columns, batches, context)


def run_point_locked(plan: PointLock, values: Sequence[Any], context: Context) -> Result:
    """The rows from the compiled function. Raises `point_code.Fallback`, after which locks may be held that are not needed."""
    locked, transaction = plan.fallback, context.transaction
    if context.locks_ranges:
        _lock_ranges(locked, values, context)
    found = plan.run(transaction, values)
    if not locked.skips:
        for number, lock in enumerate(locked.locks, 1):
            _lock_rows(lock, [entry[number] for entry in found], context)
        return Result(plan.columns, len(found), "SELECT", [entry[0] for entry in found])
    counter = _Counter(locked, values)
    rows = [entry[0] for entry in found if not counter.enough and counter.take(entry[1:], context)]
    if not counter.enough and len(found) == locked.most:
        raise FALLBACK
    return Result(plan.columns, len(rows), "SELECT", rows)


def lock_tables(plan: LockTable, context: Context) -> Result:
    """LOCK TABLE. If nothing has been read yet, the snapshot is one from after the lock."""
    transaction = context.transaction
    for table in plan.tables:
        if not transaction.lock(table.id, EVERY_KEY, plan.mode, wait=plan.wait):
            raise _not_available(f'relation "{table.name}"', table, ("every key",), context)
    if transaction.fresh:
        transaction.renew_after_wait()
    return Result(None, -1, "LOCK TABLE")


# --- locking


def _lock_rows(lock: RowLock, keys: Iterable[Key], context: Context) -> None:
    wanted = dict.fromkeys(keys)
    if not context.transaction.lock_rows(lock.table.id, wanted, lock.mode, wait=lock.policy != "nowait"):
        raise _not_available(f'row in relation "{lock.table.name}"', lock.table, tuple(wanted) if len(wanted) == 1 else (), context)


def _not_available(what: str, table: Table, keys: tuple[Any, ...], context: Context) -> LockNotAvailable:
    """NOWAIT: somebody has locked one of `keys` (empty: it is not known which)."""
    mine = context.transaction
    known = facts("intent", (table.name, None), keys, transaction_id=mine.id, read_timestamp=mine.read_timestamp)
    return LockNotAvailable(f"could not obtain lock on {what}", hint="Without NOWAIT it is waited for.", evidence=known)


def _lock_ranges(plan: LockedQuery, values: Sequence[Any], context: Context) -> None:
    """A PESSIMISTIC transaction also keeps others from inserting into the keys or the range of keys that the conditions name."""
    if not context.locks_ranges or not plan.covers or plan.skips:
        return
    for lock in plan.locks:
        table, predicate = lock.table, instantiate(plan.query.sources[lock.source].read.predicate, values)
        keys = keys_of(table, predicate)
        if keys == EVERY_KEY:
            continue
        listed = _listed(predicate, table.key_columns)
        if listed is not None:
            _lock_rows(lock, listed, context)
        elif not context.transaction.lock_range(table.id, keys, lock.mode, wait=lock.policy != "nowait"):
            raise _not_available(f'row in relation "{lock.table.name}"', lock.table, (), context)


def _listed(predicate: Predicate, key_columns: Sequence[int]) -> Sequence[Key] | None:
    """The only keys for which it can be true, if it names them."""
    key = point_key(predicate, key_columns)
    if key is not None:
        return (key,)
    if isinstance(predicate, In) and tuple(key_columns) == (predicate.column,):
        return [value for value in predicate.values if value is not None]
    return None


class _Counter:
    """SKIP LOCKED row by row: `take` says whether a row is free, locked now, and within LIMIT and OFFSET."""

    def __init__(self, plan: LockedQuery, values: Sequence[Any]) -> None:
        self._plan = plan
        self._left_out = _number("OFFSET", plan.offset, values) or 0
        self._wanted = _number("LIMIT", plan.limit, values)
        self._order = sorted(range(len(plan.locks)), key=lambda number: plan.locks[number].policy != "skip")

    @property
    def enough(self) -> bool:
        """Is LIMIT reached?"""
        return self._wanted is not None and self._wanted <= 0

    def take(self, keys: Keys, context: Context) -> bool:
        transaction = context.transaction
        for number in self._order:
            lock = self._plan.locks[number]
            if lock.policy != "skip":
                _lock_rows(lock, (keys[number],), context)
            elif not transaction.lock_if_free(lock.table.id, keys[number], lock.mode):
                return False
            else:  # this is what is read of the table
                transaction.get(lock.table.id, keys[number], columns=self._plan.query.sources[lock.source].read.columns)
        if self._left_out:
            self._left_out -= 1
            return False
        if self._wanted is not None:
            self._wanted -= 1
        return True


def _number(what: str, count: Expression | None, values: Sequence[Any]) -> int | None:
    value = count.value if isinstance(count, Constant) else values[count.index] if isinstance(count, Parameter) else None
    if value is not None and (value.__class__ is not int or value < 0):
        raise InvalidParameterValue(f"{what} must be a whole number and not negative")
    return value


# --- the rows from DuckDB


def _skipping(plan: LockedQuery, values: Sequence[Any], context: Context) -> Result:
    """First a few rows more than are wanted; if too many of these are taken and there may be more, all."""
    queries = (plan.query,) if plan.first is None else (plan.first, plan.query)
    for query in queries:
        counter, kept, looked_at = _Counter(plan, values), [], 0
        with _opened(plan, query, values, context) as stream:
            columns = stream.columns
            for batch in stream:
                context.check_cancelled()
                looked_at += batch.num_rows
                rows = list(zip(*_keys_of(plan, batch), strict=True))
                free = [number for number, keys in enumerate(rows) if not counter.enough and counter.take(keys, context)]
                if free:
                    kept.append(batch.take(free))
                if counter.enough:
                    break
        if counter.enough or plan.most is None or looked_at < plan.most:
            break
    return _result(plan, columns, kept, context)


def _opened(plan: LockedQuery, query: Query, values: Sequence[Any], context: Context) -> Stream:
    """The result with its keys. What SKIP LOCKED looks at is recorded later, row by row."""
    sources = plan.query.sources
    relations = relations_of(sources, values, context, {sources[lock.source].name for lock in plan.locks if lock.policy == "skip"})
    return context.evaluator.batches(query, values, relations)


def _keys_of(plan: LockedQuery, batch: pa.RecordBatch) -> list[list[Key]]:
    """The keys of each lock in turn, row by row."""
    found: list[list[Key]] = []
    start = batch.num_columns - plan.key_columns
    for lock in plan.locks:
        columns = [lock.table.columns[position] for position in lock.table.key_columns]
        types, names = [column.type for column in columns], [column.name for column in columns]
        rows = rows_from_arrow(types, conform(types, batch.select(list(range(start, start + len(types)))), names, foreign=False))
        found.append([row[0] for row in rows] if len(types) == 1 else list(rows))
        start += len(types)
    return found


def _result(plan: LockedQuery, columns: Sequence[Any], batches: Sequence[pa.RecordBatch], context: Context) -> Result:
    """Without the keys."""
    shown = len(columns) - plan.key_columns
    stripped = [batch.select(list(range(shown))) for batch in batches]
    return result_of(context.evaluator.kept(tuple(columns[:shown]), stripped, rows_max=context.settings.stream_rows_min))
