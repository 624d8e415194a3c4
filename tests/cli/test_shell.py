"""`khonsu` as a process: what it prints, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Run(NamedTuple):
    code: int
    output: str
    errors: str


def khonsu(*arguments: str | Path, script: str = "", folder: Path | None = None) -> Run:
    """Run the shell with `script` as its standard input."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "engine", ROOT / "cluster")))
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from khonsu_sql.cli.main import main; sys.exit(main())", *map(str, arguments)],
        input=script,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
    )
    return Run(done.returncode, done.stdout, done.stderr)


BANK = "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, balance DECIMAL(8, 2) DEFAULT 0);"


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small database nobody changes."""
    path = tmp_path_factory.mktemp("shell") / "bank.khonsu"
    rows = "INSERT INTO accounts VALUES (1, 'alice', 10.5), (2, 'bob', NULL);"
    done = khonsu(path, script=f"{BANK}\n{rows}")
    assert done == Run(0, "CREATE TABLE\nINSERT 0 2\n", "")
    return path


ACCOUNTS = """\
 id | name  | balance 
----+-------+---------
  1 | alice |   10.50
  2 | bob   |    NULL
(2 rows)

"""  # noqa: W291


def test_a_command_prints_an_aligned_table(bank: Path) -> None:
    assert khonsu(bank, "-c", "SELECT * FROM accounts ORDER BY id") == Run(0, ACCOUNTS, "")


def test_several_commands_run_in_order(bank: Path) -> None:
    done = khonsu(bank, "-c", "\\x", "-c", "SELECT id FROM accounts WHERE id = 1", "-c", "SELECT 2 AS two")
    assert done.output == "Expanded display is on.\n-[ RECORD 1 ]\nid | 1\n\n-[ RECORD 1 ]\ntwo | 2\n\n"


def test_a_string_of_several_statements_is_one_transaction(tmp_path: Path) -> None:
    script = "CREATE TABLE t (k INTEGER PRIMARY KEY); INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)"
    assert khonsu(tmp_path / "db", "-c", script).code == 1
    assert "does not exist" in khonsu(tmp_path / "db", "-c", "SELECT * FROM t").errors


def test_piped_input_is_a_script_and_its_last_semicolon_may_be_missing(bank: Path) -> None:
    assert khonsu(bank, script="SELECT *\n  FROM accounts\n  ORDER BY id") == Run(0, ACCOUNTS, "")


def test_a_file_is_a_script(bank: Path, tmp_path: Path) -> None:
    (tmp_path / "script.sql").write_text("-- a comment\nSELECT 1 AS one;\n\nSELECT nothere\n  FROM accounts;\nSELECT 3 AS three;\n")
    done = khonsu(bank, "-f", "script.sql", folder=tmp_path)
    assert done.code == 0
    assert done.output == " one \n-----\n   1\n(1 row)\n\n three \n-------\n     3\n(1 row)\n\n"
    assert done.errors.startswith("khonsu:script.sql:4: ERROR:  ") and "nothere" in done.errors


@pytest.mark.parametrize(
    ("arguments", "script", "code"),
    [
        ((), "SELECT 1;", 0),
        ((), "SELECT nothere;", 0),
        (("-v", "ON_ERROR_STOP=1"), "SELECT nothere;", 3),
        ((), "\\set ON_ERROR_STOP on\nSELECT nothere;\n\\q", 3),
        ((), "\\q\nSELECT nothere;", 0),
        (("-c", "SELECT 1"), "", 0),
        (("-c", "SELECT nothere"), "", 1),
        (("-c", "SELECT nothere", "-c", "SELECT 1"), "", 0),
        (("-v", "ON_ERROR_STOP=1", "-c", "SELECT nothere", "-c", "SELECT 1"), "", 1),
        (("-f", "no such file"), "", 1),
        (("-c", "\\nonsense"), "", 1),
        (("--nonsense",), "", 1),
        (("-v", "NONSENSE=1"), "", 1),
        (("-f", "-"), "SELECT 1", 0),
        (("--version",), "", 0),
        (("--help",), "", 0),
    ],
)
def test_exit_codes(bank: Path, arguments: tuple[str, ...], script: str, code: int) -> None:
    done = khonsu(bank, *arguments, script=script)
    assert done.code == code, done
    assert "Traceback" not in done.errors


def test_a_database_that_cannot_be_opened_is_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    done = khonsu(tmp_path / "file", "-c", "SELECT 1")
    assert done.code == 2 and done.output == "" and done.errors.startswith("khonsu: error: ")


def test_after_an_error_a_script_goes_on_unless_told_otherwise() -> None:
    script = "SELECT 1/0;\nSELECT 7 AS seven;\n"
    assert "seven" in khonsu(script=script).output
    stopped = khonsu("-v", "ON_ERROR_STOP=on", script=script)
    assert stopped.output == "" and "division by zero" in stopped.errors


def test_errors_show_the_place() -> None:
    assert khonsu(script="SELECT 1 + FROM t;").errors.splitlines()[1:3] == ["LINE 1: SELECT 1 + FROM t;", "                   ^"]


def test_transactions_across_statements() -> None:
    first = f"{BANK}\nBEGIN;\nINSERT INTO accounts VALUES (1, 'a', 1);\nROLLBACK;\n"
    second = "BEGIN; DELETE FROM accounts; COMMIT;\nSELECT count(*) AS n FROM accounts;"
    tags = "CREATE TABLE\nBEGIN\nINSERT 0 1\nROLLBACK\nBEGIN\nDELETE 0\nCOMMIT\n"
    assert khonsu(script=first + second).output == tags + " n \n---\n 0\n(1 row)\n\n"


def test_tables_are_listed_and_described() -> None:
    columns = "flight VARCHAR, seat INTEGER, who VARCHAR UNIQUE"
    table = f'CREATE TABLE "Seats" ({columns}, PRIMARY KEY (flight, seat), CONSTRAINT low CHECK (seat > 0));'
    done = khonsu(script=f"\\d\n{BANK}\n{table}\nCREATE TABLE notes (x TEXT);\n\\dt\n\\d accounts\n\\d main.SEATS\n\\d notes\n\\d nothere")
    described = done.output.partition("(3 rows)\n\n")[2].split("\n\n")
    assert "accounts" in done.output and "Seats" in done.output
    assert described[0].splitlines() == [
        '            Table "main.accounts"',
        " Column  |     Type     | Nullable | Default ",
        "---------+--------------+----------+---------",
        " id      | INTEGER      | not null | ",
        " name    | VARCHAR      | not null | ",
        " balance | DECIMAL(8,2) |          | 0",
        "Keys:",
        '    "accounts_pkey" PRIMARY KEY (id)',
    ]
    assert described[1].splitlines()[-4:] == [
        '    "Seats_pkey" PRIMARY KEY (flight, seat)',
        '    "Seats_who_key" UNIQUE (who)',
        "Check constraints:",
        '    "low" CHECK ("seat" > 0)',
    ]
    assert described[2].splitlines()[-1] == " x      | VARCHAR |          | "
    assert done.errors == 'Did not find any tables.\nDid not find any table named "nothere".\n'


def test_timing() -> None:
    lines = khonsu(script="\\timing\nSELECT 1;\n\\timing off\nSELECT 1;").output.splitlines()
    assert lines[0] == "Timing is on." and lines[6].startswith("Time: ") and lines[6].endswith(" ms")
    assert sum(line.startswith("Time: ") for line in lines) == 1


def test_switches_and_help() -> None:
    done = khonsu(script="\\x auto\n\\x nonsense\n\\x off\n\\timing on off\n\\set\n\\?\n\\nonsense")
    assert done.output.startswith(
        "Expanded display is used automatically.\nExpanded display is off.\nTiming is on.\nON_ERROR_STOP = 'off'\n"
    )
    assert "\\dt" in done.output and "\\timing" in done.output
    assert [line.partition(":")[0] for line in done.errors.splitlines()] == [
        'unrecognized value "nonsense" for "\\x"',
        "\\timing",
        "invalid command \\nonsense",
        "Try \\? for help.",
    ]


def test_a_large_result_comes_whole() -> None:
    lines = khonsu("-c", "SELECT i, i * 1000000000 AS big FROM range(12345) r(i) ORDER BY i").output.splitlines()
    assert lines[-2] == "(12345 rows)" and len(lines) == 12345 + 4
    assert lines[-3].split(" | ") == [" 12344", "12344000000000"]


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    code = "import sys; from khonsu_sql.cli.main import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "engine")))}
    command = [sys.executable, "-c", code, "-c", "SELECT * FROM range(100000)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(60)


def test_a_subcommand_is_found_through_its_entry_point(tmp_path: Path) -> None:
    """As the cluster package will declare its own."""
    folder = tmp_path / "greeter-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[khonsu.commands]\ngreet = greeter:main\n")
    (tmp_path / "greeter.py").write_text("def main(words):\n    print('hello', *words)\n    return 5\n")
    path = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "engine")))
    code = "import sys; from khonsu_sql.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "greet", "you", "-x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (5, "hello you -x\n", "")
