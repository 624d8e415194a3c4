"""`python -m benchmarks [--only NAME …] [--scale 0.1] [--rows N] [--seconds 1] [--threads 1,16] [--json FILE]`: a table, and JSON."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks import concurrency, crowds, validation, workloads
from benchmarks.measure import Comparison, Fact, Pair, encode, rate
from benchmarks.rivals import SETTINGS
from benchmarks.workloads import Settings

WORKLOADS = {**workloads.WORKLOADS, **concurrency.WORKLOADS, **validation.WORKLOADS, **crowds.WORKLOADS}


def show(result: Comparison | Fact | Pair) -> str:
    """One line of the table."""
    if isinstance(result, Pair):
        mark = "ok  " if result.at_most is None or result.ratio <= result.at_most else "MISS"
        goal = "(no bound)" if result.at_most is None else f"(at most {result.at_most:g}x)"
        values = "; ".join(f"{name}: {value:.1f} {result.unit}" for name, value in zip(result.names, result.values, strict=True))
        return f"{mark} {result.workload:<52} {result.ratio:8.2f}x {goal}  {values}  {result.note}"
    if isinstance(result, Fact):
        mark = "ok  " if result.value <= result.at_most else "MISS"
        return f"{mark} {result.workload:<52} {result.value:8.2f} {result.unit:<10} (at most {result.at_most:g})  {result.note}"
    mark = "ok  " if result.ratio >= result.target else "MISS"
    goal = f"(target {result.target:g}x)" if result.target else "(no target)"
    rates = f"{rate(result.our_rate)} against {rate(result.rival_rate)}"
    return f"{mark} {result.workload:<52} {result.ratio:8.2f}x {result.rival:<20} {goal}  {rates}  {result.note}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(WORKLOADS), help="this workload only (may be repeated)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the operations (quick looks)")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side and round of the concurrent workloads")
    parser.add_argument("--threads", type=_numbers, default=(1, 2, 4, 8, 16), help="of ycsb and smallbank, separated by commas")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args(arguments)
    print(f"{platform.machine()}, {platform.python_implementation()} {platform.python_version()}")
    for name, text in SETTINGS.items():
        print(f"  {name:<12} {text}")
    results = []

    def settings(where: Path) -> Settings:
        return Settings(where, options.rows, options.scale, options.rounds, options.seconds, options.threads)

    with tempfile.TemporaryDirectory(prefix="khonsu-bench") as directory:
        for name in options.only or WORKLOADS:
            print(f"-- {name}", flush=True)
            where = Path(directory) / name
            where.mkdir()
            for result in WORKLOADS[name](settings(where)):
                results.append(result)
                print(show(result), flush=True)
    if options.json:
        options.json.write_bytes(encode(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
