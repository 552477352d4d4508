"""The server: requests in, responses out. `metrics` and `driver` do I/O; `core`, `clock_info` and `responder` do not.

From the top, each using only what comes after it: `service`, `metrics`, `driver`, `clock_watch`, `core`, `clock_info`, `responder`.
"""
