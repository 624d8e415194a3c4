"""The reaper: who is looked at when, who is forgotten, and how it ends."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from math import inf

import pytest

from khonsu_engine.database import Database
from khonsu_engine.reaper import SLACK, Reaper

PATIENCE = 20.0


class Clock:
    """Notes its looks; `answers`: what it says about the next one, then never again."""

    def __init__(self, *answers: float) -> None:
        self.answers = list(answers)
        self.looks: list[float] = []
        self.looked = threading.Semaphore(0)

    def look(self, now: float) -> float:
        self.looks.append(now)
        self.looked.release()
        return now + self.answers.pop(0) if self.answers else inf

    def wait(self) -> None:
        assert self.looked.acquire(timeout=PATIENCE)


class Broken:
    def look(self, now: float) -> float:
        raise ValueError("no")


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    made = Reaper()
    yield made
    made.stop()


def test_it_looks_when_it_was_asked_to_and_not_before(reaper: Reaper) -> None:
    late, soon = Clock(), Clock()
    start = time.monotonic()
    reaper.watch(late, start + 0.06)
    reaper.watch(soon, start + 0.02)
    late.wait()
    assert len(soon.looks) == len(late.looks) == 1
    assert start + 0.02 <= soon.looks[0] < late.looks[0] and late.looks[0] >= start + 0.06


def test_it_comes_again_as_often_as_it_is_told(reaper: Reaper) -> None:
    clock = Clock(0.001, 0.001)
    reaper.watch(clock, 0.0)
    for _ in range(3):
        clock.wait()
    other = Clock()
    reaper.watch(other, time.monotonic() + 0.01)
    other.wait()
    assert len(clock.looks) == 3


def test_the_earliest_moment_counts(reaper: Reaper) -> None:
    clock = Clock()
    now = time.monotonic()
    for seconds in (3_600, 7_200, 0.01, 1_800):
        reaper.watch(clock, now + seconds)
    clock.wait()
    assert len(clock.looks) == 1 and clock.looks[0] < now + 1_800


def test_whoever_is_gone_is_forgotten(reaper: Reaper) -> None:
    """Also the entries for the far future of those who came and went."""
    for _ in range(5 * SLACK):
        reaper.watch(Clock(), time.monotonic() + 3_600)
    gc.collect()
    clock = Clock()
    reaper.watch(clock, 0.0)
    clock.wait()
    assert len(reaper._agenda) <= SLACK + 2


def test_an_exception_hits_nobody_else(reaper: Reaper, caplog: pytest.LogCaptureFixture) -> None:
    broken, clock = Broken(), Clock()
    reaper.watch(broken, 0.0)
    reaper.watch(clock, time.monotonic() + 0.01)
    clock.wait()
    assert isinstance(reaper.failure, ValueError) and "deadline failed" in caplog.text


def test_no_thread_before_there_is_a_need_and_none_afterwards() -> None:
    database = Database.open(None)
    assert database.reaper._thread is None
    clock = Clock()
    database.reaper.watch(clock, time.monotonic() + 3_600)
    thread = database.reaper._thread
    assert thread is not None and thread.is_alive() and thread.daemon
    database.close()
    assert not thread.is_alive() and clock.looks == []
    database.reaper.watch(clock, 0.0)
    assert database.reaper._thread is None
