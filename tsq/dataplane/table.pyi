"""Types of the compiled table, which has a C interface only; see table.pyx."""
