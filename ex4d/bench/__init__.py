"""Benchmarks of `ex4d bench`: each prints its figures beside a bound measured in the same run."""
