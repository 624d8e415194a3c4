"""What a commit remembers of the rows a conflict policy decided, at the engine's own level."""

from __future__ import annotations

import khonsu_sql
from khonsu_engine.state_machine import COLLISIONS_KEPT


def test_the_last_outcome_remembers_a_bounded_number_of_rows() -> None:
    rows = COLLISIONS_KEPT + 500
    with khonsu_sql.connect(":memory:kept", isolation_level="REPEATABLE READ") as one, khonsu_sql.connect(":memory:kept") as two:
        one.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
        one.executemany("INSERT INTO t VALUES (?, 0)", [(number,) for number in range(rows)])
        one.commit()
        one.execute("SELECT count(*) FROM t").fetchall()
        one.execute("UPDATE t SET v = 1", on_conflict="replace")
        two.execute("UPDATE t SET v = 2")
        two.commit()
        one.commit()
        assert one.execute("SELECT min(v), max(v) FROM t").fetchall() == [(1, 1)]
        assert one.last_commit is not None
        assert len(one.last_commit.conflicts) == COLLISIONS_KEPT
        assert {collision.action for collision in one.last_commit.conflicts} == {"replaced"}
