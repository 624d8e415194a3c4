"""Every interleaving of small programs, at every level and mode, against the rules of `harness`; and how many aborts were not needed.

A family is a kind of programs. The default ring plays all schedules of chosen (or drawn, with a fixed seed) pairs and some of triples;
`deep` plays many more. `CEILINGS` says how many aborts at SERIALIZABLE were false: the numbers may only shrink. The last part breaks
the product, and makes up histories, to show that the checker notices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement, islice, product
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from khonsu_engine.mvcc import validation
from khonsu_engine.transaction import LocalTransaction
from khonsu_sql.core import SessionCore
from khonsu_sql.errors import SerializationFailure, UniqueViolation
from khonsu_sql.requests import Answered, End, Execute
from tests.interleavings.harness import (
    BY_DEFAULT,
    CONFIGURATIONS,
    INITIAL,
    OPTIMISTIC,
    PESSIMISTIC,
    READ_COMMITTED,
    REFUSED,
    REPEATABLE_READ,
    SERIALIZABLE,
    Changes,
    Configuration,
    Effect,
    History,
    Program,
    Row,
    Run,
    Stage,
    State,
    Step,
    Tag,
    Taken,
    Undetected,
    Violation,
    a_schedule,
    applied,
    every_schedule,
    false_aborts,
    in_order,
    is_refused,
    name_of,
    orders,
    play,
    refusal,
    report_header,
    wrong,
)

SEED = 20_150_531

# --- what statements mean

K, N, M, U = range(4)

Where = Callable[[Row], bool]
Made = Callable[[Tag], Row]


def rows(state: State, table: str, where: Where) -> list[Row]:
    return [row for (name, _), row in state.items() if name == table and where(row)]


def selected(where: Where, *columns: int) -> Effect:
    return lambda state, tag: (sorted(tuple(row[column] for column in columns) for row in rows(state, "t", where)), {})


def counted(where: Where) -> Effect:
    return lambda state, tag: ([(len(rows(state, "t", where)),)], {})


def summed(state: State, tag: Tag) -> tuple[Any, Changes]:
    values = [row[N] for row in rows(state, "t", every)]
    return [(sum(values) if values else None,)], {}


def updated(where: Where, column: int, value: Callable[[Row, Tag], Any], condition: Callable[[State], bool] = bool) -> Effect:
    def effect(state: State, tag: Tag) -> tuple[Any, Changes]:
        found = rows(state, "t", where) if condition(state) else []
        return len(found), {("t", row[K]): (*row[:column], value(row, tag), *row[column + 1 :]) for row in found}

    return effect


def deleted(where: Where) -> Effect:
    def effect(state: State, tag: Tag) -> tuple[Any, Changes]:
        found = rows(state, "t", where)
        return len(found), {("t", row[K]): None for row in found}

    return effect


def inserted(table: str, made: Callable[[State, Tag], Row]) -> Effect:
    def effect(state: State, tag: Tag) -> tuple[Any, Changes]:
        row = made(state, tag)
        if (table, row[K]) in state:
            raise Violation(table)
        return 1, {(table, row[K]): row}

    return effect


def upserted(made: Made, conflict: Callable[[Row], Row | None]) -> Effect:
    """INSERT … ON CONFLICT (k): `conflict` makes the new row of the old one, or None: nothing."""

    def effect(state: State, tag: Tag) -> tuple[Any, Changes]:
        row = made(tag)
        old = state.get(("t", row[K]))
        new = row if old is None else conflict(old)
        return (0, {}) if new is None else (1, {("t", row[K]): new})

    return effect


def every(row: Row) -> bool:
    return True


def high(row: Row) -> bool:
    return bool(row[N] > 15)


def key(k: int) -> Where:
    return lambda row: bool(row[K] == k)


def in_range(row: Row) -> bool:
    return 2 <= row[K] <= 4


def up(row: Row, tag: Tag) -> int:
    return int(row[N]) + 1


def inside(tag: Tag) -> int:
    """A value of its own above 15."""
    return 50 + tag.value


def outside(tag: Tag) -> int:
    return tag.value


# --- the alphabet


def reading(name: str, sql: str, effect: Effect) -> Step:
    return Step(name, sql, effect, writes=False)


def insertion(name: str, made: Made, sql: str = "INSERT INTO t VALUES (?, ?, ?, ?)") -> Step:
    return Step(name, sql, inserted("t", lambda state, tag: made(tag)), made)


def own_key(tag: Tag) -> int:
    return 10 + 10 * tag.transaction + tag.position


def upsert(name: str, made: Made, conflict: Callable[[Row], Row | None], action: str) -> Step:
    return Step(name, f"INSERT INTO t VALUES (?, ?, ?, ?) ON CONFLICT (k) DO {action}", upserted(made, conflict), made)


READS = (
    reading("r1", "SELECT n FROM t WHERE k = 1", selected(key(1), N)),
    reading("r2", "SELECT n FROM t WHERE k = 2", selected(key(2), N)),
    reading("r3", "SELECT n FROM t WHERE k = 3", selected(key(3), N)),
    reading("count", "SELECT count(*) FROM t WHERE n > 15", counted(high)),
    reading("sum", "SELECT sum(n) FROM t", summed),
    reading("keys", "SELECT k FROM t WHERE n > 15", selected(high, K)),
    reading("range", "SELECT k, n FROM t WHERE k BETWEEN 2 AND 4", selected(in_range, K, N)),
    reading("u200", "SELECT k FROM t WHERE u = 200", selected(lambda row: row[U] == 200, K)),
)

WRITES = (
    Step("w1", "UPDATE t SET n = ? WHERE k = 1", updated(key(1), N, lambda row, tag: outside(tag)), lambda tag: (outside(tag),)),
    Step("w2", "UPDATE t SET n = ? WHERE k = 2", updated(key(2), N, lambda row, tag: inside(tag)), lambda tag: (inside(tag),)),
    Step("enter1", "UPDATE t SET n = ? WHERE k = 1", updated(key(1), N, lambda row, tag: inside(tag)), lambda tag: (inside(tag),)),
    Step("leave2", "UPDATE t SET n = ? WHERE k = 2", updated(key(2), N, lambda row, tag: outside(tag)), lambda tag: (outside(tag),)),
    Step("i1", "UPDATE t SET n = n + 1 WHERE k = 1", updated(key(1), N, up)),
    Step("i2", "UPDATE t SET n = n + 1 WHERE k = 2", updated(key(2), N, up)),
    Step("i3", "UPDATE t SET n = n + 1 WHERE k = 3", updated(key(3), N, up)),
    Step("m1", "UPDATE t SET m = ? WHERE k = 1", updated(key(1), M, lambda row, tag: inside(tag)), lambda tag: (inside(tag),)),
    Step("m2", "UPDATE t SET m = ? WHERE k = 2", updated(key(2), M, lambda row, tag: inside(tag)), lambda tag: (inside(tag),)),
    Step("d1", "DELETE FROM t WHERE k = 1", deleted(key(1))),
    Step("d2", "DELETE FROM t WHERE k = 2", deleted(key(2))),
    Step("d3", "DELETE FROM t WHERE k = 3", deleted(key(3))),
    insertion("new3", lambda tag: (3, inside(tag), 0, None)),
    insertion("in", lambda tag: (own_key(tag), inside(tag), 0, 300 + own_key(tag))),
    insertion("out", lambda tag: (own_key(tag), outside(tag), 0, 300 + own_key(tag))),
    insertion("new200", lambda tag: (own_key(tag), outside(tag), 0, 200)),
    Step("u1=200", "UPDATE t SET u = 200 WHERE k = 1", updated(key(1), U, lambda row, tag: 200)),
    Step("u2=200", "UPDATE t SET u = 200 WHERE k = 2", updated(key(2), U, lambda row, tag: 200)),
    Step("u1=null", "UPDATE t SET u = NULL WHERE k = 1", updated(key(1), U, lambda row, tag: None)),
    Step("new101", "INSERT INTO t VALUES (?, ?, ?, ?)", inserted("t", lambda state, tag: new101(tag)), lambda tag: new101(tag)),
    Step("i*", "UPDATE t SET n = n + 1", updated(every, N, up)),
    Step("i>", "UPDATE t SET n = n + 1 WHERE n > 15", updated(high, N, up)),
    Step("m>", "UPDATE t SET m = ? WHERE n > 15", updated(high, M, lambda row, tag: inside(tag)), lambda tag: (inside(tag),)),
    Step("d>", "DELETE FROM t WHERE n > 15", deleted(high)),
    Step(
        "draw1",
        "UPDATE t SET n = n - 20 WHERE k = 1 AND (SELECT sum(n) FROM t) >= 50",
        updated(key(1), N, lambda row, tag: row[N] - 20, lambda state: sum(row[N] for row in rows(state, "t", every)) >= 50),
    ),
    Step(
        "draw2",
        "UPDATE t SET n = n - 20 WHERE k = 2 AND (SELECT sum(n) FROM t) >= 50",
        updated(key(2), N, lambda row, tag: row[N] - 20, lambda state: sum(row[N] for row in rows(state, "t", every)) >= 50),
    ),
    Step(
        "tally",
        "INSERT INTO s SELECT ?, count(*) FROM t WHERE n > 15",
        inserted("s", lambda state, tag: (own_key(tag), len(rows(state, "t", high)))),
        lambda tag: (own_key(tag),),
    ),
    Step("note", "INSERT INTO s VALUES (?, 0)", inserted("s", lambda state, tag: (own_key(tag), 0)), lambda tag: (own_key(tag),)),
)


def new101(tag: Tag) -> Row:
    """A row with the unique value of row 1."""
    return (own_key(tag), outside(tag), 0, 101)


NOTHING = "INSERT INTO t VALUES (1, 1, 1, 1) ON CONFLICT (k) DO NOTHING"
UPSERTS_REFUSED = refusal(NOTHING.replace("INTO t", "INTO s").replace("1, 1, 1, 1", "1, 1"))
LOCKING_REFUSED = refusal("SELECT n FROM s WHERE k = 1 FOR UPDATE")

UPSERTS = (
    upsert("more1", lambda tag: (1, inside(tag), 0, None), lambda old: (old[K], old[N] + 1, *old[M:]), "UPDATE SET n = t.n + 1"),
    upsert("more3", lambda tag: (3, inside(tag), 0, None), lambda old: (old[K], old[N] + 1, *old[M:]), "UPDATE SET n = t.n + 1"),
    upsert("perhaps3", lambda tag: (3, inside(tag), 0, None), lambda old: None, "NOTHING"),
)
LOCKINGS = (
    reading("r1 for update", "SELECT n FROM t WHERE k = 1 FOR UPDATE", selected(key(1), N)),
    reading("r2 for update", "SELECT n FROM t WHERE k = 2 FOR UPDATE", selected(key(2), N)),
    reading("r1 for share", "SELECT n FROM t WHERE k = 1 FOR SHARE", selected(key(1), N)),
)

SAVEPOINTS_REFUSED = refusal("BEGIN", "SAVEPOINT p", "ROLLBACK TO p", "COMMIT")
SAVEPOINTS = (
    Step("save", "SAVEPOINT p", lambda state, tag: (-1, {}), writes=False),
    Step("back1", "ROLLBACK TO p", lambda state, tag: (-1, {}), writes=False, undoes=2),
)
"""`back1` comes one step after `save`: they are played in programs of their own only."""

STEPS = {
    step.name: step
    for step in (*READS, *WRITES, *(() if is_refused(UPSERTS_REFUSED) else UPSERTS), *(() if is_refused(LOCKING_REFUSED) else LOCKINGS))
}


def programs(text: str) -> tuple[Program, ...]:
    """`r1 w2 | r2 w1`: two programs of two steps."""
    steps = STEPS | {step.name: step for step in SAVEPOINTS}
    return tuple(tuple(steps[name] for name in part.split()) for part in text.split("|"))


# --- families

Group = tuple[Program, ...]
"""Programs that run side by side."""


def of_two(names: str) -> list[Program]:
    """All programs of two steps from an alphabet, that do write or read twice."""
    return [pair for pair in product(*[[STEPS[name] for name in names.split()]] * 2) if pair[0] != pair[1] or pair[0].writes]


def pairs(of: Sequence[Program], count: int, seed: str) -> list[Group]:
    """All unordered pairs of programs of which one writes, or as many of them as `count`."""
    found = [pair for pair in combinations_with_replacement(of, 2) if any(step.writes for program in pair for step in program)]
    return found if len(found) <= count else Random(f"{SEED} {seed}").sample(found, count)


def mirrored(group: Group) -> tuple[tuple[str, ...], ...]:
    """The same with rows 1 and 2 exchanged."""
    return tuple(sorted(tuple(step.name.translate({49: 50, 50: 49}) for step in program) for program in group))


def points(count: int) -> list[Group]:
    """Rows 1 and 2 by key; of two pairs that are each other's mirror image, one."""
    seen: set[tuple[tuple[str, ...], ...]] = set()
    found = []
    for group in pairs(of_two("r1 r2 w1 w2 i1 i2"), 1 << 30, "points"):
        if mirrored(group) not in seen:
            seen.add(tuple(sorted(tuple(step.name for step in program) for program in group)))
            found.append(group)
    return found if len(found) <= count else Random(f"{SEED} points").sample(found, count)


def predicates(count: int) -> list[Group]:
    """A read by predicate and a write, beside a write, and beside another such program."""
    writes = [(STEPS[name],) for name in "enter1 leave2 in out d1 d2 m2".split()]
    both = [(STEPS[read], *write) for read in "count sum keys range".split() for write in writes]
    beside = Random(f"{SEED} predicates").sample(list(product(both, writes)), min(count, len(both) * len(writes)))
    return beside + pairs(both, count // 3, "predicates")


def sets(count: int) -> list[Group]:
    """Statements over many rows, alone and in twos."""
    names = "i* i> m> d> draw1 draw2 tally count i1 in out"
    return pairs([(STEPS[name],) for name in names.split()], count, "sets") + pairs(of_two(names), count // 2, "sets of two")


def unique(count: int) -> list[Group]:
    names = "new200 u1=200 u2=200 u200 u1=null new101 d1"
    return pairs([(STEPS[name],) for name in names.split()], count, "unique") + pairs(of_two(names), count, "unique of two")


SKEWS = """
r1 r2 w1 | r1 r2 w2
r1 w2 | r2 w1
count in | count in
count note | in
keys in | enter1
sum leave2 | r2 w1
draw1 | draw2
draw1 r2 | draw2 r1
tally | in
tally in | tally in
count r1 m2 | enter1 i2
r3 new3 | r3 new3
r3 w1 | new3 r1
d1 | i1
d1 new101 | r1 i2
range d1 | new3 r1
sum out | i*
d> in | i> out
"""

TRIPLE_SKEWS = """
r2 w1 | w2 | r1 r2
r1 i2 | i1 | r1 r2
count in | r1 enter1 | count
sum w1 | out | sum r1
r1 w2 | r2 in | count w1
draw1 | draw2 | sum
"""


def skews(count: int) -> list[Group]:
    """The classics: write skew in points and predicates, INSERT … SELECT, predicate and point in one."""
    return [programs(line) for line in SKEWS.split("\n") if line]


def upserts(count: int) -> list[Group]:
    return pairs(of_two("more1 more3 perhaps3 r3 i1"), count, "upserts")


def lockings(count: int) -> list[Group]:
    steps = [STEPS[step.name] for step in LOCKINGS]
    both = [(step, STEPS[name]) for step in steps for name in ("i1", "i2", "r1", "w1")]
    return pairs(both, count, "lockings")


def savepoints(count: int) -> list[Group]:
    """A step that is rolled back to a savepoint: what it wrote is gone, what it read stays read."""
    undone = [
        programs(f"save {first} back1 {second}")[0] for first in "r1 i1 w1 count d2 i3 tally".split() for second in "i2 w1 new3 r1".split()
    ]
    beside = [programs(f"{first} {second}")[0] for first, second in product("r2 i1 r3".split(), "i1 in new3".split())]
    return Random(f"{SEED} savepoints").sample(list(product(undone, beside)), min(count, len(undone) * len(beside)))


def triples(count: int) -> list[Group]:
    """The read-only anomaly and its relatives, and programs of one to two steps drawn from the alphabet."""
    random = Random(f"{SEED} triples")
    drawn = [tuple(tuple(random.choices((*READS, *WRITES), k=random.randint(1, 2))) for _ in range(3)) for _ in range(count)]
    return [programs(line) for line in TRIPLE_SKEWS.split("\n") if line] + drawn


EVERYTHING = os.environ.get("KHONSU_INTERLEAVINGS") == "all"
"""The deep ring takes a share of each family; `make interleavings` plays all."""

FAMILIES: dict[str, tuple[Callable[[int], list[Group]], int, int]] = {
    "points": (points, 1 << 30, 1 << 30),
    "keys": (lambda count: pairs(of_two("r1 r3 w1 d1 new3 i3 d3"), count, "keys"), 150, 1 << 30),
    "predicates": (predicates, 90, 1 << 30),
    "sets": (sets, 66, 900),
    "unique": (unique, 60, 1 << 30),
    "skews": (skews, 0, 0),
    "triples": (triples, 40, 350),
}
"""The groups of a family; how many in the default ring; how many in the deep one."""

if not is_refused(SAVEPOINTS_REFUSED):
    FAMILIES["savepoints"] = (savepoints, 30, 1 << 30)
if not is_refused(UPSERTS_REFUSED):
    FAMILIES["upserts"] = (upserts, 60, 1 << 30)
if not is_refused(LOCKING_REFUSED):
    FAMILIES["lockings"] = (lockings, 40, 1 << 30)

TRIPLE_SCHEDULES, TRIPLE_SCHEDULES_DEEP = 15, 60

CEILINGS: dict[str, tuple[int, int]] = {
    "points": (2481, 1431),
    "keys": (573, 258),
    "predicates": (366, 66),
    "sets": (236, 107),
    "unique": (258, 179),
    "skews": (43, 11),
    "savepoints": (401, 168),
    "lockings": (45, 45),
    "triples": (200, 78),
}
"""Aborts at SERIALIZABLE in the default ring that were not needed: some serial order would have answered and written the same; and of
these, those where the order of the commits would have. Most are first committer wins over a row that was not read (blind writes, other
columns of one row); then a subquery's sum that changed and was still enough, and a column of a filter that changed within the filter.

Locks may only spare aborts, so the numbers of OPTIMISTIC stand for all modes, unless `CEILINGS_OF_MODES` says otherwise."""

CEILINGS_OF_MODES: dict[tuple[str, str], tuple[int, int]] = {}

OPTIMIST = next(found for found in CONFIGURATIONS if found.level == SERIALIZABLE and found.mode in (BY_DEFAULT, OPTIMISTIC))
SNAPSHOT = OPTIMIST._replace(level=REPEATABLE_READ)

SHARE = max(1, len(CONFIGURATIONS) * 2 // 3)
"""In the default ring OPTIMIST, whose false aborts are counted, plays every group; the others one in so many, to be done in a minute."""

LEVEL_CASES = [pytest.param(configuration, id=configuration.name) for configuration in CONFIGURATIONS]
FAMILY_CASES = [
    *(pytest.param(name, id=name) for name in FAMILIES),
    *(
        pytest.param(name, id=name, marks=pytest.mark.skip(reason=f"{name} are not played: {reason}"))
        for name, reason in (("savepoints", SAVEPOINTS_REFUSED), ("upserts", UPSERTS_REFUSED), ("lockings", LOCKING_REFUSED))
        if is_refused(reason)
    ),
]


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def histories(stage: Stage, configuration: Configuration, group: Group, schedules: int, seed: str) -> Iterator[History]:
    """Every schedule of a pair; of a triple, some."""
    if len(group) < 3:
        yield from every_schedule(stage, configuration, group)
    else:
        random = Random(f"{SEED} {seed} {name_of(group)}")
        for _ in range(schedules):
            yield a_schedule(stage, configuration, group, random)


def checked(history: History) -> tuple[int, int]:
    """(false aborts, of which inexact). Fails when the outcome is not allowed."""
    complaint = wrong(history)
    if complaint is not None:
        pytest.fail(f"{complaint}\n{history.describe()}", pytrace=False)
    if history.configuration.level != SERIALIZABLE:
        return 0, 0
    found = false_aborts(history)
    return len(found), sum(falseness.inexact for falseness in found)


# --- the test


@pytest.mark.parametrize(("name", "reason"), [pytest.param(*item, id=item[0]) for item in REFUSED.items()])
def test_what_is_not_played(name: str, reason: str) -> None:
    pytest.skip(f"{name} is not played: {reason}")


def test_something_is_played() -> None:
    assert {REPEATABLE_READ, SERIALIZABLE} <= {configuration.level for configuration in CONFIGURATIONS}
    assert len(report_header()) == 1 + len(REFUSED)
    assert all(is_refused(reason.partition(": ")[2]) for reason in REFUSED.values()), REFUSED


@pytest.mark.parametrize("configuration", LEVEL_CASES)
@pytest.mark.parametrize("family", FAMILY_CASES)
def test_every_interleaving(stage: Stage, configuration: Configuration, family: str) -> None:
    groups, count, _ = FAMILIES[family]
    played = false = inexact = 0
    for group in groups(count)[:: 1 if configuration == OPTIMIST else SHARE]:
        for history in histories(stage, configuration, group, TRIPLE_SCHEDULES, "default"):
            found = checked(history)
            played, false, inexact = played + 1, false + found[0], inexact + found[1]
    assert played > 5
    if configuration.level == SERIALIZABLE:
        compare(family, configuration.mode, (false, inexact), played)


def compare(family: str, mode: str, found: tuple[int, int], played: int) -> None:
    ceiling = CEILINGS_OF_MODES.get((family, mode), CEILINGS.get(family, (0, 0)))
    said = f"{family} at SERIALIZABLE {mode}: {found[0]} false aborts in {played} schedules, {found[1]} of them inexact"
    assert found[0] <= ceiling[0] and found[1] <= ceiling[1], f"{said}; the ceiling is {ceiling}: more transactions abort without need"
    assert found == ceiling or mode != OPTIMIST.mode, f"{said}; the ceiling is {ceiling}: good, lower it to {found}"


@pytest.mark.deep
@pytest.mark.parametrize("configuration", LEVEL_CASES)
@pytest.mark.parametrize("family", FAMILY_CASES)
def test_every_interleaving_of_many_more(stage: Stage, configuration: Configuration, family: str) -> None:
    groups, _, count = FAMILIES[family]
    share = 1 if EVERYTHING else 3 if configuration == OPTIMIST else 40
    for group in groups(count)[::share]:
        for history in histories(stage, configuration, group, TRIPLE_SCHEDULES_DEEP, "deep"):
            checked(history)


@pytest.mark.deep
@pytest.mark.parametrize("configuration", LEVEL_CASES)
@pytest.mark.parametrize("line", [line for line in TRIPLE_SKEWS.split("\n") if line])
def test_every_interleaving_of_three(stage: Stage, configuration: Configuration, line: str) -> None:
    if configuration != OPTIMIST and not EVERYTHING:
        pytest.skip("make interleavings plays it")
    for history in every_schedule(stage, configuration, programs(line)):
        checked(history)


@pytest.mark.deep
@pytest.mark.parametrize("configuration", LEVEL_CASES)
def test_rows_that_lie_in_segments(stage: Stage, configuration: Configuration) -> None:
    """The same with a checkpoint before each play, and at one moment within it."""
    random = Random(f"{SEED} segments")
    for family in ("keys", "predicates", "sets", "unique"):
        for group in random.sample(FAMILIES[family][0](FAMILIES[family][1]), 20):
            for _ in range(8):
                moment = random.randrange(8)
                played = [0]

                def choose(able: Sequence[int], moment: int = moment, played: list[int] = played) -> int:
                    if played[0] in (0, moment):
                        stage.database.checkpoint()
                    played[0] += 1
                    return random.choice(able)

                checked(play(stage, configuration, group, choose))


# --- what must never abort

HARMLESS = """
r1 w1 | r2 w2
i1 i1 | i2 i2
r1 i1 | d2
d1 | d2
in in | in out
in w1 | out w2
r3 w1 | in w2
r1 w2 | m1
r1 i2 | m1 m1
count note | out m1
count note | m2 m2
count w1 | out m2
keys note | out m1
keys w1 | m2 out
sum note | m1 m2
range note | in w1
range w1 | in | out
i> | out
i> | m1
m> | out w1
d> | out w1
tally | out m2
tally | tally | tally
u200 note | in out
u200 w1 | in m2
u1=200 | note | in
new3 | in
i3 note | d3 w1
r1 r2 | i1 i2
count sum | enter1 d2
range r3 | new3 d2
keys r1 | i* d1
r1 r2 | w1 | w2
count | d> | sum r1
"""


@pytest.mark.parametrize("configuration", LEVEL_CASES)
def test_the_harmless_never_abort(stage: Stage, configuration: Configuration) -> None:
    """Other rows, inserts outside what was read, columns that were not read, readers."""
    for line in HARMLESS.split("\n"):
        if line:
            group = programs(line)
            for history in islice(histories(stage, configuration, group, 60, "harmless"), 100):
                checked(history)
                assert len(history.commits) == len(group), f"{line}: an abort, though nobody is in the way\n{history.describe()}"


# --- bugs that are known

FORGOTTEN = {
    "save new3 back1 w1 | r1 new3": "the key an INSERT found free is forgotten when the INSERT is rolled back to a savepoint",
    "save new3 back1 w1 | i1 new3": "the same, with a read refresh: the UPDATE moves the snapshot over the other's INSERT",
    "save u1=200 back1 w2 | r2 new200": "the unique value an UPDATE found free is forgotten when the UPDATE is rolled back to a savepoint",
}


@pytest.mark.skipif(is_refused(SAVEPOINTS_REFUSED), reason=f"savepoints are not played: {SAVEPOINTS_REFUSED}")
@pytest.mark.parametrize("text", FORGOTTEN)
def test_what_was_read_stays_read(stage: Stage, text: str) -> None:
    """Not only what a SELECT has read: also what a write that is taken back has."""
    assert not complaints(stage, OPTIMIST, text)


@pytest.mark.skipif(is_refused(SAVEPOINTS_REFUSED), reason=f"savepoints are not played: {SAVEPOINTS_REFUSED}")
def test_what_a_failed_insert_has_read_stays_read(stage: Stage) -> None:
    """One saw row 1, the other deletes it and did not see row 2 change: neither can come first."""
    one, other = stage.session(), stage.session()
    stage.reset()
    for session in (one, other):
        session.run(OPTIMIST.begin)
    one.run("SAVEPOINT p")
    with pytest.raises(UniqueViolation):
        one.run("INSERT INTO t VALUES (1, 1, 1, NULL)")
    one.run("ROLLBACK TO p")
    assert other.run("SELECT n FROM t WHERE k = 2") == [(20,)]
    other.run("DELETE FROM t WHERE k = 1")
    other.run("COMMIT")
    one.run("UPDATE t SET n = 7 WHERE k = 2")
    with pytest.raises(SerializationFailure):
        one.run("COMMIT")


# --- drawn programs

NAMES = st.sampled_from(sorted(STEPS))
DRAWN = st.lists(st.lists(NAMES, min_size=1, max_size=4), min_size=2, max_size=4)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=DRAWN, configuration=st.sampled_from(CONFIGURATIONS), turns=st.lists(st.integers(0, 11), max_size=24))
def test_drawn_programs(drawn: list[list[str]], configuration: Configuration, turns: list[int]) -> None:
    drawn_programs(drawn, configuration, turns)


@pytest.mark.deep
@settings(max_examples=5_000 if EVERYTHING else 500, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=DRAWN, configuration=st.sampled_from(CONFIGURATIONS), turns=st.lists(st.integers(0, 11), max_size=24))
def test_many_drawn_programs(drawn: list[list[str]], configuration: Configuration, turns: list[int]) -> None:
    drawn_programs(drawn, configuration, turns)


SHARED: list[Stage] = []


def drawn_programs(drawn: list[list[str]], configuration: Configuration, turns: list[int]) -> None:
    if not SHARED:
        SHARED.append(Stage())
    taken = iter(turns)
    group = tuple(tuple(STEPS[name] for name in names) for names in drawn)
    checked(play(SHARED[0], configuration, group, lambda able: able[next(taken, 0) % len(able)]))


@pytest.fixture(scope="module", autouse=True)
def _close_shared() -> Iterator[None]:
    yield
    while SHARED:
        SHARED.pop().close()


# --- the checker notices: a broken product


def complaints(stage: Stage, configuration: Configuration, text: str) -> set[str]:
    return {complaint for history in every_schedule(stage, configuration, programs(text)) if (complaint := wrong(history)) is not None}


def nothing(*_: Any, **__: Any) -> None:
    return None


BREAKS = {
    "predicates are not validated": (validation, "_predicate_conflict", OPTIMIST, "count in | count in"),
    "predicates are not validated, INSERT … SELECT": (validation, "_predicate_conflict", OPTIMIST, "tally | in r3"),
    "points are not validated": (validation, "_point_conflict", OPTIMIST, "r1 w2 | r2 w1"),
    "absent keys are not validated": (validation, "_point_conflict", OPTIMIST, "r3 w1 | new3 r1"),
    "points are not recorded": (LocalTransaction, "_record", OPTIMIST, "r1 w2 | r2 w1"),
    "predicates are not recorded": (LocalTransaction, "record", OPTIMIST, "count in | count in"),
    "ranges of keys are not recorded": (LocalTransaction, "record", OPTIMIST, "range d1 | new3 r1"),
    "writes are not validated": (validation, "_write_conflict", SNAPSHOT, "i1 | i1"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_product_is_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    room, name, configuration, text = BREAKS[what]
    assert not complaints(stage, configuration, text)
    monkeypatch.setattr(room, name, nothing)
    assert complaints(stage, configuration, text)


def test_needless_aborts_are_counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tables instead of rows: right, but too much."""
    assert not any(false_aborts(history) for history in every_schedule(stage, OPTIMIST, programs("count note | out m1")))
    monkeypatch.setattr(validation, "_change_matches", lambda *_: True)
    assert any(false_aborts(history) for history in every_schedule(stage, OPTIMIST, programs("count note | out m1")))


# --- the checker notices: histories nobody should see


def told(
    text: str, *told_answers: Sequence[Any], order: Sequence[tuple[int, int]], commits: Sequence[int], level: str, final: State
) -> History:
    """A history as it would have been. `order`: (events of beginning and end) per program; begin counts no commit unless it began later."""
    runs = []
    for number, (program, answers, (began, ended)) in enumerate(zip(programs(text), told_answers, order, strict=True)):
        run = Run(number, program)
        run.over, run.began, run.ended = True, began, ended
        runs.append(run)
        run.taken = [Taken(answer, None, 0, len(commits), False) for answer in answers]
    for run in runs:
        before = [number for number in commits if runs[number].ended < run.began]
        run.begin = len(before)
        run.end = commits.index(run.number) if run.number in commits else len(commits)
        run.taken = [taken._replace(begin=run.begin, end=run.end) for taken in run.taken]
    return History(Configuration(level, BY_DEFAULT), INITIAL, tuple(runs), tuple(commits), final, ())


def after(changes: dict[int, int]) -> State:
    return applied(INITIAL, {("t", k): (*INITIAL["t", k][:N], n, *INITIAL["t", k][M:]) for k, n in changes.items()})


def test_a_true_history_is_believed() -> None:
    for level in (READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE):
        assert wrong(told("i1 | i1", [1], [1], order=[(1, 2), (3, 4)], commits=[0, 1], level=level, final=after({1: 12}))) is None


LIES: dict[str, tuple[str, History]] = {
    "a lost increment": (
        "lost update",
        told("r1 i1 | r1 i1", [[(10,)], 1], [[(10,)], 1], order=[(1, 5), (2, 6)], commits=[0, 1], level=REPEATABLE_READ, final=after({1: 11})),
    ),
    "a lost increment at the weakest level": (
        "the end is",
        told("i1 | i1", [1], [1], order=[(1, 2), (3, 4)], commits=[0, 1], level=READ_COMMITTED, final=after({1: 11})),
    ),
    "a dirty read": (
        "no state explains",
        told("r1 | i1 i1", [[(11,)]], [1, 1], order=[(1, 5), (2, 4)], commits=[1, 0], level=READ_COMMITTED, final=after({1: 12})),
    ),
    "read skew": (
        "no state explains",
        told("r1 r2 | i1 i2", [[(10,)], [(21,)]], [1, 1], order=[(1, 5), (2, 4)], commits=[1, 0], level=REPEATABLE_READ, final=after({1: 11, 2: 21})),
    ),
    "time goes backwards": (
        "no state explains",
        told("r1 r1 | i1", [[(11,)], [(10,)]], [1], order=[(1, 5), (2, 4)], commits=[1, 0], level=READ_COMMITTED, final=after({1: 11})),
    ),
    "write skew": (
        "no serial order",
        told("r1 i2 | r2 i1", [[(10,)], 1], [[(20,)], 1], order=[(1, 5), (2, 6)], commits=[0, 1], level=SERIALIZABLE, final=after({1: 11, 2: 21})),
    ),
    "a stale snapshot": (
        "no state explains",
        told("i1 | r1", [1], [[(10,)]], order=[(1, 2), (3, 4)], commits=[0, 1], level=SERIALIZABLE, final=after({1: 11})),
    ),
    "an order that is not the one of the commits": (
        "not the one of the commits",
        told("r1 i2 | i1", [[(10,)], 1], [1], order=[(1, 5), (2, 4)], commits=[1, 0], level=SERIALIZABLE, final=after({1: 11, 2: 21})),
    ),
    "a write that vanished": (
        "the end is",
        told("i1", [1], order=[(1, 2)], commits=[0], level=REPEATABLE_READ, final=INITIAL),
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_noticed(lie: str) -> None:
    words, history = LIES[lie]
    complaint = wrong(history)
    assert complaint is not None and words in complaint, complaint


def test_at_read_committed_two_reads_may_differ() -> None:
    """What is a lie above is the truth one level lower."""
    for name in ("read skew", "write skew", "an order that is not the one of the commits"):
        assert wrong(LIES[name][1]._replace(configuration=Configuration(READ_COMMITTED, BY_DEFAULT))) is None


FAILURES = {
    "nobody had committed": ("i1 | i1", "40001", "nobody had committed"),
    "only reads": ("r1 | i1", "40001", "only reads"),
    "without locks": ("i1 | i1", "40P01", "without locks"),
    "twice": ("new3 | i1", "23505", "nothing was there twice"),
    "anything else": ("i1 | i1", "58000", "58000"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_abort_without_a_reason_is_noticed(name: str) -> None:
    text, failure, words = FAILURES[name]
    history = told(
        text, [[(10,)]] if text[0] == "r" else [1], [1], order=[(1, 3), (2, 4)], commits=[1], level=SERIALIZABLE, final=after({1: 11})
    )
    run = history.runs[0]
    run.failure, run.failed_at_commit, run.end = failure, True, 0
    complaint = wrong(history)
    assert complaint is not None and words in complaint, complaint


# --- the player itself


def test_every_schedule_once(stage: Stage) -> None:
    """Without locks: 6! / (3! 3!), and 6! / (2! 2! 2!)."""
    schedules = [history.schedule for history in every_schedule(stage, SNAPSHOT, programs("r1 r2 | r1 r2"))]
    assert len(schedules) == len(set(schedules)) == 20
    schedules = [history.schedule for history in every_schedule(stage, SNAPSHOT, programs("r1 | r1 | r1"))]
    assert len(schedules) == len(set(schedules)) == 90


def test_orders_respect_real_time() -> None:
    history = told("r1 | r1 | r1", [[]], [[]], [[]], order=[(1, 3), (2, 5), (4, 6)], commits=[0, 1, 2], level=SERIALIZABLE, final=INITIAL)
    assert {tuple(run.number for run in order) for order in orders(history.runs)} == {(0, 1, 2), (1, 0, 2), (0, 2, 1)}


class Gate:
    """A ticket that is answered when `open` says so."""

    def __init__(self, gate: Callable[[], bool]) -> None:
        self.gate = gate

    def wait(self, timeout_seconds: float | None = None) -> bool:
        return self.gate()


def with_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every UPDATE waits for whoever ran the same one and has not ended: a toy of what PESSIMISTIC will do, which finds no deadlocks."""
    owners: dict[str, SessionCore] = {}
    held_back: dict[SessionCore, Any] = {}
    step = SessionCore.step

    def gated(core: SessionCore, request: Any) -> Any:
        if isinstance(request, Answered) and core in held_back:
            request = held_back.pop(core)
        if isinstance(request, Execute) and request.sql.startswith("UPDATE"):
            owner = owners.setdefault(request.sql, core)
            if owner is not core:
                held_back[core] = request
                return Gate(lambda: request.sql not in owners)
        try:
            return step(core, request)
        finally:
            if isinstance(request, End):
                for sql in [sql for sql, owner in owners.items() if owner is core]:
                    del owners[sql]

    monkeypatch.setattr(SessionCore, "step", gated)


def test_who_waits_is_not_chosen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with_locks(monkeypatch)
    found = list(every_schedule(stage, SNAPSHOT, programs("i1 r2 | i1 r2")))
    assert 2 <= len({history.schedule for history in found}) == len(found) < 20
    assert any(taken.waited for history in found for run in history.runs for taken in run.taken)
    assert all(wrong(history) is None for history in found)


def test_a_schedule_goes_on_without_who_waits(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with_locks(monkeypatch)
    history = play(stage, SNAPSHOT, programs("i1 r2 | i1 r2"), in_order([0, 1, 1, 1, 0, 0]))
    assert history.schedule[:4] == (0, 1, 0, 0) and history.runs[1].taken[0].waited


def test_a_deadlock_nobody_finds_is_a_failure(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with_locks(monkeypatch)
    with pytest.raises(Undetected, match=r"i1 i2 \| i2 i1"):
        list(every_schedule(stage, SNAPSHOT, programs("i1 i2 | i2 i1")))


def test_locks_come_with_modes() -> None:
    assert Configuration(SERIALIZABLE, PESSIMISTIC).locks and not Configuration(SERIALIZABLE, OPTIMISTIC).locks
