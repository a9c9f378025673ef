"""data.benchmarks."""
