"""A state machine of one database against a plain-Python model, with reopen and checkpoint as steps.

Three connections run transactions of single statements on a small key space, at both levels. The model keeps every committed state;
a transaction of the model is the state it began with, its own changes, and what it read. It predicts each COMMIT exactly:
a written key that changed since refuses at both levels, a read one (keys or the whole table) at SERIALIZABLE. And it predicts each statement
that meets a key changed since: it goes on from the newest state where nothing that was read or written changed (SERIALIZABLE) or where it is
the first one (REPEATABLE READ), else it conflicts.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import khonsu_sql
from khonsu_engine.limits import TINY
from khonsu_sql.errors import SerializationFailure, UniqueViolation

KEYS = range(8)
CONNECTIONS = 3

numbers = st.integers(0, CONNECTIONS - 1)
keys = st.sampled_from(list(KEYS))
values = st.integers(0, 9)

State = dict[int, int]


class Transaction:
    """One open transaction of the model."""

    def __init__(self, level: str, began: int, state: State) -> None:
        self.level = level
        self.began = began
        self.state = dict(state)
        self.changes: dict[int, int | None] = {}
        self.fresh = True
        self.read: set[int] = set()
        self.read_all = False


def changed(state: State, changes: dict[int, int | None]) -> State:
    """`state` with `changes` (None: deleted)."""
    return {key: value for key, value in (state | changes).items() if value is not None}


class Model(RuleBasedStateMachine):
    """`history`: the committed states, oldest first; `changed`: which keys each commit after the first changed."""

    @initialize()
    def begin_with_a_table(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="model"))
        self.history: list[State] = [{}]
        self.changed: list[set[int]] = [set()]
        self.open: dict[int, Transaction] = {}
        self.connect()
        self.connections[0].execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
        self.connections[0].commit()

    def connect(self) -> None:
        modes = ("ADAPTIVE", "OPTIMISTIC", "OPTIMISTIC")  # one alone never waits for another
        self.connections = [khonsu_sql.connect(self.folder / "db", limits=TINY, locking=mode) for mode in modes]

    def teardown(self) -> None:
        for connection in getattr(self, "connections", ()):
            connection.close()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    # -- transactions ---------------------------------------------------------------------------------------------

    def inside(self, number: int) -> Transaction:
        """The model's transaction of a connection, begun now if need be. Everything is durable between rules, so it reads the newest."""
        if number not in self.open:
            level = self.connections[number].isolation_level
            self.open[number] = Transaction(str(level), len(self.history) - 1, self.history[-1])
        return self.open[number]

    @precondition(lambda self: len(self.open) < CONNECTIONS)
    @rule(number=numbers, level=st.sampled_from(["SERIALIZABLE", "REPEATABLE READ"]))
    def set_level(self, number: int, level: str) -> None:
        if number not in self.open:
            self.connections[number].isolation_level = level

    def meets(self, mine: Transaction, key: int) -> bool:
        """Does the first write of `key` conflict with what was committed since? If not, the transaction has gone on to the newest state."""
        since: set[int] = set().union(*self.changed[mine.began + 1 :])
        if key in mine.changes or key not in since:
            return False
        if mine.level == "REPEATABLE READ":
            if not mine.fresh:
                return True
        elif since & (mine.read | mine.changes.keys()) or mine.read_all:
            return True
        mine.began, mine.state = len(self.history) - 1, changed(self.history[-1], mine.changes)
        return False

    def conflicts(self, number: int, sql: str, parameters: tuple[int, ...]) -> None:
        try:
            self.connections[number].execute(sql, parameters)
        except SerializationFailure:
            self.connections[number].rollback()
            del self.open[number]
        else:
            raise AssertionError("a conflict was not seen")

    @rule(number=numbers, key=keys)
    def read_point(self, number: int, key: int) -> None:
        mine = self.inside(number)
        mine.read.add(key)
        mine.fresh = False
        found = self.connections[number].execute("SELECT n FROM t WHERE id = ?", (key,)).fetchall()
        assert found == ([(mine.state[key],)] if key in mine.state else [])

    @rule(number=numbers, how=st.sampled_from(["scan", "range"]))
    def read_all(self, number: int, how: str) -> None:
        mine = self.inside(number)
        mine.read_all, mine.fresh = True, False
        query = "SELECT id, n FROM t" if how == "scan" else "SELECT id, n FROM t WHERE id >= 0 ORDER BY id"
        assert dict(self.connections[number].execute(query).fetchall()) == mine.state

    @rule(number=numbers, key=keys, value=values)
    def insert(self, number: int, key: int, value: int) -> None:
        mine = self.inside(number)
        sql = "INSERT INTO t VALUES (?, ?)"
        if self.meets(mine, key):
            self.conflicts(number, sql, (key, value))
            return
        try:
            self.connections[number].execute(sql, (key, value))
        except UniqueViolation:
            assert key in mine.state
            self.connections[number].rollback()
            del self.open[number]
            return
        assert key not in mine.state
        self.write(mine, key, value)

    @rule(number=numbers, key=keys, value=values, general=st.booleans())
    def update(self, number: int, key: int, value: int, general: bool) -> None:
        mine = self.inside(number)
        where = "id = ?" if not general else "id + 0 = ?"
        sql = f"UPDATE t SET n = n + ? WHERE {where}"
        if key in mine.state and self.meets(mine, key):
            self.conflicts(number, sql, (value, key))
            return
        count = self.connections[number].execute(sql, (value, key)).rowcount
        assert count == (key in mine.state)
        mine.read_all |= general
        mine.read.add(key)
        mine.fresh = False
        if key in mine.state:
            self.write(mine, key, mine.state[key] + value)

    @rule(number=numbers, key=keys)
    def delete(self, number: int, key: int) -> None:
        mine = self.inside(number)
        sql = "DELETE FROM t WHERE id = ?"
        if key in mine.state and self.meets(mine, key):
            self.conflicts(number, sql, (key,))
            return
        count = self.connections[number].execute(sql, (key,)).rowcount
        assert count == (key in mine.state)
        mine.read.add(key)
        mine.fresh = False
        if key in mine.state:
            self.write(mine, key, None)

    def write(self, mine: Transaction, key: int, value: int | None) -> None:
        mine.changes[key] = value
        mine.state = changed(mine.state, {key: value})
        mine.fresh = False

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def commit(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        mine = self.open.pop(number)
        since: set[int] = set().union(*self.changed[mine.began + 1 :])
        refused = bool(since & mine.changes.keys())
        if mine.level == "SERIALIZABLE" and mine.changes:
            refused |= bool(since & mine.read) or (mine.read_all and bool(since))
        try:
            self.connections[number].commit()
        except SerializationFailure as error:
            assert refused, f"refused without a reason: {error}"
            return
        assert not refused or not mine.changes, "a conflict was not seen"
        if mine.changes:
            self.history.append(changed(self.history[-1], mine.changes))
            self.changed.append(set(mine.changes))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def rollback(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        self.connections[number].rollback()
        del self.open[number]

    # -- the house ------------------------------------------------------------------------------------------------

    @rule()
    def checkpoint(self) -> None:
        self.connections[0].checkpoint()

    @rule()
    def reopen(self) -> None:
        for connection in self.connections:
            connection.close()
        self.open.clear()
        self.connect()

    @invariant()
    def everybody_sees_the_newest(self) -> None:
        if hasattr(self, "connections"):
            with khonsu_sql.connect(self.folder / "db", limits=TINY, autocommit=True) as fresh:
                assert dict(fresh.execute("SELECT * FROM t").fetchall()) == self.history[-1]


Model.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestModel = Model.TestCase
