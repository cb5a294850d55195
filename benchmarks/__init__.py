"""What is measured, and how: `python -m benchmarks.run` measures everything and writes docs/benchmarks.md."""
