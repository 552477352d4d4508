"""Benchmarks: TSQ compared with plain implementations of the same work, in one run (`make bench`)."""
