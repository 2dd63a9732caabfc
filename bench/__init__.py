"""Benchmarks: ``python -m bench.takeover``."""
