"""The fast lane: cached point statements without the core's generator, groups and tickets.

Called by `local.LocalSession.execute` before anything else; calls the compiled functions of `sql.point`. It answers None whenever the
statement is for the general path: not cached, not a point statement, unusual parameters, a failed transaction, anything that would
raise. The general path then does all of it again, so every error and every rule has one home. Nothing here has an effect before it
answers with a result, except that an implicit transaction may have been opened.

Invariant: as in the core, no row leaves that depends on a commit which is not durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_engine.columns.version import SnapshotPruned
from khonsu_engine.commands import ConflictPolicy
from khonsu_engine.errors import EngineError
from khonsu_engine.pending import StaleTable
from khonsu_engine.restarts import Restart
from khonsu_sql.errors import Error
from khonsu_sql.session import Result, TransactionStatus
from khonsu_sql.sql.locked_query import run_point_locked
from khonsu_sql.sql.plan import PointLock, PointRead, PointWrite
from khonsu_sql.sql.point_code import FALLBACK, Fallback

if TYPE_CHECKING:
    from khonsu_engine.commands import Timestamp
    from khonsu_engine.database import Database
    from khonsu_engine.protocols import Ticket
    from khonsu_engine.transaction import LocalTransaction
    from khonsu_sql.core import SessionCore
    from khonsu_sql.deadlines import Deadlines
    from khonsu_sql.sql.cache import PlanCache

__all__ = ["FastLane", "wait_out"]

_RETREAT = (Fallback, StaleTable, SnapshotPruned, EngineError, Error, Restart, KeyError)
"""What sends a statement to the general path. KeyError: the table was dropped and forgotten under a compiled read."""

IDLE, ACTIVE = TransactionStatus.IDLE, TransactionStatus.ACTIVE
FAIL = ConflictPolicy.FAIL


class FastLane:
    """The fast lane of one session."""

    __slots__ = ("_core", "_database", "_find", "_state")

    def __init__(self, core: SessionCore, database: Database, plans: PlanCache) -> None:
        self._core = core
        self._database = database
        self._state = database.state
        self._find = plans.find

    def run(self, sql: str, parameters: Any) -> Result | None:
        """The result, or None: take the general path."""
        core, state = self._core, self._state
        session = core.transaction
        if session.engine is not None:
            return self._inside(session.engine, sql, parameters)
        catalog = state.catalog
        statement = self._find(sql, catalog)
        if statement is None or session.status is not IDLE or not core.settings.point_path:
            return None
        plan = statement.plan
        if not core.autocommit:
            if not isinstance(plan, PointRead | PointWrite | PointLock):
                return None
            return self._inside(session.open(not isinstance(plan, PointRead)), sql, parameters)
        if isinstance(plan, PointRead):
            if plan.alone is None or catalog.timestamp > state.durable:
                return None
            try:
                if parameters.__class__ is not tuple or plan.names is not None:
                    parameters = _values(plan.names, parameters)
                rows = plan.alone(state, parameters)
            except _RETREAT:
                return None
            return Result(plan.columns, len(rows), "SELECT", rows)
        if isinstance(plan, PointWrite) and plan.alone is not None:
            return self._alone(plan, parameters)
        return None

    def _alone(self, plan: PointWrite, parameters: Any) -> Result | None:
        """A write as a transaction of its own."""
        core = self._core
        if core.settings.default_transaction_read_only:
            return None
        session = core.transaction
        assert plan.alone is not None
        try:
            changed, ticket = plan.alone(self._database, session.name, _values(plan.names, parameters))
        except _RETREAT:
            return None
        except BaseException:
            session.outcome = self._database.committer.last_outcome(session.name)
            raise
        if ticket is not None:
            wait_out(ticket, core.deadlines)
        return Result(None, int(changed), plan.operation.name)

    def _wait_durable(self, timestamp: Timestamp) -> None:
        ticket = self._database.committer.durable_ticket(timestamp)
        if ticket is not None:
            self._core.deadlines.wait(ticket)

    def _inside(self, engine: LocalTransaction, sql: str, parameters: Any) -> Result | None:
        """A statement of an open transaction."""
        core = self._core
        statement = self._find(sql, engine.catalog)
        if statement is None or core.transaction.status is not ACTIVE or not core.settings.point_path:
            return None
        plan = statement.plan
        mark = None
        try:
            if isinstance(plan, PointRead):
                if not engine.keeps_snapshot:
                    engine.begin_statement(writes=False)
                rows = plan.run(engine, _values(plan.names, parameters))
                engine.fresh = False
                if engine.seen > self._state.durable:
                    self._wait_durable(engine.seen)
                return Result(plan.columns, len(rows), "SELECT", rows, validity=core.transaction.shown())
            if isinstance(plan, PointLock) and not engine.read_only:
                mark = engine.begin_statement(writes=True)
                result = run_point_locked(plan, _values(plan.names, parameters), core.context(engine))
                engine.fresh = False
                if engine.seen > self._state.durable:
                    self._database.wait_durable(engine.seen)
                result.validity = core.transaction.shown()
                return result
            if not isinstance(plan, PointWrite) or engine.read_only or plan.columns is not None:
                return None
            if core.transaction.on_conflict is not FAIL or plan.fallback.table.conflict_resolution is not None:
                return None
            mark = engine.begin_statement(writes=True)
            count, _ = plan.run(engine, _values(plan.names, parameters))
            engine.fresh = False
            return Result(None, count, plan.operation.name)
        except _RETREAT:
            if mark is not None:
                engine.undo_statement(mark)
            return None
        except BaseException:
            core.transaction.interrupted(ends=False)
            raise


def _values(names: tuple[str, ...] | None, parameters: Any) -> Any:
    """The parameters as a sequence. Raises Fallback for whatever the general path must look at. `names`: of the named style."""
    kind = parameters.__class__
    if names is not None:
        if kind is dict and parameters.keys() == set(names):
            return [parameters[name] for name in names]
    elif kind is tuple or kind is list:
        return parameters
    elif parameters is None:
        return ()
    raise FALLBACK


def wait_out(ticket: Ticket, deadlines: Deadlines) -> None:
    """Wait until a commit is durable. Ctrl-C is held back until then, and for one's own there is no timeout: its outcome is always told."""
    held: BaseException | None = None
    while True:
        try:
            if ticket.outcome is None:
                deadlines.wait(ticket)
            else:
                ticket.wait()
            break
        except KeyboardInterrupt as interrupt:
            held = interrupt
    if held is not None:
        raise held
