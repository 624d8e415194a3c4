"""A state machine over sessions: levels, modes, policies, locks, savepoints, failures, timeouts, reopen, against `session_model`.

One thread plays three sessions. Nobody waits: `lock_timeout` is a microsecond and nobody is patient with soft intents, so what would have to
wait is 55P03, whatever the clock says. A timeout is the reaper's look, hours later. Each statement and each COMMIT must answer one of what
the model allows; where a statement may have moved its snapshot, the engine's read timestamp says whether it did, and the model whether it
was allowed to. What the lock table says of others decides who must wait; what it must say is an invariant.
"""

from __future__ import annotations

import gc
import itertools
import shutil
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import khonsu_sql
from khonsu_engine import lock_waiter
from khonsu_engine.commands import KeyRange
from khonsu_engine.limits import TINY
from khonsu_sql import Connection
from khonsu_sql.opening import connect as connect_to
from tests.sql import session_model as model
from tests.sql.session_model import CONFLICT, FAIL, LOCKED, OK, RC, RR, SER, Effect, History, Item, Statement, Table, Transaction
from tests.sql.session_statements import FIRST, LOCKS, READS, SCHEMA, VALUES, WRITES

IMPLICIT = 2
"""The session whose statements begin transactions; those of the others are transactions by themselves."""

numbers = itertools.count()
PATIENCE_SECONDS = 20.0
seats = st.integers(0, 2)
LEVELS = st.sampled_from([SER, SER, RR, RC])
MODES = st.sampled_from([model.OPTIMISTIC, model.ADAPTIVE, model.PESSIMISTIC])
POLICIES = st.sampled_from([FAIL, FAIL, FAIL, model.IGNORE, model.REPLACE, model.APPEND, model.MERGE])
names = st.sampled_from(["a", "b"])


class Attempt(NamedTuple):
    """A statement in one snapshot. `superseded`: a row is newer; `blocked`: it must wait; `meets`: it meets somebody, so it may start again."""

    effect: Effect
    needs: list[Item]
    view: Table
    superseded: bool
    blocked: bool
    meets: bool

    @property
    def refusals(self) -> set[str]:
        return ({LOCKED} if self.blocked else set()) | ({self.effect.error} if self.effect.error else set())


class Machine(RuleBasedStateMachine):
    """`open`: the model's transaction of each session that has one."""

    folder: Path | None = None
    connections: list[Connection]

    @initialize(directory=st.sampled_from([False] * 5 + [True]))
    def begin(self, directory: bool) -> None:
        self.patience, lock_waiter.PATIENCE_SECONDS = lock_waiter.PATIENCE_SECONDS, 0.0
        self.folder = Path(tempfile.mkdtemp(prefix="machine")) if directory else None
        self.number = next(numbers)
        self.history = History(FIRST)
        self.open: dict[int, Transaction] = {}
        self.connect()
        for sql in SCHEMA:
            self.watcher.execute(sql)
        for row in FIRST.values():
            self.watcher.execute("INSERT INTO t VALUES (?, ?, ?, ?)", row)
        table = self.database.catalog.tables["main", "t"]
        self.kinds = {table.id: "r", table.indexes[0].id: "e"}

    def one(self, **options: Any) -> Connection:
        name = f":memory:machine{self.number}" if self.folder is None else self.folder / "db"
        return connect_to(name, limits=TINY, timeout=1e-6, **options)

    def connect(self) -> None:
        self.watcher = self.one(autocommit=True)
        self.connections = [self.one(autocommit=seat != IMPLICIT, idle_in_transaction_timeout="1h") for seat in range(3)]
        self.database = self.watcher._lease.database

    def teardown(self) -> None:
        if not hasattr(self, "connections"):
            return
        lock_waiter.PATIENCE_SECONDS = self.patience
        if self.folder is not None:
            self.reopen()
            self.everybody_sees_the_newest()
        for connection in (*self.connections, self.watcher):
            connection.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)

    def engine(self, seat: int) -> Any:
        session: Any = self.connections[seat]._session
        return session._core.transaction.engine

    def ask(self, seat: int, sql: str, parameters: tuple[object, ...] = ()) -> tuple[str, Any]:
        """(OK, the answer) or (SQLSTATE, the error)."""
        try:
            cursor = self.connections[seat].execute(sql, parameters)
            return OK, cursor.rowcount if cursor.description is None else cursor.fetchall()
        except khonsu_sql.Error as error:
            return str(error.sqlstate), error

    def expect(self, seat: int, sql: str, *allowed: str) -> str:
        outcome, answer = self.ask(seat, sql)
        assert outcome in allowed, f"{sql}: {answer!r} instead of {' or '.join(allowed)}"
        return outcome

    # -- who is in the way

    def rivals(self, seat: int, targets: list[Item], span: tuple[int, int] | None = None, *, share: bool = False) -> tuple[bool, bool]:
        """Has somebody else one of these locked (hard), intends somebody else to write one? `span`: a range of rows, too."""
        mine = self.engine(seat)
        own = None if mine is None else mine.id
        found = [False, False]
        for lock in self.database.locks.listed():
            assert lock.granted, "somebody waits who is not there"
            if lock.owner == own or (share and lock.mode.name == "SHARED"):
                continue
            kind, target = self.kinds[lock.table], lock.target
            low, high = (target.low, target.high) if isinstance(target, KeyRange) else (target, target)
            if any(kind == item[0] and low <= item[1] <= high for item in targets) or (
                span is not None and kind == "r" and low <= span[1] and span[0] <= high
            ):
                found[not lock.hard] = True
        return found[0], found[1]

    # -- statements

    @rule(seat=seats, level=LEVELS, mode=MODES, policy=POLICIES, read_only=st.sampled_from([False] * 7 + [True]))
    def start(self, seat: int, level: str, mode: str, policy: str, read_only: bool) -> None:
        if seat in self.open:
            return
        sql = f"BEGIN ISOLATION LEVEL {level} {'READ ONLY' if read_only else ''} {mode} ON CONFLICT {policy}"
        self.expect(seat, sql, OK)
        self.open[seat] = Transaction(level, mode, policy, read_only)

    @rule(seat=seats, statement=READS)
    def read(self, seat: int, statement: Statement) -> None:
        self.play(seat, statement)

    @rule(seat=seats, statement=WRITES)
    def write(self, seat: int, statement: Statement) -> None:
        self.play(seat, statement)

    @rule(seat=seats, statement=WRITES)
    def write_again(self, seat: int, statement: Statement) -> None:
        self.play(seat, statement)

    @rule(seat=seats, statement=LOCKS)
    def lock(self, seat: int, statement: Statement) -> None:
        self.play(seat, statement)

    def play(self, seat: int, statement: Statement) -> None:
        mine = self.open.get(seat)
        alone = mine is None and seat != IMPLICIT
        if mine is None:
            mine = Transaction(mode=model.OPTIMISTIC if alone else model.ADAPTIVE)
        if mine.failed:
            self.expect_failed(seat, statement, mine)
            return
        if not alone:
            self.open[seat] = mine
        if mine.at is None or mine.level == RC:
            mine.at = self.history.now
        if mine.read_only and statement.kind != "read":
            outcome, error = self.ask(seat, statement.sql, statement.parameters)
            assert outcome == "25006", error
            self.fail(seat, mine, outcome)
        elif statement.kind == "read":
            self.play_read(seat, mine, statement)
        else:
            self.play_write(seat, mine, statement, alone)
        if alone and statement.kind == "read":
            assert self.engine(seat) is None

    def expect_failed(self, seat: int, statement: Statement, mine: Transaction) -> None:
        outcome, error = self.ask(seat, statement.sql, statement.parameters)
        assert outcome == ("25P03" if mine.failed == "25P03" else "25P02"), error

    def fail(self, seat: int, mine: Transaction, outcome: str) -> None:
        """A statement has failed: without a savepoint everything is gone but the duty to say ROLLBACK."""
        if outcome in (CONFLICT, model.DUPLICATE, model.OUT_OF_RANGE):
            mine.fresh = False
        mine.failed = outcome
        if not mine.savepoints:
            mine.own.clear()
            mine.held.clear()
        assert mine.savepoints or self.engine(seat) is None

    def play_read(self, seat: int, mine: Transaction, statement: Statement) -> None:
        assert mine.at is not None
        early = mine.level == RC and mine.stale_writes(self.history)
        outcome, answer = self.ask(seat, statement.sql, statement.parameters)
        if early:
            assert outcome == CONFLICT, f"{statement!r}: {answer!r}"
            self.fail(seat, mine, outcome)
            return
        assert outcome == OK, answer
        view = mine.view(self.history, mine.at)
        assert answer == statement.effect(view).answer, f"{statement!r} read {answer} in {view}"
        mine.note_reads(statement, view, sure=True)
        mine.fresh = False
        if self.engine(seat) is not None:
            self.pin(seat, mine, mine.at)

    def pin(self, seat: int, mine: Transaction, at: int) -> None:
        """The snapshot is that of `at`, and stays where it is."""
        stamp = self.engine(seat).read_timestamp
        assert mine.fresh or mine.level == RC or mine.stamp in (0, stamp) or at != mine.at, "a snapshot has moved"
        mine.at, mine.stamp = at, stamp

    # -- writing and locking

    def needs(self, mine: Transaction, statement: Statement, effect: Effect, view: Table) -> list[Item]:
        """The items it must have, and find no newer than its snapshot."""
        if statement.kind == "lock":
            listed = mine.mode == model.PESSIMISTIC and statement.patience != "SKIP LOCKED" and statement.span is not None
            whole = range(statement.span[0], statement.span[1] + 1) if listed and statement.span else ()
            return [("r", key) for key in dict.fromkeys([*effect.locks, *whole])]
        return [item for item in model.items_of(view, effect.rows) if item not in mine.own]

    def superseded(self, mine: Transaction, statement: Statement, needs: list[Item], at: int) -> bool:
        if statement.kind == "write" and mine.policy != FAIL:
            return False
        return any(self.history.since(item, mine.own[item].base if item in mine.own else at) for item in needs)

    def attempt(self, seat: int, mine: Transaction, statement: Statement, at: int, alone: bool) -> Attempt:
        view = mine.view(self.history, at)
        effect = statement.effect(view)
        needs = self.needs(mine, statement, effect, view)
        superseded = self.superseded(mine, statement, needs, at)
        locks = statement.kind == "lock"
        span = statement.span if locks and mine.mode == model.PESSIMISTIC and statement.patience != "SKIP LOCKED" else None
        hard, soft = self.rivals(seat, needs, span, share=locks and statement.mode == "SHARE")
        if statement.patience == "SKIP LOCKED":
            effect = self.skipping(seat, mine, statement, effect, at)
            return Attempt(effect, needs, view, superseded, False, False)
        blocked = hard if alone or locks or mine.hard else False
        blocked |= soft and statement.patience == "NOWAIT"
        return Attempt(effect, needs, view, superseded, blocked, (hard or soft) and (locks or mine.locks))

    def skipping(self, seat: int, mine: Transaction, statement: Statement, effect: Effect, at: int) -> Effect:
        """Without the rows that somebody else has, or has deleted meanwhile."""
        free = []
        for key in effect.locks:
            item = ("r", key)
            gone = key not in self.history.newest and self.history.since(item, mine.own[item].base if item in mine.own else at)
            if not gone and not any(self.rivals(seat, [item], share=statement.mode == "SHARE")):
                free.append(key)
        assert isinstance(effect.answer, list)
        return Effect([row for row in effect.answer if row[0] in free], locks=tuple(free))

    def play_write(self, seat: int, mine: Transaction, statement: Statement, alone: bool) -> None:
        history, old = self.history, mine.at
        assert old is not None
        new = history.now
        stale = mine.stale_writes(history) or mine.stale_reads(history, sure=True)
        perhaps = mine.level == SER and (
            stale or mine.stale_reads(history, sure=False) or any(history.since(item, own.base) for item, own in mine.own.items())
        )
        movable = {SER: not stale, RR: mine.fresh, RC: not stale}[mine.level]
        attempts, allowed = {old: self.attempt(seat, mine, statement, old, alone)}, set[str]()
        first = attempts[old]
        if mine.level == RC and stale:
            allowed, attempts = {CONFLICT}, {}
        elif first.superseded or first.meets:
            if (first.superseded and not movable) or perhaps:
                allowed.add(CONFLICT)
            if movable and new != old:
                attempts[new] = self.attempt(seat, mine, statement, new, alone)
                if attempts[new].superseded:
                    allowed.add(CONFLICT)
        for attempt in attempts.values():
            allowed |= attempt.refusals
        possible = {at for at, attempt in attempts.items() if not attempt.refusals and not attempt.superseded}
        outcome, answer = self.ask(seat, statement.sql, statement.parameters)
        if possible:
            allowed.add(OK)
        assert outcome in allowed, f"{statement!r}: {answer!r} instead of {' or '.join(sorted(allowed))}"
        at = self.moved_to(seat, mine, old, movable or perhaps)
        if outcome != OK:
            if not alone:
                mine.note_reads(statement, mine.view(history, old), sure=False)
                mine.at = at
                self.fail(seat, mine, outcome)
            return
        assert at in possible, "it was done in a snapshot in which it could not be"
        attempt = attempts[at]
        assert answer == attempt.effect.answer, f"{statement!r}: {answer} instead of {attempt.effect.answer}"
        if alone:
            items = model.items_of(attempt.view, attempt.effect.rows)
            if items:
                history.commit(model.changed(attempt.view, attempt.effect.rows), items)
            return
        self.done(mine, statement, attempt, at)

    def moved_to(self, seat: int, mine: Transaction, old: int, movable: bool) -> int:
        """Where the transaction reads now."""
        engine = self.engine(seat)
        if engine is None:
            return old
        stamp, before = engine.read_timestamp, mine.stamp
        mine.stamp = stamp
        if mine.level == RC or before in (0, stamp):
            return old
        assert movable, "a snapshot has moved over what was read"
        assert stamp == self.database.state.published
        return self.history.now

    def done(self, mine: Transaction, statement: Statement, attempt: Attempt, at: int) -> None:
        mine.at, mine.fresh = at, False
        if statement.kind == "lock":
            if statement.patience == "SKIP LOCKED":
                statement = statement._replace(reads=tuple(model.key_read(key, model.EVERY) for key in attempt.effect.locks))
            for key in attempt.effect.locks:
                if mine.held.get(("r", key)) != "EXCLUSIVE":
                    mine.held["r", key] = "SHARED" if statement.mode == "SHARE" else "EXCLUSIVE"
        elif mine.hard:
            mine.held.update(dict.fromkeys(attempt.needs, "EXCLUSIVE"))
        mine.note_reads(statement, attempt.view, sure=True)
        if statement.kind == "write":
            mine.write(statement, attempt.effect, attempt.view)

    # -- savepoints and endings

    @rule(seat=seats, name=names)
    def savepoint(self, seat: int, name: str) -> None:
        mine = self.open.get(seat)
        if mine is None and seat != IMPLICIT:
            return
        mine = self.open.setdefault(seat, Transaction())
        outcome = self.expect(seat, f"SAVEPOINT {name}", self.refused(mine) or OK)
        if outcome == OK:
            mine.savepoints.append((name, dict(mine.own)))

    def refused(self, mine: Transaction) -> str | None:
        return mine.failed and ("25P03" if mine.failed == "25P03" else "25P02")

    @rule(seat=seats, name=names, action=st.sampled_from(["ROLLBACK TO", "ROLLBACK TO", "RELEASE"]))
    def end_savepoint(self, seat: int, name: str, action: str) -> None:
        mine = self.open.get(seat)
        if mine is None:
            return
        positions = [position for position, savepoint in enumerate(mine.savepoints) if savepoint[0] == name]
        refused = self.refused(mine) if action == "RELEASE" or mine.failed == "25P03" else None
        outcome = self.expect(seat, f"{action} {name}", refused or (OK if positions else "3B001"))
        if outcome == "3B001" and not mine.failed:
            self.fail(seat, mine, outcome)
        elif outcome == OK and action == "RELEASE":
            del mine.savepoints[positions[-1] :]
        elif outcome == OK:
            mine.rollback_to(positions[-1])

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(sorted(self.open)))
        mine = self.open[seat]
        if mine.failed:
            self.expect(seat, "COMMIT", str(self.refused(mine)))
            del self.open[seat]
            return
        end = model.ending(mine, self.history, self.rivals(seat, list(mine.own))[0])
        del self.open[seat]
        if self.expect(seat, "COMMIT", *end.allowed) == OK and end.items:
            self.history.commit(end.table, end.items)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), how=st.sampled_from(["rollback", "rollback", "close", "drop", "timeout", "timeout"]))
    def leave(self, data: st.DataObject, how: str) -> None:
        seat = data.draw(st.sampled_from(sorted(self.open)))
        if how == "timeout":
            session: Any = self.connections[seat]._session
            session._core.deadlines.look(time.monotonic() + 7_200)
            self.open[seat] = Transaction(failed="25P03")
            return
        del self.open[seat]
        if how == "rollback":
            self.expect(seat, "ROLLBACK", OK)
            return
        if how == "close":
            self.connections[seat].close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.connections[seat] = self.one(autocommit=seat != IMPLICIT, idle_in_transaction_timeout="1h")
            gc.collect()
        expected = sum(self.engine(other) is not None for other in self.open)
        deadline = time.monotonic() + PATIENCE_SECONDS  # what was dropped is ended by a thread of its own
        while self.database.metrics["snapshots"] != expected:
            assert time.monotonic() < deadline, "a dropped connection still reads"
            threading.Event().wait(0.001)

    # -- the house

    @rule()
    def checkpoint(self) -> None:
        self.watcher.checkpoint()

    @precondition(lambda self: self.folder is not None)
    @rule()
    def reopen(self) -> None:
        for connection in (*self.connections, self.watcher):
            connection.close()
        self.open.clear()
        self.connect()

    @invariant()
    def everybody_sees_the_newest(self) -> None:
        if not hasattr(self, "connections"):
            return
        newest = self.history.newest
        assert {row[0]: row for row in self.watcher.execute("SELECT * FROM t").fetchall()} == newest
        for value in VALUES:
            found = self.watcher.execute("SELECT k FROM t WHERE u = ?", (value,)).fetchall()
            assert found == [(key,) for key, row in newest.items() if row[3] == value]

    @invariant()
    def locks_belong_to_open_transactions(self) -> None:
        if not hasattr(self, "connections"):
            return
        listed = self.database.locks.listed()
        engines = {seat: engine for seat in self.open if (engine := self.engine(seat)) is not None}
        assert {lock.owner for lock in listed} <= {engine.id for engine in engines.values()}
        # who has written and then moved its snapshot keeps the old one, too
        assert len(engines) <= self.database.metrics["snapshots"] <= 2 * len(engines)
        for seat, engine in engines.items():
            locked = {(self.kinds[lock.table], lock.target): lock.mode.name for lock in listed if lock.owner == engine.id and lock.hard}
            held = self.open[seat].held
            assert all(locked.get(item) in (mode, "EXCLUSIVE") for item, mode in held.items()), f"{held} but {locked}"


TestSessions = Machine.TestCase
TestSessions.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))


class Longer(Machine):
    """The same for a minute."""


@pytest.mark.deep
class TestLonger(Longer.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=120, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
