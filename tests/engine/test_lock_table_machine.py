"""The lock table against a model that keeps lists and works everything out anew: any order of calls, few owners, few targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.mvcc.lock_table import LockMode, LockOwner, LockTable, LockTicket, TicketState
from khonsu_engine.mvcc.validation import in_range

GRID = list(product([n / 4 for n in range(-2, 12)], repeat=2))
POINTS: list[Any] = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]
RANGES = [
    KeyRange((0,), (0,)),
    KeyRange((1,), (1,)),
    KeyRange((1,), (1, 1), True, False),
    KeyRange((0, 1), (1, 0)),
    KeyRange((0,), (2,), False, False),
    KeyRange((1, 1), None),
    EVERY_KEY,
]
KEYS: dict[Any, set[Any]] = {point: {point} for point in POINTS} | {r: {key for key in GRID if in_range(key, r)} for r in RANGES}
SHARED, EXCLUSIVE = LockMode.SHARED, LockMode.EXCLUSIVE
POINT_TABLE, MIXED_TABLE = 1, 2  # in the first one only points are locked


class Ask(NamedTuple):
    """A lock or a request."""

    owner: LockOwner
    table: int
    target: Any
    mode: LockMode
    hard: bool

    def conflicts(self, other: Ask | LockTicket) -> bool:
        return (
            self.owner is not other.owner
            and self.table == other.table
            and EXCLUSIVE in (self.mode, other.mode)
            and bool(KEYS[self.target] & KEYS[other.target])
        )


def ask_of(ticket: LockTicket) -> Ask:
    return Ask(ticket.owner, ticket.table, ticket.target, ticket.mode, ticket.hard)


class Model:
    def __init__(self) -> None:
        self.held: list[Ask] = []
        self.queue: list[LockTicket] = []

    def waiting(self, owner: LockOwner) -> LockTicket | None:
        return next((ticket for ticket in self.queue if ticket.owner is owner), None)

    def blockers(self, ask: Ask, ahead: list[LockTicket]) -> set[LockOwner]:
        return {other.owner for other in [*self.held, *ahead] if ask.conflicts(other)}

    def blockers_of(self, ticket: LockTicket) -> set[LockOwner]:
        return self.blockers(ask_of(ticket), self.queue[: self.queue.index(ticket)])

    def waits_for(self, owner: LockOwner) -> set[LockOwner]:
        """Whom `owner` waits for, directly or not."""
        found: set[LockOwner] = set()
        todo = [owner]
        while todo:
            ticket = self.waiting(todo.pop())
            new = self.blockers_of(ticket) - found if ticket else set()
            found |= new
            todo += new
        return found

    def dependents(self, ask: Ask) -> list[LockTicket]:
        return [ticket for ticket in self.queue if ticket.table == ask.table and ask.owner in self.waits_for(ticket.owner)]

    def strength(self, ask: Ask) -> tuple[bool, int]:
        mine = [lock for lock in self.held if lock.owner is ask.owner and lock.table == ask.table]
        return max(((lock.hard, lock.mode) for lock in mine if lock.target in (ask.target, EVERY_KEY)), default=(False, 0))

    def admits(self, ask: Ask) -> bool:
        """Grants it, or says no."""
        hard, mode = self.strength(ask)
        if mode >= ask.mode:
            if ask.hard and not hard:
                self.grant(ask)
            return True
        passed = self.dependents(ask)
        if self.blockers(ask, [ticket for ticket in self.queue if ticket not in passed]):
            return False
        self.grant(ask)
        return True

    def grant(self, ask: Ask) -> None:
        same = [lock for lock in self.held if lock[:3] == ask[:3]]
        self.held = [lock for lock in self.held if lock not in same]
        together = [*same, ask]
        self.held.append(ask._replace(mode=max(one.mode for one in together), hard=any(one.hard for one in together)))

    def to_the_end(self, tickets: list[LockTicket]) -> None:
        self.queue = [ticket for ticket in self.queue if ticket not in tickets] + tickets

    def let_go(self, victim: LockTicket) -> None:
        """Check that its going was right, then do it."""
        cycle = [self.waiting(owner) for owner in victim.cycle]
        assert victim in cycle
        for number, ticket in enumerate(cycle):
            assert ticket is not None
            assert victim.cycle[(number + 1) % len(cycle)] in self.blockers_of(ticket)
        soft = [ticket for ticket in cycle if ticket and not ticket.hard]
        assert victim.state is (TicketState.SKIPPED if soft else TicketState.DEADLOCK)
        assert victim.owner.order == max(ticket.owner.order for ticket in soft or cycle if ticket)
        self.queue.remove(victim)

    def settle(self) -> list[LockTicket]:
        """Grant whoever waits for nobody."""
        granted = []
        for ticket in list(self.queue):
            if not self.blockers_of(ticket):
                self.queue.remove(ticket)
                self.grant(ask_of(ticket))
                granted.append(ticket)
        return granted


Choose = Callable[[Sequence[Any]], Any]


class Bench:
    """One step after another, on the table and on the model."""

    def __init__(self) -> None:
        self.locks = LockTable()
        self.model = Model()
        self.owners = [LockOwner(order, f"t{order}") for order in (3, 1, 6, 2, 5, 4)]

    def step(self, choose: Choose) -> None:
        running = [owner for owner in self.owners if not self.model.waiting(owner)]
        patient = [ticket for ticket in self.model.queue if ticket.hard]
        steps: list[Callable[[], None]] = [lambda: self.release(choose(self.owners)), lambda: self.hard_conflicts(choose)]
        if running:
            steps += [lambda: self.acquire(self.ask(choose, running))] * 8 + [lambda: self.try_acquire(self.ask(choose, running))]
        if self.model.queue:
            steps += [lambda: self.cancel(choose(self.model.queue))]
        if patient:
            steps += [lambda: self.overrule(choose(patient))] * 2
        choose(steps)()
        self.check()

    def ask(self, choose: Choose, running: list[LockOwner]) -> Ask:
        table = choose([POINT_TABLE, MIXED_TABLE])
        target = choose(POINTS if table == POINT_TABLE else POINTS + RANGES)
        return Ask(choose(running), table, target, choose([SHARED, EXCLUSIVE]), choose([True, True, False]))

    def decided(self, tickets: list[LockTicket]) -> None:
        """`tickets` were decided: by the rules, these and no others."""
        for ticket in tickets:
            if ticket.state is not TicketState.GRANTED:
                self.model.let_go(ticket)
        assert set(self.model.settle()) == {ticket for ticket in tickets if ticket.state is TicketState.GRANTED}

    def acquire(self, ask: Ask) -> None:
        ticket = self.locks.acquire(ask.owner, ask.table, ask.target, ask.mode, hard=ask.hard)
        woken = self.locks.take_woken()
        assert ticket not in woken
        if self.model.admits(ask):
            assert ticket is None and not woken
            return
        assert ticket is not None and ask_of(ticket) == ask
        overtaken = self.model.dependents(ask)
        self.model.queue.append(ticket)
        self.model.to_the_end(overtaken)
        assert all(ask.owner in loser.cycle for loser in woken if loser.cycle)
        self.decided([*woken, *([] if ticket.state is TicketState.WAITING else [ticket])])

    def try_acquire(self, ask: Ask) -> None:
        assert self.locks.try_acquire(ask.owner, ask.table, ask.target, ask.mode, hard=ask.hard) == self.model.admits(ask)

    def release(self, gone: LockOwner) -> None:
        ticket = self.model.waiting(gone)
        self.model.queue = [waiter for waiter in self.model.queue if waiter.owner is not gone]
        self.model.held = [lock for lock in self.model.held if lock.owner is not gone]
        self.decided(self.locks.release(gone))
        assert ticket is None or ticket.state is TicketState.CANCELLED
        assert not self.locks.release(gone)

    def cancel(self, ticket: LockTicket) -> None:
        self.model.queue.remove(ticket)
        self.decided(self.locks.cancel(ticket))
        assert ticket.state is TicketState.CANCELLED and not self.locks.cancel(ticket)

    def overrule(self, ticket: LockTicket) -> None:
        ask = ask_of(ticket)
        ahead = self.model.queue[: self.model.queue.index(ticket)]
        self.model.held = [lock for lock in self.model.held if lock.hard or not ask.conflicts(lock)]
        self.model.to_the_end([before for before in ahead if not before.hard and ask.conflicts(before)])
        self.decided(self.locks.overrule(ticket))

    def hard_conflicts(self, choose: Choose) -> None:
        owner, table, key_range = choose(self.owners), choose([POINT_TABLE, MIXED_TABLE]), choose(RANGES)
        keys = [choose(POINTS), choose(POINTS)]
        hard = [lock for lock in self.model.held if lock.hard and lock.table == table and lock.owner is not owner]
        expected = next((key for key in keys if any(key in KEYS[lock.target] for lock in hard)), None)
        assert self.locks.hard_conflict(owner, table, keys) == expected
        overlapping = [lock.target for lock in hard if KEYS[lock.target] & KEYS[key_range]]
        found = self.locks.hard_conflict_in(owner, table, key_range)
        assert found in overlapping if overlapping else found is None

    def check(self) -> None:
        """The view agrees; nobody conflicts, waits in vain or in a circle; what is said to be hard is."""
        rows = self.locks.locks()
        granted = [(row.owner, row.table, row.target, row.mode, row.hard) for row in rows if row.granted]
        assert len(granted) == len(set(granted))
        assert set(granted) == {(lock.owner.name, *lock[1:]) for lock in self.model.held}
        waiting = [(row.owner, row.table, row.target, row.mode, row.hard) for row in rows if not row.granted]
        assert sorted(map(repr, waiting)) == sorted(repr((ticket.owner.name, *ask_of(ticket)[1:])) for ticket in self.model.queue)
        assert self.locks.has_hard == any(lock.hard for lock in self.model.held)
        for table in (POINT_TABLE, MIXED_TABLE):
            assert self.locks.has_hard_in(table) == any(lock.hard and lock.table == table for lock in self.model.held)
        for number, lock in enumerate(self.model.held):
            assert not any(lock.conflicts(other) for other in self.model.held[:number])
        for ticket in self.model.queue:
            assert ticket.state is TicketState.WAITING and ticket.owner.ticket is ticket
            assert set(ticket.blockers()) == self.model.blockers_of(ticket) != set()
            assert ticket.owner not in self.model.waits_for(ticket.owner)

    def end(self) -> None:
        for owner in self.owners:
            self.release(owner)
            assert not owner.held and owner.ticket is None and not owner.awaited
        assert self.locks.locks() == [] and not self.locks.has_hard and self.locks.locks() == []


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        self.bench.step(lambda options: data.draw(st.sampled_from(options)))

    def teardown(self) -> None:
        self.bench.end()


TestLockTableMachine = Machine.TestCase
TestLockTableMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seed", range(40))
def test_long_stories(seed: int) -> None:
    """Hypothesis finds small stories; these come to where queues are long and circles wide."""
    bench, choose = Bench(), Random(seed).choice
    for _ in range(250):
        bench.step(choose)
    bench.end()
