"""Every interleaving of small programs at SERIALIZABLE whose tables decide collisions by MERGE or REPLACE: the outcome is that of the
programs one after the other, in the order of their commits. The statements mean what they always mean: `n = n + 1` adds one to whatever
is there, a blind INSERT under REPLACE puts its row in the place of another's. Who commits over an assignment they have read aborts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from random import Random

import pytest

from khonsu_engine.own_policies import PolicyKeeper
from tests.interleavings.harness import Program, Stage, Step, every_schedule, false_aborts, name_of, unreasonable, unserializable
from tests.interleavings.test_every_interleaving import EVERYTHING, OPTIMIST, SEED, STEPS, inside, of_two, programs, upserted

Group = tuple[Program, ...]

PUT = Step(
    "put3",
    "INSERT INTO t VALUES (?, ?, ?, ?)",
    lambda state, tag: upserted(lambda tag: (3, inside(tag), 0, None), lambda old: (3, inside(tag), 0, None))(state, tag),
    lambda tag: (3, inside(tag), 0, None),
)

MERGING = ("ALTER TABLE t SET (conflict_resolution = merge)", "ALTER TABLE t ALTER COLUMN n SET (merge = sum)")
REPLACING = ("ALTER TABLE t SET (conflict_resolution = replace)",)


def merging() -> list[Group]:
    """Deltas, assignments, reads of rows, values and counts."""
    return list(combinations_with_replacement(of_two("i1 i2 i* w1 m1 d1 r1 r2 count sum keys"), 2))


def replacing() -> list[Group]:
    """Rows put blindly, beside reads of them."""
    steps = [STEPS[name] for name in "r1 r3 m1 d3 range sum".split()]
    both = [program for step in steps for program in ((PUT, step), (step, PUT))]
    return list(combinations_with_replacement([*both, (PUT,)], 2))


FAMILIES: dict[str, tuple[tuple[str, ...], Callable[[], list[Group]], int, int, tuple[int, int]]] = {
    "merge": (MERGING, merging, 16, 300, (54, 27)),
    "replace": (REPLACING, replacing, 12, 1 << 30, (95, 59)),
}
"""What the table is told; the groups; how many in the default ring and in the deep one; the aborts of the default ring that were not
needed, and of these those where the order of the commits would have done (see `test_every_interleaving.CEILINGS`)."""


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Iterator[tuple[str, Stage]]:
    stage = Stage()
    for sql in FAMILIES[request.param][0]:
        stage.manager.run(sql)
    yield request.param, stage
    stage.close()


def played(stage: Stage, groups: list[Group]) -> tuple[int, int]:
    """(false aborts, of which inexact)."""
    needless = [0, 0]
    for group in groups:
        for history in every_schedule(stage, OPTIMIST, group):
            complaint = unserializable(history) or unreasonable(history)
            assert complaint is None, f"{complaint}\n{history.describe()}"
            for found in false_aborts(history):
                needless[0] += 1
                needless[1] += found.inexact
    return needless[0], needless[1]


def drawn(name: str, count: int) -> list[Group]:
    groups = FAMILIES[name][1]()
    return groups if len(groups) <= count else Random(f"{SEED} {name}").sample(groups, count)


def test_the_outcome_is_that_of_one_order(family: tuple[str, Stage]) -> None:
    name, stage = family
    found = played(stage, drawn(name, FAMILIES[name][2]))
    ceilings = FAMILIES[name][4]
    assert found[0] <= ceilings[0] and found[1] <= ceilings[1], f"more needless aborts than before: {found}"


@pytest.mark.deep
def test_the_outcome_is_that_of_one_order_everywhere(family: tuple[str, Stage]) -> None:
    name, stage = family
    played(stage, drawn(name, 1 << 30 if EVERYTHING else FAMILIES[name][3]))


def test_deltas_never_abort() -> None:
    stage = Stage()
    for sql in MERGING:
        stage.manager.run(sql)
    for text in ("i1 i2 | i2 i1", "i* | i1 i1", "i1 m1 | i1 m2"):
        for history in every_schedule(stage, OPTIMIST, programs(text)):
            assert unserializable(history) is None and len(history.commits) == 2, history.describe()
    stage.close()


def test_a_sum_that_was_looked_at_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker can tell: without the note that an own row was read, somebody has seen what never was."""
    stage = Stage()
    for sql in MERGING:
        stage.manager.run(sql)
    monkeypatch.setattr(PolicyKeeper, "_settle", lambda *_: None)
    monkeypatch.setattr(PolicyKeeper, "_record", lambda *_: None)
    assert any(unserializable(history) for history in every_schedule(stage, OPTIMIST, programs("i1 r1 | i1"))), name_of(
        programs("i1 r1 | i1")
    )
    stage.close()
