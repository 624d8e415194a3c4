"""A hand-made bad history of every class: rejected with exactly its class, and accepted by the levels that allow it."""

from __future__ import annotations

import pytest

from khonsu_sql.checker import Kind, Level, check
from tests.checker.bad_cycles import BAD_CYCLES
from tests.checker.bad_reads import BAD_READS
from tests.checker.histories import Bad

BAD = BAD_READS + BAD_CYCLES


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.story)
@pytest.mark.parametrize("backwards", [False, True], ids=["", "lines backwards"])
def test_it_is_rejected_with_its_class(bad: Bad, backwards: bool) -> None:
    report = check(bad.history[::-1] if backwards else bad.history, allow_vacuous=True)
    assert set(report.classes()) == bad.classes, str(report)
    assert len({anomaly.explanation for anomaly in report.anomalies}) == len(report.anomalies), "nothing is told twice"
    assert report.strongest_level == bad.strongest
    assert not report.ok
    for level in Level:
        allowed = bad.strongest is not None and list(Level).index(level) <= list(Level).index(bad.strongest)
        assert check(bad.history, level, allow_vacuous=True).ok is allowed


def test_every_class_has_a_bad_history() -> None:
    shown = set().union(*(bad.classes for bad in BAD))
    assert {str(kind) for kind in Kind} <= shown
