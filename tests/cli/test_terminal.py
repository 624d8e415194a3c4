"""`khonsu` in a terminal: prompts, continuation, history, Ctrl-C and Ctrl-D. A pseudo-terminal plays the person's part."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[()][AB012]|[=>])|\x07")
PATIENCE_SECONDS = 60.0


class Terminal:
    """A shell in a terminal; `type` keys, `wait_for` what appears."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.shown = ""  # all of it, escape sequences included
        self.place = 0  # how much of it, without them, was waited for
        leader, follower = pty.openpty()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "engine"))),
            "KHONSU_HISTORY": str(folder / "history"),
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }
        code = "import sys; from khonsu_sql.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-c", code, *arguments]
        self.process = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, cwd=folder, env=environment, start_new_session=True
        )
        os.close(follower)
        self.leader = leader

    def type(self, keys: str) -> None:
        os.write(self.leader, keys.encode())

    def wait_for(self, text: str) -> str:
        """Read until `text` appears; returns what was shown between the end of the last call and the end of `text`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in (clean := ESCAPES.sub("", self.shown)[self.place :]):
            ready, _, _ = select.select([self.leader], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not appear in {clean!r}"
            self.shown += os.read(self.leader, 65536).decode(errors="replace")
        end = clean.index(text) + len(text)
        self.place += end
        return clean[:end]

    def ended(self) -> int:
        """The exit code of a shell that was told to leave."""
        try:
            while os.read(self.leader, 65536):
                pass
        except OSError:  # the other side is closed
            pass
        return self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.leader)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path, "bank.khonsu")
    terminal.wait_for("bank=>")
    yield terminal
    terminal.close()


def test_prompts_tell_the_state_of_the_transaction(terminal: Terminal) -> None:
    terminal.type("BEGIN;\r")
    terminal.wait_for("bank=*>")
    terminal.type("SELECT 1/0;\r")
    assert "division by zero" in terminal.wait_for("bank=!>")
    terminal.type("ROLLBACK;\r")
    terminal.wait_for("bank=>")


def test_a_statement_of_several_lines(terminal: Terminal) -> None:
    terminal.type("SELECT 40\r")
    terminal.wait_for("bank->")
    terminal.type("+ (1\r")
    terminal.wait_for("bank(>")
    terminal.type("+ 1) AS answer;\r")
    assert re.search(r"answer\s+-+\s+42\s+\(1 row\)", terminal.wait_for("(1 row)"))


def test_ctrl_c_throws_the_input_away_and_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.type("SELECT 'never finished\r")
    terminal.wait_for("bank'>")
    terminal.type("\x03")
    terminal.wait_for("bank=>")
    terminal.type("SELECT 5 AS five;\r")
    terminal.wait_for("(1 row)")
    terminal.wait_for("bank=>")
    terminal.type("\x04")
    assert terminal.ended() == 0


def test_backslash_q_leaves(terminal: Terminal) -> None:
    terminal.type("\\q\r")
    assert terminal.ended() == 0


def test_ctrl_c_cancels_the_statement_not_the_shell(terminal: Terminal) -> None:
    terminal.type("CREATE TABLE t (k INTEGER PRIMARY KEY);\r")
    terminal.wait_for("CREATE TABLE\r\n")
    terminal.wait_for("bank=>")
    endless = "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range * b.range % 7 = 8;"
    terminal.type(f"SELECT 'begin' || 'ning'; {endless} SELECT 'never' || 'more';\r")
    terminal.wait_for("beginning")
    terminal.wait_for("(1 row)")
    os.kill(terminal.process.pid, signal.SIGINT)
    assert "nevermore" not in terminal.wait_for("Cancelled.")
    terminal.wait_for("bank=>")
    terminal.type("INSERT INTO t VALUES (7) RETURNING k AS seven;\r")
    assert "7" in terminal.wait_for("INSERT 0 1")


def test_history_survives_the_shell(terminal: Terminal) -> None:
    terminal.type("SELECT 1\rAS remembered;\r")
    terminal.wait_for("(1 row)")
    terminal.wait_for("bank=>")
    terminal.type("\\q\r")
    assert terminal.ended() == 0
    again = Terminal(terminal.folder, "bank.khonsu")
    try:
        again.wait_for("bank=>")
        again.type("\x1b[A\x1b[A")
        again.wait_for("SELECT 1")
        again.wait_for("remembered")
        again.type("\r")
        again.wait_for("(1 row)")
    finally:
        again.close()


def test_an_open_transaction_is_rolled_back_by_leaving(terminal: Terminal) -> None:
    terminal.type("CREATE TABLE t (k INTEGER PRIMARY KEY);\r")
    terminal.wait_for("bank=>")
    terminal.type("BEGIN;\r")
    terminal.wait_for("bank=*>")
    terminal.type("INSERT INTO t VALUES (1);\r")
    terminal.wait_for("INSERT 0 1")
    terminal.wait_for("bank=*>")
    terminal.type("\x04")
    assert terminal.ended() == 0
    again = Terminal(terminal.folder, "bank.khonsu", "-c", "SELECT count(*) AS n FROM t")
    try:
        assert re.search(r"n\s+---\s+0\s+\(1 row\)", again.wait_for("(1 row)"))
    finally:
        again.close()


def test_ctrl_c_ends_a_script(tmp_path: Path) -> None:
    endless = "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range * b.range % 7 = 8"
    terminal = Terminal(tmp_path, "-c", "SELECT 'begin' || 'ning'", "-c", endless, "-c", "SELECT 'never' || 'more'")
    try:
        terminal.wait_for("(1 row)")
        os.kill(terminal.process.pid, signal.SIGINT)
        assert "nevermore" not in terminal.wait_for("khonsu: interrupted")
        assert terminal.ended() == 130
    finally:
        terminal.close()
