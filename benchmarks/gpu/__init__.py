"""The blocks of `benchmarks/gpu.py`, one topic per file; `runner` has what they share."""
