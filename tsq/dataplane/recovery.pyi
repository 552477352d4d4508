"""Types of the compiled recovery, which has a C interface only; see recovery.pyx."""
