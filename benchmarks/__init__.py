"""Benchmarks: TSQ beside the plain way of doing the same, in one run (`make bench`)."""
