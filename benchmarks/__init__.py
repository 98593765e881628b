"""What keras_se costs, beside what others write: `python -m benchmarks`."""
