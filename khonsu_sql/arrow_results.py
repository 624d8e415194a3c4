"""The half of a cursor that hands out Arrow, and what is made of it.

Base of `cursor.Cursor`. Everything here takes the rows that are left, and loads Arrow when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["ArrowResults"]


class ArrowResults:
    """`_open_source` is the cursor's."""

    __slots__ = ()

    def _open_source(self) -> Any:
        raise NotImplementedError

    def fetch_arrow_table(self) -> pa.Table:
        """All rows that are left, as one `pyarrow.Table`."""
        import pyarrow as pa

        schema, batches = self._open_source().all("fetch_arrow_table")
        return pa.Table.from_batches(batches, schema)

    def fetch_record_batch(self) -> pa.RecordBatchReader:
        """All rows that are left, as a reader that streams them. It ends when the cursor executes again or is closed."""
        import pyarrow as pa

        schema, batches = self._open_source().arrow("fetch_record_batch")
        return pa.RecordBatchReader.from_batches(schema, batches)

    def fetch_df(self) -> pd.DataFrame:
        """All rows that are left, as a pandas DataFrame."""
        return self.fetch_arrow_table().to_pandas()

    def fetch_polars(self) -> pl.DataFrame:
        """All rows that are left, as a polars DataFrame."""
        import polars as pl

        frame = pl.from_arrow(self.fetch_arrow_table())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The Arrow PyCapsule protocol: `pa.table(cursor)`, `pl.DataFrame(cursor)` and the like read the result."""
        return self.fetch_record_batch().__arrow_c_stream__(requested_schema)
