"""Which trainer makes the best model of the same text in the same minutes: `python -m benchmarks.time_to_quality`."""
