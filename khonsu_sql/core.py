"""SessionCore: what one connection asks, step by step, without a thread and without ever blocking.

Called by `local.LocalSession`, which waits; in a cluster by a node's loop. Calls `sql.parse` → `sql.bind` → `sql.execute`, and
`session_transaction` for the transaction around them. `step(request)` answers with a `Result`, or with a `Ticket` for something
that must be waited for first (the sync of a commit, or of what a row depends on): then `step(Answered(…))` goes on, until there
is a result. Work in progress is a generator that yields its tickets, so the code reads as if it waited.

Invariants: in autocommit a call is its own transaction, also a script of several statements, unless it contains transaction
control. A text that cannot be parsed begins no transaction, but fails one that is open. Whatever leaves `step` by exception is a
`khonsu_sql.errors.Error`, or a BaseException that is no Exception (Ctrl-C).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import count
from typing import TYPE_CHECKING

from khonsu_engine.commands import ConflictPolicy
from khonsu_engine.errors import DeadlockDetected, SerializationConflict
from khonsu_engine.locks import Locking
from khonsu_engine.protocols import Ticket
from khonsu_engine.restarts import LockWait, Superseded
from khonsu_sql.cancellation import Cancellation
from khonsu_sql.controls import SessionControls, Work
from khonsu_sql.errors import ParameterMismatch, ProgrammingError
from khonsu_sql.requests import Answered, Execute, Ingest, Request, control_of, translated
from khonsu_sql.script import Unit, bound, chained, grouped, script_of
from khonsu_sql.session import Parameters, Result, TransactionStatus
from khonsu_sql.sql.cache import PlanCache
from khonsu_sql.sql.context import Context
from khonsu_sql.sql.execute import execute, execute_many
from khonsu_sql.sql.plan import Setting
from khonsu_sql.sql.policies import refuse_policy, statement_policy

if TYPE_CHECKING:
    from khonsu_engine.database import Database
    from khonsu_engine.schema.catalog import Catalog
    from khonsu_engine.transaction import LocalTransaction
    from khonsu_sql.sql.settings import Settings

__all__ = ["SessionCore"]


ATTEMPTS_MAX = 10
"""How often a transaction of one call is tried before its conflict is told."""

RESTARTS_MAX = 100
"""How often a statement starts again on a newer snapshot before its conflict is told."""


class SessionCore(SessionControls):
    """One session on `database`. One request at a time; only `cancel` may come from another thread."""

    def __init__(self, database: Database, plans: PlanCache, settings: Settings, *, autocommit: bool = False) -> None:
        self.autocommit = autocommit
        self.settings = settings
        self._cancellation = cancellation = Cancellation(database, settings)
        self.transaction, self.deadlines = cancellation.transaction, cancellation.deadlines
        self.cancel, self._check_cancelled = cancellation.cancel, cancellation.check
        self._evaluator = cancellation.evaluator
        self._database, self._plans = database, plans
        self._on_conflict: ConflictPolicy | None = None
        self._work: Work | None = None

    # --- stepping

    def step(self, request: Request) -> Result | Ticket:
        """Go on until there is a result or something to wait for."""
        try:
            if isinstance(request, Answered):
                return self._advance(request.error)
            if self._work is not None:
                raise ProgrammingError("another statement of this session is running", sqlstate="HY010")
            self._cancellation.forget()
            self._work = self._begin_work(request)
            return self._advance(None)
        except Exception as error:
            told = translated(error, request.sql if isinstance(request, Execute) else None)
            self._database.conflicts.add(told, told=True)
            if told is error:
                raise
            raise told from error

    def _advance(self, error: BaseException | None) -> Result | Ticket:
        work = self._work
        assert work is not None, "nothing was waited for"
        try:
            waiting = next(work) if error is None else work.throw(error)
            self._cancellation.wait_for(waiting)
            return waiting
        except StopIteration as stop:
            self._work = None
            result: Result = stop.value
            return result
        except BaseException:
            self._work = None
            raise

    def _begin_work(self, request: Request) -> Work:
        match request:
            case Execute(sql=sql, parameters=parameters, many=many, on_conflict=on_conflict):
                self._on_conflict = on_conflict
                return self._execute(sql, list(parameters or ()) if many else parameters, many)  # what runs again finds all sets again
            case Ingest():
                return self._ingest(request)
        assert not isinstance(request, Answered), "it answers nothing"
        return self._control(control_of(request))

    def interrupted(self, *, ends: bool = False) -> None:
        """Ctrl-C came between any two lines of a request: nothing of it goes on. `ends`: it was the end of the transaction."""
        self.deadlines.leave()
        work, self._work = self._work, None
        if work is not None:
            work.close()
        self.transaction.interrupted(ends=ends or (self.autocommit and not self.transaction.explicit))

    def close(self) -> None:
        """Roll back and end open results."""
        self.deadlines.leave()
        work, self._work = self._work, None
        if work is not None:
            work.close()
        self.transaction.rollback()
        self._evaluator.close()

    @property
    def catalog(self) -> Catalog:
        """As the next statement sees it: with the open transaction's own DDL."""
        engine = self.transaction.engine
        return self._database.catalog if engine is None else engine.catalog

    # --- statements

    def _execute(self, sql: str, parameters: Parameters, many: bool) -> Work:
        results: list[Result] = []
        try:
            for group in self._groups(script_of(sql, parameters, many, self._plans.find(sql, self.catalog), self.settings)):
                if results and self.settings.timed:
                    self.deadlines.begin()
                results += yield from self._run_group(group, parameters, many)
        except BaseException as error:
            if self.transaction.status is TransactionStatus.ACTIVE:
                yield from self.transaction.fail(error, ends=False)
            raise
        return chained(results)

    def _groups(self, script: Sequence[Unit]) -> Sequence[Sequence[Unit]]:
        """What is one transaction in autocommit: the whole call, unless it contains transaction control."""
        refuse_policy(self._on_conflict if any(unit.alone for unit in script) else None)
        return grouped(script, by_itself=self._ends())

    def _run_group(self, group: Sequence[Unit], parameters: Parameters, many: bool) -> Generator[Ticket, None, list[Result]]:
        if len(group) == 1 and group[0].alone:
            return [(yield from self._run_alone(group[0], parameters))]
        if self._ends():
            return (yield from self._run_by_itself(group, parameters, many))
        transaction, results = self._open(group), list[Result]()
        yield from self._run_each(group, parameters, many, transaction, results)
        if any(result.columns is not None for result in results):
            validity = self.transaction.shown()
            for result in results:
                result.validity = None if result.columns is None else validity
            yield from self.transaction.durable(transaction.seen)
        return results

    def _run_by_itself(self, group: Sequence[Unit], parameters: Parameters, many: bool) -> Generator[Ticket, None, list[Result]]:
        """A transaction of its own. Nobody has seen anything of it before its end, so after a conflict it is done again."""
        for attempt in count(1):
            results: list[Result] = []
            try:
                transaction = self._open(group, attempt)
                yield from self._run_each(group, parameters, many, transaction, results, again=attempt > 1)
                self._check_cancelled()
                yield from self.transaction.commit(tells=attempt == ATTEMPTS_MAX)
                for result in results:
                    result.conflicts = () if self.transaction.outcome is None else self.transaction.outcome.conflicts
                break
            except BaseException as error:
                for result in results:
                    if result.batches is not None:
                        result.batches.close()
                if isinstance(error, SerializationConflict | DeadlockDetected) and attempt < ATTEMPTS_MAX:
                    self._database.conflicts.add(error, told=False)
                    self.transaction.rollback()
                    continue
                yield from self.transaction.fail(error, ends=True)
                raise
        return results

    def _open(self, group: Sequence[Unit], attempt: int | None = None) -> LocalTransaction:
        """`attempt`: of a transaction of this one call. It takes no locks until it has lost twice; then it locks what it reads, too."""
        locking = None if attempt is None else Locking.OPTIMISTIC if attempt <= 2 else Locking.PESSIMISTIC
        return self.transaction.open(next((unit.writes for unit in group if not unit.alone), False), locking)

    def _ends(self) -> bool:
        """Is what runs now a transaction by itself?"""
        return self.autocommit and self.transaction.status is TransactionStatus.IDLE

    def _run_each(
        self,
        group: Sequence[Unit],
        parameters: Parameters,
        many: bool,
        transaction: LocalTransaction,
        results: list[Result],
        *,
        again: bool = False,
    ) -> Generator[Ticket, None, None]:
        """`again`: in the time that is left to the statement at whose end the transaction lost."""
        for unit in group:
            if results and self.settings.timed and not again:
                self.deadlines.begin()
            results.append((yield from self._run(unit, parameters, many, transaction)))

    def _run(self, unit: Unit, parameters: Parameters, many: bool, transaction: LocalTransaction) -> Work:
        """One statement inside the open transaction. It starts again, unseen, when it meets a row newer than its snapshot."""
        if isinstance(unit.plan, Setting):
            return self._set(unit.plan)
        mark = transaction.begin_statement(writes=unit.writes)
        try:
            for attempt in count(1):
                self._check_cancelled()
                try:
                    return self._run_once(unit, parameters, many, transaction)
                except Superseded as cause:
                    transaction.undo_statement(mark)
                    transaction.renew(cause, last=attempt == RESTARTS_MAX)
                except LockWait as cause:
                    transaction.undo_statement(mark)
                    yield cause.ticket
                    transaction.renew_after_wait()
        finally:
            transaction.fresh = False  # an error tells of what was read as a row does
        raise AssertionError("count ends")

    def _run_once(self, unit: Unit, parameters: Parameters, many: bool, transaction: LocalTransaction) -> Result:
        statement, run = bound(unit, transaction, self._plans, self.settings), execute_many if many else execute
        outer = self.transaction.on_conflict
        transaction.policy = statement_policy(statement, parameters, many, self._on_conflict, outer, transaction.isolation)
        try:
            return run(statement, parameters, self.context(transaction))
        finally:
            transaction.policy = None

    def context(self, transaction: LocalTransaction) -> Context:
        """What one statement of `transaction` runs with."""
        return Context(self._database, transaction, self._evaluator, self.settings, self._check_cancelled, self.transaction.pessimistic)

    def _run_alone(self, unit: Unit, parameters: Parameters) -> Work:
        """Transaction control and settings: they begin no transaction."""
        if parameters:
            raise ParameterMismatch("this statement takes no parameters")
        if isinstance(unit.plan, Setting):
            self.transaction.refuse_if_failed()
            return self._set(unit.plan)
        return (yield from self._control(unit.plan))

    # --- ingest

    def _ingest(self, request: Ingest) -> Work:
        from khonsu_sql.sql.ingest import ingest

        ends = self._ends()
        transaction = self.transaction.open(writes_first=True)
        try:
            transaction.begin_statement(writes=True)
            transaction.restarts = False  # the reader is read once
            count = ingest(request.table, request.reader, request.mode, self.context(transaction))
            self._check_cancelled()
        except BaseException as error:
            yield from self.transaction.fail(error, ends=ends)
            raise
        finally:
            transaction.restarts = True  # after a ROLLBACK TO it goes on
        transaction.fresh = False
        if ends:
            yield from self.transaction.commit()
        return Result(None, count, "INGEST")
