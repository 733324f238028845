"""The parts of `benchmarks/consumer_benchmark.py`: its options, its load, the run, and its output."""
