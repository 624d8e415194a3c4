"""Many clients at once: TPC-B, YCSB and SmallBank, all durable, SERIALIZABLE, from one thread to many. Every run is checked at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks import smallbank, tpcb, ycsb
from benchmarks.clients import Clients, Engine, khonsu, postgresql, sqlite
from benchmarks.measure import Comparison, Fact, Pair, comparison, in_turns, pair
from benchmarks.rivals import postgres
from benchmarks.workloads import Settings

__all__ = ["WORKLOADS"]

SQLITE, POSTGRES = "sqlite3 WAL FULL", "PostgreSQL"
THREADS = 16
YCSB_ROWS = 10_000
YCSB_OPERATIONS = 4

Prepared = tuple[Clients, Callable[[], None]]
"""Clients on a filled database, and the check of what they leave behind."""


def _side_by_side(workload: str, sides: dict[str, Prepared], targets: dict[str, float], settings: Settings) -> Iterator[Comparison]:
    """All sides in turns; those with a target (0: none) are rivals. A line for each of ours and each rival."""
    rates = in_turns({name: clients.run for name, (clients, _) in sides.items()}, min(3, settings.rounds))
    for name, (clients, check) in sides.items():
        clients.close()
        try:
            check()
        except AssertionError as error:
            raise AssertionError(f"{workload}, {name}: {error}") from None
    for name in sides:
        for rival, target in targets.items() if name not in targets else ():
            retries = f"retries: {sides[name][0].retries_percent:.2f} % ours, {sides[rival][0].retries_percent:.2f} % theirs"
            mine = workload if name == "khonsu" else f"{workload}, {name}"
            yield comparison(mine, rival, target, rates[name], rates[rival], retries)


def _engines(settings: Settings, label: str, dsn: str | None) -> dict[str, Engine]:
    """One database each, all durable."""
    where = settings.directory / label
    engines = {"khonsu": khonsu(f"{where}.khonsu"), SQLITE: sqlite(f"{where}.sqlite")}
    if dsn is not None:
        engines[POSTGRES] = postgresql(_database(dsn, label))
    return engines


def _database(dsn: str, label: str) -> str:
    """A new database of the PostgreSQL server."""
    import psycopg

    name = label.replace("-", "_").lower()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return dsn.replace("dbname=postgres", f"dbname={name}")


def _tpcb(engine: Engine, branches: int, work: Sequence[range], settings: Settings) -> Prepared:
    clients = tpcb.bank(engine, branches, work, settings.seconds)
    return clients, lambda: tpcb.check(engine, clients)


def bank(settings: Settings) -> Iterator[Comparison]:
    """TPC-B on 100 branches."""
    with postgres() as dsn:
        for threads, targets in ((1, {SQLITE: 0.6}), (THREADS, {SQLITE: 1.5, POSTGRES: 3.0})):
            engines = _engines(settings, f"bank-{threads}", dsn if threads > 1 else None)
            sides = {name: _tpcb(engine, 100, [range(100)] * threads, settings) for name, engine in engines.items()}
            goals = {name: target for name, target in targets.items() if name in sides}
            yield from _side_by_side(f"TPC-B, {_threads(threads)}, 100 branches", sides, goals, settings)


def hot(settings: Settings) -> Iterator[Comparison | Fact]:
    """TPC-B on one branch, whose row everybody writes: what queues (ADAPTIVE) and what does not (OPTIMISTIC)."""
    where = settings.directory / "hot"
    engines = {mode: khonsu(f"{where}-{mode}.khonsu", locking=mode) for mode in ("ADAPTIVE", "OPTIMISTIC")}
    engines[SQLITE] = sqlite(f"{where}.sqlite")
    sides = {name: _tpcb(engine, 1, [range(1)] * THREADS, settings) for name, engine in engines.items()}
    label = f"TPC-B, {_threads(THREADS)}, 1 branch"
    yield from _side_by_side(label, sides, {SQLITE: 2.0}, settings)
    for mode in ("ADAPTIVE", "OPTIMISTIC"):
        yield Fact(f"{label}, {mode}, retries", sides[mode][0].retries_percent, 1, "% of commits")


def disjoint(settings: Settings) -> Iterator[Pair]:
    """TPC-B where each thread has a branch of its own: what SERIALIZABLE costs when nothing collides."""
    levels = ("REPEATABLE READ", "SERIALIZABLE")
    for label, threads, where in (
        ("durable", THREADS, str(settings.directory / "disjoint-{}.khonsu")),
        ("in memory", THREADS, ":memory:disjoint-{}"),
        ("in memory", 1, ":memory:alone-{}"),
    ):
        engines = {level: khonsu(where.format(level[:1]), isolation_level=level) for level in levels}
        keepers = [engine.connect() for engine in engines.values()]
        work = [range(number, number + 1) for number in range(threads)]
        sides = {level: _tpcb(engine, threads, work, settings) for level, engine in engines.items()}
        rates = in_turns({level: clients.run for level, (clients, _) in sides.items()}, settings.rounds)
        for clients, check in sides.values():
            check()
            clients.close()
        for keeper in keepers:
            keeper.close()
        retries = max(clients.retries for clients, _ in sides.values())
        yield pair(f"TPC-B, {_threads(threads)}, disjoint, {label}", rates, 1.3, f"{retries} retries")


def _ycsb(engine: Engine, mix: ycsb.Mix, threads: int, settings: Settings) -> Prepared:
    table, clients = ycsb.store(engine, mix, settings.count(YCSB_ROWS), threads, YCSB_OPERATIONS, settings.seconds)
    return clients, lambda: ycsb.check(engine, table)


def ycsb_workloads(settings: Settings) -> Iterator[Comparison]:
    """YCSB A to F, four operations a transaction."""
    with postgres() as dsn:
        for name, mix in ycsb.WORKLOADS.items():
            for threads in settings.threads:
                engines = _engines(settings, f"ycsb-{name}-{threads}", dsn)
                sides = {engine: _ycsb(engines[engine], mix, threads, settings) for engine in engines}
                yield from _side_by_side(f"YCSB {name}, {_threads(threads)}", sides, _no_targets(sides), settings)


def _smallbank(engine: Engine, customers: int, threads: int, settings: Settings) -> Prepared:
    workers, clients = smallbank.bank(engine, customers, threads, settings.seconds)
    return clients, lambda: smallbank.check(engine, workers)


def smallbank_workloads(settings: Settings) -> Iterator[Comparison]:
    """SmallBank with 1,000 hot customers, where transactions rarely meet, and with 10, where they do all the time."""
    with postgres() as dsn:
        for customers in (1_000, 10):
            for threads in settings.threads:
                engines = _engines(settings, f"smallbank-{customers}-{threads}", dsn)
                sides = {engine: _smallbank(engines[engine], customers, threads, settings) for engine in engines}
                label = f"SmallBank, {customers:,} hot customers, {_threads(threads)}"
                yield from _side_by_side(label, sides, _no_targets(sides), settings)


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number > 1 else ''}"


def _no_targets(sides: dict[str, Prepared]) -> dict[str, float]:
    return dict.fromkeys(list(sides)[1:], 0.0)


WORKLOADS: dict[str, Callable[[Settings], Iterator[Comparison | Fact | Pair]]] = {
    "bank": bank,
    "hot": hot,
    "disjoint": disjoint,
    "ycsb": ycsb_workloads,
    "smallbank": smallbank_workloads,
}
