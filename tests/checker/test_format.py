"""The file format there and back, and clear errors with line numbers for what is no history."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest

from khonsu_sql.checker import HistoryError, Recorder, Scan, Status, Transaction, check, read_history, write_history
from khonsu_sql.errors import CommitOutcomeUnknown, SerializationFailure
from tests.checker.histories import append, read, scan, t, values, write

LINE = {"id": 1, "process": "a", "status": "committed", "invoked": 1, "completed": 2, "operations": []}


def line(**changes: object) -> str:
    return json.dumps({key: value for key, value in (LINE | changes).items() if value is not ...})


def test_there_and_back(tmp_path: Path) -> None:
    history = [
        t(1, append("x", 1), values("x", 1), write("y", 2), write("y", None), read("y", None), commit=7),
        t(2, scan("x", x=[1]), scan(("a", None), y=3), scan(("a", "b")), status="unknown"),
        Transaction("three", "p", Status.ABORTED, 5, [], None),
    ]
    write_history(tmp_path / "history.jsonl", history)
    assert list(read_history(tmp_path / "history.jsonl")) == history
    with open(tmp_path / "history.jsonl", "rb") as file:
        assert list(read_history(file)) == history


@pytest.mark.parametrize(
    ("lines", "number", "problem"),
    [
        ([line(), "{"], 2, "truncated"),
        ([line(), "", line(id=2)], 2, ""),
        (["[]"], 1, "object"),
        ([line(process=...)], 1, "process"),
        ([line(extra=1)], 1, "extra"),
        ([line(status="fine")], 1, "fine"),
        ([line(invoked=1.5)], 1, "int"),
        ([line(operations=[["upsert", "x", 1]])], 1, "upsert"),
        ([line(operations=[["append", "x", None]])], 1, "null"),
        ([line(operations=[["append", "x"]])], 1, "length"),
        ([line(operations=[["append", "x", 1, 2]])], 1, "length"),
        ([line(operations=[["read", 5, 1]])], 1, "str"),
        ([line(operations=[["write", "x", True]])], 1, "bool"),
        ([line(), line()], 2, "another transaction 1"),
        ([line(completed=0)], 1, "before it was invoked"),
        ([line(completed=...)], 1, "no completion"),
        ([line(completed=2**70)], 1, "within"),
        ([line(operations=[["append", "x", 1]]), line(id=2, process="b", operations=[["append", "x", 1]])], 2, "in line 1"),
        ([line(operations=[["write", "x", 1], ["write", "x", 1]])], 1, "in line 1"),
        ([line(operations=[["write", "x", 1]], status="aborted"), line(id=2, process="b", operations=[["write", "x", 1]])], 2, "in line 1"),
        ([line(operations=[["append", "x", 1]]), line(id=2, process="b", operations=[["read", "x", 1]])], 2, "a list and as a register"),
        ([line(operations=[["scan", "x", {"y": 1}]])], 1, "outside of the range x"),
        ([line(operations=[["scan", ["b", "c"], {"c": 1}]])], 1, "outside of the range b ≤ key < c"),
        ([line(), line(id=2)], 2, "still busy with line 1"),
        ([line(id=2, invoked=2, completed=9), line(completed=5)], 1, "still busy with line 2"),
        (
            [line(operations=[["write", "x", 1]], commit=3), line(id=2, process="b", operations=[["write", "y", 1]], commit=3)],
            2,
            "commit 3 too",
        ),
    ],
)
def test_what_is_no_history_is_refused_with_its_line(lines: list[str], number: int, problem: str) -> None:
    with pytest.raises(HistoryError) as caught:
        check(read_history(io.BytesIO("\n".join(lines).encode() + b"\n")))
    assert caught.value.line == number
    assert problem in caught.value.problem
    assert str(caught.value).startswith(f"line {number}: ")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(HistoryError, match="line 1: "):
        check(read_history(io.BytesIO(line(id="?").encode().replace(b"?", b"\xff") + b"\n")))


def test_readers_may_share_a_commit_index() -> None:
    assert check([t(1, read("x", None), commit=3), t(2, write("x", 1), commit=3)]).ok


# --- the recorder


def test_what_ends_the_block_decides_the_status() -> None:
    times = iter(range(1, 100))
    recorder = Recorder(clock=lambda: next(times))
    with recorder.transaction("a") as one:
        one.append("x", 1)
        one.read_list("x", [1])
        one.scan("y", {"y1": 4})
        one.commit = 12
    lost = SerializationFailure("nobody knows")
    lost.sqlstate = "40003"
    for error in (SerializationFailure("no"), lost, CommitOutcomeUnknown("who knows"), KeyboardInterrupt(), ValueError("mine")):
        with pytest.raises(type(error)), recorder.transaction("a") as one:
            one.write("r", 5)
            one.read("r", 5)
            raise error
    with recorder.transaction("a") as one:
        one.aborted()
    first, *rest = recorder.transactions
    assert first == Transaction(1, "a", Status.COMMITTED, 1, [append("x", 1), values("x", 1), Scan("y", {"y1": 4})], 2, 12)
    assert [one.status for one in rest] == ["aborted", *["unknown"] * 4, "aborted"]
    assert rest[0].operations == [write("r", 5), read("r", 5)]


def test_threads_record_into_one_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history.jsonl")
    start = threading.Barrier(4)

    def work(process: int) -> None:
        start.wait()
        for number in range(200):
            with recorder.transaction(process) as one:
                one.append(f"list {process}", number)

    threads = [threading.Thread(target=work, args=(process,)) for process in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    report = check(read_history(tmp_path / "history.jsonl"))
    assert report.counts.committed == 800 and not report.anomalies
    assert report.vacuous == "no two processes ever touched the same data"
