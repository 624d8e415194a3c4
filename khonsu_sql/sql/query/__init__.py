"""The DuckDB path: a `plan.Query` (generated DuckDB text and its sources) evaluated over Arrow batches of one pinned snapshot.

Called by `sql.context`, `dml`, `constraints`, `bulk` and `ingest`; the only room of the product that imports duckdb.

    evaluator    Evaluator: what one session asks, and how it is interrupted
    instance     the DuckDB instances of this process: settings, lock-down, pooled cursors
    cursors      one pooled cursor: its slots, its running call, Ctrl-C
    relations    the one place where a relation becomes something DuckDB scans
    statements   the text that is run (masked and cast sources), with the statements parsed for it
    parameters   Python values as DuckDB's parameters
    results      DuckDB's results with exactly our types
    streams      results that stream, and when their cursors are free again
    execution    one query, from relations to rows or batches
    calls        what runs at the moment, so that it can be stopped
    aside        Ctrl-C: the thread that works while the main thread waits for signals
    translation  DuckDB's exceptions as ours, one table

The way of a query: relations become `pa.Table`s in the caller's thread (so nothing of ours runs later, and errors of the engine keep
their class), are bound to slots of a pooled cursor, and the statement, parsed once per text, runs. Whoever gets rows gets
them from there; a result that streams keeps its cursor until it is read out, closed or forgotten.

Two DuckDB instances serve a process. The *narrow* one has a single thread: the caller's. Up to 65,536 rows per source nothing could
run in parallel anyway, and without a hand-over between threads a small query takes 290 instead of 460 µs and Ctrl-C is always heard. The
*wide* one has DuckDB's own number of threads; there the main thread waits aside, where signals reach it.

Invariants: DuckDB is never called under a latch; it never prunes by predicates of its own; no DuckDB exception leaves, and no name
that was generated for a source is ever shown. Finalisers only append to a deque.
Importing this package loads neither duckdb nor pyarrow: the first query does.
"""

from __future__ import annotations

from khonsu_sql.sql.query.evaluator import ROWS_MAX, Evaluated, Evaluator

__all__ = ["ROWS_MAX", "Evaluated", "Evaluator"]
