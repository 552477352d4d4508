"""The server: requests in, responses out. `driver` and the pages do I/O; `core`, `clock_info` and `responder` do not.

From the top, each using only what comes after it: `supervisor`, `programs`, `socket_groups`, `supervisor_plan`, `worker_forks`,
`worker`, `relay`, `supervisor_totals`, `whole`, `worker_link`, `confinement`, `service`, `driver`, `endpoint`, `web`, `metrics`,
`observed`, `clock_watch`, `memory_care`, `core`, `clock_info`, `responder`.
"""
