"""The client's role: requests out, samples in. Only `blocking`, `asynchronous`, `kept` and `async_query` wait; `resolving` blocks.

From the top, each using only what comes after it: `kept`, `asynchronous`, `async_query`, `blocking`, `host_query`, `polling`,
`association`, `attempt`, `in_thread`, `resolving`, `network_errors`, `channel`, `outcomes`, `exchange`, `result`.
"""
