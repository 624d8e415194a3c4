"""`khonsu check HISTORY [--level LEVEL] [--allow-vacuous]`: what did clients see?

Called by `main`; the work is `khonsu_sql.checker`'s. Exit codes: 0 the level holds (without --level: no anomaly at all), 1 anomalies or a
vacuous history, 2 the history is no history or the arguments are wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

__all__ = ["check_command"]

HOLDS, VIOLATED, UNUSABLE = 0, 1, 2


def check_command(arguments: Sequence[str]) -> int:
    """Run `khonsu check`; returns the exit code."""
    from khonsu_sql.checker import HistoryError, Level, check, read_history

    parser = argparse.ArgumentParser(prog="khonsu check", description="Which isolation level does a history of transactions allow?")
    parser.add_argument("history", metavar="HISTORY", help="a file of JSON lines, - for standard input (docs/history_checker.md)")
    parser.add_argument("--level", choices=[str(level) for level in Level], help="the level that must hold (default: no anomaly at all)")
    parser.add_argument("--allow-vacuous", action="store_true", help="accept a history without conflicts or without concurrency")
    options = parser.parse_args(arguments)
    try:
        history = read_history(sys.stdin.buffer if options.history == "-" else options.history)
        report = check(history, options.level, allow_vacuous=options.allow_vacuous)
    except (HistoryError, OSError) as error:
        where = f"{options.history}: " if isinstance(error, HistoryError) else ""
        sys.stderr.write(f"khonsu check: {where}{error}\n")
        return UNUSABLE
    print(report)
    return HOLDS if report.ok else VIOLATED
