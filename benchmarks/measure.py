"""Timing in pairs: both sides of a comparison take turns in one process and run, so that noise hits both.

A `Comparison` is one line of the report: the median over rounds of (rival's time / our time), with both rates. Timing never
decides a test; the targets are printed beside what was reached.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["Comparison", "Fact", "Pair", "Side", "clock", "compare", "comparison", "encode", "in_turns", "pair", "percentile", "rate"]

clock = time.perf_counter


class Comparison(msgspec.Struct):
    """`ratio`: how many times faster than the rival (above 1 = faster). Rates are operations per second."""

    workload: str
    rival: str
    ratio: float
    target: float
    our_rate: float
    rival_rate: float
    rounds: int
    note: str = ""


class Fact(msgspec.Struct):
    """A measured number with a bound instead of a rival (`at_most`)."""

    workload: str
    value: float
    at_most: float
    unit: str
    note: str = ""


class Pair(msgspec.Struct):
    """The same measured in two situations, `values` per operation (seconds, bytes, …: `unit`); `ratio`: the second over the first."""

    workload: str
    names: tuple[str, str]
    values: tuple[float, float]
    ratio: float
    at_most: float | None
    unit: str
    note: str = ""


Side = Callable[[], int]
"""Does some operations and returns how many."""


def in_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """Run the sides in turns, `rounds` times each after one warm-up, from either end. Returns their rates, operations per second."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for number in range(rounds):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            gc.collect()
            started = clock()
            operations = sides[name]()
            rates[name].append(operations / (clock() - started))
    return rates


def comparison(workload: str, rival: str, target: float, ours: Sequence[float], theirs: Sequence[float], note: str = "") -> Comparison:
    """Two lists of rates that were measured in turns."""
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return Comparison(workload, rival, ratio, target, statistics.median(ours), statistics.median(theirs), len(ours), note)


def pair(workload: str, rates: Mapping[str, Sequence[float]], at_most: float | None, note: str = "") -> Pair:
    """Two lists of rates that were measured in turns, as microseconds per operation."""
    (first, before), (second, after) = rates.items()
    ratio = statistics.median(one / other for one, other in zip(before, after, strict=True))
    values = (1e6 / statistics.median(before), 1e6 / statistics.median(after))
    return Pair(workload, (first, second), values, ratio, at_most, "us", note)


def compare(workload: str, rival: str, target: float, ours: Side, theirs: Side, *, rounds: int = 5, note: str = "") -> Comparison:
    """Run both sides in turns. A side returns the number of operations it did."""
    rates = in_turns({"ours": ours, "theirs": theirs}, rounds)
    return comparison(workload, rival, target, rates["ours"], rates["theirs"], note)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0..1) of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def rate(value: float) -> str:
    """A rate in a few characters."""
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{suffix}/s"
    return f"{value:.1f}/s"


def encode(results: list[Any]) -> bytes:
    """All results as JSON."""
    return msgspec.json.format(msgspec.json.encode(results), indent=2)
