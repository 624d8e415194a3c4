"""The process that is killed: writer threads on tiny bounds, telling on standard output what they begin and what is acknowledged.

Run as `python writers.py DIRECTORY RUN`. Lines: `? thread number` before a COMMIT, `! thread number` after it was acknowledged.
Each transaction moves money between two accounts, and writes the same number into two tables: both rows or neither.
"""

from __future__ import annotations

import os
import random
import sys
import threading

import khonsu_sql
from khonsu_engine.limits import TINY

THREADS = 4
ACCOUNTS = 20

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL CHECK (balance >= 0))",
    "CREATE TABLE IF NOT EXISTS ledger (run INTEGER, thread INTEGER, number INTEGER, amount BIGINT, tag VARCHAR UNIQUE,"
    " PRIMARY KEY (run, thread, number))",
    "CREATE TABLE IF NOT EXISTS journal (run INTEGER, thread INTEGER, number INTEGER, amount BIGINT)",
)


def prepare(path: str) -> None:
    """Tables and accounts, once."""
    with khonsu_sql.connect(path, limits=TINY) as connection:
        cursor = connection.cursor()
        for statement in SCHEMA:
            cursor.execute(statement)
        if cursor.execute("SELECT count(*) FROM accounts").fetchone() == (0,):
            cursor.executemany("INSERT INTO accounts VALUES (?, 1000)", [(number,) for number in range(ACCOUNTS)])


def say(mark: str, thread: int, number: int) -> None:
    os.write(1, f"{mark} {thread} {number}\n".encode())


def transfer(connection: khonsu_sql.Connection, chance: random.Random, run: int, thread: int, number: int) -> None:
    source, target = chance.sample(range(ACCOUNTS), 2)
    amount = chance.randint(0, 20)
    cursor = connection.cursor()
    cursor.execute("UPDATE accounts SET balance = balance - ? WHERE id = ? AND balance >= ?", (amount, source, amount))
    if cursor.rowcount == 1:
        cursor.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, target))
    row = (run, thread, number, amount)
    cursor.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", (*row, f"{run}/{thread}/{number}"))
    cursor.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", row)
    say("?", thread, number)
    connection.commit()


def write(path: str, run: int, thread: int) -> None:
    """Commit 0, 1, 2, … for ever."""
    chance = random.Random(run * 100 + thread)
    connection = khonsu_sql.connect(path, limits=TINY)
    number = 0
    while True:
        try:
            transfer(connection, chance, run, thread, number)
        except khonsu_sql.errors.SerializationFailure:
            connection.rollback()
            continue
        say("!", thread, number)
        number += 1


def main(path: str, run: int) -> None:
    prepare(path)
    for thread in range(THREADS):
        threading.Thread(target=write, args=(path, run, thread), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
