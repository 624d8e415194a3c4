"""Transactions in plain Python: committed states, snapshots with own writes over them, and what may come of a statement or a COMMIT.

Used by `test_session_machine`. One table `t (k primary key, n merged by sum, m, u unique)`. Committed history is a list of states and of
what each commit changed. An *item* is what first committer wins is about: ("r", k) a row, ("e", u) the entry of a unique value. Verdicts
are sets of outcomes: OK and SQLSTATEs; a read that is not `sure` may or may not be one the product records.

Independent of the product: it imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

OK, CONFLICT, LOCKED, DUPLICATE, OUT_OF_RANGE = "ok", "40001", "55P03", "23505", "22003"
K, N, M, U, EVERY = 1, 2, 4, 8, 15
RC, RR, SER = "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"
OPTIMISTIC, ADAPTIVE, PESSIMISTIC = "OPTIMISTIC", "ADAPTIVE", "PESSIMISTIC"
FAIL, IGNORE, REPLACE, APPEND, MERGE = "FAIL", "IGNORE", "REPLACE", "APPEND", "MERGE"
INTEGER_MAX = 2**31 - 1

Row = tuple[int, int, int | None, int | None]
Table = dict[int, Row]
Item = tuple[str, int]
Image = tuple[int | None, ...]
Matches = Callable[[Row], bool]


def entries(table: Table) -> dict[int, int]:
    """u -> k."""
    return {row[3]: key for key, row in table.items() if row[3] is not None}


def twice(table: Table) -> bool:
    values = [row[3] for row in table.values() if row[3] is not None]
    return len(values) != len(set(values))


def changed(table: Table, rows: dict[int, Row | None]) -> Table:
    return {key: row for key, row in {**table, **rows}.items() if row is not None}


class Change(NamedTuple):
    before: Image | None
    after: Image | None


class History:
    """`states`: what was committed, oldest first; `changes`: what each commit changed, item by item."""

    def __init__(self, first: Table) -> None:
        self.states = [first]
        self.changes: list[dict[Item, Change]] = [{}]

    @property
    def now(self) -> int:
        return len(self.states) - 1

    @property
    def newest(self) -> Table:
        return self.states[-1]

    def since(self, item: Item, moment: int) -> bool:
        """Was it changed after that?"""
        return any(item in changes for changes in self.changes[moment + 1 :])

    def rows_since(self, moment: int) -> Iterator[Change]:
        for changes in self.changes[moment + 1 :]:
            yield from (change for item, change in changes.items() if item[0] == "r")

    def commit(self, table: Table, items: Iterable[Item]) -> None:
        """`items`: what was written, also where it is as before."""
        changes = {}
        for item in items:
            change = Change(image(self.newest, item), image(table, item))
            if change != (None, None):
                changes[item] = change
        self.states.append(table)
        self.changes.append(changes)


def image(table: Table, item: Item) -> Image | None:
    kind, key = item
    if kind == "r":
        return table.get(key)
    owner = entries(table).get(key)
    return None if owner is None else (key, owner)


class Read(NamedTuple):
    """Rows for which `matches` holds, found among the keys for which `passes` does; the columns used of them."""

    matches: Matches
    columns: int
    passes: Callable[[int], bool]
    sure: bool = True

    def touched(self, change: Change) -> bool:
        before, after = change
        old = before is not None and self.matches(before)  # type: ignore[arg-type]
        new = after is not None and self.matches(after)  # type: ignore[arg-type]
        if not (old and new):
            return old or new
        assert before is not None and after is not None
        return any(self.columns >> number & 1 and before[number] != after[number] for number in range(4))


def key_read(key: int, columns: int, *, sure: bool = True) -> Read:
    return Read(lambda row: row[0] == key, columns, lambda passed: passed == key, sure)


def unique_read(value: int, columns: int, *, sure: bool = True) -> Read:
    return Read(lambda row: row[3] == value, columns, lambda _: False, sure)


class Effect(NamedTuple):
    """What a statement means in one state. `rows`: what it writes; `locks`: the keys it locks; `error`: a SQLSTATE."""

    answer: object = None
    rows: dict[int, Row | None] = {}
    error: str | None = None
    locks: tuple[int, ...] = ()


class Statement(NamedTuple):
    """`kind`: read, write or lock. `reads`: what it reads; `assigned`: the columns it sets; `delta`: it adds to n and does nothing else."""

    name: str
    sql: str
    parameters: tuple[object, ...]
    kind: str
    effect: Callable[[Table], Effect]
    reads: tuple[Read, ...] = ()
    assigned: int = EVERY
    delta: bool = False
    mode: str = "UPDATE"
    patience: str = ""
    span: tuple[int, int] | None = None
    """The keys its conditions bound, if it locks."""

    def __repr__(self) -> str:
        return f"{self.sql} {self.parameters}"


@dataclass(frozen=True)
class Own:
    """One buffered item. `base`: the state as of which it was known; `before`: what it was there."""

    base: int
    before: Image | None
    after: Image | None
    policy: str
    assigned: int


@dataclass
class Transaction:
    """`at`: the state it reads, None before the first statement. `fresh`: nothing has been told yet."""

    level: str = SER
    mode: str = ADAPTIVE
    policy: str = FAIL
    read_only: bool = False
    at: int | None = None
    fresh: bool = True
    own: dict[Item, Own] = field(default_factory=dict)
    savepoints: list[tuple[str, dict[Item, Own]]] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    settled: set[int] = field(default_factory=set)
    perhaps_settled: set[int] = field(default_factory=set)
    held: dict[Item, str] = field(default_factory=dict)
    failed: str | None = None
    stamp: int = 0

    @property
    def hard(self) -> bool:
        """Do its writes lock?"""
        return self.mode == PESSIMISTIC or (self.level == RC and self.mode == ADAPTIVE)

    @property
    def locks(self) -> bool:
        """Do its writes ask for intents?"""
        return self.hard or (self.mode == ADAPTIVE and self.policy == FAIL)

    def view(self, history: History, at: int) -> Table:
        return changed(history.states[at], {item[1]: own.after for item, own in self.own.items() if item[0] == "r"})  # type: ignore[misc]

    def policy_of(self, item: Item) -> str:
        own = self.own[item]
        return FAIL if item[0] == "r" and item[1] in self.settled else own.policy

    def stale_writes(self, history: History) -> bool:
        """Is a buffered write certain to be refused?"""
        return any(self.policy_of(item) == FAIL and history.since(item, own.base) for item, own in self.own.items())

    def stale_reads(self, history: History, *, sure: bool) -> bool:
        if self.level != SER or self.read_only or self.at is None:
            return False
        reads = [read for read in self.reads if read.sure or not sure]
        return any(read.touched(change) for change in history.rows_since(self.at) for read in reads)

    def note_reads(self, statement: Statement, view: Table, *, sure: bool) -> None:
        """What `statement` has read, and own rows it has looked at, which no policy decides any more."""
        if self.level != SER or self.read_only:
            return
        unread = N if statement.delta and self.policy == MERGE else 0
        for read in statement.reads:
            columns = read.columns & ~unread
            self.reads.append(read._replace(columns=columns, sure=read.sure and sure))
            for kind, key in self.own:
                if kind == "r" and columns & ~K:
                    row = view.get(key)
                    if read.passes(key) or (row is not None and read.matches(row)):
                        (self.settled if sure else self.perhaps_settled).add(key)
                    else:
                        self.perhaps_settled.add(key)

    def write(self, statement: Statement, effect: Effect, view: Table) -> None:
        assert self.at is not None
        if self.policy == REPLACE and statement.assigned != EVERY and self.level == SER:
            self.reads += [key_read(key, EVERY & ~statement.assigned) for key in effect.rows]
        after = changed(view, effect.rows)
        for item in items_of(view, effect.rows):
            earlier = self.own.get(item)
            if earlier is not None:
                self.own[item] = Own(
                    earlier.base, earlier.before, image(after, item), earlier.policy, earlier.assigned | statement.assigned
                )
            else:
                self.own[item] = Own(self.at, image(view, item), image(after, item), self.policy, statement.assigned)

    def rollback_to(self, position: int) -> None:
        """What was found free stays read."""
        before = self.savepoints[position][1]
        for (kind, key), own in self.own.items():
            if (kind, key) not in before and own.before is None and self.level == SER:
                self.reads.append(key_read(key, 0) if kind == "r" else unique_read(key, 0))
        self.perhaps_settled |= self.settled - {key for kind, key in before if kind == "r"}
        self.settled &= {key for kind, key in before if kind == "r"}
        self.own = dict(before)
        del self.savepoints[position + 1 :]
        self.failed = None


def items_of(view: Table, rows: dict[int, Row | None]) -> list[Item]:
    """The rows and entries that a statement writes which makes these of `view`."""
    items: list[Item] = [("r", key) for key in rows]
    for key, row in rows.items():
        before, after = view[key][3] if key in view else None, None if row is None else row[3]
        if before != after:
            items += [("e", value) for value in (before, after) if value is not None]
    return list(dict.fromkeys(items))


# --- policies

REFUSED = "refused"


def decided(own: Own, theirs: Row | None) -> Row | str | None:
    """The row (None: none) that a collision makes, or REFUSED."""
    mine, before = own.after, own.before
    if own.policy == IGNORE:
        return theirs
    if own.policy == REPLACE or (own.policy == APPEND and (mine is None or theirs is None)):
        return mine  # type: ignore[return-value]
    if own.policy == FAIL or mine is None or theirs is None:
        return REFUSED
    made: list[int | None] = []
    for number in range(4):
        assigned = own.assigned >> number & 1
        own_value, other, base = mine[number], theirs[number], None if before is None else before[number]
        if own.policy == APPEND or (before is not None and not assigned):
            made.append(own_value if assigned else other)
        elif number == 1:
            made.append(other + own_value - (base or 0))  # type: ignore[operator]
        elif own_value == other or (before is not None and base == other):
            made.append(own_value)
        else:
            return REFUSED
    return tuple(made)  # type: ignore[return-value]


class Ending(NamedTuple):
    """What COMMIT may answer; `table`: what is committed then, and the items it wrote. `loose`: a row nobody may care about is either."""

    allowed: frozenset[str]
    table: Table
    items: tuple[Item, ...]


def ending(mine: Transaction, history: History, blocked: bool) -> Ending:
    """`blocked`: somebody else has locked what it writes."""
    newest, must, may = history.newest, set[str](), set[str]()
    if not mine.own:
        return Ending(frozenset({OK}), newest, ())
    effective = any(own.before is not None or own.after is not None for own in mine.own.values())
    rows: dict[int, Row | None] = {}
    kept: set[Item] = set()
    collided = False
    for item, own in mine.own.items():
        if item[0] != "r":
            continue
        rows[item[1]] = own.after  # type: ignore[assignment]
        if not history.since(item, own.base):
            continue
        outcome = REFUSED if item[1] in mine.settled else decided(own, newest.get(item[1]))
        if isinstance(outcome, str):
            (may if own.before is None and own.after is None else must).add(CONFLICT)
            continue
        collided = True
        rows[item[1]] = outcome
        if own.policy == IGNORE or (outcome is None and newest.get(item[1]) is None):
            kept.add(item)
        if item[1] in mine.perhaps_settled:
            may.add(CONFLICT)
    for item, own in mine.own.items():
        if item[0] == "e" and history.since(item, own.base):
            (may if collided or (own.before is None and own.after is None) else must).add(CONFLICT)
    for sure, into in ((True, must if effective else may), (False, may)):
        if mine.stale_reads(history, sure=sure):
            into.add(CONFLICT)
    table = changed(newest, rows)
    if twice(table):
        must.add(DUPLICATE)
    if blocked:
        must.add(LOCKED)
    items = [item for item in items_of(newest, rows) if item not in kept]
    if not collided:
        items += [item for item in mine.own if item not in items]
    return Ending(frozenset(must | may) if must else frozenset({OK} | may), table, tuple(items))
