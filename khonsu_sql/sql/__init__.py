"""From SQL text to results: parse, bind, plan, execute (point path or DuckDB path)."""
