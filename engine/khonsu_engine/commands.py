"""What is asked of the log's order (`Command`), what is logged (`Record`), and what comes back (`Outcome`).

Waist 3. Made by transactions, consumed by `state_machine.validate` and `state_machine.apply`; written and read by
`storage.log`. All values are immutable `msgspec.Struct`s without a collector header; a record is at the same time
its own log and wire format. What is logged is the *effect*: final rows with before images, never a question.

Left out until their issues: Prepare, Decide, Resolve, Fence and their records (cluster, issue E and later).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import Enum, IntEnum
from typing import Any

import msgspec

from khonsu_engine.mvcc.predicates import Predicate

__all__ = [
    "ALL_COLUMNS",
    "EVERY_KEY",
    "Blocked",
    "Bulk",
    "BulkFile",
    "Collision",
    "Command",
    "Commit",
    "Committed",
    "ConflictPolicy",
    "Effect",
    "Isolation",
    "Key",
    "KeyRange",
    "Operation",
    "Outcome",
    "ReadPredicate",
    "Record",
    "Refusal",
    "Reserve",
    "Reserved",
    "Row",
    "TableId",
    "Timestamp",
    "TransactionId",
    "Write",
]

Timestamp = int
TransactionId = bytes
TableId = int
Key = Hashable
Row = tuple[Any, ...]

ALL_COLUMNS = -1
"""Column sets are ints used as bit masks (bit n = column n); -1 is every column, known or not."""


class Isolation(IntEnum):
    """Isolation levels, weakest first."""

    READ_COMMITTED = 1
    REPEATABLE_READ = 2
    SERIALIZABLE = 3


class ConflictPolicy(Enum):
    """What becomes of a row that collides, by its name in SQL. The value is what the report says was done to it."""

    FAIL = "failed"
    IGNORE = "ignored"
    REPLACE = "replaced"
    APPEND = "appended"
    MERGE = "merged"


class Operation(IntEnum):
    """What a write does to its key."""

    INSERT = 1
    UPDATE = 2
    DELETE = 3


class KeyRange(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A range of keys. None = open on that side. For a key of several columns the bounds are tuples that may be
    prefixes: a key is compared by its first `len(bound)` parts, so `low = high = (5,)`, both inclusive, is a prefix range.
    """

    low: Any = None
    high: Any = None
    low_inclusive: bool = True
    high_inclusive: bool = True


EVERY_KEY = KeyRange()


class Write(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One buffered change of one key.

    `row`: the new row (None for DELETE). `before`: the row it was computed from (None for INSERT).
    `base`: the timestamp as of which the transaction knew the key's state; a newer version at commit is a conflict, which
    `policy` (a `mvcc.policies.RowPolicy`; None: FAIL) decides.
    """

    operation: int
    key: Any
    row: Row | None
    before: Row | None
    base: Timestamp
    policy: Any = None


class ReadPredicate(msgspec.Struct, frozen=True, gc=False):
    """A read that is not a point: rows of `table` within `range` that satisfy `predicate`, using `columns`, as of `timestamp`."""

    table: TableId
    range: KeyRange
    predicate: Predicate
    columns: int
    timestamp: Timestamp


class BulkFile(msgspec.Struct, frozen=True, array_like=True):
    """A segment file written ahead of the commit that names it. `meta` is the encoded `SegmentMeta`."""

    name: str
    meta: bytes


class Bulk(msgspec.Struct, frozen=True):
    """Many new rows of one table as segments already on disk, sorted and free of duplicates among themselves.

    `segments`: the opened `columns.segment.Segment` values (not logged). `truncate`: all older rows of the table go first.
    """

    table: TableId
    files: tuple[BulkFile, ...]
    segments: tuple[Any, ...]
    base: Timestamp
    truncate: bool = False


class Collision(msgspec.Struct, frozen=True):
    """What a policy did with one row: `action` is ignored, replaced, appended or merged. `key`: canonical; `timestamp`: of theirs."""

    table: str
    key: Any
    action: str
    timestamp: Timestamp


class Commit(msgspec.Struct, frozen=True, gc=False):
    """The request to commit: what was read, guarded and written, frozen.

    `reads`: table -> key -> columns read (a point read, absent keys included); empty below SERIALIZABLE.
    `guards`, `guard_keys`: reads that are validated at every level (existence checks, schema versions).
    `schemas`: the `schema.catalog.Table` seen for each table touched; it must still stand, unless `created` here.
    `policied`: some writes have a policy. `collisions`: what policies have decided so far. `dropped`: tables that go.
    """

    transaction_id: TransactionId
    isolation: int
    read_timestamp: Timestamp
    reads: Mapping[TableId, Mapping[Key, int]]
    predicates: tuple[ReadPredicate, ...]
    guards: tuple[ReadPredicate, ...]
    guard_keys: Mapping[TableId, Mapping[Key, int]]
    writes: Mapping[TableId, Mapping[Key, Write]]
    schemas: Mapping[TableId, Any]
    created: frozenset[TableId] = frozenset()
    bulk: tuple[Bulk, ...] = ()
    tenure: int = 0
    policied: bool = False
    collisions: tuple[Collision, ...] = ()
    dropped: frozenset[TableId] = frozenset()


class Reserve(msgspec.Struct, frozen=True, gc=False):
    """Raise a counter to `upto`: every number below may be handed out once this is durable."""

    counter: str
    upto: int
    tenure: int = 0


class Effect(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """All changes one commit made to one table: `rows` of (operation, key, row, before), in write order."""

    table: TableId
    schema_version: int
    rows: tuple[tuple[int, Any, Row | None, Row | None], ...]


class Committed(msgspec.Struct, frozen=True, gc=False):
    """A transaction that won. `bulk`: (table, truncate, files) for each bulk write."""

    index: int
    timestamp: Timestamp
    transaction_id: TransactionId
    effects: tuple[Effect, ...]
    bulk: tuple[tuple[TableId, bool, tuple[BulkFile, ...]], ...] = ()


class Reserved(msgspec.Struct, frozen=True, gc=False):
    """A counter that was raised."""

    index: int
    timestamp: Timestamp
    counter: str
    upto: int


class Refusal(msgspec.Struct, frozen=True):
    """Why a commit was refused. `rule`: write-write, read-write, unique, catalog; `keys`: bounded. `timestamp`: of the
    commit in the way, 0 if that is forgotten. `other`: whose it was, b"" if that is."""

    rule: str
    table: TableId
    keys: tuple[Any, ...]
    timestamp: Timestamp
    other: TransactionId = b""


class Blocked(msgspec.Struct, frozen=True):
    """A commit that must wait: somebody else has a hard lock on `target` (a key or a `KeyRange`) of `table`. Nothing happened."""

    table: TableId
    target: Any


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a transaction ended. `timestamp` and `index` are 0 when it wrote nothing. `conflicts`: the rows a policy decided."""

    transaction_id: TransactionId
    timestamp: Timestamp
    index: int
    conflicts: tuple[Collision, ...] = ()


Command = Commit | Reserve
Record = Committed | Reserved
