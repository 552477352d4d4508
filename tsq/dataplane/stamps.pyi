"""Types of the compiled transmit timestamps, which have a C interface only; see stamps.pyx."""
