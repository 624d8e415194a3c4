"""SmallBank: six short transactions on two accounts a customer; no money may appear or vanish that no commit accounts for.

Nine of ten go to `hot` customers, the first ones. Amounts are cents. A transaction that finds too little money is a commit without effect.

Source: Alomari, Cahill, Fekete, Röhm, "The Cost of Serializability on Platforms That Use Snapshot Isolation", ICDE 2008; the mix is
OLTP-Bench's. Left out: the look-up of a customer by name, which here is one by number.
"""

from __future__ import annotations

from random import Random

from benchmarks.clients import Clients, Engine, Execute, asked, load

__all__ = ["SmallbankClient", "bank", "check"]

CUSTOMERS = 18_000
HOT_SHARE = 0.9
FIRST_BALANCE = 10_000

SCHEMA = (
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name VARCHAR(64) NOT NULL)",
    "CREATE TABLE savings (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL)",
    "CREATE TABLE checking (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL)",
)


class SmallbankClient:
    """One client. `gained`: what its commits brought into the bank, less what they took out."""

    writes = False

    def __init__(self, engine: Engine, hot: int, seed: int) -> None:
        self._chance = Random(seed)
        self._hot = hot
        self.gained = 0
        self._gain = 0
        self._customers = (0, 1)
        self._amount = 0
        self._name = engine.sql("SELECT name FROM accounts WHERE id = ?")
        self._read = [engine.sql(f"SELECT balance FROM {table} WHERE id = ?") for table in ("savings", "checking")]
        self._write = [engine.sql(f"UPDATE {table} SET balance = ? WHERE id = ?") for table in ("savings", "checking")]
        self._mix = {
            self._balance: 15,
            self._deposit_checking: 15,
            self._transact_savings: 15,
            self._amalgamate: 15,
            self._write_check: 15,
            self._send_payment: 25,
        }
        self._kind = self._balance

    def draw(self) -> None:
        self._kind = self._chance.choices(list(self._mix), list(self._mix.values()))[0]
        self.writes = self._kind != self._balance
        first = second = self._customer()
        while second == first:
            second = self._customer()
        self._customers = first, second
        self._amount = self._chance.randint(1, 5_000)

    def _customer(self) -> int:
        if self._chance.random() < HOT_SHARE:
            return self._chance.randrange(self._hot)
        return self._chance.randrange(CUSTOMERS)

    def run(self, execute: Execute) -> None:
        self._gain = 0
        for customer in self._customers:
            assert execute(self._name, (customer,)).fetchone() is not None
        self._kind(execute)

    def committed(self) -> None:
        self.gained += self._gain

    def _savings(self, execute: Execute, customer: int) -> int:
        return int(execute(self._read[0], (customer,)).fetchone()[0])

    def _checking(self, execute: Execute, customer: int) -> int:
        return int(execute(self._read[1], (customer,)).fetchone()[0])

    def _balance(self, execute: Execute) -> None:
        """What a customer has."""
        self._savings(execute, self._customers[0])
        self._checking(execute, self._customers[0])

    def _deposit_checking(self, execute: Execute) -> None:
        customer = self._customers[0]
        execute(self._write[1], (self._checking(execute, customer) + self._amount, customer))
        self._gain = self._amount

    def _transact_savings(self, execute: Execute) -> None:
        """Into savings, or out of them, as long as they stay above zero."""
        customer = self._customers[0]
        amount = self._amount if self._amount % 2 else -self._amount
        left = self._savings(execute, customer) + amount
        if left >= 0:
            execute(self._write[0], (left, customer))
            self._gain = amount

    def _amalgamate(self, execute: Execute) -> None:
        """All of one customer's money to another's checking account."""
        giver, taker = self._customers
        total = self._savings(execute, giver) + self._checking(execute, giver)
        execute(self._write[0], (0, giver))
        execute(self._write[1], (0, giver))
        execute(self._write[1], (self._checking(execute, taker) + total, taker))

    def _write_check(self, execute: Execute) -> None:
        """From checking, whatever is there; who has less than that in both pays a cent more."""
        customer = self._customers[0]
        checking = self._checking(execute, customer)
        spent = self._amount + (self._savings(execute, customer) + checking < self._amount)
        execute(self._write[1], (checking - spent, customer))
        self._gain = -spent

    def _send_payment(self, execute: Execute) -> None:
        """From one checking account to another, if there is enough."""
        giver, taker = self._customers
        left = self._checking(execute, giver) - self._amount
        if left >= 0:
            execute(self._write[1], (left, giver))
            execute(self._write[1], (self._checking(execute, taker) + self._amount, taker))


def bank(engine: Engine, hot: int, threads: int, seconds: float) -> tuple[list[SmallbankClient], Clients]:
    """A filled bank, and its clients."""
    customers = range(CUSTOMERS)
    balances = [(customer, FIRST_BALANCE) for customer in customers]
    load(
        engine,
        SCHEMA,
        {"accounts": [(customer, f"customer {customer}") for customer in customers], "savings": balances, "checking": balances},
    )
    clients = [SmallbankClient(engine, hot, seed) for seed in range(threads)]
    return clients, Clients(engine, clients, seconds)


def check(engine: Engine, clients: list[SmallbankClient]) -> None:
    """The money that is there is the money that came, and nobody's savings are below zero."""
    savings, least = asked(engine, "SELECT sum(balance), min(balance) FROM savings")[0]
    checking = asked(engine, "SELECT sum(balance) FROM checking")[0][0]
    found, expected = int(savings) + int(checking), 2 * CUSTOMERS * FIRST_BALANCE + sum(client.gained for client in clients)
    if found != expected or least < 0:
        raise AssertionError(f"{found} cents, {expected} are accounted for; the least savings: {least}")
