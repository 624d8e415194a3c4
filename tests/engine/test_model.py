"""One database against the plainest model of it: dicts of rows, a list of commits, and the rules of the isolation levels in a page.

Several transactions are open at once, at both levels. For each commit the model says beforehand whether it must conflict, must not, or
(where only statistics of files are compared) may. Checkpoints, crashes, reopening, bulk writes, TRUNCATE and DDL come in between and
must change nothing that anybody sees. The second half counts false conflicts over a thousand pairs of disjoint transactions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from khonsu_engine.commands import ALL_COLUMNS, EVERY_KEY, Isolation, KeyRange, Operation, Write
from khonsu_engine.database import Database
from khonsu_engine.errors import SerializationConflict, UniqueViolation
from khonsu_engine.mvcc.predicates import ALL, All, And, Compare, In, IsNull, Not, Or, Predicate
from khonsu_engine.schema.catalog import Table
from khonsu_engine.transaction import LocalTransaction
from tests.engine.accounts import LEVELS, NEVER_BY_ITSELF, batch, contents, create, finish, insert, scanned, shape, update
from tests.stores import CrashingStore

Row = tuple[int, int | None, str | None]
Rows = dict[int, Row]
MUST, MAY, NEVER = "must", "may", "never"

# -- the rules --------------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What a commit did to one row. `file`: it came in a bulk write of these keys, or (None, None) by TRUNCATE."""

    table: str
    key: int | None
    before: Row | None
    after: Row | None
    file: tuple[int, int] | None = None


TRUNCATED = (1, 0)


class Read(NamedTuple):
    """What a transaction read. `point`: by key; a guard counts at every level."""

    table: str
    range: KeyRange
    predicate: Predicate
    columns: int
    point: bool


def truth(predicate: Predicate, row: Row) -> bool | None:
    """SQL's three values."""
    match predicate:
        case All():
            return True
        case Compare(column, operator, value):
            if value is None or row[column] is None:
                return None
            found: Any = row[column]
            return {"=": found == value, "<>": found != value, "<": found < value, "<=": found <= value, ">": found > value}.get(
                operator, found >= value
            )
        case In(column, values):
            if row[column] is None:
                return None
            return True if row[column] in values else None if None in values else False
        case IsNull(column):
            return row[column] is None
        case Not(operand):
            value = truth(operand, row)
            return None if value is None else not value
        case And(operands):
            found_values = [truth(operand, row) for operand in operands]
            return False if False in found_values else None if None in found_values else True
        case Or(operands):
            found_values = [truth(operand, row) for operand in operands]
            return True if True in found_values else None if None in found_values else False


def within(range: KeyRange, key: int) -> bool:
    low = range.low is None or key > range.low or (range.low_inclusive and key == range.low)
    high = range.high is None or key < range.high or (range.high_inclusive and key == range.high)
    return low and high


def matches(read: Read, row: Row | None) -> bool:
    return row is not None and within(read.range, row[0]) and truth(read.predicate, row) is True


def differs(before: Row, after: Row, columns: int) -> bool:
    return any(columns >> number & 1 and before[number] != after[number] for number in range(3))


def touches(change: Change, read: Read) -> str:
    """Does a committed change conflict with a read?"""
    if change.table != read.table:
        return NEVER
    if change.file == TRUNCATED:
        return MUST
    old, new = matches(read, change.before), matches(read, change.after)
    assert change.key is not None
    if old and new:
        assert change.before is not None and change.after is not None
        return MUST if differs(change.before, change.after, read.columns) else NEVER
    if old or new:
        return MUST
    return MAY if change.file is not None and not read.point else NEVER


class Model(NamedTuple):
    """A transaction as the model sees it. `begun`: how many changes were committed before it."""

    isolation: Isolation
    begun: int
    snapshot: dict[str, Rows]
    reads: list[Read]
    written: dict[str, dict[int, Row | None]]
    truncated: set[str]
    files: dict[str, list[list[int]]]

    def visible(self, table: str) -> Rows:
        rows = {} if table in self.truncated else dict(self.snapshot.get(table, {}))
        for keys in self.files.get(table, ()):
            rows.update({key: bulk_row(key) for key in keys})
        for key, row in self.written.get(table, {}).items():
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        return rows

    @property
    def wrote(self) -> bool:
        return any(self.written.values()) or any(self.files.values()) or bool(self.truncated)

    def verdict(self, changes: list[Change], alive: dict[str, int], known: dict[str, int]) -> str:
        """Must the commit conflict? `alive`, `known`: table name -> identity, now and in the snapshot."""
        if not self.wrote:
            return NEVER
        touched = {*self.written, *self.files, *self.truncated, *(read.table for read in self.reads)}
        if any(alive.get(table) != known.get(table) for table in touched):
            return MUST
        verdicts = {self._judged(change) for change in changes[self.begun :]}
        return MUST if MUST in verdicts else MAY if MAY in verdicts else NEVER

    def _judged(self, change: Change) -> str:
        verdicts = {touches(change, read) for read in self.reads}
        keys = self.written.get(change.table, {})
        if keys and (change.file == TRUNCATED or change.key in keys):
            return MUST
        if change.table in self.truncated:
            return MUST
        for mine in self.files.get(change.table, ()):
            if change.file == TRUNCATED or change.key in mine:
                return MUST
            if change.file is not None and mine:
                verdicts.add(MAY)
        return MUST if MUST in verdicts else MAY if MAY in verdicts else NEVER

    def changes(self) -> list[Change]:
        found = [Change(table, None, None, None, TRUNCATED) for table in sorted(self.truncated)]
        for table, files in self.files.items():
            for keys in files:
                found += [Change(table, key, None, bulk_row(key), (min(keys), max(keys))) for key in keys]
        for table, rows in self.written.items():
            before = {} if table in self.truncated else self.snapshot[table]
            bulk = {key for keys in self.files.get(table, ()) for key in keys}
            for key, row in rows.items():
                known = before.get(key) or (bulk_row(key) if key in bulk else None)
                if known is not None or row is not None:
                    found.append(Change(table, key, known, row))
        return found


def bulk_row(key: int) -> Row:
    return (key, -key, None)


class Open(NamedTuple):
    real: LocalTransaction
    model: Model
    tables: dict[str, Table]


# -- the machine ------------------------------------------------------------------------------------------------------

KEYS = st.integers(0, 24)
BALANCES = st.one_of(st.none(), st.integers(-3, 6))
NOTES = st.one_of(st.none(), st.sampled_from(["", "a", "b", "zz"]))
NUMBERS = st.integers(-3, 26)
MASKS = st.sampled_from([ALL_COLUMNS, 1, 2, 4, 6])
OPERATORS = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
LEAVES = st.one_of(
    st.builds(Compare, st.sampled_from([0, 1]), OPERATORS, st.one_of(NUMBERS, st.none())),
    st.builds(Compare, st.just(2), OPERATORS, NOTES),
    st.builds(In, st.sampled_from([0, 1]), st.lists(st.one_of(NUMBERS, st.none()), max_size=4).map(tuple)),
    st.builds(In, st.just(2), st.lists(NOTES, max_size=3).map(tuple)),
    st.builds(IsNull, st.sampled_from([1, 2])),
)
PREDICATES = st.recursive(
    st.one_of(LEAVES, st.just(ALL)),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Or(tuple(parts))),
    ),
    max_leaves=4,
)
RANGES = st.one_of(
    st.just(EVERY_KEY),
    st.builds(KeyRange, st.one_of(st.none(), KEYS), st.one_of(st.none(), KEYS), st.booleans(), st.booleans()),
)
SELDOM = st.sampled_from([False, False, False, False, True])
NAMES = st.sampled_from(["accounts", "second"])


VERDICTS: Counter[str] = Counter()
"""How often writers met changes that were committed beside them."""

STEPS = [
    *("begin",) * 3,
    *("get",) * 3,
    *("query",) * 4,
    *("put",) * 4,
    *("commit",) * 4,
    *("point_write",) * 2,
    "delete",
    "delete",
    "put_many",
    "duplicate",
    "bulk",
    "rollback",
    "checkpoint",
    "start_again",
    "drop_or_create",
]


class Machine(RuleBasedStateMachine):
    """Rules are what a client does, or what happens to a database."""

    @initialize()
    def first(self) -> None:
        self.disk = CrashingStore()
        self.database = Database(self.disk, limits=NEVER_BY_ITSELF)
        self.now: dict[str, Rows] = {}
        self.alive: dict[str, int] = {}
        self.changes: list[Change] = []
        self.open: list[Open] = []
        for name in ("accounts", "second"):
            self.create(name)

    def teardown(self) -> None:
        for transaction in self.open:
            transaction.real.rollback()
        self.database.close()

    def create(self, name: str) -> None:
        self.alive[name] = create(self.database, name).id
        self.now[name] = {}

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One rule for all: rules of their own would be left out of whole runs, and with them what they have to do with others."""
        for action in data.draw(st.lists(st.sampled_from(STEPS), min_size=4, max_size=4)):
            getattr(self, action)(data)

    # -- transactions -------------------------------------------------------------------------------------------------

    def begin(self, data: st.DataObject) -> None:
        if len(self.open) == 4:
            return
        isolation, writes_first = data.draw(st.sampled_from(LEVELS)), data.draw(st.booleans())
        real = self.database.begin(isolation, writes_first=writes_first)
        snapshot = {name: dict(rows) for name, rows in self.now.items()}
        model = Model(isolation, len(self.changes), snapshot, [], {}, set(), {})
        self.open.append(Open(real, model, {table.name: table for table in real.catalog.tables.values()}))

    def chosen(self, data: st.DataObject, name: str) -> Open | None:
        """One of the open transactions that know the table."""
        knowing = [transaction for transaction in self.open if name in transaction.tables]
        return data.draw(st.sampled_from(knowing)) if knowing else None

    def record(self, chosen: Open, read: Read) -> None:
        if chosen.model.isolation is Isolation.SERIALIZABLE:
            chosen.model.reads.append(read)

    def get(self, data: st.DataObject) -> None:
        name = data.draw(NAMES)
        key = data.draw(KEYS)
        columns = data.draw(MASKS)
        chosen = self.chosen(data, name)
        if chosen is None:
            return
        self.record(chosen, Read(name, KeyRange(key, key), ALL, columns, True))
        found = chosen.real.get(chosen.tables[name].id, key, columns=columns)
        assert found == chosen.model.visible(name).get(key)

    def query(self, data: st.DataObject) -> None:
        name = data.draw(NAMES)
        range = data.draw(RANGES)
        predicate = data.draw(PREDICATES)
        columns = data.draw(MASKS)
        how = data.draw(st.sampled_from(["rows", "reverse", "scan"]))
        chosen = self.chosen(data, name)
        if chosen is None:
            return
        read = Read(name, range, predicate, columns, False)
        self.record(chosen, read)
        expected = {key: row for key, row in chosen.model.visible(name).items() if matches(read, row)}
        number = chosen.tables[name].id
        if how == "scan":
            found = rows_of(chosen.real.scan(number, (0, 1, 2), range, predicate, read_columns=columns))
        else:
            pairs = list(chosen.real.rows(number, range, predicate, columns=columns, reverse=how == "reverse"))
            keys = [key for key, _ in pairs]
            assert keys == sorted(set(keys), reverse=how == "reverse")
            found = dict(pairs)
        assert {key: row for key, row in found.items() if matches(read, row)} == expected
        assert all(chosen.model.visible(name).get(key) == row for key, row in found.items()), "a row that nobody wrote"

    def put(self, data: st.DataObject) -> None:
        """INSERT where the key is absent, else UPDATE; blind, so that nothing is recorded."""
        name = data.draw(NAMES)
        key = data.draw(KEYS)
        balance = data.draw(BALANCES)
        note = data.draw(NOTES)
        chosen = self.chosen(data, name)
        if chosen is not None:
            self.write(chosen, name, key, (key, balance, note))

    def delete(self, data: st.DataObject) -> None:
        name = data.draw(NAMES)
        key = data.draw(KEYS)
        chosen = self.chosen(data, name)
        if chosen is not None and key in chosen.model.visible(name):
            self.write(chosen, name, key, None)

    def put_many(self, data: st.DataObject) -> None:
        """As many as are validated in one pass over the changes."""
        name = data.draw(NAMES)
        start = data.draw(KEYS)
        balance = data.draw(BALANCES)
        chosen = self.chosen(data, name)
        if chosen is not None:
            for key in range(start, start + 18):
                self.write(chosen, name, key, (key, balance, None))

    def write(self, chosen: Open, name: str, key: int, row: Row | None) -> None:
        table, base = chosen.tables[name], chosen.real.read_timestamp
        before = chosen.model.visible(name).get(key)
        operation = Operation.DELETE if row is None else Operation.INSERT if before is None else Operation.UPDATE
        chosen.real.put(table.id, Write(operation, key, row, before, base))
        chosen.model.written.setdefault(name, {})[key] = row

    def duplicate(self, data: st.DataObject) -> None:
        name = data.draw(NAMES)
        key = data.draw(KEYS)
        chosen = self.chosen(data, name)
        if chosen is not None and key in chosen.model.visible(name):
            with pytest.raises(UniqueViolation):
                insert(chosen.real, chosen.tables[name], key, 0)

    def bulk(self, data: st.DataObject) -> None:
        name = data.draw(NAMES)
        keys = data.draw(st.lists(KEYS, min_size=1, max_size=8, unique=True))
        truncate = data.draw(SELDOM)
        chosen = self.chosen(data, name)
        if chosen is None:
            return
        rows = iter([batch(chosen.tables[name], {key: -key for key in keys})])
        if not truncate and chosen.model.visible(name).keys() & set(keys):
            with pytest.raises(UniqueViolation):
                chosen.real.put_bulk(chosen.tables[name], rows)
            return
        chosen.real.put_bulk(chosen.tables[name], rows, truncate=truncate)
        if truncate:
            chosen.model.truncated.add(name)
            chosen.model.written.pop(name, None)
            chosen.model.files[name] = []
        deleted = chosen.model.written.get(name, {})
        deleted.update({key: bulk_row(key) for key in keys if deleted.get(key, ()) is None})  # a row again, no deletion any more
        chosen.model.files.setdefault(name, []).append(keys)

    def commit(self, data: st.DataObject) -> None:
        if len(self.open) < 2:
            return
        chosen = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        known = {name: table.id for name, table in chosen.tables.items()}
        verdict = chosen.model.verdict(self.changes, self.alive, known)
        if chosen.model.wrote and len(self.changes) > chosen.model.begun:
            VERDICTS[verdict] += 1
        try:
            finish(chosen.real)
        except SerializationConflict as conflict:
            assert verdict != NEVER, f"a false conflict: {conflict.detail}"
            assert chosen.real.outcome is None
            return
        assert verdict != MUST, "a conflict was missed"
        for name in {*chosen.model.written, *chosen.model.files, *chosen.model.truncated}:
            chosen.model.snapshot[name] = self.now[name] if name not in chosen.model.truncated else {}
        self.changes += chosen.model.changes()
        for name in {*chosen.model.written, *chosen.model.files, *chosen.model.truncated}:
            self.now[name] = chosen.model.visible(name)

    def rollback(self, data: st.DataObject) -> None:
        if self.open and data.draw(SELDOM):
            chosen = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            chosen.real.rollback()
            chosen.real.rollback()

    def point_write(self, data: st.DataObject) -> None:
        name = data.draw(NAMES)
        key = data.draw(KEYS)
        balance = data.draw(st.integers(0, 5))
        table = self.database.catalog.find(name)
        if table is None:
            return
        _, ticket = self.database.committer.write_point(table, key, lambda row: (key, balance, None), b"8 bytes.")
        if ticket is not None:
            ticket.wait()
        self.changes.append(Change(name, key, self.now[name].get(key), (key, balance, None)))
        self.now[name][key] = (key, balance, None)

    # -- what happens to a database -----------------------------------------------------------------------------------

    def checkpoint(self, data: st.DataObject) -> None:
        self.database.checkpoint()

    def start_again(self, data: st.DataObject) -> None:
        """Close, kill or crash, and open: what was acknowledged is there, open transactions never were."""
        if not data.draw(SELDOM):
            return
        seed, kill = data.draw(st.one_of(st.none(), st.integers(0, 5))), data.draw(st.booleans())
        for transaction in self.open:
            transaction.real.rollback()
        self.open.clear()
        if kill:
            found = self.disk.killed()
            with pytest.raises(Exception, match="killed"):
                self.disk.sync()
            self.database.close()
        else:
            self.database.close()
            found = self.disk.crash(seed)
        self.disk = found
        self.database = Database(found, limits=NEVER_BY_ITSELF)
        assert {table.name: table.id for table in self.database.catalog.tables.values()} == self.alive

    def drop_or_create(self, data: st.DataObject) -> None:
        name = data.draw(NAMES)
        table = self.database.catalog.find(name)
        if table is None:
            self.create(name)
            return
        if not data.draw(SELDOM):
            return
        dropper = self.database.begin(writes_first=True)
        dropper.drop_table(table)
        finish(dropper)
        del self.alive[name], self.now[name]

    @invariant()
    def everybody_sees_what_the_model_says(self) -> None:
        if not hasattr(self, "database"):
            return
        expected = {name: {key: row[1] for key, row in rows.items()} for name, rows in self.now.items()}
        assert contents(self.database) == expected
        for transaction in self.open:
            for name, table in transaction.tables.items():
                visible = transaction.model.visible(name)
                assert {key: transaction.real.peek(table.id, key) for key in range(43)} == {key: visible.get(key) for key in range(43)}
        assert self.database.metrics["snapshots"] == len(self.open)


def rows_of(scan: Any) -> Rows:
    found: Rows = {}
    for part in scan:
        columns = [column.to_pylist() for column in part.columns]
        live = columns[3] if len(columns) == 4 else [True] * part.num_rows
        for *row, alive in zip(*columns[:3], live, strict=True):
            if alive:
                assert row[0] not in found, "a key twice in one scan"
                found[row[0]] = tuple(row)  # type: ignore[assignment]
    return found


AS_FOUND = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without making a failure small, which takes minutes: the deep test does."""

RUNS = settings(phases=AS_FOUND, max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


def test_a_database_is_its_model() -> None:
    VERDICTS.clear()
    run_state_machine_as_test(Machine, settings=RUNS)  # type: ignore[no-untyped-call]
    assert min(VERDICTS[MUST], VERDICTS[NEVER]) >= 10, f"few met each other: {VERDICTS}"


@pytest.mark.deep
def test_a_database_is_its_model_at_length() -> None:
    run_state_machine_as_test(Machine, settings=settings(RUNS, max_examples=600, phases=tuple(Phase)))  # type: ignore[no-untyped-call]


# -- false conflicts --------------------------------------------------------------------------------------------------

Shape = Callable[[int, int], Predicate]
"""(low, high) -> a predicate true for balances from low to high."""

SHAPES: dict[str, Shape] = {
    "equality": lambda low, high: Compare(1, "=", low),
    "IN": lambda low, high: In(1, tuple(range(low, high + 1))),
    "range": lambda low, high: And((Compare(1, ">", low - 1), Compare(1, "<", high + 1))),
    "BETWEEN": lambda low, high: And((Compare(1, ">=", low), Compare(1, "<=", high))),
    "OR": lambda low, high: Or(tuple(Compare(1, "=", value) for value in range(low, high + 1))),
    "AND of columns": lambda low, high: And((Compare(1, ">=", low), Compare(0, "<", 10_000), Compare(1, "<=", high))),
    "NOT": lambda low, high: Not(Or((Compare(1, "<", low), Compare(1, ">", high)))),
}
PAIRS = 1_000
BLOCK = 10


def reading(database: Database, table: Table, isolation: Isolation, predicate: Predicate, range: KeyRange = EVERY_KEY) -> LocalTransaction:
    """A transaction that read by a predicate, by a scan and by a range, and wrote elsewhere."""
    reader = database.begin(isolation)
    list(reader.scan(table.id, (0, 1), range, predicate, read_columns=1 << 1))
    list(reader.rows(table.id, range, predicate, columns=1 << 1))
    return reader


@pytest.mark.parametrize("name", list(SHAPES))
def test_disjoint_pairs_never_conflict(name: str) -> None:
    """Each pair: one reads a block of balances, the other inserts, updates and deletes within the next block; both commit."""
    database = Database.open(None, limits=NEVER_BY_ITSELF)
    table = create(database, balances={key: key for key in range(4 * BLOCK)})
    marks = create(database, "marks")
    make, false = SHAPES[name], 0
    for pair in range(PAIRS // len(SHAPES) + 1):
        block = pair % 3
        low, high = block * BLOCK, (block + 1) * BLOCK - 1
        reader = reading(database, table, LEVELS[0], make(low, high))
        insert(reader, marks, pair, pair)
        writer = database.begin()
        outside = high + 1 + pair % BLOCK
        update(writer, table, outside, writer_value(writer, table, outside, high + 1))
        insert(writer, table, 1_000 + pair, high + 1 + pair % 7)
        if pair % 5 == 4:
            writer.put(table.id, removed(writer, table, 1_000 + pair - 3))
        finish(writer)
        try:
            finish(reader)
        except SerializationConflict:
            false += 1
        if pair % 50 == 25:
            database.checkpoint()
    assert false == 0
    database.close()


def writer_value(writer: LocalTransaction, table: Table, key: int, low: int) -> int:
    """Another balance of the same block."""
    row = writer.get(table.id, key)
    assert row is not None
    return low + (row[1] - low + 1) % BLOCK


def removed(writer: LocalTransaction, table: Table, key: int) -> Write:
    row = writer.get(table.id, key)
    return Write(Operation.DELETE, key, None, row, writer.read_timestamp)


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("isolation", LEVELS)
def test_the_same_pairs_conflict_when_they_meet(name: str, isolation: Isolation) -> None:
    """That nothing conflicts above would also be so if nothing were recorded."""
    database = Database.open(None, limits=NEVER_BY_ITSELF)
    table = create(database, balances={key: key for key in range(4 * BLOCK)})
    marks = create(database, "marks")
    for number, change in enumerate(("enter", "leave", "inside", "insert", "delete")):
        reader = reading(database, table, isolation, SHAPES[name](5, 6))
        insert(reader, marks, number, number)
        writer = database.begin()
        if change == "insert":
            insert(writer, table, 500, 5)
        elif change == "delete":
            writer.put(table.id, removed(writer, table, 500))
        else:
            key, value = {"enter": (30, 5), "leave": (30, 30), "inside": (5, 5 if name == "equality" else 6)}[change]
            update(writer, table, key, value)
        finish(writer)
        unchanged = change == "inside" and name == "equality"
        if isolation is Isolation.SERIALIZABLE and not unchanged:
            with pytest.raises(SerializationConflict):
                finish(reader)
        else:
            finish(reader)
    database.close()


def test_disjoint_key_ranges_and_nulls_never_conflict() -> None:
    database = Database.open(None, limits=NEVER_BY_ITSELF)
    table = create(database, balances={key: key for key in range(40)})
    marks = create(database, "marks")
    for pair in range(300):
        low = pair % 20
        null = database.begin()
        null.put(table.id, Write(Operation.INSERT, 10_000 + pair, (10_000 + pair, None, None), None, null.read_timestamp))
        readers = [
            reading(database, table, LEVELS[0], ALL, KeyRange(low, low + 9)),
            reading(database, table, LEVELS[0], ALL, KeyRange(low, low + 10, True, False)),
            reading(database, table, LEVELS[0], IsNull(1), KeyRange(0, 5_000)),
            reading(database, table, LEVELS[0], Compare(1, "<", 5), KeyRange(0, 5_000)),
            reading(database, table, LEVELS[0], Compare(1, "<>", 5_000), KeyRange(0, low + 9)),
        ]
        for number, reader in enumerate(readers):
            insert(reader, marks, pair * 10 + number, 0)
        writer = database.begin()
        update(writer, table, low + 10, 100 + pair)
        insert(writer, table, 5_001 + pair, 7)
        finish(writer)
        for reader in readers:
            finish(reader)
        finish(null)
    reader = reading(database, table, LEVELS[0], IsNull(1))
    insert(reader, marks, -1, 0)
    writer = database.begin()
    writer.put(table.id, Write(Operation.INSERT, 99_999, (99_999, None, None), None, writer.read_timestamp))
    finish(writer)
    with pytest.raises(SerializationConflict):
        finish(reader)
    assert len(scanned(database.begin(read_only=True), table)) == 40 + 300 + 300 + 1
    database.close()


def test_own_tables_and_parts() -> None:
    """What a transaction makes itself it may read; every part of a bulk write is seen by those who validate against it."""
    database = Database.open(None, limits=NEVER_BY_ITSELF)
    maker = database.begin()
    made = maker.create_table(shape("made"))
    insert(maker, made, 1, 1)
    assert maker.get(made.id, 1) == (1, 1, None) and maker.get(made.id, 2, constraint=True) is None
    assert scanned(maker, made) == {1: 1}
    finish(maker)
    readers = []
    for key in (10, 20, 30):
        reader = database.begin()
        assert reader.get(made.id, key) is None
        insert(reader, made, 100 + key, 0)
        readers.append(reader)
    predicate = database.begin()
    list(predicate.rows(made.id, KeyRange(25, 35), ALL))
    insert(predicate, made, 200, 0)
    writer = database.begin()
    for key in (10, 20, 30):
        writer.put_bulk(made, iter([batch(made, {key: key})]))
    finish(writer)
    for transaction in (*readers, predicate):
        with pytest.raises(SerializationConflict):
            finish(transaction)
    database.close()


@pytest.mark.parametrize("isolation", LEVELS)
@pytest.mark.parametrize("merged", [False, True], ids=["flushed", "merged"])
def test_a_deletion_is_not_forgotten_while_somebody_does_not_know_of_it(isolation: Isolation, merged: bool) -> None:
    """Deleted rows leave the memtable, then the segments; whoever began before still conflicts with their deletion."""
    database = Database.open(None, limits=NEVER_BY_ITSELF)
    table = create(database, balances={key: key for key in range(8)})
    database.checkpoint()
    updater, absent, later = database.begin(isolation), database.begin(isolation), database.begin(isolation)
    update(updater, table, 3, 33)
    row = later.get(table.id, 4)
    assert row is not None
    insert(absent, table, 100, 1)
    for key, balance in ((100, 5), (101, 5)):
        writer = database.begin()
        insert(writer, table, key, balance)
        finish(writer)
    for key in (3, 4, 100):
        writer = database.begin()
        writer.put(table.id, removed(writer, table, key))
        finish(writer)
    database.checkpoint()
    for number in range(12 if merged else 0):
        writer = database.begin()
        insert(writer, table, 200 + number, 0)
        update(writer, table, 5, number)
        finish(writer)
        database.checkpoint()
    assert (database.metrics["compactions"] > 0) == merged
    later.put(table.id, Write(Operation.UPDATE, 4, (4, 44, None), row, later.read_timestamp))
    for transaction in (updater, absent, later):
        with pytest.raises(SerializationConflict):
            finish(transaction)
    assert scanned(database.begin(read_only=True), table).keys() >= {0, 1, 2, 5, 6, 7, 101}
    assert not scanned(database.begin(read_only=True), table).keys() & {3, 4, 100}
    database.close()


def test_a_read_only_transaction_cannot_write() -> None:
    """It recorded no reads, so its writes could not be validated."""
    database = Database.open(None)
    table = create(database, balances={1: 1})
    reader = database.begin(read_only=True)
    update(reader, table, 1, 2)
    with pytest.raises(AssertionError):
        reader.commit()
    reader.rollback()
    assert contents(database) == {"accounts": {1: 1}} and database.metrics["snapshots"] == 0
    database.close()


def test_a_refused_row_is_no_write() -> None:
    database = Database.open(None)
    table = create(database, balances={1: 1})
    writer = database.begin()
    with pytest.raises(UniqueViolation):
        insert(writer, table, 1, 2)
    assert not writer.wrote
    commits = database.metrics["commits"]
    finish(writer)
    assert database.metrics["commits"] == commits
    database.close()
