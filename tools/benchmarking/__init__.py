"""The parts of tools/benchmark.py: workloads, contenders, one process each, and the report."""
