"""Segments of large rows: bounded by bytes, not only by rows, through flush and merge."""

from __future__ import annotations

import msgspec
import pytest

from khonsu_engine.columns.row_sizes import limits_for_chunks, limits_for_versions
from khonsu_engine.columns.segment_meta import ChunkMeta
from khonsu_engine.columns.version import Version
from khonsu_engine.database import Database
from khonsu_engine.limits import DEFAULT
from tests.engine.accounts import NEVER_BY_ITSELF, content, create, finish, insert, overwrite

SMALL = msgspec.structs.replace(
    NEVER_BY_ITSELF, segment_rows_max=1_000, chunk_rows_max=100, chunk_bytes_max=50_000, segment_bytes_max=200_000
)


def versions(*sizes: int) -> list[Version]:
    return [Version(number, 1, (number, "x" * size), None, None, 1) for number, size in enumerate(sizes)]


def chunk(rows: int, size: int) -> ChunkMeta:
    return ChunkMeta(rows, 0, size, 0, 0, 0, ())


def test_small_rows_change_nothing() -> None:
    assert limits_for_versions(DEFAULT, versions(*[200] * 100)) == DEFAULT
    assert limits_for_chunks(DEFAULT, [chunk(1_000, 60_000), chunk(5, 20)]) == DEFAULT
    assert limits_for_versions(DEFAULT, []) == DEFAULT and limits_for_chunks(DEFAULT, []) == DEFAULT


@pytest.mark.parametrize("sizes", [[1 << 20] * 4, [10] * 999 + [64 << 20], [64 << 20] * 3])
def test_no_chunk_of_large_rows_is_beyond_arrow(sizes: list[int]) -> None:
    lowered = limits_for_versions(DEFAULT, versions(*sizes))
    assert 1 <= lowered.chunk_rows_max * max(sizes) <= 1 << 30
    assert lowered.chunk_rows_max <= lowered.segment_rows_max
    assert lowered.segment_rows_max * sum(sizes) / len(sizes) <= max(DEFAULT.segment_bytes_max, max(sizes)), "one row at least"
    assert limits_for_chunks(DEFAULT, [chunk(1_000, 60_000), chunk(2, 64 << 20)]).chunk_rows_max == 1


def test_flush_and_merge_of_large_rows() -> None:
    database = Database.open(None, limits=SMALL)
    table = create(database)
    expected = {}
    for step in range(6):
        transaction = database.begin()
        for key in range(40):
            before = transaction.get(table.id, key * 10 + step)
            assert before is None
            insert(transaction, table, key * 10 + step, key, "x" * 9_000)
            expected[key * 10 + step] = key
        if step:
            changed = transaction.get(table.id, step - 1)
            assert changed is not None
            overwrite(transaction, table, changed, 77)
            expected[step - 1] = 77
        finish(transaction)
        database.checkpoint()
        assert content(database, table) == expected
    assert database.maintenance.compactions
    segments = [view.segment.meta for view in database.state.tables[table.id].segments]
    assert max(part.length for meta in segments for part in meta.chunks) <= 80_000
    assert max(meta.size_bytes for meta in segments) <= 300_000 and len(segments) > 6
    merged = database.maintenance.compactions
    database.checkpoint()
    assert database.maintenance.compactions == merged, "full segments are not merged again and again"
    database.close()
