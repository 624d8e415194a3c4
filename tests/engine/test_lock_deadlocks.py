"""Deadlocks in the lock table, what commits ask of it, its view, and that big ones work."""

from __future__ import annotations

import pytest

from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.mvcc.lock_table import IDLE_TABLES_MAX, LockInfo, LockMode, LockOwner, LockTable, TicketState
from tests.engine.test_lock_table import DEADLOCK, EXCLUSIVE, GRANTED, SHARED, SKIPPED, WAITING, Bench, T, names


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(("first", "second"), ["ab", "ba"])
def test_of_two_that_cross_the_younger_loses(bench: Bench, first: str, second: str) -> None:
    bench.ask(first, 1)
    bench.ask(second, 2)
    earlier = bench.wait(first, 2)
    later = bench.wait(second, 1)
    victim, other = (earlier, later) if first == "b" else (later, earlier)
    assert victim.state is DEADLOCK and victim.owner.name == "b" and other.state is WAITING
    assert sorted(names(victim.cycle)) == ["a", "b"]
    assert bench.table.take_woken() == ([earlier] if victim is earlier else [])
    assert bench.release("b") == [other]


@pytest.mark.parametrize("soft", "abc")
def test_a_soft_request_is_let_go_and_nobody_dies(bench: Bench, soft: str) -> None:
    for number, who in enumerate("abc"):
        bench.ask(who, number)
    tickets = {who: bench.wait(who, (number + 1) % 3, hard=who != soft) for number, who in enumerate("abc")}
    assert {who: ticket.state for who, ticket in tickets.items()} == {who: SKIPPED if who == soft else WAITING for who in "abc"}
    assert names(tickets[soft].cycle) == ["c", "a", "b"]
    bench.table.take_woken()
    bench.release(soft)
    assert sum(ticket.state is GRANTED for ticket in tickets.values()) == 1


def test_two_upgrades_of_one_key(bench: Bench) -> None:
    bench.ask("a", 1, SHARED)
    bench.ask("b", 1, SHARED)
    upgrade = bench.wait("b", 1)
    other = bench.wait("a", 1)
    assert upgrade.state is DEADLOCK and bench.table.take_woken() == [upgrade]
    assert bench.release("b") == [other]


def test_several_cycles_at_once(bench: Bench) -> None:
    for who, key in [("a", 1), ("b", 2), ("c", 3)]:
        bench.ask(who, key, SHARED)
    bench.ask("b", 9, SHARED)
    bench.ask("c", 9, SHARED)
    losers = [bench.wait("b", 1), bench.wait("c", 1)]
    ticket = bench.wait("a", 9)
    assert ticket.state is WAITING and sorted(names(other.owner for other in bench.table.take_woken())) == ["b", "c"]
    assert [loser.state for loser in losers] == [DEADLOCK, DEADLOCK]


def test_a_cycle_through_the_queue(bench: Bench) -> None:
    """c waits behind b only because b came first; b waits for a, and a comes to wait for c."""
    bench.ask("c", 9)
    bench.ask("a", 1, SHARED)
    writer = bench.wait("b", 1)
    reader = bench.wait("c", 1, SHARED)
    ticket = bench.wait("a", 9)
    assert reader.state is DEADLOCK and names(reader.cycle) == ["a", "c", "b"]
    assert ticket.state is writer.state is WAITING and bench.table.take_woken() == [reader]
    assert bench.release("c") == [ticket]


def test_overruling_may_close_a_cycle(bench: Bench) -> None:
    """The soft waiter that is overtaken holds what the overruling request wants."""
    bench.ask("a", 1, SHARED)
    bench.ask("z", 1, SHARED)
    soft = bench.wait("a", 1, hard=False)
    hard = bench.wait("b", 1)
    assert soft.state is hard.state is WAITING
    assert bench.table.overrule(hard) == [soft]
    assert soft.state is SKIPPED and hard.state is WAITING
    bench.release("z")
    assert bench.release("a") == [hard]


def test_across_tables_and_ranges(bench: Bench) -> None:
    bench.ask("a", KeyRange((1,), (1,)), table=1)
    bench.ask("b", EVERY_KEY, table=2)
    first = bench.wait("a", (5, 5), table=2)
    second = bench.wait("b", (1, 7), SHARED, table=1)
    assert second.state is DEADLOCK and first.state is WAITING


# -- commits ask ----------------------------------------------------------------------------------------------------------


def test_hard_conflicts(bench: Bench) -> None:
    a, b = bench.owners["a"], bench.owners["b"]
    bench.ask("a", 1, hard=False)
    assert not bench.table.has_hard and bench.table.hard_conflict(b, T, [1]) is None
    bench.ask("a", 5, SHARED)
    bench.ask("a", KeyRange(7, 9))
    table = bench.table
    assert table.has_hard and table.has_hard_in(T) and not table.has_hard_in(T + 1)
    assert table.hard_conflict(b, T, [1, 2, 8, 5]) == 8 and table.hard_conflict(b, T, [1, 5, 8]) == 5
    assert table.hard_conflict(a, T, [5, 8]) is None and table.hard_conflict(b, T + 1, [5]) is None
    assert table.hard_conflict_in(b, T, KeyRange(0, 4)) is None and table.hard_conflict_in(b, T, KeyRange(0, 5)) == 5
    assert table.hard_conflict_in(b, T, KeyRange(9, None)) == KeyRange(7, 9) and table.hard_conflict_in(a, T, EVERY_KEY) is None
    bench.ask("b", 5, SHARED)
    assert table.hard_conflict(a, T, [5]) == 5
    bench.release("a")
    assert table.hard_conflict(b, T, [5, 8]) is None and table.has_hard
    bench.release("b")
    assert not table.has_hard


def test_the_view(bench: Bench) -> None:
    bench.ask("a", 1, SHARED)
    bench.wait("b", 1, hard=False)
    bench.wait("c", EVERY_KEY)
    assert bench.table.locks() == [
        LockInfo(T, 1, SHARED, True, "a", True, ()),
        LockInfo(T, 1, EXCLUSIVE, False, "b", False, ("a",)),
        LockInfo(T, EVERY_KEY, EXCLUSIVE, True, "c", False, ("a", "b")),
    ]


# -- size -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1, EVERY_KEY])
@pytest.mark.parametrize("mode", [SHARED, EXCLUSIVE])
def test_a_thousand_waiters_that_are_waited_for(target: object, mode: LockMode) -> None:
    """No depth of recursion, no n² of edges: every one of them holds something somebody waits for."""
    table = LockTable()
    owners = [LockOwner(n, n) for n in range(1_000)]
    for owner in owners:
        table.acquire(owner, 2, owner.name, EXCLUSIVE, hard=True)
        table.acquire(LockOwner(owner.order + 5_000, "bystander"), 2, owner.name, EXCLUSIVE, hard=False)
    tickets = [table.acquire(owner, 1, target, mode if owner.order else EXCLUSIVE, hard=True) for owner in owners]
    assert tickets[0] is None
    woken = [ticket for owner in owners for ticket in table.release(owner) if ticket.table == 1]
    assert woken == tickets[1:]


def test_a_chain_of_a_thousand_closes() -> None:
    table = LockTable()
    owners = [LockOwner(n, n) for n in range(1_500)]
    for owner in owners:
        table.acquire(owner, 1, owner.name, EXCLUSIVE, hard=True)
    tickets = [table.acquire(owner, 1, (owner.order + 1) % 1_500, EXCLUSIVE, hard=True) for owner in owners]
    assert tickets[-1] is not None and tickets[-1].state is TicketState.DEADLOCK and len(tickets[-1].cycle) == 1_500
    assert table.release(owners[-1]) == [tickets[-2]]


def test_tables_nobody_uses_are_few() -> None:
    table, held = LockTable(), LockOwner(0, "held")
    assert table.acquire(held, 5_000, 1, LockMode.EXCLUSIVE, hard=False) is None
    for number in range(2_000):
        owner = LockOwner(number, number)
        assert table.acquire(owner, number, 1, LockMode.EXCLUSIVE, hard=number % 2 == 0) is None
        table.release(owner)
    assert len(table.tables) <= IDLE_TABLES_MAX and [info.table for info in table.locks()] == [5_000]


def test_many_locks_of_one_owner_and_of_many() -> None:
    table, owner = LockTable(), LockOwner(0, 0)
    for n in range(100_000):
        table.acquire(owner, 1, (n, n), EXCLUSIVE, hard=n % 2 == 0)
    for n in range(10_000):
        table.acquire(owner, 1, KeyRange((n,), (n,)), SHARED, hard=True)
    others = [LockOwner(n, n) for n in range(10_000)]
    for other in others:
        assert table.acquire(other, 2, other.name, EXCLUSIVE, hard=True) is None
        assert table.acquire(other, 2, -1, SHARED, hard=False) is None
    for gone in [owner, *others]:
        assert table.has_hard
        table.release(gone)
    assert not table.has_hard and table.locks() == []
