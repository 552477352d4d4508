"""Types of the compiled services, which have a C interface only; see services.pyx."""
