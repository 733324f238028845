"""The parts of `benchmarks.delayed_delivery`: the bench, the apps of its workers, and the measurements by kind."""
