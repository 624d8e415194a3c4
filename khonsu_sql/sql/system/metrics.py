"""khonsu.metrics: counts since the database was opened, and sizes of what it keeps in memory. Reads `engine.metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_engine.metrics import measure
from khonsu_sql.sql.system.view import view

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["METRICS"]


def _rows(database: Database) -> list[tuple[Any, ...]]:
    return [(metric.name, float(metric.value), metric.unit, metric.description) for metric in measure(database)]


METRICS = view("metrics", (("name", "VARCHAR"), ("value", "DOUBLE"), ("unit", "VARCHAR"), ("description", "VARCHAR")), _rows)
