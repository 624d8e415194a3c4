"""TPC-B restated over DB-API: three updates, a read and an insert per transaction; the books must balance at the end.

The same five statements for every engine. A client works on all branches, or on one of its own: then no two transactions ever meet.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.clients import Clients, Engine, Execute, asked, load

__all__ = ["TpcbClient", "bank", "check"]

ACCOUNTS_PER_BRANCH = 1_000
TELLERS_PER_BRANCH = 10

SCHEMA = (
    "CREATE TABLE branches (bid INTEGER PRIMARY KEY, bbalance BIGINT NOT NULL)",
    "CREATE TABLE tellers (tid INTEGER PRIMARY KEY, bid INTEGER NOT NULL, tbalance BIGINT NOT NULL)",
    "CREATE TABLE accounts (aid INTEGER PRIMARY KEY, bid INTEGER NOT NULL, abalance BIGINT NOT NULL)",
    "CREATE TABLE history (tid INTEGER, bid INTEGER, aid INTEGER, delta BIGINT)",
)

STATEMENTS = (
    "UPDATE accounts SET abalance = abalance + ? WHERE aid = ?",
    "SELECT abalance FROM accounts WHERE aid = ?",
    "UPDATE tellers SET tbalance = tbalance + ? WHERE tid = ?",
    "UPDATE branches SET bbalance = bbalance + ? WHERE bid = ?",
    "INSERT INTO history VALUES (?, ?, ?, ?)",
)


class TpcbClient:
    """One teller after the other of these branches."""

    writes = True

    def __init__(self, engine: Engine, branches: range, seed: int) -> None:
        self._chance = random.Random(seed)
        self._branches = branches
        self._statements = tuple(map(engine.sql, STATEMENTS))
        self._chosen = (0, 0, 0, 0)

    def draw(self) -> None:
        chance, branches = self._chance.randrange, self._branches
        aid = chance(branches.start * ACCOUNTS_PER_BRANCH, branches.stop * ACCOUNTS_PER_BRANCH)
        tid = chance(branches.start * TELLERS_PER_BRANCH, branches.stop * TELLERS_PER_BRANCH)
        self._chosen = aid, tid, tid // TELLERS_PER_BRANCH, chance(-5_000, 5_001)

    def run(self, execute: Execute) -> None:
        aid, tid, bid, delta = self._chosen
        account, balance, teller, branch, history = self._statements
        execute(account, (delta, aid))
        execute(balance, (aid,)).fetchone()
        execute(teller, (delta, tid))
        execute(branch, (delta, bid))
        execute(history, (tid, bid, aid, delta))

    def committed(self) -> None:
        pass


def bank(engine: Engine, branches: int, work: Sequence[range], seconds: float) -> Clients:
    """A filled bank and its clients: one for each range of branches in `work`."""
    accounts = [(aid, aid // ACCOUNTS_PER_BRANCH, 0) for aid in range(branches * ACCOUNTS_PER_BRANCH)]
    tellers = [(tid, tid // TELLERS_PER_BRANCH, 0) for tid in range(branches * TELLERS_PER_BRANCH)]
    load(engine, SCHEMA, {"accounts": accounts, "tellers": tellers, "branches": [(bid, 0) for bid in range(branches)]})
    return Clients(engine, [TpcbClient(engine, part, seed) for seed, part in enumerate(work)], seconds)


def check(engine: Engine, clients: Clients) -> None:
    """Every balance must equal what the history says, and no transaction may be missing."""
    columns = ("abalance FROM accounts", "tbalance FROM tellers", "bbalance FROM branches", "delta FROM history")
    sums = {int(asked(engine, f"SELECT coalesce(sum({column.split()[0]}), 0) FROM {column.split()[2]}")[0][0]) for column in columns}
    written = int(asked(engine, "SELECT count(*) FROM history")[0][0])
    if len(sums) != 1 or written != clients.commits:
        raise AssertionError(f"balances {sums}, {written} of {clients.commits} transactions")
