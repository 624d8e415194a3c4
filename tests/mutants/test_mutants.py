"""The mutants fit the product as it is; a rotating sample of them is killed (all of them: `make mutants`); and the hook is no liar."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.hook import plant
from tests.mutants.mutant import Misfit, Mutant, path_of
from tests.mutants.running import BROKEN, KILLED, ROOT, SURVIVED, judged, run
from tests.mutants.seeded import BY_NAME, MUTANTS

SAMPLE = 3


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS])
def test_a_mutant_still_fits(mutant: Mutant) -> None:
    """Who changes a line that a mutant replaces changes the mutant, too."""
    compile(mutant.planted(path_of(mutant.module).read_text()), mutant.module, "exec")
    assert mutant.text != mutant.replacement
    for test in mutant.tests:
        assert Path(ROOT, test.partition("::")[0]).exists(), test


def test_there_are_enough_and_each_has_its_name() -> None:
    assert len(BY_NAME) == len(MUTANTS) >= 60
    assert len({(mutant.module, mutant.text, mutant.replacement) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.deep
@pytest.mark.timeout(1_800)
def test_a_sample_is_killed() -> None:
    seed = os.environ.get("KHONSU_SEED") or str(random.randrange(1 << 32))
    print(f"KHONSU_SEED={seed}")
    for mutant in random.Random(seed).sample(MUTANTS, SAMPLE):
        verdict = run(mutant)
        print(mutant.name, verdict.state, verdict.by)
        assert verdict.state == KILLED, f"{mutant.name} ({mutant.breaks}): {verdict.state} {verdict.by}; KHONSU_SEED={seed}"


# --- the hook and the judge

HARMLESS = Mutant(
    "harmless", "khonsu_sql.isolation", 'return level.name.replace("_", " ")', 'return " ".join(level.name.split("_"))', "", ()
)


def test_a_module_that_is_imported_already_is_refused() -> None:
    import khonsu_sql.isolation

    before = list(sys.meta_path)
    with pytest.raises(Misfit, match="imported already"):
        plant(HARMLESS)
    assert sys.meta_path == before and khonsu_sql.isolation.name_of


@pytest.mark.parametrize("text", ["no such text", "level"])
def test_a_text_that_does_not_stand_there_once_is_refused(text: str) -> None:
    with pytest.raises(Misfit, match="not once"):
        HARMLESS._replace(text=text).planted(path_of(HARMLESS.module).read_text())


def test_an_unknown_mutant_is_no_failed_test(tmp_path: Path) -> None:
    environment = os.environ | {"KHONSU_MUTANT": "nonsense", "KHONSU_MUTANT_REPORT": str(tmp_path / "report")}
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutants.hook", "tests/driver/test_dsn.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "is no mutant" in done.stdout + done.stderr
    assert not (tmp_path / "report").exists()


LOADED = {"loaded": HARMLESS.module}
FAILED = {"test": "a test", "phase": "call", "kind": "AssertionError", "said": "assert 1 == 2"}


@pytest.mark.parametrize(
    ("code", "facts", "state"),
    [
        (1, [LOADED, FAILED], KILLED),
        (1, [LOADED, {**FAILED, "phase": "teardown"}], KILLED),
        (0, [LOADED], SURVIVED),
        (0, [], BROKEN),
        (1, [FAILED], BROKEN),
        (1, [LOADED], BROKEN),
        (2, [LOADED, FAILED], BROKEN),
        (1, [LOADED, {**FAILED, "phase": "setup"}], BROKEN),
        (1, [LOADED, {**FAILED, "kind": "NameError"}], BROKEN),
        (1, [LOADED, {**FAILED, "kind": "Failed", "said": "Timeout (>60.0s) from pytest-timeout."}], BROKEN),
    ],
)
def test_only_a_test_that_noticed_it_kills(code: int, facts: list[dict[str, str]], state: str) -> None:
    assert judged(HARMLESS, code, facts, "")[0] == state


def test_who_hangs_is_killed_by_time_only_if_that_was_said() -> None:
    late = {**FAILED, "kind": "Failed", "said": "Timeout (>60.0s) from pytest-timeout."}
    assert judged(HARMLESS._replace(hangs=True), 1, [LOADED, late], "") == (KILLED, "a test")
