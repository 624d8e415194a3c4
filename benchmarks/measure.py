"""Timing in pairs: both sides of a comparison take turns in one process and run, so that noise hits both.

A `Comparison` is one line of the report: the median over rounds of (rival's time / our time), with both rates. Timing never
decides a test; the targets are printed beside what was reached.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["Comparison", "Fact", "compare", "clock"]

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


def compare(
    workload: str,
    rival: str,
    target: float,
    ours: Callable[[], int],
    theirs: Callable[[], int],
    *,
    rounds: int = 5,
    note: str | Callable[[], str] = "",
) -> Comparison:
    """Run both sides in turns, `rounds` times each after one warm-up. A side returns the number of operations it did."""
    ours()
    theirs()
    our_rates, their_rates = [], []
    for number in range(rounds):
        sides: list[tuple[list[float], Callable[[], int]]] = [(our_rates, ours), (their_rates, theirs)]
        for rates, side in sides if number % 2 == 0 else reversed(sides):
            gc.collect()
            started = clock()
            operations = side()
            rates.append(operations / (clock() - started))
    ratios = [mine / other for mine, other in zip(our_rates, their_rates, strict=True)]
    shown = note() if callable(note) else note
    return Comparison(
        workload, rival, statistics.median(ratios), target, statistics.median(our_rates), statistics.median(their_rates), rounds, shown
    )


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
