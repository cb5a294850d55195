"""The trace: recorded routing in one DuckDB file, with SQL views over it. Knows nothing of models or metrics."""
