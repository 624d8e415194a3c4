"""`khonsu check` through a real process: what it prints and its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from khonsu_sql.checker import Transaction, encode_transaction, write_history
from tests.checker.histories import append, read, t, values, write

ROOT = Path(__file__).resolve().parents[2]
GOOD = [t(1, append("x", 1)), t(2, values("x", 1))]
SKEW = [t(1, read("x", None), write("y", 1)), t(2, read("y", None), write("x", 1))]
VACUOUS = [t(1, append("x", 1))]


def khonsu(*arguments: str, folder: Path, text: bytes = b"") -> subprocess.CompletedProcess[str]:
    script = "import sys; from khonsu_sql.cli.main import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "engine")))}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], input=text, capture_output=True, cwd=folder, timeout=120, env=environment
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize(
    ("history", "arguments", "code", "said"),
    [
        (GOOD, [], 0, "strongest level that holds: strict-serializable"),
        (GOOD, ["--level", "serializable"], 0, "serializable: holds"),
        (SKEW, [], 1, "G2-item: 1 found, forbidden from serializable"),
        (SKEW, ["--level", "repeatable-read"], 0, "repeatable-read: holds"),
        (SKEW, ["--level", "serializable"], 1, "serializable: violated"),
        (VACUOUS, ["--level", "read-committed"], 1, "vacuous: no two processes ever touched the same data"),
        (VACUOUS, ["--allow-vacuous"], 0, "(allowed)"),
        ([], [], 1, "vacuous"),
    ],
)
def test_the_verdict_is_the_exit_code(history: list[Transaction], arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    write_history(tmp_path / "history.jsonl", history)
    done = khonsu("check", "history.jsonl", *arguments, folder=tmp_path)
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout


def test_a_history_comes_through_a_pipe(tmp_path: Path) -> None:
    done = khonsu("check", "-", folder=tmp_path, text=b"".join(map(encode_transaction, SKEW)))
    assert done.returncode == 1 and "T1 < T2" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["history.jsonl"], "khonsu check: history.jsonl: line 1: "),
        (["missing.jsonl"], "No such file"),
        (["."], "directory"),
        ([], "HISTORY"),
        (["history.jsonl", "--level", "sloppy"], "sloppy"),
    ],
)
def test_what_cannot_be_checked_ends_with_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("nonsense\n")
    done = khonsu("check", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_database_may_still_be_called_check(tmp_path: Path) -> None:
    done = khonsu("./check", "-c", "SELECT 1 + 1", folder=tmp_path)
    assert done.returncode == 0 and "2" in done.stdout
    assert (tmp_path / "check").is_dir()
