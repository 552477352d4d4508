"""T1..T4 -> Sample -> Estimate. Reads no clock, does no I/O (RFC 5905 §8, §10)."""
