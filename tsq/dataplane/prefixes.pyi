"""Types of the compiled tables of networks and connection IDs; see prefixes.pyx. It has nothing for Python."""
