"""Runs the tests of one mutant in a process of their own, and says whether they noticed it.

*Killed* is a mutant when a test failed by what it asserts or by what the product raised: pytest's exit code is 1, the module was loaded with
the bug, and the failure came in the test or its clean-up. A hook that does not fit, a collection that fails, a test that breaks while it is
set up, a name that does not exist and (unless it `hangs`) a test that runs out of time are no proof: the mutant is *broken* then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.mutants.mutant import Mutant

__all__ = ["BROKEN", "KILLED", "SURVIVED", "Verdict", "run"]

ROOT = Path(__file__).resolve().parents[2]

KILLED, SURVIVED, BROKEN = "killed", "SURVIVED", "BROKEN"

TEST_SECONDS = 120
"""For one test. What only waits has failed long before."""

RUN_SECONDS = 600

NO_PROOF = {"NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError", "Misfit"}
"""Exceptions of a bug that was badly written, not of the one that was meant."""


class Verdict(NamedTuple):
    """`by`: the test that noticed it; or what is wrong with the run."""

    mutant: Mutant
    state: str
    by: str
    seconds: float


def run(mutant: Mutant) -> Verdict:
    """Plant `mutant` and run its tests until the first one that fails."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutants.hook", "-p", "no:cacheprovider", "-x", "-q", "-m", "not deep"]
    command += ["--timeout", str(TEST_SECONDS), "--tb=short", *(["-k", mutant.only] if mutant.only else []), *mutant.tests]
    with TemporaryDirectory() as folder:
        report = Path(folder, "report")
        report.touch()
        paths = os.pathsep.join((str(ROOT), str(ROOT / "engine"), str(ROOT / "cluster")))
        environment = os.environ | {"KHONSU_MUTANT": mutant.name, "KHONSU_MUTANT_REPORT": str(report), "PYTHONPATH": paths, "CI": "true"}
        environment.pop("PYTEST_ADDOPTS", None)
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_SECONDS
            )
        except subprocess.TimeoutExpired:
            return Verdict(mutant, BROKEN, f"no end after {RUN_SECONDS} s", time.monotonic() - began)
        facts = [json.loads(line) for line in report.read_text().splitlines()]
    state, by = judged(mutant, done.returncode, facts, done.stdout + done.stderr)
    return Verdict(mutant, state, by, time.monotonic() - began)


def judged(mutant: Mutant, code: int, facts: list[dict[str, Any]], said: str) -> tuple[str, str]:
    """(state, by) of a run: pytest's exit code, what the hook reported, what was printed."""
    if not any(fact.get("loaded") == mutant.module for fact in facts):
        return BROKEN, f"{mutant.module} was never loaded with the bug (exit code {code}): {said.strip()[-300:]}"
    if code == 0:
        return SURVIVED, ""
    failures = [fact for fact in facts if "test" in fact]
    if code != 1 or not failures:
        return BROKEN, f"exit code {code}: {said.strip()[-300:]}"
    first = failures[0]
    if first["phase"] == "setup" or first["kind"] in NO_PROOF:
        return BROKEN, f"{first['test']} broke in its {first['phase']}: {first['kind']}: {first['said']}"
    if first["said"].startswith("Timeout") and not mutant.hangs:
        return BROKEN, f"{first['test']} ran out of time"
    return KILLED, first["test"]
