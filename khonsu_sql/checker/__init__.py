"""The history checker: which isolation level does what clients saw allow?

`check(history)` judges transactions (`Transaction` of operations, from `read_history` or a `Recorder`) and returns a `Report`;
`khonsu check FILE` does it on the command line. The way of one history:

    intake → items → lists, registers, ranges, orders → Edges → components, cycles → words → Report

Invariants: no false alarm: an anomaly is reported only if no order of the transactions explains the history at that level.
Leaves out: SQL (a workload translates what it did into operations), and connections: nothing here knows the database.
Sources: Adya 1999; Berenson et al. 1995; Kingsbury & Alvaro 2020 ("Elle"); docs/history_checker.md has the format and the classes.
"""

from khonsu_sql.checker.check import check
from khonsu_sql.checker.history import (
    Append,
    HistoryError,
    Read,
    ReadList,
    Scan,
    Status,
    Transaction,
    Write,
    encode_transaction,
    read_history,
    write_history,
)
from khonsu_sql.checker.levels import Kind, Level, Variant
from khonsu_sql.checker.recorder import Recorder, Recording
from khonsu_sql.checker.report import Anomaly, Counts, Report

__all__ = ["Anomaly", "Append", "Counts", "HistoryError", "Kind", "Level", "Read", "ReadList", "Recorder", "Recording", "Report"]
__all__ += ["Scan", "Status", "Transaction", "Variant", "Write", "check", "encode_transaction", "read_history", "write_history"]
