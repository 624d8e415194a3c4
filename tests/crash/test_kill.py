"""kill -9, again and again, on one database: nothing acknowledged is lost, no transaction is half there.

The bounds are tiny, so kills meet checkpoints and compactions; a run in which too few kills met a commit in flight fails as
vacuous. What kill -9 cannot show (a missing fsync) is shown by tests/engine/test_durability.py with recording stores.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import khonsu_sql
from khonsu_engine.limits import TINY

WRITERS = Path(__file__).with_name("writers.py")
KILLS = int(os.environ.get("KHONSU_KILLS", "50"))
IN_FLIGHT_SHARE_MIN = 0.8


def killed_after(path: Path, run: int, acknowledgements: int) -> tuple[dict[int, int], set[tuple[int, int]]]:
    """Run the writers until that many commits were acknowledged, kill them; (last acknowledged per thread, commits in flight)."""
    process = subprocess.Popen([sys.executable, str(WRITERS), str(path), str(run)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines: list[str] = []
    seen = 0
    while seen < acknowledgements:
        line = process.stdout.readline().decode()
        assert line, f"the writers died by themselves with {process.wait()} after {seen} commits"
        lines.append(line)
        seen += line.startswith("!")
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().decode()
    process.wait()
    lines += rest[: rest.rfind("\n") + 1].splitlines()
    acknowledged: dict[int, int] = {}
    begun: set[tuple[int, int]] = set()
    for mark, thread, number in (line.split() for line in lines):
        if mark == "!":
            acknowledged[int(thread)] = int(number)
            begun.discard((int(thread), int(number)))
        else:
            begun.add((int(thread), int(number)))
    return acknowledged, begun


def check(path: Path, run: int, acknowledged: dict[int, int]) -> None:
    """Everything acknowledged is there; both tables agree; numbers have no holes; no money was made or lost."""
    with khonsu_sql.connect(path, limits=TINY) as connection:
        cursor = connection.cursor()
        ledger = cursor.execute("SELECT thread, number, amount FROM ledger WHERE run = ? ORDER BY thread, number", (run,)).fetchall()
        journal = cursor.execute("SELECT thread, number, amount FROM journal WHERE run = ? ORDER BY thread, number", (run,)).fetchall()
        assert ledger == journal, "a transaction is half there"
        found: dict[int, list[int]] = {}
        for thread, number, _ in ledger:
            found.setdefault(thread, []).append(number)
        for thread, last in acknowledged.items():
            numbers = found.get(thread, [])
            assert numbers == list(range(len(numbers))), f"thread {thread}: {numbers} has holes"
            assert len(numbers) > last, f"thread {thread}: {last} was acknowledged, {len(numbers)} are there"
        assert cursor.execute("SELECT sum(balance), min(balance) >= 0, count(*) FROM accounts").fetchone() == (20_000, True, 20)
        tags = cursor.execute("SELECT tag, count(*) FROM ledger GROUP BY tag HAVING count(*) > 1").fetchall()
        assert tags == []


@pytest.mark.deep
@pytest.mark.timeout(1200)
def test_kill_in_a_loop(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("KHONSU_SEED", "20261121")))
    path = tmp_path / "bank.khonsu"
    in_flight = 0
    for run in range(KILLS):
        acknowledged, begun = killed_after(path, run, chance.randint(1, 400))
        in_flight += bool(begun)
        check(path, run, acknowledged)
    assert in_flight >= IN_FLIGHT_SHARE_MIN * KILLS, f"vacuous: only {in_flight} of {KILLS} kills met a commit in flight"
