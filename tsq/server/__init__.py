"""The server: requests in, responses out. `driver` does I/O; `core`, `clock_info` and `responder` do not.

From the top, each using only what comes after it: `driver`, `clock_watch`, `core`, `clock_info`, `responder`.
"""
