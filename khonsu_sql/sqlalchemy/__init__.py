"""SQLAlchemy's dialect for Khonsu SQL: `create_engine("khonsu:///shop.khonsu")`.

    dialect       KhonsuDialect: how to connect, isolation levels, what the database can do
    compiler      SQL, DDL, types and names as text
    reflection    what tables there are
    types         types SQLAlchemy has no class for
    transactions  the transactions of engines and sessions, for `run_transaction`

SQLAlchemy finds it by the entry points in setup.cfg; `import khonsu_sql` never loads it. It uses the driver's public surface only.
"""

from __future__ import annotations

from khonsu_sql.sqlalchemy.dialect import KhonsuDialect

__all__ = ["KhonsuDialect"]
