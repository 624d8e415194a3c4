"""The shell `khonsu`. Uses the public surface of `khonsu_sql` only."""
