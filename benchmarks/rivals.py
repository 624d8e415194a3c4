"""The rivals and their settings, which are printed with every report. Nobody is slowed down; durability is equal.

sqlite3: WAL, synchronous FULL, BEGIN IMMEDIATE (BEGIN to read), one connection per thread. DuckDB: defaults. PostgreSQL (when installed):
a scratch cluster on loopback with defaults (fsync and synchronous_commit on), SERIALIZABLE with retries, through psycopg.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["SETTINGS", "duckdb_connection", "postgres", "sqlite_connection"]

SETTINGS = {
    "khonsu": "isolation SERIALIZABLE, synchronous full, defaults",
    "sqlite3": f"{sqlite3.sqlite_version}: WAL, synchronous FULL, BEGIN (to write: IMMEDIATE), a connection a thread; in memory: defaults",
    "duckdb": "defaults, one cursor per thread, primary key declared where Khonsu declares one",
    "postgresql": "initdb defaults (fsync on, synchronous_commit on, shared_buffers 128 MB), SERIALIZABLE with retries, psycopg 3",
}


def sqlite_connection(path: str = ":memory:") -> sqlite3.Connection:
    """A connection as an experienced user sets it up."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
    if path != ":memory:":
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    return connection


def duckdb_connection(path: str = ":memory:") -> Any:
    import duckdb

    return duckdb.connect(path)


def _binaries() -> str | None:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return os.path.dirname(found[-1]) if found else shutil.which("initdb") and os.path.dirname(str(shutil.which("initdb")))


def _as_postgres(command: list[str]) -> list[str]:
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command


@contextlib.contextmanager
def postgres() -> Iterator[str | None]:
    """A connection string for a scratch PostgreSQL, or None when it (or psycopg) is not installed."""
    binaries = _binaries()
    try:
        import psycopg  # noqa: F401
    except ImportError:
        binaries = None
    if binaries is None:
        yield None
        return
    directory = Path(tempfile.mkdtemp(prefix="pg"))
    os.chmod(directory, 0o777)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(directory / "data")
    control = [f"{binaries}/pg_ctl", "-D", data, "-w"]

    def run(command: list[str], *, check: bool = True) -> None:
        subprocess.run(_as_postgres(command), check=check, capture_output=True, cwd=directory)

    run([f"{binaries}/initdb", "-D", data, "-A", "trust", "-U", "bench"])
    run([*control, "-o", f"-p {port} -k {directory} -c listen_addresses=127.0.0.1", "-l", str(directory / "log"), "start"])
    try:
        yield f"host={directory} port={port} user=bench dbname=postgres"
    finally:
        run([*control, "-m", "immediate", "stop"], check=False)
        shutil.rmtree(directory, ignore_errors=True)
