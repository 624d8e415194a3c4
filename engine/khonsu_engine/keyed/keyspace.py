"""One database as the keyed rooms see it: transactions by id, what became of them, and the collecting of expired values.

Made by `batches` and `key_value`, one for each store object; several may share a database. Thread-safe.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from os import PathLike, fspath
from typing import Any

from khonsu_engine.commands import Isolation, Timestamp, TransactionId
from khonsu_engine.database import Database
from khonsu_engine.errors import CommitOutcomeUnknown, EngineClosed, EngineError, InvalidArgument
from khonsu_engine.keyed.expiry import moment_at
from khonsu_engine.keyed.shapes import KeyedTables, ensure
from khonsu_engine.keyed.statuses import UNKNOWN, Statuses, TransactionStatus
from khonsu_engine.keyed.sweep import collect
from khonsu_engine.keyed.work import Work
from khonsu_engine.limits import Limits
from khonsu_engine.protocols import Store
from khonsu_engine.storage.forks import USED_AFTER_FORK
from khonsu_engine.syncer import Synchronous

__all__ = ["COLLECTED_MAX", "Keyspace", "level_of", "opened"]

logger = logging.getLogger("khonsu_engine.keyed")

COLLECTED_MAX = 128
"""Keys collected after one commit."""

COLLECT_EVERY_SECONDS = 1.0

Release = Callable[[], None] | None


class Keyspace:
    """`release`: called by `close`, for whoever keeps the database open. `abandoned`: called in its place when the keyspace is dropped;
    it runs in a finaliser. `clock`: the wall clock, in seconds since 1970."""

    def __init__(
        self, database: Database, *, release: Release = None, abandoned: Release = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.database = database
        self.clock = clock
        self._release = release
        self._finalizer = None if abandoned is None else weakref.finalize(self, abandoned)
        if self._finalizer is not None:
            self._finalizer.atexit = False
        self._process = os.getpid()
        self._closed = ""
        self._tables: KeyedTables | None = None
        self._names: deque[bytes] = deque()
        self._statuses = Statuses()
        self._collected_at = clock()

    @property
    def tables(self) -> KeyedTables:
        """The tables, made at first use."""
        if self._tables is None:
            self._tables = ensure(self.database)
        return self._tables

    def check(self) -> None:
        """Raises EngineClosed when nothing can be done here any more."""
        if self._closed:
            raise EngineClosed(self._closed)
        if self.database.closed:
            raise EngineClosed("the database is closed")
        if self._process != os.getpid():
            raise EngineClosed(USED_AFTER_FORK)

    # -- transactions ---------------------------------------------------------------------------------------------

    def begin(self, isolation: Isolation, *, read_only: bool = False) -> Work:
        """A transaction. A writing one reads at the last published commit, a read-only one at the last durable one."""
        self.check()
        _ = self.tables
        try:
            name = self._names.pop()  # so there are as many names as transactions at once: the engine remembers outcomes by name
        except IndexError:
            name = os.urandom(8)
        transaction = self.database.begin(isolation, read_only=read_only, writes_first=not read_only, name=name)
        work = Work(self, transaction, name, moment_at(self.clock()))
        self._statuses.begun(work.id, work)
        return work

    def note_end(self, work: Work, status: TransactionStatus) -> None:
        """`work` has ended so. Its name may be used again, if what became of it is certain."""
        self._statuses.ended(work.id, status)
        if status is not UNKNOWN:
            self._names.append(work.name)
        if status.index:
            self._collect_if_due()

    def status(self, transaction_id: TransactionId) -> TransactionStatus:
        """What became of it. Raises InvalidArgument for what is no id."""
        if not isinstance(transaction_id, bytes) or len(transaction_id) != 16:
            raise InvalidArgument("a transaction id is 16 bytes, as start_transaction and begin give it")
        self.check()
        known = self._statuses.of(transaction_id)
        if known is not UNKNOWN:
            return known
        try:
            outcome = self.database.outcome(transaction_id)
        except CommitOutcomeUnknown:
            return UNKNOWN
        return UNKNOWN if outcome is None else TransactionStatus("committed", outcome.timestamp, outcome.index)

    def active(self) -> int:
        """How many transactions are open."""
        return self._statuses.active()

    def wait_durable(self, timestamp: Timestamp) -> None:
        """What was read up to there may be told now."""
        self.database.wait_durable(timestamp)

    # -- expired values -------------------------------------------------------------------------------------------

    def collect(self, limit: int | None = None) -> int:
        """Collect what has expired, at most `limit` keys; returns how many."""
        self.check()
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidArgument(f"limit must be a number of keys, not {limit!r}")
        done = 0
        while limit is None or done < limit:
            step = COLLECTED_MAX if limit is None else min(limit - done, COLLECTED_MAX)
            found = collect(self.database, self.tables, moment_at(self.clock()), step)
            done += found
            if found < step:
                break
        return done

    def _collect_if_due(self) -> None:
        """After a commit, now and then. The commit stands whatever happens here: a failure is logged, and tried again."""
        now = self.clock()
        if 0 <= now - self._collected_at < COLLECT_EVERY_SECONDS:
            return
        self._collected_at = now
        try:
            if collect(self.database, self.tables, moment_at(now), COLLECTED_MAX) == COLLECTED_MAX:
                self._collected_at = now - COLLECT_EVERY_SECONDS
        except EngineError:
            logger.exception("expired values could not be collected")

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self, reason: str = "the store is closed") -> None:
        """Take no more calls, and let go of the database. Idempotent."""
        self._closed = self._closed or reason
        if self._finalizer is not None:
            self._finalizer.detach()
        release, self._release = self._release, None
        if release is not None:
            release()


def level_of(isolation: Isolation | str) -> Isolation:
    """The level of that name, in any case, with `_` or `-` for spaces. Raises InvalidArgument."""
    if isinstance(isolation, Isolation):
        return isolation
    if isinstance(isolation, str):
        found = Isolation.__members__.get("_".join(isolation.replace("-", " ").replace("_", " ").upper().split()))
        if found is not None:
            return found
    known = ", ".join(repr(level.name.lower().replace("_", " ")) for level in reversed(Isolation))
    raise InvalidArgument(f"isolation must be one of {known}, not {isolation!r}")


def opened(path_or_memory: str | PathLike[str] | Store, *, synchronous: Synchronous, limits: Limits) -> Database:
    """The database in that directory, in memory for ":memory:", or in a store of your own.

    Raises InvalidArgument, CannotConnect, DatabaseInUse, CorruptDatabase."""
    where: Any = path_or_memory
    if isinstance(where, str | PathLike):
        path = fspath(where)
        if not isinstance(path, str) or not path:
            raise InvalidArgument(f"a path is text, and not empty: {path!r}")
        return Database.open(None if path == ":memory:" else path, limits=limits, synchronous=synchronous)
    if isinstance(where, Store):
        return Database(where, limits=limits, synchronous=synchronous)
    raise InvalidArgument(f'open takes a path, ":memory:" or a Store, not {type(where).__name__}')
