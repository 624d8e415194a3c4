"""The checker against executors in memory, and against trying all orders.

For lists, for registers with commit indexes and for scans over them: serializable exactly if some serial order explains the reads.
Registers without commit indexes, and keys that are also deleted: never rejected wrongly, but blind writes leave more accepted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from khonsu_sql.checker import Append, Level, Read, ReadList, Scan, Status, Transaction, Write, check
from tests.checker.histories import explains, is_serializable

LISTS, REGISTERS = ("l1", "l2", "l3"), ("r1", "r2", "r3")


def attempt(rng: random.Random, state: dict[str, Any], fresh: Callable[[], int], keys: tuple[str, ...], deletes: bool) -> list[Any]:
    """A few operations on `state`, which they change."""
    operations: list[Any] = []
    for _ in range(rng.randint(1, 4)):
        key = rng.choice(keys)
        is_list = key.startswith("l")
        match rng.choice(["read", "read", "write", "write", "scan", "delete"]):
            case "read":
                operations.append(ReadList(key, list(state.get(key, []))) if is_list else Read(key, state.get(key)))
            case "scan":
                operations.append(Scan(key[0], {name: value for name, value in state.items() if name.startswith(key[0])}))
            case "delete" if deletes and not is_list:
                operations.append(Write(key, None))
                state.pop(key, None)
            case _ if is_list:
                operations.append(Append(key, fresh()))
                state[key] = [*state.get(key, []), operations[-1].value]
            case _:
                operations.append(Write(key, fresh()))
                state[key] = operations[-1].value
    return operations


def counter() -> Callable[[], int]:
    numbers = iter(range(1, 1_000_000))
    return lambda: next(numbers)


def serial(rng: random.Random, count: int, deletes: bool, commits: bool) -> list[Transaction]:
    """One transaction after another, some of them rolled back or of unknown outcome; times overlap and contain the moment of each."""
    state: dict[str, Any] = {}
    fresh = counter()
    busy: dict[int, int] = {}
    history = []
    for moment in range(10, 10 + 10 * count, 10):
        fate = rng.choice(["committed"] * 6 + ["aborted", "unknown-lost", "unknown-done"])
        trial = dict(state)
        operations = attempt(rng, trial, fresh, LISTS + REGISTERS, deletes)
        if fate in ("committed", "unknown-done"):
            state = trial
        process = rng.choice([one for one in range(5) if busy.get(one, 0) <= moment] or [moment])
        begin = rng.randint(max(busy.get(process, 0), moment - 35), moment)
        end = rng.randint(moment, moment + 35)
        busy[process] = end
        status = Status(fate.partition("-")[0])
        history.append(Transaction(moment, process, status, begin, operations, end, moment if commits and status == "committed" else None))
    rng.shuffle(history)
    return history


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), deletes=st.booleans(), commits=st.booleans())
def test_what_a_serial_executor_did_is_strictly_serializable(seed: int, count: int, deletes: bool, commits: bool) -> None:
    report = check(serial(random.Random(seed), count, deletes, commits), Level.STRICT_SERIALIZABLE, allow_vacuous=True)
    assert report.ok, str(report)


def snapshots(rng: random.Random, count: int, *, isolation: bool = True) -> list[Transaction]:
    """Snapshot isolation: reads of one moment, the first committer wins. Without `isolation` nobody looks for conflicts."""
    versions: list[dict[str, Any]] = [{}]
    last_write: dict[str, int] = {}
    fresh = counter()
    history = []
    for number in range(1, count + 1):
        begun = max(0, len(versions) - 1 - rng.randint(0, 3))
        trial = dict(versions[begun])
        operations = attempt(rng, trial, fresh, LISTS + REGISTERS, False)
        written = {operation.key for operation in operations if isinstance(operation, Append | Write)}
        if isolation and any(last_write.get(key, 0) > begun for key in written):
            continue
        versions.append(versions[-1] | {key: trial[key] for key in written})
        last_write |= dict.fromkeys(written, len(versions) - 1)
        moment = len(versions) * 10
        history.append(Transaction(number, number, Status.COMMITTED, begun * 10 + 11, operations, moment, len(versions)))
    return history


def test_snapshot_isolation_is_repeatable_read_and_sometimes_not_serializable() -> None:
    strongest = [check(snapshots(random.Random(seed), 25), allow_vacuous=True).strongest_level for seed in range(400)]
    assert set(strongest) <= {Level.REPEATABLE_READ, Level.SERIALIZABLE, Level.STRICT_SERIALIZABLE}
    assert strongest.count(Level.REPEATABLE_READ) > 50


def test_snapshots_without_conflicts_are_not_snapshot_isolation() -> None:
    reports = [check(snapshots(random.Random(seed), 25, isolation=False), allow_vacuous=True) for seed in range(100)]
    assert sum(not report.holds(Level.REPEATABLE_READ) for report in reports) > 50


def muddle(rng: random.Random, keys: tuple[str, ...], *, deletes: bool = False, unknown: bool = False) -> list[Transaction]:
    """Up to five transactions, each on what one after another left, but for what some of them miss."""
    fresh = counter()
    states: list[dict[str, Any]] = [{}]
    history = []
    for number in range(1, rng.randint(2, 5) + 1):
        base = states[-1] if rng.random() < 0.3 else rng.choice(states)
        trial = dict(base)
        operations = attempt(rng, trial, fresh, keys, deletes)
        written = {operation.key for operation in operations if isinstance(operation, Append | Write)}
        after = dict(states[-1])
        for operation in operations:
            if isinstance(operation, Append):
                after[operation.key] = [*after.get(operation.key, []), operation.value]
        after |= {key: trial[key] for key in written if key in trial and not key.startswith("l")}
        states.append({key: value for key, value in after.items() if key not in written or key in trial})
        status = Status.UNKNOWN if unknown and rng.random() < 0.3 else Status.COMMITTED
        history.append(Transaction(number, number, status, number, operations, 1000 + number, number))
    return history


def without_commits(history: list[Transaction]) -> list[Transaction]:
    return [Transaction(one.id, one.process, one.status, one.invoked, one.operations, one.completed) for one in history]


def judged(history: list[Transaction]) -> bool:
    return check(history, allow_vacuous=True).holds(Level.SERIALIZABLE)


@pytest.mark.parametrize("unknown", [False, True])
def test_lists_are_judged_exactly(unknown: bool) -> None:
    verdicts = []
    for seed in range(3000):
        history = without_commits(muddle(random.Random(seed), LISTS, unknown=unknown))
        verdicts.append(is_serializable(history))
        assert judged(history) is verdicts[-1], history
    assert 200 < sum(verdicts) < 2800, "both verdicts must be common"


@pytest.mark.parametrize("keys", [REGISTERS, LISTS + REGISTERS])
def test_registers_with_commit_order_are_judged_exactly(keys: tuple[str, ...]) -> None:
    verdicts = []
    for seed in range(3000):
        history = [
            one
            if any(isinstance(operation, Write) for operation in one.operations)
            else Transaction(one.id, one.process, one.status, one.invoked, one.operations, one.completed)
            for one in muddle(random.Random(seed), keys)
        ]
        history = (
            [one for one in history if not any(isinstance(operation, Append) for operation in one.operations)]
            if keys != REGISTERS
            else history
        )
        verdicts.append(is_serializable(history, commit_order=True))
        assert judged(history) is verdicts[-1], history
    assert 200 < sum(verdicts) < 2800, "both verdicts must be common"


def test_registers_that_are_read_before_they_are_written_are_judged_exactly_without_commit_order() -> None:
    verdicts = []
    for seed in range(3000):
        history = []
        for one in without_commits(muddle(random.Random(seed), REGISTERS)):
            reads = [operation for operation in one.operations if isinstance(operation, Read | Scan)]
            writes = [operation for operation in one.operations if isinstance(operation, Write)]
            known = {operation.key for operation in reads if isinstance(operation, Read)}
            history.append(
                Transaction(one.id, one.process, one.status, one.invoked, reads + [w for w in writes if w.key in known], one.completed)
            )
        verdicts.append(is_serializable(history))
        assert judged(history) is verdicts[-1], history
    assert 200 < sum(verdicts) < 2800, "both verdicts must be common"


@pytest.mark.parametrize("deletes", [False, True])
def test_registers_without_commit_order_are_never_rejected_wrongly(deletes: bool) -> None:
    rejected = missed = 0
    for seed in range(3000):
        history = without_commits(muddle(random.Random(seed), LISTS[:1] + REGISTERS, deletes=deletes, unknown=True))
        serializable = is_serializable(history)
        if not judged(history):
            assert not serializable, history
            rejected += 1
        elif not serializable:
            missed += 1
    assert rejected > 60, (rejected, missed)


def test_brute_force_knows_good_from_bad() -> None:
    assert explains([Transaction(1, 1, Status.COMMITTED, 1, [Write("x", 1), Scan("x", {"x": 1}), Write("x", None), Read("x", None)])])
    assert not explains([Transaction(1, 1, Status.COMMITTED, 1, [Read("x", 1)])])
