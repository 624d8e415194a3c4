"""What keeps large histories cheap changes no verdict: hubs instead of all pairs, components without recursion, moments of time."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest

from khonsu_sql.checker import Level, check
from khonsu_sql.checker.components import components
from khonsu_sql.checker.edges import EdgeKind, Edges
from tests.checker.histories import append, read, scan, t, values, write
from tests.checker.test_serial_orders import serial, snapshots


def reached(edges: Edges, start: int) -> set[int]:
    """The transactions that `start` leads to by one anti-dependency."""
    found: set[int] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop()
        for source, target in zip(edges.source, edges.target, strict=True):
            if source == node and target not in found:
                found.add(target)
                if target >= 100:
                    waiting.append(target)
    return {node for node in found if node < 100}


@pytest.mark.parametrize("seed", range(20))
def test_a_fan_leads_every_reader_to_every_writer_but_itself(seed: int) -> None:
    rng = random.Random(seed)
    readers, writers = rng.sample(range(40), rng.randint(0, 30)), rng.sample(range(40), rng.randint(0, 30))
    edges = Edges(100)
    edges.fan(readers, [(writer, writer) for writer in writers], 0, None)
    for node in range(40):
        assert reached(edges, node) == (set(writers) - {node} if node in readers else set())
    assert len(edges.source) <= 5 * (len(readers) + len(writers)) + 8
    assert {EdgeKind(kind) for kind in edges.kind} <= {EdgeKind.RW, EdgeKind.LINK}


def test_components_are_those_of_reachability() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        nodes = rng.randint(1, 12)
        pairs = [(rng.randrange(nodes), rng.randrange(nodes)) for _ in range(rng.randint(0, 20))]
        pairs = [(one, other) for one, other in pairs if one != other]
        leads = [[one == other or (one, other) in pairs for other in range(nodes)] for one in range(nodes)]
        for via in range(nodes):
            for one in range(nodes):
                for other in range(nodes):
                    leads[one][other] = leads[one][other] or (leads[one][via] and leads[via][other])
        source, target = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
        found = components(nodes, source, target)
        for one, other in combinations(range(nodes), 2):
            assert (found[one] == found[other]) is (leads[one][other] and leads[other][one])
        assert all(found[one] >= found[other] for one, other in pairs)


def test_a_cycle_through_every_one_of_many_transactions() -> None:
    count = 30_000
    ring = [t(n, values(f"k{n}"), append(f"k{(n + 1) % count}", 1), at=(1, 2)) for n in range(count)]
    (anomaly,) = check(ring).anomalies
    assert anomaly.name == "G2-item" and len(anomaly.transactions) == count
    assert f"and {count - 20} more steps" in anomaly.explanation


def test_many_readers_of_what_many_overwrite_blindly() -> None:
    readers = [t(n, read("x", None), at=(1, 2)) for n in range(3000)]
    writers = [t(3000 + n, write("x", n), at=(1, 2)) for n in range(3000)]
    report = check([*readers, *writers, t(9000, read("y", 1), read("x", None), at=(1, 2)), t(9001, write("y", 1), read("x", 5), at=(1, 2))])
    assert report.classes() == {"G-single": 1}, "T9000 is behind T9001, which saw a write that T9000 missed"
    assert sum(report.counts.edges.values()) < 30_000


def test_many_scans_of_a_table_that_grows() -> None:
    history = []
    rows: dict[str, int] = {}
    for n in range(1500):
        key = f"t/{n}"
        history.append(t(n, scan("t/", **rows) if n % 10 == 0 else scan("t/9999"), write(key, n), at=(n, n + 20)))
        rows[key] = n
    report = check(history, Level.STRICT_SERIALIZABLE)
    assert report.ok, str(report)
    assert report.counts.edges["predicate-rw"] < 20_000
    late = t(5000, scan("t/", **dict(list(rows.items())[:700])), read("t/1400", 1400), at=(0, 9000))
    assert check([*history, late]).strongest_level is Level.READ_COMMITTED
    skewed = t(5001, scan("t/", **dict(list(rows.items())[:700])), write("t/zzz", 1), at=(0, 9000))
    assert check([*history, skewed]).strongest_level is Level.REPEATABLE_READ
    last = t(5001, scan("t/", **rows), write("t/zzz", 1), scan("t/", **rows, **{"t/zzz": 1}), at=(0, 9000))
    assert check([*history, last]).strongest_level is Level.STRICT_SERIALIZABLE


def test_a_long_serial_history_holds_and_a_long_broken_one_does_not() -> None:
    assert check(serial(random.Random(1), 5000, False, True), Level.STRICT_SERIALIZABLE).ok
    broken = check(snapshots(random.Random(1), 5000, isolation=False))
    assert {"lost-update", "G-single"} <= set(broken.classes()) and broken.strongest_level is None
    assert check(snapshots(random.Random(1), 5000)).strongest_level is Level.REPEATABLE_READ
