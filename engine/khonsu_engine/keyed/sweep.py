"""Collecting what has expired: a bounded number of keys, in one ordinary transaction.

Called by `keyspace` after commits and when somebody asks. The index of expiries says which keys are due, oldest first.

* A value that has expired goes, with the revisions kept of it; the head stays without a value, at the same revision.
* A head without a value goes when its time to be remembered is over. Written again, the key begins at revision 1.

A key that somebody writes meanwhile, or has locked to do so, wins: the step is left for later.
"""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from khonsu_engine.commands import Isolation, KeyRange, Outcome, Row
from khonsu_engine.errors import SerializationConflict
from khonsu_engine.keyed.expiry import FORGET_AFTER
from khonsu_engine.keyed.heads import put_head, put_row
from khonsu_engine.keyed.shapes import KEY, LIVE, OLDEST, REVISION, KeyedTables
from khonsu_engine.restarts import LockWait
from khonsu_engine.schema.catalog import Table

if TYPE_CHECKING:
    from khonsu_engine.database import Database
    from khonsu_engine.transaction import LocalTransaction

__all__ = ["collect", "drop_contents"]


def collect(database: Database, tables: KeyedTables, moment: datetime, limit: int) -> int:
    """Collect at most `limit` keys that are due at `moment`; returns how many."""
    transaction = database.begin(Isolation.REPEATABLE_READ, writes_first=True)
    done = 0
    try:
        for table in (tables.batches, tables.entries):
            (index,) = table.indexes
            due = transaction.rows(index.id, KeyRange(None, (moment,)), None)
            for _, entry in list(islice(due, limit - done)):
                _collect(transaction, tables, table, entry[1], moment)
                done += 1
        answer = transaction.commit()
        if not isinstance(answer, Outcome):
            answer.wait()
    except (SerializationConflict, LockWait):
        return 0
    finally:
        transaction.rollback()
    return done


def _collect(transaction: LocalTransaction, tables: KeyedTables, table: Table, key: str, moment: datetime) -> None:
    head = transaction.peek(table.id, key)
    assert head is not None, "an entry of the index has its head"
    base = transaction.read_timestamp
    batch = table is tables.batches
    if batch:
        drop_contents(transaction, tables.contents, head, head[REVISION] + 1, base)
    after: Row | None = None
    if head[LIVE] is not None:
        left = (None, None, head[REVISION]) if batch else (None, None)
        after = (key, head[REVISION], moment + FORGET_AFTER, *left)
    put_head(transaction, table, head, after, base)


def drop_contents(transaction: LocalTransaction, contents: Table, head: Row, upto: int, base: int) -> None:
    """Delete the revisions kept of a batch, from the oldest one of `head` up to `upto`, which stays."""
    for revision in range(head[OLDEST], upto):
        row = transaction.peek(contents.id, (head[KEY], revision))
        if row is not None:
            put_row(transaction, contents.id, row, None, lambda row: (row[0], row[1]), base)
