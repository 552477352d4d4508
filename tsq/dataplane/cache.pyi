"""Types of the compiled cache of states, which has a C interface only; see cache.pyx."""
