"""The server's role: requests in, responses out. `core` and what is below it do no I/O; `driver` does.

From the top, each using only what comes after it: `driver`, `clock_watch`, `core`, `clock_info`, `responder`.
"""
