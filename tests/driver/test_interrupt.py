"""Ctrl-C at random moments of a thousand transactions in the main thread: the state stays whole, the outcome is told.

Every transaction adds one to two rows of two tables. After each interrupt both hold the same number, and it is the number of
commits that `last_commit` tells of: whatever was committed is told, whatever is told was committed. The connection goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CODE = """
import os, random, signal, sys, threading, time
import khonsu_sql

name, autocommit, rounds = sys.argv[1], sys.argv[2] == "autocommit", int(sys.argv[3])
random.seed(7)
connection = khonsu_sql.connect(name, autocommit=autocommit)
connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, n BIGINT)")
connection.execute("CREATE TABLE b (id INTEGER PRIMARY KEY, n BIGINT)")
connection.execute("INSERT INTO a VALUES (1, 0)")
connection.execute("INSERT INTO b VALUES (1, 0)")
connection.commit()
start = connection.last_commit.index

armed, over = threading.Event(), False

fired = False

def on_interrupt(number, frame):
    global fired
    fired = True  # told apart from the exception: one that is raised in a finaliser goes no further
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, on_interrupt)

def interrupt():
    while True:
        armed.wait()
        armed.clear()
        if over:
            return
        time.sleep(random.random() * 0.002)
        os.kill(os.getpid(), signal.SIGINT)

def work():
    if autocommit:
        connection.execute("UPDATE a SET n = n + 1 WHERE id = 1")
        return
    connection.execute("UPDATE a SET n = n + 1 WHERE id = 1")
    connection.execute("UPDATE b SET n = n + 1 WHERE id = 1")
    connection.commit()

thread = threading.Thread(target=interrupt)
thread.start()
acknowledged = inside = 0
for _ in range(rounds):
    fired = False
    try:
        armed.set()
        while not fired:
            work()
            acknowledged += 1
    except KeyboardInterrupt:
        pass
    connection.rollback()
    told = connection.last_commit.index - start
    a = connection.execute("SELECT n FROM a WHERE id = 1").fetchone()[0]
    b = connection.execute("SELECT n FROM b WHERE id = 1").fetchone()[0]
    connection.rollback()
    assert a == told, (a, told)
    assert autocommit or a == b, (a, b)
    assert not connection.in_transaction
over = True
armed.set()
thread.join()
assert acknowledged <= told <= acknowledged + rounds, (acknowledged, told)
connection.close()
again = khonsu_sql.connect(name) if name != ":memory:" else None
assert again is None or again.execute("SELECT n FROM a").fetchone()[0] == told
print(rounds, "interrupts,", told - acknowledged, "in a commit that was not acknowledged")
"""


COUNT = 120


@pytest.mark.parametrize("mode", ["autocommit", "transactions"])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_hundreds_of_interrupts(tmp_path: Path, where: str, mode: str) -> None:
    name = str(tmp_path / "db") if where == "disk" else ":memory:"
    path = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'engine'}"}
    command = [sys.executable, "-W", "ignore", "-c", CODE, name, mode, str(COUNT)]
    answer = subprocess.run(command, env=path, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert answer.stdout.startswith(f"{COUNT} interrupts"), answer.stdout
