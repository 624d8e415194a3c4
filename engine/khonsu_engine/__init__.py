"""Software transactional memory over Arrow record batches, usable without SQL: `open` and `initialize`.

To read the code, start with `protocols`. Importing this package loads nothing heavy; the two functions do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from khonsu_engine.commands import ConflictPolicy, Isolation
    from khonsu_engine.keyed.batches import BatchStore
    from khonsu_engine.keyed.key_value import KeyValueStore
    from khonsu_engine.limits import Limits
    from khonsu_engine.protocols import Store
    from khonsu_engine.syncer import Synchronous

__all__ = ["initialize", "open"]


def open(
    path_or_memory: str | PathLike[str] | Store = ":memory:",
    *,
    isolation: Isolation | str = "serializable",
    on_conflict: str | ConflictPolicy | None = None,
    revisions_kept: int | None = None,
    synchronous: Synchronous = "full",
    limits: Limits | None = None,
) -> BatchStore:
    """Open a database of keyed batches: a directory (made if there is none), ":memory:", or a `Store` of your own.

    Of transactions that do not say: `isolation`, 'serializable', 'repeatable read' or 'read committed', and `on_conflict`, 'fail' (None),
    'ignore', 'replace' or 'append'. `revisions_kept`: how many older revisions of a batch stay readable (8). `synchronous`: full, normal
    or off.
    Raises CannotConnect, DatabaseInUse, CorruptDatabase, InvalidArgument, NotSupported."""
    from khonsu_engine.keyed.batches import REVISIONS_KEPT, BatchStore
    from khonsu_engine.keyed.keyspace import level_of, opened
    from khonsu_engine.keyed.policies import policy_of
    from khonsu_engine.limits import DEFAULT

    level, policy = level_of(isolation), policy_of(on_conflict)
    database = opened(path_or_memory, synchronous=synchronous, limits=limits or DEFAULT)
    kept = REVISIONS_KEPT if revisions_kept is None else revisions_kept
    try:
        return BatchStore(database, isolation=level, on_conflict=policy, revisions_kept=kept, release=database.close)
    except BaseException:
        database.close()
        raise


def initialize(
    node_id: object,
    all_node_ids: Iterable[object],
    path_or_memory: str | PathLike[str] | Store = ":memory:",
    *,
    idle_timeout_seconds: float | None = None,
    synchronous: Synchronous = "full",
    limits: Limits | None = None,
) -> KeyValueStore:
    """Open the key-value store of one node; where, as for `open`. `all_node_ids` must be [node_id] in this version.

    `idle_timeout_seconds`: a transaction without a call for so long is rolled back (300).
    Raises NotSupported for several nodes, and what `open` raises."""
    from khonsu_engine.keyed.key_value import IDLE_TIMEOUT_SECONDS, KeyValueStore, only_node
    from khonsu_engine.keyed.keyspace import opened
    from khonsu_engine.limits import DEFAULT

    only_node(node_id, all_node_ids)
    database = opened(path_or_memory, synchronous=synchronous, limits=limits or DEFAULT)
    timeout = IDLE_TIMEOUT_SECONDS if idle_timeout_seconds is None else idle_timeout_seconds
    try:
        return KeyValueStore(node_id, database, release=database.close, idle_timeout_seconds=timeout)
    except BaseException:
        database.close()
        raise
