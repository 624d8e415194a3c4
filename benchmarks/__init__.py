"""Khonsu SQL side by side with its rivals. `python -m benchmarks` runs everything; see README.md."""
