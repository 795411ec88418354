"""Benchmarks with limits: ``python -m benchmarks.NAME [--json] [--smoke]``."""
