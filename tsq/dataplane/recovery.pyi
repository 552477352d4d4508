"""Types of the compiled recovery, which has a C interface only; see _recovery.pyx."""
