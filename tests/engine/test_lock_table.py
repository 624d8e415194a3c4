"""The lock table, rule by rule. What holds in any order of calls: test_lock_table_machine.py."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.mvcc.lock_ranges import covers, overlaps
from khonsu_engine.mvcc.lock_table import LockMode, LockOwner, LockTable, LockTicket, TicketState
from khonsu_engine.mvcc.validation import in_range
from khonsu_engine.schema.types import NAN

SHARED, EXCLUSIVE = LockMode.SHARED, LockMode.EXCLUSIVE
WAITING, GRANTED, SKIPPED, DEADLOCK, CANCELLED = TicketState
T = 7


class Bench:
    """A lock table and owners a, b, c, …, z: the later the letter, the younger."""

    def __init__(self) -> None:
        self.table = LockTable()
        self.owners = {letter: LockOwner(order, letter) for order, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}

    def ask(self, who: str, target: Any, mode: LockMode = EXCLUSIVE, *, hard: bool = True, table: int = T) -> LockTicket | None:
        return self.table.acquire(self.owners[who], table, target, mode, hard=hard)

    def wait(self, who: str, target: Any, mode: LockMode = EXCLUSIVE, *, hard: bool = True, table: int = T) -> LockTicket:
        ticket = self.ask(who, target, mode, hard=hard, table=table)
        assert ticket is not None
        return ticket

    def tries(self, who: str, target: Any, mode: LockMode = EXCLUSIVE, *, hard: bool = True) -> bool:
        return self.table.try_acquire(self.owners[who], T, target, mode, hard=hard)

    def release(self, who: str) -> list[LockTicket]:
        return self.table.release(self.owners[who])

    def held(self) -> list[tuple[Any, Any, LockMode, bool]]:
        return [(row.owner, row.target, row.mode, row.hard) for row in self.table.locks() if row.granted]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def names(owners: Any) -> list[Any]:
    return [owner.name for owner in owners]


# -- conflicts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize(("first", "second"), list(product([SHARED, EXCLUSIVE], repeat=2)))
def test_only_sharers_share(bench: Bench, first: LockMode, second: LockMode, hard: bool) -> None:
    assert bench.ask("a", 1, first, hard=hard) is None
    ticket = bench.ask("b", 1, second, hard=not hard)
    if EXCLUSIVE not in (first, second):
        assert ticket is None
        return
    assert ticket is not None and ticket.state is WAITING and ticket.table == T
    assert names(ticket.blockers()) == ["a"]
    assert bench.release("a") == [ticket]
    assert ticket.state is GRANTED and ticket.blockers() == []


def test_other_keys_and_other_tables_are_free(bench: Bench) -> None:
    assert bench.ask("a", 1) is None
    assert bench.ask("b", 2) is None
    assert bench.ask("b", 1, table=T + 1) is None


@pytest.mark.parametrize(
    ("target", "free"),
    [(KeyRange((1,), (1,)), (2, 0)), (KeyRange((1,), None), (0, 9)), (KeyRange((1, 5), (1, 7), True, False), (1, 7))],
)
def test_a_range_keeps_every_key_in_it(bench: Bench, target: KeyRange, free: Any) -> None:
    assert bench.ask("a", target) is None
    ticket = bench.wait("b", (1, 5))
    assert bench.ask("c", free) is None
    assert bench.release("a") == [ticket]
    waiting = bench.wait("d", target)
    assert names(waiting.blockers()) == ["b"]
    assert bench.release("b") == [waiting]


def test_every_key_overlaps_all_there_is(bench: Bench) -> None:
    bench.ask("a", (1, 2))
    bench.ask("b", KeyRange((5,), (5,)))
    assert names(bench.wait("c", EVERY_KEY).blockers()) == ["a", "b"]


def test_what_cannot_be_compared_is_inside(bench: Bench) -> None:
    bench.ask("a", KeyRange(1, 5))
    assert not bench.tries("b", "text")
    assert not bench.tries("b", NAN)
    assert not bench.tries("b", KeyRange("a", "b"))
    assert not bench.tries("b", KeyRange((7,), (7,)))
    assert bench.tries("b", 6)


BOUNDS = st.one_of(st.none(), st.integers(0, 3).map(lambda n: (n,)), st.tuples(st.integers(0, 3), st.integers(0, 3)))
RANGES = st.builds(KeyRange, BOUNDS, BOUNDS, st.booleans(), st.booleans())
GRID = list(product([n / 4 for n in range(-2, 15)], repeat=2))


@given(RANGES, RANGES)
def test_overlap_is_never_missed_and_rarely_invented(left: KeyRange, right: KeyRange) -> None:
    mine, theirs = ({key for key in GRID if in_range(key, each)} for each in (left, right))
    assert mine == {key for key in GRID if covers(left, key)}
    assert overlaps(left, right) == overlaps(right, left)
    if mine and theirs:
        assert overlaps(left, right) == bool(mine & theirs)


# -- one's own ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1, KeyRange(1, 5), EVERY_KEY])
def test_what_is_held_is_free_and_only_grows(bench: Bench, target: Any) -> None:
    for mode, hard, expected in [
        (SHARED, False, (SHARED, False)),
        (SHARED, False, (SHARED, False)),
        (SHARED, True, (SHARED, True)),
        (EXCLUSIVE, False, (EXCLUSIVE, True)),
        (SHARED, False, (EXCLUSIVE, True)),
    ]:
        assert bench.ask("a", target, mode, hard=hard) is None
        assert bench.held() == [("a", target, *expected)]
        assert bench.table.has_hard == bench.table.has_hard_in(T) == expected[1]
    bench.release("a")
    assert not bench.table.has_hard and bench.table.locks() == []


def test_soft_becomes_hard_at_once_whoever_waits(bench: Bench) -> None:
    bench.ask("a", 1, hard=False)
    ticket = bench.wait("b", 1)
    assert bench.ask("a", 1) is None
    assert bench.held() == [("a", 1, EXCLUSIVE, True)] and ticket.state is WAITING


def test_an_upgrade_waits_for_sharers_and_before_others(bench: Bench) -> None:
    bench.ask("a", 1, SHARED)
    bench.ask("b", 1, SHARED)
    writer = bench.wait("c", 1)
    reader = bench.wait("d", 1, SHARED)
    upgrade = bench.wait("a", 1)
    assert names(upgrade.blockers()) == ["b"]
    assert names(writer.blockers()) == ["a", "b"] and names(reader.blockers()) == ["a", "c"]
    assert bench.release("b") == [upgrade]
    assert bench.held() == [("a", 1, EXCLUSIVE, True)]
    assert bench.release("a") == [writer]
    assert bench.release("c") == [reader]


def test_the_only_sharer_upgrades_over_all_waiters(bench: Bench) -> None:
    bench.ask("a", 1, SHARED)
    tickets = [bench.wait("b", 1), bench.wait("c", 1, SHARED)]
    assert bench.tries("a", 1)
    assert [ticket.state for ticket in tickets] == [WAITING, WAITING]


def test_a_writer_passes_the_range_that_waits_for_it(bench: Bench) -> None:
    bench.ask("a", 1)
    bench.ask("b", 9)
    truncate = bench.wait("c", EVERY_KEY)
    assert bench.ask("a", 2) is None
    behind = bench.wait("a", 9)  # before the range, too
    assert names(behind.blockers()) == ["b"] and names(truncate.blockers()) == ["a", "b"]
    assert not bench.tries("d", 3)
    assert bench.release("b") == [behind]
    assert bench.release("a") == [truncate]


# -- fairness -------------------------------------------------------------------------------------------------------------


def test_readers_do_not_starve_a_writer(bench: Bench) -> None:
    bench.ask("a", 1, SHARED)
    writer = bench.wait("b", 1)
    readers = [bench.wait("c", 1, SHARED), bench.wait("d", 1, SHARED)]
    assert names(readers[1].blockers()) == ["b"]
    last = bench.wait("e", 1)
    assert not bench.tries("f", 1, SHARED)
    assert bench.release("a") == [writer]
    assert bench.release("b") == readers
    assert bench.release("c") == []
    assert bench.release("d") == [last]


def test_points_do_not_starve_a_range(bench: Bench) -> None:
    bench.ask("a", 1)
    waiting = bench.wait("b", KeyRange(0, 5))
    assert bench.ask("c", 6) is None
    behind = bench.wait("d", 2)
    assert names(behind.blockers()) == ["b"]
    assert bench.release("a") == [waiting]
    assert bench.release("b") == [behind]


def test_a_sharer_goes_though_the_one_before_it_waits_for_its_own_lock(bench: Bench) -> None:
    bench.ask("b", 1)
    bench.ask("c", 2)
    first, second = bench.wait("a", KeyRange(1, 2), SHARED), bench.wait("b", KeyRange(1, 2), SHARED)
    assert bench.release("c") == [second]
    assert names(first.blockers()) == ["b"] and bench.release("b") == [first]


def test_trying_changes_nothing(bench: Bench) -> None:
    bench.ask("a", 1)
    before = bench.table.locks()
    assert not bench.tries("b", 1) and not bench.tries("b", EVERY_KEY, SHARED)
    assert bench.table.locks() == before and bench.release("b") == []
    assert bench.tries("b", 2) and bench.tries("b", 2)


def test_who_gives_up_lets_others_by(bench: Bench) -> None:
    bench.ask("a", 1, SHARED)
    writer, reader = bench.wait("b", 1), bench.wait("c", 1, SHARED)
    assert bench.table.cancel(writer) == [reader]
    assert writer.state is CANCELLED and reader.state is GRANTED
    assert bench.table.cancel(writer) == [] and bench.table.cancel(reader) == []
    assert bench.held() == [("a", 1, SHARED, True), ("c", 1, SHARED, True)]


def test_release_takes_the_wait_along_and_leaves_nothing(bench: Bench) -> None:
    bench.ask("a", 1)
    bench.ask("b", KeyRange(5, 6))
    ticket, behind = bench.wait("b", 1), bench.wait("c", 5)
    assert bench.release("b") == [behind] and ticket.state is CANCELLED
    assert bench.release("b") == []
    bench.release("a")
    bench.release("c")
    assert bench.table.locks() == [] and bench.table.locks() == []


def test_one_wait_at_a_time(bench: Bench) -> None:
    bench.ask("a", 1)
    bench.wait("b", 1)
    with pytest.raises(AssertionError):
        bench.ask("b", 1)


# -- overruling -----------------------------------------------------------------------------------------------------------


def test_soft_locks_yield_to_a_hard_request(bench: Bench) -> None:
    bench.ask("a", 1, hard=False)
    soft, hard = bench.wait("b", 1, hard=False), bench.wait("c", 1)
    assert bench.table.overrule(hard) == [hard]
    assert bench.held() == [("c", 1, EXCLUSIVE, True)]
    assert names(soft.blockers()) == ["c"]
    assert bench.release("a") == [] and bench.release("c") == [soft]


def test_hard_ones_stay_in_the_way(bench: Bench) -> None:
    bench.ask("a", 1, SHARED)
    bench.ask("b", 1, SHARED, hard=False)
    first, soft, last = bench.wait("c", 1), bench.wait("d", 1, hard=False), bench.wait("e", 1)
    assert bench.table.overrule(last) == []
    assert names(last.blockers()) == ["a", "c"] and names(soft.blockers()) == ["a", "c", "e"]
    assert bench.held() == [("a", 1, SHARED, True)]
    assert bench.release("a") == [first] and bench.release("c") == [last] and bench.release("e") == [soft]


def test_overruling_a_range_frees_its_other_keys(bench: Bench) -> None:
    bench.ask("a", KeyRange(1, 5), hard=False)
    first, other = bench.wait("b", 1, hard=False), bench.wait("c", 5)
    assert bench.table.overrule(other) == [first, other]
    assert bench.table.overrule(other) == []


@pytest.mark.parametrize("target", [1, KeyRange(1, 5)])
def test_a_lost_lock_leaves_nothing(bench: Bench, target: Any) -> None:
    bench.ask("a", target, hard=False)
    bench.table.cancel(bench.wait("b", target))
    ranged = bench.wait("c", EVERY_KEY)
    assert bench.table.overrule(ranged) == [ranged] and bench.release("c") == []
    assert bench.table.locks() == [] and bench.release("a") == []


def test_only_hard_requests_overrule(bench: Bench) -> None:
    bench.ask("a", 1, hard=False)
    ticket = bench.wait("b", 1, hard=False)
    with pytest.raises(AssertionError):
        bench.table.overrule(ticket)


def test_the_end_of_soft_locks_wakes_a_range_that_waits(bench: Bench) -> None:
    """Nobody else was ever there, but for the range."""
    bench.ask("a", 5, hard=False)
    waiting = bench.wait("b", KeyRange(1, 9))
    assert bench.release("a") == [waiting]
    assert waiting.state is GRANTED


def test_a_soft_lock_that_passed_an_overruling_range_wakes_it(bench: Bench) -> None:
    """c waits for a, so a passes b, which waits for c; then c gives up, and only a's soft lock is left in b's way: nobody overrules twice."""
    bench.ask("c", KeyRange(1, 3))
    bench.ask("a", 1, table=T + 1)
    held = bench.wait("c", 1, table=T + 1)
    waiting = bench.wait("b", KeyRange(1, 9))
    assert bench.table.overrule(waiting) == []
    assert bench.ask("a", 7, hard=False) is None
    bench.table.cancel(held)
    assert bench.release("c") == []
    assert bench.release("a") == [waiting]
