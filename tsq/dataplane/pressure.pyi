"""Types of the compiled measures of load; see pressure.pyx. It has nothing for Python."""
