"""What every test shares: the three profiles and the options of the suite.

Profiles: the default; `KHONSU_POINT_PATH=off` (read by the product: every statement takes the DuckDB path); and
`KHONSU_TEST_PROFILE=tiny`: memtables of 64 versions, segments of 256 rows, a checkpoint every 50 commits, so that small tests walk
through flushes, checkpoints and compactions. The tiny bounds take the place of the default ones here, before any test module (and so
before anything that has them as a default argument) is imported.
"""

from __future__ import annotations

import os
import signal
import sys

import hypothesis
import pytest

from khonsu_engine import limits

DEEP_SECONDS = 1_200

PROFILE = os.environ.get("KHONSU_TEST_PROFILE", "default")

if PROFILE == "tiny":
    assert "khonsu_engine.database" not in sys.modules, "the tiny profile must be set before the engine is imported"
    limits.DEFAULT = limits.TINY
elif PROFILE != "default":
    raise pytest.UsageError(f"KHONSU_TEST_PROFILE={PROFILE!r}: it is 'default' or 'tiny'")

# Started in the background of a script, Ctrl-C is ignored, and so it is in every process started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same cases every time in CI, fresh ones on a developer's machine.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write what was observed into the stories (tests/scripts) and docs/isolation.md; read the diff",
    )


def pytest_report_header() -> str:
    return f"khonsu profile: {PROFILE}, point path {os.environ.get('KHONSU_POINT_PATH', 'on')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A deep test has more time than setup.cfg gives the others, unless it says how much it needs."""
    for item in items:
        if item.get_closest_marker("deep") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(DEEP_SECONDS))
